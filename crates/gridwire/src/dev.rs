//! Development mode: a clock that can be put forward, and waiting until nothing more happens by itself.
//!
//! An advance visits every due moment on its way and lets what is due there happen, as if the time had passed:
//! a ladder of a day runs through all its steps. A jump goes there at once, as if the broker had slept. How far
//! the clock is ahead is on file before it moves, so that a restart goes on from there. [`http`] has the
//! requests.

mod http;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use gridwire_broker::{Broker, Outlook};
use gridwire_control::Control;
use gridwire_core::time::Timestamp;
use gridwire_outside::{Clock, VirtualClock};
use serde_json::Value;

use crate::data_dir::{DataDir, read_if_there, write_private};

pub(crate) use http::ROOT;

/// How far the clock can be put ahead, over all advances: far beyond every time to live, and the years keep
/// four digits.
const AHEAD_MAX: Duration = Duration::from_secs(10 * 366 * 24 * 3600);
/// Moments that one advance visits. Each takes a flush and at least one attempt.
const VISITS_MAX: u32 = 10_000;

/// See the module.
#[derive(Debug)]
pub(crate) struct Dev {
    clock: Arc<VirtualClock>,
    data_dir: DataDir,
    broker: Arc<Broker>,
    control: Arc<Control>,
    /// One advance at a time.
    turn: tokio::sync::Mutex<()>,
}

/// What an earlier process left of its clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ClockOnFile {
    pub(crate) ahead: Duration,
    /// What the clock showed after its latest advance.
    pub(crate) at: Timestamp,
}

/// How an advance is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Advance {
    by: Duration,
    /// Visit nothing on the way.
    jump: bool,
    /// How long the visits may take in all, in real time.
    patience: Duration,
}

/// How far an advance came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Advanced {
    by: Duration,
    /// It came all the way, and everything due there has happened.
    complete: bool,
}

/// Why the clock did not move any further.
#[derive(Debug, thiserror::Error)]
enum AdvanceError {
    #[error("The clock cannot be put ahead by more than {} days in all.", AHEAD_MAX.as_secs() / 86_400)]
    TooFar,
    #[error("The broker is stopping.")]
    Stopping,
    #[error("The advance could not be written down.")]
    File(#[source] anyhow::Error),
}

impl ClockOnFile {
    /// Reads `dev-clock.json`; without one, nothing was advanced.
    pub(crate) fn read(data_dir: &DataDir) -> anyhow::Result<Self> {
        let path = data_dir.dev_clock_file();
        let Some(text) = read_if_there(&path)? else { return Ok(Self::default()) };
        let file: Value = serde_json::from_str(&text).unwrap_or_default();
        let (Some(ahead), Some(at)) = (file["aheadMillis"].as_u64(), file["atMillis"].as_u64()) else {
            bail!(
                "failed to understand `{}`; remove it to go on from the newest record in the log",
                path.display()
            );
        };
        Ok(Self { ahead: Duration::from_millis(ahead).min(AHEAD_MAX), at: Timestamp::from_millis(at) })
    }

    fn write(self, data_dir: &DataDir) -> anyhow::Result<()> {
        let ahead = u64::try_from(self.ahead.as_millis()).unwrap_or(u64::MAX);
        let file = serde_json::json!({ "aheadMillis": ahead, "atMillis": self.at.as_millis() });
        write_private(&data_dir.dev_clock_file(), format!("{file}\n").as_bytes())
    }
}

impl Dev {
    pub(crate) fn new(
        clock: Arc<VirtualClock>,
        data_dir: DataDir,
        broker: Arc<Broker>,
        control: Arc<Control>,
    ) -> Self {
        Self { clock, data_dir, broker, control, turn: tokio::sync::Mutex::new(()) }
    }

    /// How far the clock was advanced, over all.
    pub(crate) fn ahead(&self) -> Duration {
        self.clock.ahead()
    }

    /// What to say behind "development mode".
    pub(crate) fn remark(&self) -> String {
        let ahead = self.clock.ahead();
        if ahead.is_zero() { String::new() } else { format!(", the clock is {} ahead", iso(ahead)) }
    }

