//! Resources in one redb file.
//!
//! Three tables: `resources` (key to revision and value), `sequences` (name to the next number), `store` (the
//! revision of the last write). A call is one transaction, durable on return and written with quick repair,
//! so that a start after a crash does not read the whole file. redb blocks, so calls go one by one through a
//! bounded queue to a thread of their own. A database that had an I/O error refuses everything until it is
//! opened again, which the next call does. After a failed *commit*, other than for want of space, or a failed
//! *flush* it stays closed, for then nobody knows what the disk has: the process must end
//! ([`ResourceStore::failed`]).

mod backend;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use gridwire_core::routing::BoxFuture;
use gridwire_outside::{Disk, OpenMode};
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction};
use tokio::sync::{mpsc, oneshot, watch};

use self::backend::FileBackend;
use crate::embedded::writer::is_no_space;
use crate::resources::{Resource, ResourceError, ResourceStore, Revision};

const RESOURCES: TableDefinition<'_, &str, (u64, &[u8])> = TableDefinition::new("resources");
const SEQUENCES: TableDefinition<'_, &str, u32> = TableDefinition::new("sequences");
const STORE: TableDefinition<'_, &str, u64> = TableDefinition::new("store");
/// The key in `store` under which the revision of the last write is.
const REVISION: &str = "revision";

/// Calls waiting for the thread. Management calls are rare; when it is full, callers wait.
const QUEUE_MAX: usize = 256;
/// Memory for redb's pages, where its own choice would be 1 GiB. All resources fit many times.
const CACHE_BYTES: usize = 16 << 20;

/// A [`ResourceStore`] in one file of a [`Disk`].
pub struct RedbResources {
    driver: Driver,
    written: watch::Receiver<u64>,
    failed: watch::Receiver<bool>,
}

/// Who makes the blocking calls.
enum Driver {
    Thread {
        jobs: mpsc::Sender<Job>,
        thread: thread::JoinHandle<()>,
    },
    /// Whoever calls: a simulation stays in one thread.
    Inline(Mutex<Engine>),
    /// Only while it is dropped.
    Stopped,
}

type Job = Box<dyn FnOnce(&mut Engine) + Send>;

impl fmt::Debug for RedbResources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedbResources").finish_non_exhaustive()
    }
}

impl RedbResources {
    /// Opens the store at `path`, made new if it is not there, with a thread of its own.
    ///
    /// # Errors
    /// `StorageFull` without space to make it; `Failed` when it cannot be read or is damaged.
    pub fn open(disk: Arc<dyn Disk>, path: &Path) -> Result<Arc<Self>, ResourceError> {
        let (mut engine, written) = Engine::open(disk, path)?;
        let failed = engine.failed.subscribe();
        let (jobs, mut queue) = mpsc::channel::<Job>(QUEUE_MAX);
        let run = move || {
            // Ends, and closes the file, when the sender is gone.
            while let Some(job) = queue.blocking_recv() {
                job(&mut engine);
            }
        };
        let spawned = thread::Builder::new().name("resources".into()).spawn(run);
        let thread = spawned.map_err(|error| ResourceError::Failed(format!("no thread: {error}")))?;
        Ok(Arc::new(Self { driver: Driver::Thread { jobs, thread }, written, failed }))
    }

    /// As [`RedbResources::open`], but every call blocks its caller and no thread is started.
    ///
    /// # Errors
    /// As [`RedbResources::open`].
    pub fn open_inline(disk: Arc<dyn Disk>, path: &Path) -> Result<Arc<Self>, ResourceError> {
        let (engine, written) = Engine::open(disk, path)?;
        let failed = engine.failed.subscribe();
        Ok(Arc::new(Self { driver: Driver::Inline(Mutex::new(engine)), written, failed }))
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Engine) -> Result<T, ResourceError> + Send + 'static,
    ) -> Result<T, ResourceError> {
        let gone = || ResourceError::Failed("its thread has ended".into());
        let jobs = match &self.driver {
            Driver::Thread { jobs, .. } => jobs,
            Driver::Inline(engine) => {
                return work(&mut engine.lock().expect("no panic while the engine is held"));
            }
            Driver::Stopped => return Err(gone()),
        };
        let (answer, answered) = oneshot::channel();
        let job: Job = Box::new(move |engine| {
            // The caller may have gone away; what it asked for is done all the same.
            let _ = answer.send(work(engine));
        });
        jobs.send(job).await.map_err(|_| gone())?;
        answered.await.unwrap_or_else(|_| Err(gone()))
    }
}

