//! All jobs on dead letters: those that run, and the latest of those that ended.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use gridwire_core::ids::Lsn;
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
    pub(super) trouble: Mutex<Option<String>>,
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
        let mut table = BTreeMap::new();
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
            let key = (record.created.as_millis(), record.id.clone());
            table.insert(key, Job::new(record, &files, threads));
        }
        Self { files, threads, table: Mutex::new(table), starting: tokio::sync::Mutex::default() }
    }

    /// Records a job, from which moment on it will be done, whatever happens. The caller runs it.
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
        write(&self.files, self.threads, &record).await.map_err(StartJobError::Record)?;
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
            let path = self.files.dir.join(record_path(&key.1));
            let files = Arc::clone(&self.files);
            // One that stays is read again at the next start, and goes then.
            let _ = blocking(self.threads, move || files.disk.remove(&path)).await;
            self.table().remove(key);
        }
    }
}

fn record_path(id: &str) -> PathBuf {
    Path::new(DIRECTORY).join(format!("{id}.json"))
}

async fn write(files: &Arc<Files>, threads: bool, record: &Record) -> io::Result<()> {
    let (files, path) = (Arc::clone(files), record_path(&record.id));
    let content = record.to_json().to_string();
    blocking(threads, move || files.write(&path, content.as_bytes())).await
}

async fn blocking(threads: bool, work: impl FnOnce() -> io::Result<()> + Send + 'static) -> io::Result<()> {
    if !threads {
        return work();
    }
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}
