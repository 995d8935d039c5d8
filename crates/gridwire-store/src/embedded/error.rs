//! Why a data directory could not be opened.

use std::fmt;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use gridwire_core::ids::TopicNumber;

/// Why the embedded store did not open. Nothing was changed, apart from leftovers of half-done changes.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process holds the directory's `LOCK`.
    #[error("`{path}` is already in use by another process")]
    Locked { path: PathBuf },
    /// The directory was written by a release that this one does not know.
    #[error("`{path}` has format version {version}; this release knows version {known}")]
    UnknownFormat { path: PathBuf, version: u32, known: u32 },
    /// Acknowledged data are damaged. Nothing is skipped silently: a repair has to be asked for.
    #[error("{0}")]
    Damaged(Damage),
    /// An option that cannot be served.
    #[error("`{option}` must be {expected}")]
    Option { option: &'static str, expected: &'static str },
    #[error("failed to {doing} `{path}`")]
    Io { doing: &'static str, path: PathBuf, source: io::Error },
}

impl OpenError {
    /// For `map_err`: what was being done, to which file.
    pub(crate) fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { doing, path, source }
    }

    /// Damage to `file` as a whole or to a part that has no topics.
    pub(crate) fn damaged(file: &Path, bytes: Range<u64>, what: impl Into<String>) -> Self {
        Self::Damaged(Damage { file: file.to_owned(), bytes, topics: Vec::new(), what: what.into() })
    }
}

/// Where acknowledged data are damaged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    pub file: PathBuf,
    /// The bytes that are not what was written, as narrow as could be told.
    pub bytes: Range<u64>,
    /// Topics that are known to have lost events there; ascending.
    pub topics: Vec<TopicNumber>,
    pub what: String,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Range { start, end } = self.bytes;
        write!(f, "`{}` is damaged in bytes {start} to {end}: {}", self.file.display(), self.what)?;
        if !self.topics.is_empty() {
            f.write_str("; topics")?;
            for topic in &self.topics {
                write!(f, " {topic}")?;
            }
        }
        Ok(())
    }
}
