//! Doing a job: letter by letter, over restarts, each once.
//!
//! The life of one letter in a redrive: it is read, and its event is appended to the log in a frame that carries
//! the letter's key. When that frame is durable the letter gets its mark, by a new name, and when the mark is
//! durable the job moves on. The record is written from time to time, and always behind the marks: letters up to
//! its cursor are marked, and what was put back after that is in frames from its checkpoint on.
//!
//! After a crash the job reads those frames first. A letter that has one was put back: it gets the mark it may
//! lack, and no second frame. One that has none was not. So each is put back once, wherever the job was cut off.
//! The log keeps the frames from the checkpoint on for as long as the job runs ([`super::Jobs::hold`]).
//!
//! A letter with a mark beside it was redriven before, and then written once more, by a crash between writing
//! it and recording that: it is removed.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use gridwire_core::dead_letter::{self, LetterKey};
use gridwire_core::frame::FrameDraft;
use gridwire_core::routing::{RoutingTable, SubscriptionRoute, TopicRoute};
use gridwire_outside::Clock;
use gridwire_store::{AppendError, Log, ReadError};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::jobs::Job;
use super::marks::Ended;
use super::record::{JobState, Kind, Record};
use super::shelf::{LetterState, Shelf};
use super::{Container, DeadLetters};
use crate::broker::Broker;

/// Keys looked up at once.
const PAGE: usize = 4096;
/// Letters in one batch at most: what is in memory, and what is marked with one flush.
const BATCH_MAX: usize = 256;
/// Bytes of letters read at once.
const BATCH_BYTES_MAX: usize = 8 << 20;
/// Batches in a second, while the rate is what bounds them.
const BATCHES_PER_SECOND: u32 = 20;
/// How much of a delay is made up for afterwards. More would let a stall end in a burst.
const CATCH_UP_MAX: Duration = Duration::from_secs(1);
/// The record is at most this far behind: letters, and time. It is what a start has to look through.
const UNRECORDED_MAX: u64 = 1024;
const RECORD_PERIOD: Duration = Duration::from_secs(1);
/// Pauses after something failed; the last repeats.
const PAUSES: [Duration; 4] =
    [Duration::from_millis(200), Duration::from_secs(1), Duration::from_secs(5), Duration::from_secs(30)];
/// Frames read at once while a job is taken up again.
const READ_BYTES: usize = 1 << 20;