    /// Waits until nothing of what is published now goes on by itself.
    async fn drain(&self, patience: Duration) -> Result<Outlook, AdvanceError> {
        self.control.expire().await;
        self.broker.settle_down(patience).await.ok_or(AdvanceError::Stopping)
    }

    async fn advance(&self, advance: Advance) -> Result<Advanced, AdvanceError> {
        let _turn = self.turn.lock().await;
        let begun = self.clock.monotonic();
        let start = self.clock.ahead();
        let target = start.saturating_add(advance.by);
        if AHEAD_MAX < target {
            return Err(AdvanceError::TooFar);
        }
        if advance.jump {
            self.put_ahead(target).await?;
            self.control.expire().await;
            return Ok(Advanced { by: advance.by, complete: true });
        }
        for _ in 0..VISITS_MAX {
            let passed = self.clock.monotonic().saturating_sub(begun);
            let outlook = self.drain(advance.patience.saturating_sub(passed)).await?;
            let ahead = self.clock.ahead();
            if !outlook.still {
                return Ok(Advanced { by: ahead.saturating_sub(start), complete: false });
            }
            if target <= ahead {
                return Ok(Advanced { by: advance.by, complete: true });
            }
            let due = outlook.next_due().min(self.control.next_expiration());
            self.put_ahead(target.min(ahead.saturating_add(due.since(self.clock.now())))).await?;
        }
        Ok(Advanced { by: self.clock.ahead().saturating_sub(start), complete: false })
    }

    /// Written down first: what was seen of the new time must not be undone by a restart.
    async fn put_ahead(&self, ahead: Duration) -> Result<(), AdvanceError> {
        let at = self.clock.now() + ahead.saturating_sub(self.clock.ahead());
        let data_dir = self.data_dir.clone();
        let written = tokio::task::spawn_blocking(move || ClockOnFile { ahead, at }.write(&data_dir)).await;
        written.context("writing panicked").and_then(|written| written).map_err(AdvanceError::File)?;
        self.clock.put_ahead(ahead);
        Ok(())
    }
}

/// A duration as ISO 8601 has it: `PT1H30M`.
fn iso(duration: Duration) -> String {
    let text = jiff::SignedDuration::try_from(duration).map(|duration| duration.to_string());
    text.unwrap_or_else(|_| "for ever".to_owned())
}

/// A span of time as people and ISO 8601 write it: `90s`, `1h30m`, `2d`, `PT1H`, `P1D`. A day has 24 hours.
pub(crate) fn span(text: &str) -> Option<Duration> {
    const BYTES_MAX: usize = 64;
    if BYTES_MAX < text.len() {
        return None;
    }
    let span: jiff::Span = text.parse().ok()?;
    let duration = span.to_duration(jiff::SpanRelativeTo::days_are_24_hours()).ok()?;
    Duration::try_from(duration).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_of_time_are_read_in_both_writings() {
        for (text, seconds) in
            [("90s", 90), ("1h30m", 5400), ("2d", 172_800), ("PT1H", 3600), ("P1DT1S", 86_401), ("0s", 0)]
        {
            assert_eq!(span(text), Some(Duration::from_secs(seconds)), "{text}");
        }
        assert_eq!(span("1500ms"), Some(Duration::from_millis(1500)));
        for text in ["", "1", "1 month", "P1Y", "-1h", "PT-1S", "soon", "1h 1h"] {
            assert_eq!(span(text), None, "{text}");
        }
        assert_eq!(iso(Duration::from_secs(5400)), "PT1H30M");
    }

    #[test]
    fn an_advance_outlives_the_process() {
        let parent = tempfile::tempdir().unwrap();
        let dir = DataDir::at(parent.path());
        assert_eq!(ClockOnFile::read(&dir).unwrap(), ClockOnFile::default());
        let moved = ClockOnFile { ahead: Duration::from_millis(90_061_001), at: Timestamp::from_millis(7) };
        moved.write(&dir).unwrap();
        assert_eq!(ClockOnFile::read(&dir).unwrap(), moved);
        for damaged in ["", "{}", "{\"aheadMillis\": 1}"] {
            std::fs::write(dir.dev_clock_file(), damaged).unwrap();
            assert!(ClockOnFile::read(&dir).is_err(), "{damaged}");
        }
    }
}
