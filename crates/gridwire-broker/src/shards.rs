//! The shards of this process: who serves which topic, how frames reach them, and what is done for all of
//! them together (routing, snapshots, retention).

mod command;
mod driver;
mod work;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use gridwire_core::ids::{Lsn, Offset, ShardId, StateSeq, SubscriptionNumber, TopicNumber};
use gridwire_core::limits;
use gridwire_core::planted::planted;
use gridwire_core::routing::{InstallError, RoutingTable, SubscriptionRoute};
use gridwire_core::shard::{Books, Decision, QueueOutlook, QueueStatus, Shard, SubscribeInput};
use gridwire_core::time::Timestamp;
use gridwire_store::{Frame, Log, ReadError, Recovered};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub(crate) use command::{Command, OutlookAsked, ReceiveReply, SettleReply};
pub(crate) use work::{Missed, Outside};

use crate::dead_letter::Jobs;
use driver::Driver;

/// Commands waiting for one shard. Full means the shard is busy: callers wait, and publishing is bounded by
/// the log's own queue.
const COMMANDS_MAX: usize = 1_024;
/// Batches of frames waiting for one shard; the feed waits when it is full, so memory is bounded by this
/// times [`FEED_BYTES`]. Few: while the feed waits, what it has not read yet is in the log's own cache of its
/// tail, and in files after that, but what it has read is held besides.
const FEED_BATCHES_MAX: usize = 3;
/// Bytes of frames read at once.
const FEED_BYTES: usize = 1 << 20;
/// A pause before a failed read of the tail is tried again.
const FEED_RETRY: Duration = Duration::from_millis(200);
/// How often retention and snapshots are looked at.
const HOUSEKEEPING: Duration = Duration::from_secs(1);

/// All shards.
#[derive(Debug)]
pub(crate) struct Shards {
    handles: Vec<mpsc::Sender<Command>>,
    replies: AtomicU64,
}

/// What recovery gave back, before anything runs.
pub(crate) struct RecoveredShards {
    shards: Vec<Shard>,
    last: StateSeq,
}

impl RecoveredShards {
    /// Reads snapshot and state log. State is keyed by subscription, and which shard has it follows from its
    /// topic, which only the routing table knows: so `table` is needed here.
    pub(crate) fn read(log: &dyn Log, count: usize, table: &RoutingTable) -> Result<Self, ReadError> {
        let shard_of: HashMap<SubscriptionNumber, usize> = table
            .subscriptions()
            .iter()
            .map(|subscription| (subscription.number, shard_of(subscription.topic, count)))
            .collect();
        let mut shards: Vec<Shard> = (0..count).map(|_| Shard::new()).collect();
        let mut included: BTreeMap<SubscriptionNumber, StateSeq> = BTreeMap::new();
        let mut damage = None;
        let last = log.recover(&mut |recovered| match recovered {
            Recovered::Part { subscription, at, state } => {
                included.insert(subscription, at);
                let Some(&shard) = shard_of.get(&subscription) else { return };
                if !shards[shard].recover_part(subscription, state) {
                    damage.get_or_insert_with(|| {
                        format!("the snapshot's entry of subscription {subscription}")
                    });
                }
            }
            Recovered::Group { seq, decisions, .. } => {
                let mut input = decisions;
                while !input.is_empty() {
                    let Some(decision) = Decision::decode(&mut input) else {
                        damage.get_or_insert_with(|| format!("group {seq} of the state log"));
                        return;
                    };
                    let subscription = decision.subscription();
                    if included.get(&subscription).is_some_and(|at| seq <= *at)
                        && !planted("entry-replayed-twice")
                    {
                        continue;
                    }
                    if let Some(&shard) = shard_of.get(&subscription) {
                        shards[shard].recover_decision(&decision);
                    }
                }
            }
        })?;
        for route in table.subscriptions() {
            let reaches = shards[shard_of[&route.number]].recovered_end(route.number);
            let end = log.end(route.topic);
            if end < reaches {
                // No event is shown to anybody before it is durable, so it was, and events are missing.
                let name = &route.resource_id;
                damage.get_or_insert_with(|| {
                    format!("`{name}` has settled events up to {reaches}, and its topic's log ends at {end}")
                });
            }
        }
        match damage {
            Some(what) => Err(ReadError::Damaged { what }),
            None => Ok(Self { shards, last }),
        }
    }