/// Why a job does not get on right now. It is tried again.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error("failed to read or change dead letters: {0}")]
    Letters(#[from] io::Error),
    #[error("failed to append to the log: {0}")]
    Append(AppendError),
    #[error("failed to read the log: {0}")]
    Read(#[from] ReadError),
    #[error("its subscription does not say which events have ended")]
    Ended,
}

/// What a step came to.
enum Step {
    More,
    End,
    /// The subscription is no longer there.
    Gone,
}

/// A subscription and its topic in one table.
struct Routes {
    table: Arc<RoutingTable>,
    topic: Arc<TopicRoute>,
    route: Arc<SubscriptionRoute>,
}

/// A job under way.
struct Run {
    broker: Arc<Broker>,
    job: Arc<Job>,
    record: Record,
    shelf: Shelf,
    stop: CancellationToken,
    /// As they were last looked for, which takes a look at every subscription.
    routes: Option<Routes>,
    /// Looked up, not done.
    keys: std::collections::VecDeque<LetterKey>,
    /// Put back and not marked yet.
    unmarked: Vec<LetterKey>,
    /// What was put back before the job was cut off is not known yet.
    cut_off: bool,
    /// When the next batch may start, in monotonic time.
    due: Duration,
    unrecorded: u64,
    recorded_at: Duration,
}

/// Does `job` from where its record says, until it ends or the broker stops.
pub(crate) async fn run(broker: Arc<Broker>, job: Arc<Job>, stop: CancellationToken) {
    let outside = broker.outside();
    let Some(container) = reach(&outside.dead_letters, &*outside.clock, &job, &stop).await else { return };
    let record = job.record();
    let shelf =
        Shelf::new(container, record.prefix.clone(), outside.dead_letters.store(), record.subscription);
    let now = outside.clock.monotonic();
    let mut run = Run {
        broker,
        job,
        record,
        shelf,
        stop,
        routes: None,
        keys: std::collections::VecDeque::new(),
        unmarked: Vec::new(),
        cut_off: true,
        due: now,
        unrecorded: 0,
        recorded_at: now,
    };
    let mut failures = 0;
    loop {
        let stopping = run.stop.is_cancelled();
        let cancelled = run.job.cancel.is_cancelled();
        let step = if stopping || (cancelled && !run.cut_off) { run.mark().await } else { run.step().await };
        let ended = match step {
            Ok(_) if stopping => None,
            Ok(Step::Gone) => Some(JobState::Failed),
            Ok(Step::End) => Some(JobState::Done),
            Ok(Step::More) if cancelled && !run.cut_off => Some(JobState::Cancelled),
            Ok(Step::More) => {
                failures = 0;
                run.trouble(None);
                continue;
            }
            Err(_) if stopping => return, // The next start finds out.
            Err(trouble) => {
                tracing::warn!(job = run.record.id, %trouble, "a job on dead letters does not get on; it will be tried again");
                run.trouble(Some(trouble.to_string()));
                run.let_go().await;
                run.pause(PAUSES[failures.min(PAUSES.len() - 1)]).await;
                failures += 1;
                continue;
            }
        };
        if run.end(ended).await || stopping {
            return;
        }
    }
}

/// The container of a job's letters, or why it cannot be had. Where else letters of the destination are by now, the
/// job's are not: nothing there would get a mark, and nothing would tell.
fn find(letters: &DeadLetters, record: &Record) -> Result<Container, &'static str> {
    if record.place.as_ref().is_some_and(|place| *place != letters.place(&record.destination)) {
        return Err("the letters are where their account was when the job began; see its configuration");
    }
    let problem = "the place of the letters cannot be used; see the configuration of its account";
    letters.container(&record.destination).ok_or(problem)
}

/// The container of a job's letters. `None` when the broker stops, or the job was cancelled, before there was one.
async fn reach(
    letters: &DeadLetters,
    clock: &dyn Clock,
    job: &Job,
    stop: &CancellationToken,
) -> Option<Container> {
    let mut failures = 0;
    loop {
        let mut record = job.record();
        // Only the configuration of its account can have made this so; a later start may mend it.
        let problem = match find(letters, &record) {
            Ok(container) => {
                job.set_trouble(None);
                return Some(container);
            }
            Err(problem) => problem,
        };
        if failures == 0 {
            tracing::error!(job = record.id, account = record.destination.account, problem);
        }
        job.set_trouble(Some(problem.to_owned()));
        if stop.is_cancelled() {
            return None;
        }
        if job.cancel.is_cancelled() {
            // What it put back before it was cut off may lack its marks, which cannot be made. Who cancels is told.
            record.state = JobState::Cancelled;
            record.ended = Some(clock.now());
            record.problem = Some(problem.to_owned());
            match job.save(&record).await {
                Ok(()) => {
                    job.set_trouble(None);
                    tracing::warn!(id = record.id, problem, "a job on dead letters was cancelled");
                    return None;
                }
                Err(error) => {
                    tracing::warn!(%error, job = record.id, "failed to record the end of a job on dead letters");
                }
            }
        }
        pause(clock, PAUSES[failures.min(PAUSES.len() - 1)], stop, &job.cancel).await;
        failures += 1;
    }
}

