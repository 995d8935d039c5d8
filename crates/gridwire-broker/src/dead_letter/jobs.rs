//! All jobs on dead letters: those that run, and the latest of those that ended.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use gridwire_core::ids::{Lsn, SubscriptionNumber};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::Files;
use super::record::{JobState, Kind, Record};

/// Where records are, beside the accounts: no account's name begins with a dot.
const DIRECTORY: &str = ".jobs";
/// Jobs at a time, each with some batches of letters in memory.
const RUNNING_MAX: usize = 16;
/// Records of jobs that ended; beyond it the oldest go.
const ENDED_MAX: usize = 100;

/// Why a job was not started.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartJobError {
    #[error("job {id} still runs on the dead letters of this subscription")]
    Busy { id: String },
    #[error("{RUNNING_MAX} jobs are running, and more are not taken")]
    TooMany,
    #[error("failed to record the job")]
    Record(#[source] io::Error),
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Jobs {
    files: Arc<Files>,
    threads: bool,
    /// By creation time and id.
    table: Mutex<BTreeMap<(u64, String), Arc<Job>>>,
    /// One start at a time, so that two on the same letters cannot both find them free.
    starting: tokio::sync::Mutex<()>,
}

/// One job, shared by whoever runs it and whoever asks for it.
#[derive(Debug)]
pub(crate) struct Job {
    record: Mutex<Record>,
    /// The checkpoint on disk: frames from there on must stay.
    checkpoint: AtomicU64,
    pub(super) cancel: CancellationToken,
    /// Why it does not get on right now.
    trouble: Mutex<Option<String>>,
    files: Arc<Files>,
    threads: bool,
}

impl Job {
    fn new(record: Record, files: &Arc<Files>, threads: bool) -> Arc<Self> {
        Arc::new(Self {
            checkpoint: AtomicU64::new(record.checkpoint.0),
            record: Mutex::new(record),
            cancel: CancellationToken::new(),
            trouble: Mutex::default(),
            files: Arc::clone(files),
            threads,
        })
    }

    pub(crate) fn record(&self) -> Record {
        self.record.lock().expect("no panic while the record is held").clone()
    }

    /// For the API: the record, and what goes on right now.
    pub(crate) fn to_json(&self) -> Value {
        let mut value = self.record().to_json();
        value["waitingFor"] = json!(*self.trouble.lock().expect("no panic while it is held"));
        value["cancelling"] = json!(value["state"] == "running" && self.cancel.is_cancelled());
        value
    }

    /// Says why it does not get on right now; `None` when it does.
    pub(super) fn set_trouble(&self, text: Option<String>) {
        *self.trouble.lock().expect("no panic while it is held") = text;
    }

    /// Asks it to end. It does so when what it has put back is marked.
    pub(crate) fn cancel(&self) {
        self.cancel.cancel();
    }

    /// Replaces the record; done when it is durable.
    pub(super) async fn save(&self, record: &Record) -> io::Result<()> {
        write(&self.files, self.threads, record).await?;
        self.checkpoint.store(record.checkpoint.0, Ordering::Release);
        *self.record.lock().expect("no panic while the record is held") = record.clone();
        Ok(())
    }
}

impl Jobs {
    /// Reads every record. One that cannot be read is left alone, and said.
    pub(super) fn read(files: Arc<Files>, threads: bool) -> Self {
        let mut records = BTreeMap::new();
        let dir = files.dir.join(DIRECTORY);
        for name in files.disk.list(&dir).unwrap_or_default() {
            let content = files.read(&dir.join(&name)).ok().flatten();
            let value: Option<Value> = content.and_then(|content| serde_json::from_slice(&content).ok());
            let Some(record) = value.as_ref().and_then(Record::from_json) else {
                tracing::error!(
                    name,
                    "the record of a job on dead letters cannot be read: it does not go on"
                );
                continue;
            };
            records.insert((record.created.as_millis(), record.id.clone()), record);
        }
        keep_the_oldest(&files, &mut records);
        let jobs = records.into_iter().map(|(key, record)| (key, Job::new(record, &files, threads)));
        let table = jobs.collect();
        Self { files, threads, table: Mutex::new(table), starting: tokio::sync::Mutex::default() }
    }

    /// Records a job, from which moment on it will be done, whatever happens. The caller runs it.
    ///
    /// # Cancel safety
    ///
    /// None: dropped, it may leave a record that is taken up only after the next start.
    pub(crate) async fn add(&self, record: Record) -> Result<Arc<Job>, StartJobError> {
        let _one_at_a_time = self.starting.lock().await;
        let running = self.running();
        let busy =
            running.iter().map(|job| job.record()).find(|other| other.subscription == record.subscription);
        if let Some(Record { id, .. }) = busy {
            return Err(StartJobError::Busy { id });
        }
        if RUNNING_MAX <= running.len() {
            return Err(StartJobError::TooMany);
        }
        if let Err(error) = write(&self.files, self.threads, &record).await {
            // It may be there all the same, and who asked was told that the job does not run.
            let _ = self.remove(&record.id).await;
            return Err(StartJobError::Record(error));
        }
        let key = (record.created.as_millis(), record.id.clone());
        let job = Job::new(record, &self.files, self.threads);
        self.table().insert(key, Arc::clone(&job));
        self.forget_oldest().await;
        Ok(job)
    }

    pub(crate) fn all(&self) -> Vec<Arc<Job>> {
        self.table().values().cloned().collect()
    }

    pub(crate) fn running(&self) -> Vec<Arc<Job>> {
        let mut jobs = self.all();
        jobs.retain(|job| job.record().state == JobState::Running);
        jobs
    }

    pub(crate) fn get(&self, id: &str) -> Option<Arc<Job>> {
        self.table().values().find(|job| job.record().id == id).cloned()
    }

    /// Frames from here on must stay in the log: a job that is cut off looks for its letters in them.
    pub(crate) fn hold(&self) -> Option<Lsn> {
        let redrives =
            self.running().into_iter().filter(|job| matches!(job.record().kind, Kind::Redrive { .. }));
        redrives.map(|job| Lsn(job.checkpoint.load(Ordering::Acquire))).min()
    }

    fn table(&self) -> std::sync::MutexGuard<'_, BTreeMap<(u64, String), Arc<Job>>> {
        self.table.lock().expect("no panic while the jobs are held")
    }

    async fn forget_oldest(&self) {
        let ended: Vec<(u64, String)> = {
            let table = self.table();
            let ended = table.iter().filter(|(_, job)| job.record().state != JobState::Running);
            ended.map(|(key, _)| key.clone()).collect()
        };
        for key in ended.iter().take(ended.len().saturating_sub(ENDED_MAX)) {
            // One that stays is read again at the next start, and goes then.
            let _ = self.remove(&key.1).await;
            self.table().remove(key);
        }
    }

    async fn remove(&self, id: &str) -> io::Result<()> {
        let path = self.files.dir.join(record_path(id));
        let files = Arc::clone(&self.files);
        blocking(self.threads, move || files.disk.remove(&path)).await
    }
}