/// Returns when the file is closed, so that it can be opened again at once.
impl Drop for RedbResources {
    fn drop(&mut self) {
        if let Driver::Thread { jobs, thread } = std::mem::replace(&mut self.driver, Driver::Stopped) {
            drop(jobs);
            if thread.join().is_err() {
                tracing::error!("the thread of the resource store panicked");
            }
        }
    }
}

impl ResourceStore for RedbResources {
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<Resource>, ResourceError>> {
        let key = key.to_owned();
        Box::pin(self.run(move |engine| engine.read(|database| get(database, &key))))
    }

    fn list<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<Vec<Resource>, ResourceError>> {
        let prefix = prefix.to_owned();
        Box::pin(self.run(move |engine| engine.read(|database| list(database, &prefix))))
    }

    fn create<'a>(&'a self, key: &'a str, value: Vec<u8>) -> BoxFuture<'a, Result<Revision, ResourceError>> {
        let key = key.to_owned();
        Box::pin(self.run(move |engine| {
            engine.write(|transaction| {
                let mut resources = transaction.open_table(RESOURCES)?;
                if resources.get(&*key)?.is_some() {
                    return Err(ResourceError::Exists { key: key.clone() }.into());
                }
                let revision = next_revision(transaction)?;
                resources.insert(&*key, (revision, &*value))?;
                Ok((Revision(revision), Some(revision)))
            })
        }))
    }

    fn update<'a>(
        &'a self,
        key: &'a str,
        value: Vec<u8>,
        expected: Revision,
    ) -> BoxFuture<'a, Result<Revision, ResourceError>> {
        let key = key.to_owned();
        Box::pin(self.run(move |engine| {
            engine.write(|transaction| {
                let mut resources = transaction.open_table(RESOURCES)?;
                let current = resources.get(&*key)?.map(|entry| entry.value().0);
                match current {
                    None => return Err(ResourceError::Missing { key: key.clone() }.into()),
                    Some(current) if current != expected.0 => {
                        return Err(ResourceError::Changed { key: key.clone() }.into());
                    }
                    Some(_) => {}
                }
                let revision = next_revision(transaction)?;
                resources.insert(&*key, (revision, &*value))?;
                Ok((Revision(revision), Some(revision)))
            })
        }))
    }

    fn delete(&self, keys: Vec<String>) -> BoxFuture<'_, Result<(), ResourceError>> {
        Box::pin(self.run(move |engine| {
            engine.write(|transaction| {
                let mut resources = transaction.open_table(RESOURCES)?;
                let mut is_changed = false;
                for key in &keys {
                    is_changed |= resources.remove(&**key)?.is_some();
                }
                let revision = if is_changed { Some(next_revision(transaction)?) } else { None };
                Ok(((), revision))
            })
        }))
    }

    fn next_numbers<'a>(
        &'a self,
        sequence: &'a str,
        count: u32,
    ) -> BoxFuture<'a, Result<u32, ResourceError>> {
        let sequence = sequence.to_owned();
        Box::pin(self.run(move |engine| {
            engine.write(|transaction| {
                let mut sequences = transaction.open_table(SEQUENCES)?;
                let first = sequences.get(&*sequence)?.map_or(0, |next| next.value());
                let next = first.checked_add(count).ok_or_else(|| {
                    ResourceError::Failed(format!("the numbers of the sequence `{sequence}` are used up"))
                })?;
                sequences.insert(&*sequence, next)?;
                Ok((first, None))
            })
        }))
    }

    fn failed(&self) -> BoxFuture<'_, ()> {
        let mut failed = self.failed.clone();
        Box::pin(async move {
            // A thread that is gone without having failed has been told to end.
            if failed.wait_for(|failed| *failed).await.is_err() {
                std::future::pending::<()>().await;
            }
        })
    }

    fn watch(&self) -> watch::Receiver<u64> {
        self.written.clone()
    }
}