/// Waits, unless the broker stops or the job is cancelled in the meantime.
async fn pause(clock: &dyn Clock, wait: Duration, stop: &CancellationToken, cancel: &CancellationToken) {
    // One that was cancelled before and does not get to its end waits like any other: it would spin.
    let cancelled = cancel.is_cancelled();
    tokio::select! {
        () = clock.sleep(wait) => {}
        () = stop.cancelled() => {}
        () = cancel.cancelled(), if !cancelled => {}
    }
}

impl Run {
    fn trouble(&self, text: Option<String>) {
        self.job.set_trouble(text);
    }

    async fn pause(&self, wait: Duration) {
        pause(&*self.broker.outside().clock, wait, &self.stop, &self.job.cancel).await;
    }

    /// While it does not get on: lets the log go as far as it can, or trouble of days would keep every segment.
    async fn let_go(&mut self) {
        if self.cut_off || !self.unmarked.is_empty() {
            return;
        }
        if let Err(error) = self.save().await {
            tracing::warn!(%error, job = self.record.id, "failed to record how far a job on dead letters has come");
        }
    }

    /// Writes the last record of this run: with `state` when the job has ended. `false` when that failed.
    async fn end(&mut self, state: Option<JobState>) -> bool {
        let before = self.record.clone();
        if let Some(state) = state {
            self.record.state = state;
            self.record.ended = Some(self.broker.now());
        }
        match self.save().await {
            Ok(()) => {
                if let Some(state) = state {
                    self.trouble(None);
                    let Record { id, resource, taken, unusable, .. } = &self.record;
                    tracing::info!(id, resource, taken, unusable, ?state, "a job on dead letters ended");
                }
                true
            }
            Err(error) => {
                tracing::warn!(%error, job = self.record.id, "failed to record the end of a job on dead letters");
                self.record = before;
                self.pause(PAUSES[1]).await;
                false
            }
        }
    }

    async fn save(&mut self) -> io::Result<()> {
        debug_assert!(self.unmarked.is_empty(), "a record never runs ahead of the marks");
        if !self.cut_off {
            // Everything put back so far is marked, so whatever is not is in frames to come.
            self.record.checkpoint = self.broker.outside().log.position().0;
        }
        self.job.save(&self.record).await?;
        self.unrecorded = 0;
        self.recorded_at = self.broker.outside().clock.monotonic();
        Ok(())
    }

    /// The next batch.
    async fn step(&mut self) -> Result<Step, Trouble> {
        let Some((topic, route)) = self.routes() else {
            self.unmarked.clear(); // Nobody will redrive them.
            self.record.problem = Some("the event subscription was deleted".to_owned());
            return Ok(Step::Gone);
        };
        self.mark().await?;
        if self.cut_off {
            self.take_up(&route).await?;
        }
        if self.keys.is_empty() {
            let state = match self.record.kind {
                Kind::Purge { redriven: true } => LetterState::Redriven,
                Kind::Purge { redriven: false } | Kind::Redrive { .. } => LetterState::Waiting,
            };
            let keys = self.shelf.next(&self.record.selection, state, self.record.cursor, PAGE).await?;
            self.keys = keys.into();
            if self.keys.is_empty() {
                return Ok(Step::End);
            }
        }
        let done = match self.record.kind {
            Kind::Redrive { rate } => self.redrive(&topic, &route, rate).await?,
            Kind::Purge { redriven } => {
                let state = if redriven { LetterState::Redriven } else { LetterState::Waiting };
                self.purge(&topic, &route, state).await?
            }
        };
        for _ in 0..done {
            self.record.cursor = self.keys.pop_front().or(self.record.cursor);
        }
        self.unrecorded += done as u64;
        let now = self.broker.outside().clock.monotonic();
        if UNRECORDED_MAX <= self.unrecorded || RECORD_PERIOD <= now.saturating_sub(self.recorded_at) {
            self.save().await?;
        }
        Ok(Step::More)
    }