/// Of several records that say they run on the letters of one subscription the oldest is right: the others were
/// never said to run, or not by an answer that anybody got. They have failed; when is not known.
fn keep_the_oldest(files: &Files, records: &mut BTreeMap<(u64, String), Record>) {
    let mut oldest: BTreeMap<SubscriptionNumber, (String, Lsn)> = BTreeMap::new();
    for record in records.values().filter(|record| record.state == JobState::Running) {
        let kept = oldest.entry(record.subscription);
        let (_, checkpoint) = kept.or_insert_with(|| (record.id.clone(), record.checkpoint));
        *checkpoint = record.checkpoint.min(*checkpoint);
    }
    for record in records.values_mut().filter(|record| record.state == JobState::Running) {
        let (id, checkpoint) = &oldest[&record.subscription];
        if record.id != *id {
            record.state = JobState::Failed;
            record.problem = Some(format!("the job {id} ran on the dead letters of this subscription"));
            tracing::warn!(
                job = record.id,
                other = id,
                "one of two jobs on the same dead letters is given up"
            );
        } else if *checkpoint < record.checkpoint {
            // Whatever another has put back all the same is found from there on.
            record.checkpoint = *checkpoint;
        } else {
            continue;
        }
        // The oldest comes first. If that fails, the next start does it again.
        if let Err(error) = files.write(&record_path(&record.id), record.to_json().to_string().as_bytes()) {
            tracing::warn!(%error, job = record.id, "failed to record what becomes of a job on dead letters");
        }
    }
}

fn record_path(id: &str) -> PathBuf {
    Path::new(DIRECTORY).join(format!("{id}.json"))
}

async fn write(files: &Arc<Files>, threads: bool, record: &Record) -> io::Result<()> {
    let content = record.to_json().to_string().into_bytes();
    Arc::clone(files).write_in_turn(record_path(&record.id), content, threads).await
}