fn next_revision(transaction: &WriteTransaction) -> Result<u64, Fault> {
    let mut store = transaction.open_table(STORE)?;
    let next = store.get(REVISION)?.map_or(0, |last| last.value()) + 1;
    store.insert(REVISION, next)?;
    Ok(next)
}

fn get(database: &Database, key: &str) -> Result<Option<Resource>, Fault> {
    let resources = database.begin_read()?.open_table(RESOURCES)?;
    Ok(resources.get(key)?.map(|entry| {
        let (revision, value) = entry.value();
        Resource { key: key.to_owned(), revision: Revision(revision), value: value.to_vec() }
    }))
}

fn list(database: &Database, prefix: &str) -> Result<Vec<Resource>, Fault> {
    let resources = database.begin_read()?.open_table(RESOURCES)?;
    let mut listed = Vec::new();
    for entry in resources.range(prefix..)? {
        let (key, entry) = entry?;
        if !key.value().starts_with(prefix) {
            break;
        }
        let (revision, value) = entry.value();
        let (key, value) = (key.value().to_owned(), value.to_vec());
        listed.push(Resource { key, revision: Revision(revision), value });
    }
    Ok(listed)
}

/// Why a transaction did not happen.
enum Fault {
    /// The store is well and says no.
    Refused(ResourceError),
    Redb(redb::Error),
}

impl From<ResourceError> for Fault {
    fn from(error: ResourceError) -> Self {
        Self::Refused(error)
    }
}

macro_rules! from_redb {
    ($($error:ident),*) => {
        $(impl From<redb::$error> for Fault {
            fn from(error: redb::$error) -> Self {
                Self::Redb(error.into())
            }
        })*
    };
}

from_redb!(CommitError, DatabaseError, StorageError, TableError, TransactionError);

impl Fault {
    fn is_full(&self) -> bool {
        matches!(self, Self::Redb(redb::Error::Io(error)) if is_no_space(error))
    }

    fn into_error(self) -> ResourceError {
        match self {
            Self::Refused(error) => error,
            fault if fault.is_full() => ResourceError::StorageFull,
            Self::Redb(error) => ResourceError::Failed(error.to_string()),
        }
    }
}

/// The database and what is needed to open it again.
struct Engine {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    /// `None` after an I/O error, until the next call.
    database: Option<Database>,
    flush_failed: Arc<AtomicBool>,
    /// A write may have happened or not; nothing is done any more.
    failed: watch::Sender<bool>,
    written: watch::Sender<u64>,
}

impl Engine {
    fn open(disk: Arc<dyn Disk>, path: &Path) -> Result<(Self, watch::Receiver<u64>), ResourceError> {
        let flush_failed = Arc::new(AtomicBool::new(false));
        make_new(&disk, path, &flush_failed)?;
        let (written, watch) = watch::channel(0);
        let failed = watch::Sender::new(false);
        let mut engine = Self { disk, path: path.to_owned(), database: None, flush_failed, failed, written };
        let revision = engine.read(|database| {
            let store = database.begin_read()?.open_table(STORE)?;
            Ok(store.get(REVISION)?.map_or(0, |last| last.value()))
        })?;
        engine.written.send_replace(revision);
        Ok((engine, watch))
    }

    fn database(&mut self) -> Result<&Database, Fault> {
        if *self.failed.borrow() {
            let what = "a write has failed; what is on the disk is unknown";
            return Err(Fault::Refused(ResourceError::Failed(what.into())));
        }
        let database = match self.database.take() {
            Some(database) => database,
            None => open_database(&*self.disk, &self.path, OpenMode::Existing, &self.flush_failed)?,
        };
        Ok(self.database.insert(database))
    }

