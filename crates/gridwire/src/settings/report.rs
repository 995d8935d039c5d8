//! What is wrong with a configuration.

use std::fmt;

/// One thing wrong with the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    pub(crate) key: String,
    pub(crate) place: String,
    /// `None` where the value does not matter or must not be shown.
    pub(crate) found: Option<String>,
    pub(crate) allowed: String,
}

/// Everything wrong with the configuration, at once.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Report(pub(crate) Vec<Problem>);

impl std::error::Error for Report {}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.0.len();
        write!(f, "the configuration has {count} problem{}:", if count == 1 { "" } else { "s" })?;
        for Problem { key, place, found, allowed } in &self.0 {
            write!(f, "\n\n  {key}")?;
            if let Some(found) = found {
                write!(f, " = {found:?}")?;
            }
            write!(f, "  ({place})\n      {allowed}")?;
        }
        Ok(())
    }
}