async fn blocking(threads: bool, work: impl FnOnce() -> io::Result<()> + Send + 'static) -> io::Result<()> {
    if !threads {
        return work();
    }
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures_util::FutureExt;
    use gridwire_core::time::Timestamp;
    use gridwire_outside::memory::Call;

    use super::super::tests::{new_disk, record};
    use super::super::{DeadLetters, WRITES_MAX};
    use super::*;

    fn on(disk: &gridwire_outside::MemoryDisk) -> DeadLetters {
        DeadLetters::new(Arc::new(disk.clone()), "/data/deadletter".into(), false)
    }

    #[tokio::test]
    async fn records_take_turns_with_letters() {
        let letters = on(&new_disk());
        let jobs = letters.jobs();
        let max = u32::try_from(WRITES_MAX).expect("few");
        let turns = letters.files.turns.try_acquire_many(max).expect("nobody writes");
        let names = std::mem::take(&mut *letters.files.free.lock().expect("no panic"));
        let mut adding = pin!(jobs.add(record("a", 1)));
        assert!(adding.as_mut().now_or_never().is_none(), "letters are being written");
        *letters.files.free.lock().expect("no panic") = names;
        drop(turns);
        adding.await.expect("recorded");
    }

    #[tokio::test]
    async fn the_log_is_kept_from_the_oldest_checkpoint_on_file_of_a_redrive_that_runs() {
        let disk = new_disk();
        let jobs = on(&disk).jobs();
        assert_eq!(jobs.hold(), None);
        let first = jobs.add(record("a", 1)).await.expect("recorded");
        assert_eq!(jobs.hold(), Some(Lsn(12)));
        let purge = Record { kind: Kind::Purge { redriven: false }, checkpoint: Lsn(1), ..record("b", 2) };
        jobs.add(purge).await.expect("recorded");
        assert_eq!(jobs.hold(), Some(Lsn(12)), "a purge looks for nothing in the log");

        let moved = Record { checkpoint: Lsn(40), ..first.record() };
        disk.fail_nth(Call::Any, 1, io::ErrorKind::Other, true);
        assert!(first.save(&moved).await.is_err());
        disk.heal();
        assert_eq!(jobs.hold(), Some(Lsn(12)), "a start would go by what is on file");
        first.save(&moved).await.expect("recorded");
        assert_eq!(jobs.hold(), Some(Lsn(40)));

        let second = Record { checkpoint: Lsn(30), ..record("c", 3) };
        let second = jobs.add(second).await.expect("recorded");
        assert_eq!(jobs.hold(), Some(Lsn(30)));
        assert_eq!(on(&disk).jobs().hold(), Some(Lsn(30)), "after a restart");
        for (job, held) in [(second, Some(Lsn(40))), (first, None)] {
            let ended = Record { state: JobState::Done, ..job.record() };
            job.save(&ended).await.expect("recorded");
            assert_eq!(jobs.hold(), held);
        }
        assert_eq!(on(&disk).jobs().hold(), None);
    }

    #[tokio::test]
    async fn a_job_that_could_not_be_recorded_does_not_run_after_the_next_start() {
        let mut n = 0;
        loop {
            n += 1;
            let disk = new_disk();
            let jobs = on(&disk).jobs();
            disk.fail_nth(Call::SyncDir, n, io::ErrorKind::Other, false);
            let added = jobs.add(record("a", 1)).await.is_ok();
            disk.heal();
            assert_eq!(jobs.running().len(), usize::from(added), "call {n}");
            assert_eq!(on(&disk).jobs().running().len(), usize::from(added), "call {n}");
            if added {
                return;
            }
        }
    }

    #[tokio::test]
    async fn of_several_jobs_on_the_same_letters_the_oldest_goes_on() {
        let disk = new_disk();
        let files = on(&disk).files;
        for (id, subscription, created, checkpoint) in [("c", 1, 1, 9), ("b", 1, 2, 8), ("a", 2, 3, 7)] {
            let mut record = record(id, subscription);
            record.created = Timestamp::from_millis(created);
            record.checkpoint = Lsn(checkpoint);
            write(&files, false, &record).await.expect("recorded");
        }
        for _ in 0..2 {
            let jobs = on(&disk).jobs();
            let running: Vec<String> = jobs.running().iter().map(|job| job.record().id).collect();
            assert_eq!(running, ["c", "a"]);
            let failed = jobs.get("b").expect("there").record();
            assert_eq!(failed.state, JobState::Failed);
            assert!(failed.problem.is_some_and(|problem| problem.contains("job c")));
        }
        let first = on(&disk).jobs().get("c").expect("there").record();
        assert_eq!(first.checkpoint, Lsn(8), "it finds what the other put back");
    }
}
