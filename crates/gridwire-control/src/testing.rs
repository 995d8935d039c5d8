//! Stand-ins for the outside: a repeatable generator, a resource store in memory, a port that records.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use gridwire_core::pace::Pace;
use gridwire_core::routing::{
    BoxFuture, Consent, DeliveryPort, Handshake, HandshakeError, InstallError, RoutingTable,
};
use gridwire_outside::Rng;
use gridwire_store::{Resource, ResourceError, ResourceStore, Revision};
use tokio::sync::Semaphore;

/// Counts; never gives the same bytes twice, whoever asks.
#[derive(Debug, Default)]
pub(crate) struct TestRng;

static COUNT: AtomicU64 = AtomicU64::new(0);

impl Rng for TestRng {
    fn fill(&self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            // SplitMix64: any two counts give unlike bytes.
            let mut word = COUNT.fetch_add(1, Ordering::Relaxed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            let word = (word ^ (word >> 31)).to_le_bytes();
            chunk.copy_from_slice(&word[..chunk.len()]);
        }
    }
}

/// Resources in a map.
#[derive(Debug)]
pub(crate) struct MemoryStore {
    state: Mutex<MemoryState>,
    watch: tokio::sync::watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct MemoryState {
    resources: BTreeMap<String, Resource>,
    sequences: BTreeMap<String, u32>,
    revision: u64,
    /// What the next write answers instead of being made; `true` makes it all the same.
    failure: Option<(ResourceError, bool)>,
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self { state: Mutex::default(), watch: tokio::sync::watch::Sender::new(0) }
    }
}

impl MemoryStore {
    /// Everything that is stored, for comparing before with after.
    pub(crate) fn dump(&self) -> Vec<Resource> {
        self.state.lock().unwrap().resources.values().cloned().collect()
    }

    /// Makes the next write fail; `but_written` when it is stored nevertheless.
    pub(crate) fn fail_next(&self, error: ResourceError, but_written: bool) {
        self.state.lock().unwrap().failure = Some((error, but_written));
    }

    pub(crate) fn overwrite(&self, key: &str, value: Vec<u8>) {
        let mut state = self.state.lock().unwrap();
        state.resources.get_mut(key).unwrap().value = value;
    }

    fn write<T>(
        &self,
        write: impl FnOnce(&mut MemoryState) -> Result<T, ResourceError>,
    ) -> Result<T, ResourceError> {
        let mut state = self.state.lock().unwrap();
        if let Some((error, but_written)) = state.failure.take() {
            if but_written {
                write(&mut state)?;
            }
            return Err(error);
        }
        let written = write(&mut state)?;
        self.watch.send_replace(state.revision);
        Ok(written)
    }
}

impl MemoryState {
    fn put(&mut self, key: &str, value: Vec<u8>) -> Revision {
        self.revision += 1;
        let revision = Revision(self.revision);
        self.resources.insert(key.to_owned(), Resource { key: key.to_owned(), revision, value });
        revision
    }
}

impl ResourceStore for MemoryStore {
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<Resource>, ResourceError>> {
        let found = self.state.lock().unwrap().resources.get(key).cloned();
        Box::pin(std::future::ready(Ok(found)))
    }

    fn list<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<Vec<Resource>, ResourceError>> {
        let found = self.dump().into_iter().filter(|resource| resource.key.starts_with(prefix)).collect();
        Box::pin(std::future::ready(Ok(found)))
    }

    fn create<'a>(&'a self, key: &'a str, value: Vec<u8>) -> BoxFuture<'a, Result<Revision, ResourceError>> {
        Box::pin(async move {
            self.write(|state| {
                if state.resources.contains_key(key) {
                    return Err(ResourceError::Exists { key: key.to_owned() });
                }
                Ok(state.put(key, value))
            })
        })
    }

