//! What exists: topics, subscriptions, namespaces, keys; each a document with a revision.

use std::fmt;

use gridwire_core::routing::BoxFuture;

/// Changes with every write of a resource; its `ETag`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub u64);

/// A stored resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    pub key: String,
    pub revision: Revision,
    pub value: Vec<u8>,
}

/// Why a resource was not written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResourceError {
    #[error("the resource `{key}` exists")]
    Exists { key: String },
    #[error("the resource `{key}` does not exist")]
    Missing { key: String },
    #[error("the resource `{key}` has changed")]
    Changed { key: String },
    #[error("the resource store has no space left")]
    StorageFull,
    #[error("the resource store failed: {0}")]
    Failed(String),
}

/// Resources by key. Writes are durable on return.
pub trait ResourceStore: Send + Sync + fmt::Debug + 'static {
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<Resource>, ResourceError>>;

    /// Every resource whose key begins with `prefix`, in order of key.
    fn list<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<Vec<Resource>, ResourceError>>;

    fn create<'a>(&'a self, key: &'a str, value: Vec<u8>) -> BoxFuture<'a, Result<Revision, ResourceError>>;

    /// Replaces the value if the resource still has the revision `expected`.
    fn update<'a>(
        &'a self,
        key: &'a str,
        value: Vec<u8>,
        expected: Revision,
    ) -> BoxFuture<'a, Result<Revision, ResourceError>>;

    /// Removes every one of `keys` that is there, in one step (a topic goes with its subscriptions).
    fn delete(&self, keys: Vec<String>) -> BoxFuture<'_, Result<(), ResourceError>>;

    /// Reserves the next `count` numbers of a sequence and returns the first. Never gives one twice.
    fn next_numbers<'a>(&'a self, sequence: &'a str, count: u32)
    -> BoxFuture<'a, Result<u32, ResourceError>>;

    /// Done when the store has failed for good: whether the last write happened is unknown, nothing succeeds any
    /// more, and the process must end.
    fn failed(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::pending())
    }

    /// A receiver that sees a new value after each write.
    fn watch(&self) -> tokio::sync::watch::Receiver<u64>;
}