    /// The subscription and its topic, or domain, as the table has them by now. `None` when it was deleted: one of
    /// its name that was created since has another number.
    fn routes(&mut self) -> Option<(Arc<TopicRoute>, Arc<SubscriptionRoute>)> {
        let table = self.broker.table();
        let known = self.routes.take().filter(|routes| Arc::ptr_eq(&routes.table, &table));
        if known.is_none() {
            let route = table.subscription(&self.record.resource)?;
            let topic = table.by_number.get(&route.topic).map(Arc::clone)?;
            self.routes =
                (route.number == self.record.subscription).then_some(Routes { table, topic, route });
        } else {
            self.routes = known;
        }
        let routes = self.routes.as_ref()?;
        Some((Arc::clone(&routes.topic), Arc::clone(&routes.route)))
    }

    /// Finds what was put back between the record and the end of that process, and sees to its marks.
    async fn take_up(&mut self, route: &SubscriptionRoute) -> Result<(), Trouble> {
        let log = Arc::clone(&self.broker.outside().log);
        let (end, _) = log.position();
        let mut next = self.record.checkpoint;
        let mut found: Vec<LetterKey> = Vec::new();
        while next < end {
            let frames = log.read(next, READ_BYTES).await?;
            let Some(last) = frames.last() else { break };
            next = last.lsn.next();
            let own = frames.iter().filter(|frame| frame.topic == route.topic && frame.lsn < end);
            let letters = own.filter_map(|frame| frame.view().redriven());
            found.extend(letters.filter(|key| self.shelf.owns(*key)));
        }
        if !found.is_empty() {
            tracing::info!(
                job = self.record.id,
                letters = found.len(),
                "found letters that were redriven before the restart"
            );
        }
        let count = found.len() as u64;
        self.unmarked.extend(found);
        self.mark().await?;
        self.record.taken += count;
        self.cut_off = false;
        self.save().await?;
        // The pace begins here: what this took is no delay that may be made up for.
        self.due = self.broker.outside().clock.monotonic();
        Ok(())
    }

    /// Sees to the marks of what was put back.
    async fn mark(&mut self) -> Result<Step, Trouble> {
        for letters in self.unmarked.chunks(BATCH_MAX) {
            let path = |key, state| self.shelf.path(key, state);
            let names = letters
                .iter()
                .map(|key| (path(*key, LetterState::Waiting), path(*key, LetterState::Redriven)))
                .collect();
            self.shelf.container.rename(names).await?;
        }
        self.unmarked.clear();
        Ok(Step::More)
    }

    /// The letters at the front of `keys`, as far as they are read at once: `None` for what is not there.
    async fn contents(
        &self,
        state: LetterState,
        max: usize,
    ) -> io::Result<Vec<(LetterKey, Option<Vec<u8>>)>> {
        let paths = self.keys.iter().take(max).map(|key| self.shelf.path(*key, state)).collect();
        let contents = self.shelf.container.read(paths, BATCH_BYTES_MAX).await?;
        Ok(self.keys.iter().copied().zip(contents).collect())
    }