    fn update<'a>(
        &'a self,
        key: &'a str,
        value: Vec<u8>,
        expected: Revision,
    ) -> BoxFuture<'a, Result<Revision, ResourceError>> {
        Box::pin(async move {
            self.write(|state| match state.resources.get(key) {
                None => Err(ResourceError::Missing { key: key.to_owned() }),
                Some(old) if old.revision != expected => Err(ResourceError::Changed { key: key.to_owned() }),
                Some(_) => Ok(state.put(key, value)),
            })
        })
    }

    fn delete(&self, keys: Vec<String>) -> BoxFuture<'_, Result<(), ResourceError>> {
        Box::pin(async move {
            self.write(|state| {
                for key in keys {
                    state.resources.remove(&key);
                }
                Ok(())
            })
        })
    }

    fn next_numbers<'a>(
        &'a self,
        sequence: &'a str,
        count: u32,
    ) -> BoxFuture<'a, Result<u32, ResourceError>> {
        let mut state = self.state.lock().unwrap();
        let next = state.sequences.entry(sequence.to_owned()).or_insert(1);
        let first = *next;
        *next += count;
        Box::pin(std::future::ready(Ok(first)))
    }

    fn watch(&self) -> tokio::sync::watch::Receiver<u64> {
        self.watch.subscribe()
    }
}

/// Remembers what it was asked, and answers as it was told.
#[derive(Debug)]
pub(crate) struct RecordingPort {
    state: Mutex<PortState>,
    /// When set, a handshake waits for a permit.
    gate: Mutex<Option<Arc<Semaphore>>>,
    /// A permit for each handshake that has begun.
    pub begun: Semaphore,
}

#[derive(Debug, Default)]
struct PortState {
    handshakes: Vec<Handshake>,
    refusal: Option<HandshakeError>,
    consent: Option<Consent>,
    install_failure: Option<InstallError>,
    tables: Vec<Arc<RoutingTable>>,
}

/// Holds handshakes back until it is opened.
#[derive(Debug)]
pub(crate) struct Gate(pub Arc<Semaphore>);

impl RecordingPort {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), gate: Mutex::default(), begun: Semaphore::new(0) })
    }

    pub(crate) fn handshakes(&self) -> Vec<Handshake> {
        self.state.lock().unwrap().handshakes.clone()
    }

    pub(crate) fn installs(&self) -> usize {
        self.state.lock().unwrap().tables.len()
    }

    pub(crate) fn latest(&self) -> Arc<RoutingTable> {
        Arc::clone(self.state.lock().unwrap().tables.last().expect("a table is installed"))
    }

    pub(crate) fn refuse(&self, refusal: Option<HandshakeError>) {
        self.state.lock().unwrap().refusal = refusal;
    }

    /// What endpoints say from now on; before, they agree to everything.
    pub(crate) fn answer(&self, consent: Consent) {
        self.state.lock().unwrap().consent = Some(consent);
    }

    pub(crate) fn fail_install(&self, failure: Option<InstallError>) {
        self.state.lock().unwrap().install_failure = failure;
    }

    pub(crate) fn close_gate(&self) -> Gate {
        let gate = Gate(Arc::new(Semaphore::new(0)));
        *self.gate.lock().unwrap() = Some(Arc::clone(&gate.0));
        gate
    }
}

impl DeliveryPort for RecordingPort {
    fn validate(&self, handshake: Handshake) -> BoxFuture<'_, Result<Consent, HandshakeError>> {
        Box::pin(async move {
            let gate = self.gate.lock().unwrap().clone();
            let (refusal, consent) = {
                let mut state = self.state.lock().unwrap();
                state.handshakes.push(handshake);
                (state.refusal.clone(), state.consent)
            };
            self.begun.add_permits(1);
            if let Some(gate) = gate {
                gate.acquire().await.expect("the gate is never closed").forget();
            }
            refusal.map_or(Ok(consent.unwrap_or(Consent::Given { pace: Pace::Free })), Err)
        })
    }

    fn install(&self, table: Arc<RoutingTable>) -> BoxFuture<'_, Result<(), InstallError>> {
        let mut state = self.state.lock().unwrap();
        let outcome = state.install_failure.clone().map_or(Ok(()), Err);
        if outcome.is_ok() {
            state.tables.push(table);
        }
        Box::pin(std::future::ready(outcome))
    }
}