    /// A forward step of the wall clock over a restart can't be told from downtime: when the newest record is
    /// old, expiry waits for a while, so that a wrong clock takes nothing from anybody.
    pub(crate) fn distrust_gap(&mut self, newest: Timestamp, now: Timestamp) {
        let gap = now.since(newest);
        if newest == Timestamp::ZERO || gap <= limits::TIME_GAP_MAX {
            return;
        }
        tracing::warn!(
            seconds = gap.as_secs(),
            "time has passed since the newest record: downtime, or a wall clock that was set forward; \
             nothing expires in the next ten minutes"
        );
        for shard in &mut self.shards {
            shard.hold_expiry(now + limits::EXPIRY_HOLD);
        }
    }
}

impl RecoveredShards {
    /// Dead letters are written so long after their events were given up.
    pub(crate) fn delay_dead_letters(&mut self, delay: Duration) {
        for shard in &mut self.shards {
            shard.delay_dead_letters(delay);
        }
    }
}

fn shard_of(topic: TopicNumber, count: usize) -> usize {
    topic.0 as usize % count
}

impl Shards {
    /// Starts a driver for each shard and the feed, all on `tasks`, until `stop`.
    pub(crate) fn start(
        recovered: RecoveredShards,
        outside: &Arc<Outside>,
        tasks: &TaskTracker,
        stop: &CancellationToken,
    ) -> Arc<Self> {
        let last_seq = Arc::new(AtomicU64::new(recovered.last.0));
        let mut handles = Vec::new();
        let mut feeds = Vec::new();
        for (index, shard) in recovered.shards.into_iter().enumerate() {
            let (commands, inbox) = mpsc::channel(COMMANDS_MAX);
            let (feed, frames) = mpsc::channel(FEED_BATCHES_MAX);
            let id = ShardId(u16::try_from(index).expect("at most 65,535 shards"));
            let driver = Driver::new(
                id,
                shard,
                Arc::clone(outside),
                Arc::clone(&last_seq),
                recovered.last,
                inbox,
                frames,
            );
            tasks.spawn(driver.run(stop.clone()));
            handles.push(commands);
            feeds.push(feed);
        }
        // Where the shards' recovered state ends: nothing is published before the first table is in use.
        let (next, _) = outside.log.position();
        tasks.spawn(feed(Arc::clone(outside), next, feeds, stop.clone()));
        Arc::new(Self { handles, replies: AtomicU64::new(0) })
    }

    /// Starts snapshots and trimming. Only once every subscription of the first table is known to its shard:
    /// before, state and events of those still missing would look unwanted.
    pub(crate) fn start_housekeeping(
        self: &Arc<Self>,
        outside: &Arc<Outside>,
        jobs: &Arc<Jobs>,
        tasks: &TaskTracker,
        stop: &CancellationToken,
    ) {
        tasks.spawn(housekeeping(Arc::clone(self), Arc::clone(outside), Arc::clone(jobs), stop.clone()));
    }

    pub(crate) fn next_reply(&self) -> gridwire_core::shard::ReplyId {
        gridwire_core::shard::ReplyId(self.replies.fetch_add(1, Ordering::Relaxed))
    }

    /// Hands a command to the shard of `topic`. `false` when the broker is stopping.
    pub(crate) async fn send(&self, topic: TopicNumber, command: Command) -> bool {
        self.handles[shard_of(topic, self.handles.len())].send(command).await.is_ok()
    }

    /// The same for a caller that cannot wait; a full queue loses the command.
    pub(crate) fn try_send(&self, topic: TopicNumber, command: Command) {
        // What is sent this way (a cancelled receive) heals by itself when it is lost.
        let _ = self.handles[shard_of(topic, self.handles.len())].try_send(command);
    }

    /// Makes the shards serve what is new or other than it was, with the start of what is new recorded;
    /// `existed` when it was there before this process. Returns whether there was anything.
    pub(crate) async fn subscribe(
        &self,
        log: &dyn Log,
        put: &[(Option<Arc<SubscriptionRoute>>, Arc<SubscriptionRoute>)],
        existed: bool,
    ) -> Result<bool, InstallError> {
        let mut waiting = Vec::new();
        for (before, route) in put {
            let same = before.as_ref().is_some_and(|before| {
                before.policy == route.policy
                    && before.webhook == route.webhook
                    && before.forward == route.forward
                    && before.dead_letter == route.dead_letter
                    && before.resource_id == route.resource_id
            });
            if same {
                continue;
            }
            let input = SubscribeInput {
                number: route.number,
                slot: route.slot,
                topic: route.topic,
                policy: route.policy.clone(),
                end: log.end(route.topic),
                start: log.start(route.topic),
                existed,
            };
            let (done, recorded) = oneshot::channel();
            let command = Command::Subscribe { input, route: Arc::clone(route), done };
            self.tell(route.topic, command).await?;
            waiting.push(recorded);
        }
        let any = !waiting.is_empty();
        all_recorded(waiting).await?;
        Ok(any)
    }