    /// Puts the next letters' events back and marks the letters. Returns how many keys are done with.
    async fn redrive(
        &mut self,
        topic: &TopicRoute,
        route: &SubscriptionRoute,
        rate: u32,
    ) -> Result<usize, Trouble> {
        let batch = usize::try_from(rate / BATCHES_PER_SECOND).unwrap_or(BATCH_MAX).clamp(1, BATCH_MAX);
        let contents = self.contents(LetterState::Waiting, batch).await?;
        let done = contents.len();
        let marks = contents.iter().map(|(key, _)| self.shelf.path(*key, LetterState::Redriven)).collect();
        let marked = self.shelf.container.are_there(marks).await?;
        let (mut drafts, mut again, mut unusable) = (Vec::new(), Vec::new(), 0);
        for ((key, content), marked) in contents.into_iter().zip(marked) {
            let Some(content) = content else { continue };
            if marked {
                again.push(self.shelf.path(key, LetterState::Waiting));
                continue;
            }
            let Some(letter) = dead_letter::read(&content, topic.kind, topic.input_schema) else {
                unusable += 1;
                tracing::warn!(letter = %key, "a dead letter is not as it was written and stays");
                continue;
            };
            if self.record.selection.takes(&letter) {
                drafts.push((key, FrameDraft::redriven(topic.number, route.slot, &letter.event, key)));
            }
        }
        self.wait_turn(drafts.len(), rate).await;
        if self.stop.is_cancelled() || self.job.cancel.is_cancelled() {
            return Ok(0);
        }
        let (appended, too_large, failed) = self.append(drafts).await;
        self.record.taken += appended.len() as u64;
        let counter = &self.broker.outside().metrics.dead_letters_redriven;
        counter.fetch_add(appended.len() as u64, Ordering::Relaxed);
        self.unmarked.extend(appended);
        if let Some(error) = failed {
            return Err(Trouble::Append(error));
        }
        self.mark().await?;
        self.shelf.container.remove(again).await?;
        self.record.unusable += unusable + too_large;
        Ok(done)
    }

    /// Returns what is durable in the log, how much will never be, and why some of the rest is not.
    async fn append(
        &self,
        drafts: Vec<(LetterKey, FrameDraft)>,
    ) -> (Vec<LetterKey>, u64, Option<AppendError>) {
        let mut appends = JoinSet::new();
        for (key, draft) in drafts {
            let log: Arc<dyn Log> = Arc::clone(&self.broker.outside().log);
            appends.spawn(async move { (key, log.append_events(draft).await) });
        }
        let (mut appended, mut too_large, mut failed) = (Vec::new(), 0, None);
        while let Some(done) = appends.join_next().await {
            match done {
                Ok((key, Ok(_))) => appended.push(key),
                Ok((key, Err(AppendError::TooLarge { .. }))) => {
                    too_large += 1;
                    tracing::warn!(letter = %key, "the event of a dead letter is too large for the log and stays");
                }
                Ok((_, Err(error))) => failed = Some(error),
                // A panic in the log ends the process by other ways.
                Err(_) => failed = Some(AppendError::Failed),
            }
        }
        (appended, too_large, failed)
    }

    /// Waits until `count` more may be put back.
    async fn wait_turn(&mut self, count: usize, rate: u32) {
        if count == 0 {
            return;
        }
        let now = self.broker.outside().clock.monotonic();
        if let Some(wait) = self.due.checked_sub(now) {
            self.pause(wait).await;
        }
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        self.due =
            self.due.max(now.saturating_sub(CATCH_UP_MAX)) + Duration::from_secs(1) * count / rate.max(1);
    }