    fn run<T>(&mut self, work: impl FnOnce(&Database) -> Result<T, Fault>) -> Result<T, ResourceError> {
        let outcome = self.database().and_then(work);
        if let Err(Fault::Redb(error)) = &outcome {
            tracing::warn!(%error, "the resource store had an error and is closed");
            self.database = None;
        }
        // Closing a database flushes too.
        if self.flush_failed.load(Ordering::Acquire) {
            self.fail();
        }
        outcome.map_err(Fault::into_error)
    }

    fn fail(&self) {
        if !self.failed.send_replace(true) {
            tracing::error!("the resource store has failed; it takes no more");
        }
    }

    fn read<T>(&mut self, work: impl FnOnce(&Database) -> Result<T, Fault>) -> Result<T, ResourceError> {
        self.run(work)
    }

    /// One transaction. `work` returns its answer and, if resources changed, the new revision.
    fn write<T>(
        &mut self,
        work: impl FnOnce(&WriteTransaction) -> Result<(T, Option<u64>), Fault>,
    ) -> Result<T, ResourceError> {
        let failed = self.failed.clone();
        let (answer, revision) = self.run(|database| {
            let mut transaction = database.begin_write()?;
            transaction.set_quick_repair(true);
            match work(&transaction) {
                Ok(outcome) => {
                    if let Err(error) = transaction.commit() {
                        let fault = Fault::from(error);
                        // What finds no space has not changed what was there.
                        if !fault.is_full() && !failed.send_replace(true) {
                            tracing::error!("a change of the resources failed half-way; no more are taken");
                        }
                        return Err(fault);
                    }
                    Ok(outcome)
                }
                // After an error of its own, redb has only that to say when the transaction is taken back.
                Err(fault @ Fault::Redb(_)) => Err(fault),
                Err(refused) => {
                    transaction.abort()?;
                    Err(refused)
                }
            }
        })?;
        if let Some(revision) = revision {
            self.written.send_replace(revision);
        }
        Ok(answer)
    }
}

fn open_database(
    disk: &dyn Disk,
    path: &Path,
    mode: OpenMode,
    flush_failed: &Arc<AtomicBool>,
) -> Result<Database, Fault> {
    let file = disk.open(path, mode).map_err(redb::StorageError::Io)?;
    let backend = FileBackend::new(file, Arc::clone(flush_failed));
    Ok(Database::builder().set_cache_size(CACHE_BYTES).create_with_backend(backend)?)
}

/// Makes an empty database aside and gives it its name when it is whole: a crash never leaves half of one.
fn make_new(disk: &Arc<dyn Disk>, path: &Path, flush_failed: &Arc<AtomicBool>) -> Result<(), ResourceError> {
    let fault = |error: io::Error| Fault::from(redb::StorageError::Io(error)).into_error();
    let mut aside = path.as_os_str().to_owned();
    aside.push(".new");
    let aside = PathBuf::from(aside);
    match disk.remove(&aside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(fault(error)),
        _ => {}
    }
    match disk.open(path, OpenMode::Existing) {
        Ok(_) => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(fault(error)),
    }
    let make = || -> Result<(), Fault> {
        let database = open_database(&**disk, &aside, OpenMode::New, flush_failed)?;
        let mut transaction = database.begin_write()?;
        transaction.set_quick_repair(true);
        transaction.open_table(RESOURCES)?;
        transaction.open_table(SEQUENCES)?;
        transaction.open_table(STORE)?;
        transaction.commit()?;
        Ok(())
    };
    make().map_err(Fault::into_error)?;
    // Dropping the database wrote its last bytes.
    let sync = || disk.open(&aside, OpenMode::Existing)?.sync_data();
    sync().map_err(fault)?;
    disk.rename(&aside, path).map_err(fault)?;
    disk.sync_dir(path.parent().unwrap_or(Path::new("/"))).map_err(fault)
}

#[cfg(test)]
mod tests;