    /// Ends what is gone.
    pub(crate) async fn unsubscribe(&self, gone: Vec<Arc<SubscriptionRoute>>) -> Result<(), InstallError> {
        let mut waiting = Vec::new();
        for route in gone {
            let (done, recorded) = oneshot::channel();
            let command = Command::Unsubscribe { subscription: route.number, done };
            self.tell(route.topic, command).await?;
            waiting.push(recorded);
        }
        all_recorded(waiting).await
    }

    async fn tell(&self, topic: TopicNumber, command: Command) -> Result<(), InstallError> {
        if self.send(topic, command).await { Ok(()) } else { Err(InstallError::Stopping) }
    }

    /// Every queue's status, in order of subscription. `None` when a shard does not answer (any more): a part
    /// of the queues is no basis for a decision.
    pub(crate) async fn status(&self) -> Option<Vec<QueueStatus>> {
        let mut all = Vec::new();
        for handle in &self.handles {
            let (reply, answer) = oneshot::channel();
            handle.send(Command::Status { reply }).await.ok()?;
            all.extend(answer.await.ok()?);
        }
        all.sort_by_key(|status| status.subscription);
        Some(all)
    }

    /// The status of one queue, of which only its shard is asked. `None` when there is no such queue (any more), or the
    /// shard does not answer.
    pub(crate) async fn status_of(&self, route: &SubscriptionRoute) -> Option<QueueStatus> {
        let (reply, answer) = oneshot::channel();
        let asked = Command::StatusOf { subscription: route.number, reply };
        if !self.send(route.topic, asked).await {
            return None;
        }
        answer.await.ok()?
    }
}

/// What an audit of a subscription compares with the log; the outer `None` when its shard does not answer (any more).
pub(crate) async fn books(shards: &Shards, route: &SubscriptionRoute) -> Option<Option<Books>> {
    let (reply, answer) = oneshot::channel();
    let asked = Command::Books { subscription: route.number, reply };
    if !shards.send(route.topic, asked).await {
        return None;
    }
    answer.await.ok()
}

/// What is left of the events before these ends of topics, in order of subscription; `when_still` waits until
/// nothing goes on by itself. `None` when a shard does not answer (any more).
pub(crate) async fn outlook(
    shards: &Shards,
    ends: HashMap<TopicNumber, Offset>,
    when_still: bool,
) -> Option<Vec<QueueOutlook>> {
    let ends = Arc::new(ends);
    let mut answers = Vec::new();
    for handle in &shards.handles {
        let (reply, answer) = oneshot::channel();
        let asked = OutlookAsked { ends: Arc::clone(&ends), when_still, reply };
        handle.send(Command::Outlook(asked)).await.ok()?;
        answers.push(answer);
    }
    let mut all = Vec::new();
    for answer in answers {
        all.extend(answer.await.ok()?);
    }
    all.sort_by_key(|outlook| outlook.subscription);
    Some(all)
}

/// Waits for the shards' answers, asked for all at once: a domain that is deleted, or the first table after a
/// start, may have a hundred thousand of them, and one record holds many.
async fn all_recorded(waiting: Vec<oneshot::Receiver<()>>) -> Result<(), InstallError> {
    for recorded in waiting {
        recorded.await.map_err(|_| InstallError::Stopping)?;
    }
    Ok(())
}