    /// Removes the next letters. Returns how many keys are done with.
    async fn purge(
        &mut self,
        topic: &TopicRoute,
        route: &SubscriptionRoute,
        state: LetterState,
    ) -> Result<usize, Trouble> {
        let selection = &self.record.selection;
        let mut taken = Vec::new();
        let done = if selection.is_everything() {
            taken.extend(self.keys.iter().take(BATCH_MAX).copied());
            taken.len()
        } else {
            let contents = self.contents(state, BATCH_MAX).await?;
            for (key, content) in &contents {
                let Some(content) = content else { continue };
                match dead_letter::read(content, topic.kind, topic.input_schema) {
                    Some(letter) if selection.takes(&letter) => taken.push(*key),
                    Some(_) => {}
                    None => self.record.unusable += 1,
                }
            }
            contents.len()
        };
        let paths =
            |taken: &[LetterKey], state| taken.iter().map(|key| self.shelf.path(*key, state)).collect();
        if state == LetterState::Redriven {
            let ended = Ended::of(&self.broker, route).await.ok_or(Trouble::Ended)?;
            taken.retain(|key| ended.holds(*key));
            // What was written again beside its mark was redriven, and would be once more without it.
            self.shelf.container.remove(paths(&taken, LetterState::Waiting)).await?;
        }
        let count = taken.len() as u64;
        self.shelf.container.remove(paths(&taken, state)).await?;
        self.record.taken += count;
        self.broker.outside().metrics.dead_letters_purged.fetch_add(count, Ordering::Relaxed);
        Ok(done)
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures_util::FutureExt;
    use gridwire_core::time::Timestamp;
    use gridwire_outside::system::SystemNet;
    use gridwire_outside::{ManualClock, Net};

    use super::super::tests::{new_disk, record};
    use super::super::{AccountKind, AccountOptions};
    use super::*;

    fn new_clock() -> ManualClock {
        ManualClock::new(Timestamp::from_millis(1))
    }

    #[test]
    fn a_cancellation_cuts_one_pause_short_and_not_the_next() {
        let (clock, wait) = (new_clock(), Duration::from_secs(1));
        let (stop, cancel) = (CancellationToken::new(), CancellationToken::new());
        let mut first = pin!(pause(&clock, wait, &stop, &cancel));
        assert!(first.as_mut().now_or_never().is_none());
        cancel.cancel();
        assert!(first.as_mut().now_or_never().is_some());
        let mut second = pin!(pause(&clock, wait, &stop, &cancel));
        assert!(second.as_mut().now_or_never().is_none(), "it would spin");
        clock.advance(wait);
        assert!(second.as_mut().now_or_never().is_some());
        stop.cancel();
        assert!(pause(&clock, wait, &stop, &cancel).now_or_never().is_some());
    }

    /// A job with this record does not get to its letters, says so, and ends when it is cancelled.
    async fn check_out_of_reach(letters: &DeadLetters, clock: &dyn Clock, record: Record) {
        let jobs = letters.jobs();
        let job = jobs.add(record).await.expect("recorded");
        let stop = CancellationToken::new();
        let mut reaching = pin!(reach(letters, clock, &job, &stop));
        assert!(reaching.as_mut().now_or_never().is_none());
        assert!(job.to_json()["waitingFor"].is_string());
        job.cancel();
        assert!(reaching.await.is_none());
        let ended = job.record();
        assert_eq!(ended.state, JobState::Cancelled);
        assert!(ended.ended.is_some() && ended.problem.is_some());
        assert!(jobs.running().is_empty());
        assert!(letters.jobs().running().is_empty(), "nor after the next start");
    }

    fn letters() -> DeadLetters {
        DeadLetters::new(Arc::new(new_disk()), "/data/deadletter".into(), false)
    }

    #[tokio::test]
    async fn a_job_whose_letters_are_out_of_reach_says_so_and_can_be_cancelled() {
        let clock: Arc<dyn Clock> = Arc::new(new_clock());
        let net: Arc<dyn Net> = Arc::new(SystemNet);
        let account = AccountOptions {
            name: "store".to_owned(),
            url: "https://store.example".to_owned(),
            kind: AccountKind::AzureSas("no signature".to_owned()),
        };
        let letters = letters().with_accounts(&[account], &net, &clock);
        check_out_of_reach(&letters, &*clock, record("a", 1)).await;
    }

    #[tokio::test]
    async fn a_job_whose_account_is_elsewhere_after_a_restart_does_not_look_there() {
        let (letters, clock) = (letters(), new_clock());
        let elsewhere = Record { place: Some("https://store.example".to_owned()), ..record("a", 1) };
        check_out_of_reach(&letters, &clock, elsewhere).await;
        for (id, place) in [("b", Some("directory".to_owned())), ("c", None)] {
            let job = letters.jobs().add(Record { place, ..record(id, 1) }).await.expect("recorded");
            let stop = CancellationToken::new();
            assert!(reach(&letters, &clock, &job, &stop).now_or_never().flatten().is_some(), "{id}");
            job.save(&Record { state: JobState::Done, ..job.record() }).await.expect("recorded");
        }
    }
}