/// Shows durable frames to the shards of their topics, in log order, from `next` on.
async fn feed(
    outside: Arc<Outside>,
    mut next: Lsn,
    shards: Vec<mpsc::Sender<Vec<Frame>>>,
    stop: CancellationToken,
) {
    loop {
        let frames = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            frames = outside.log.read(next, FEED_BYTES) => frames,
        };
        let frames = match frames {
            Ok(frames) => frames,
            Err(error @ ReadError::Damaged { .. }) => {
                // Events just accepted cannot be shown to anybody. Recovery looks closer than we can.
                tracing::error!(%error, lsn = %next, "the tail of the log is damaged");
                outside.fatal.cancel();
                return;
            }
            Err(error) => {
                tracing::error!(%error, lsn = %next, "failed to read the tail of the log; trying again");
                outside.clock.sleep(FEED_RETRY).await;
                continue;
            }
        };
        let mut batches: Vec<Vec<Frame>> = vec![Vec::new(); shards.len()];
        for frame in frames {
            next = frame.lsn.next();
            batches[shard_of(frame.topic, shards.len())].push(frame);
        }
        for (shard, batch) in shards.iter().zip(batches) {
            if !batch.is_empty() && shard.send(batch).await.is_err() {
                // Its driver is gone: we are stopping, or the others must not go on without it.
                if !stop.is_cancelled() {
                    outside.fatal.cancel();
                }
                return;
            }
        }
    }
}

/// Takes snapshots when the log wants one, and lets segments go that nobody needs.
async fn housekeeping(shards: Arc<Shards>, outside: Arc<Outside>, jobs: Arc<Jobs>, stop: CancellationToken) {
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = outside.clock.sleep(HOUSEKEEPING) => {}
        }
        if outside.log.wants_snapshot()
            && let Err(error) = snapshot(&shards, &*outside.log).await
        {
            tracing::warn!(%error, "failed to take a snapshot; the state log stays until the next try");
        }
        if let Err(error) = trim(&shards, &*outside.log, jobs.hold()).await {
            tracing::warn!(%error, "failed to let segments go");
        }
    }
}

async fn snapshot(shards: &Shards, log: &dyn Log) -> Result<(), gridwire_store::AppendError> {
    let mut parts = Vec::new();
    for handle in &shards.handles {
        let (reply, answer) = oneshot::channel();
        if handle.send(Command::Snapshot { reply }).await.is_err() {
            return Ok(());
        }
        let Ok(part) = answer.await else { return Ok(()) };
        parts.extend(part);
    }
    log.snapshot(parts).await
}

/// Segments go oldest first, each when every subscription of each of its topics has settled all it holds.
/// Time to live ends no later than retention, so what is past retention settles by expiring. Frames from `hold`
/// on stay in any case.
async fn trim(shards: &Shards, log: &dyn Log, hold: Option<Lsn>) -> Result<(), gridwire_store::AppendError> {
    let segments = log.segments();
    if segments.is_empty() {
        return Ok(());
    }
    let mut floors: HashMap<TopicNumber, u64> = HashMap::new();
    let Some(status) = shards.status().await else { return Ok(()) };
    for status in status {
        let floor = floors.entry(status.topic).or_insert(u64::MAX);
        *floor = (*floor).min(status.floor.0);
    }
    let free = segments
        .iter()
        .take_while(|segment| hold.is_none_or(|hold| segment.end <= hold))
        .take_while(|segment| {
            segment.topics.iter().all(|span| {
                floors.get(&span.topic).is_none_or(|floor| {
                    *floor > if planted("trim-too-early") { span.first.0 } else { span.last.0 }
                })
            })
        })
        .last();
    let Some(last) = free else { return Ok(()) };
    // A floor that is only in memory must not cost the events above it: first the flush, then the trim.
    log.flush_state().await?;
    log.trim(last.end).await
}

#[cfg(test)]
mod tests {
    use gridwire_core::event::DeliverySchema;

    use super::*;
    use crate::push::testing::subscription;

    #[tokio::test]
    async fn the_counters_of_one_subscription_are_asked_of_its_shard_alone() {
        let route = subscription(7, "http://127.0.0.1:9/", DeliverySchema::EventGrid);
        let (first, mut others) = mpsc::channel(8);
        let (own, mut inbox) = mpsc::channel(8);
        assert_eq!(shard_of(route.topic, 2), 1, "its shard is the second");
        let shards = Shards { handles: vec![first, own], replies: AtomicU64::new(0) };
        let play = async {
            tokio::select! {
                _ = others.recv() => panic!("another shard is asked"),
                asked = inbox.recv() => {
                    let Some(Command::StatusOf { subscription, reply }) = asked else {
                        panic!("the shard is asked for all its queues")
                    };
                    assert_eq!(subscription, route.number);
                    reply.send(None).expect("somebody waits");
                }
            }
        };
        let (status, ()) = tokio::join!(shards.status_of(&route), play);
        assert_eq!(status, None);
        assert!(others.try_recv().is_err() && inbox.try_recv().is_err(), "nobody is asked anything else");
    }
}
