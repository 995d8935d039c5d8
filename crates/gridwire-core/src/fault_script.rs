//! What the next attempts of one subscription shall meet instead of the endpoint's own behaviour.
//!
//! For tests of whoever handles events: the endpoint stays as it is, and the broker behaves as if it, or the
//! way there, had failed. Pure: [`FaultScript::next_fault`] says what an attempt meets, and the push dispatcher
//! does it. A script is written as words, one for each step: `503*3 timeout slow:2s`.

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

/// Steps of one script; a test that needs more is two tests.
pub const STEPS_MAX: usize = 100;
/// Attempts that one step may hold for: more than any ladder has.
pub const TIMES_MAX: u32 = 1_000_000;
/// How long a step can hold an attempt back. An attempt that is held for longer than its own time ends by it.
pub const DELAY_MAX: Duration = Duration::from_secs(120);

/// What one attempt meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing: it goes out as always.
    Pass,
    /// An answer with this status; the endpoint is not asked.
    Status { status: u16, retry_after: Option<Duration> },
    /// No answer in time. Known at once: nobody waits for what is known to be late.
    Timeout,
    /// The connection is cut; the endpoint sees nothing.
    Reset,
    /// It goes out this much later, in real time.
    Slow { delay: Duration },
    /// It goes out twice, and the second answer counts.
    Duplicate,
    /// It is held back until the subscription's next attempt has ended.
    Reorder,
}

/// A fault, and how many attempts in a row meet it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    pub fault: Fault,
    pub times: u32,
}

/// Why a text is not a script.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScriptError {
    #[error(
        "`{word}` is not a fault: write a status such as `503` or `503:20s`, `timeout`, `reset`, `slow:2s`, \
         `duplicate`, `reorder` or `pass`, and `*3` behind it for three times"
    )]
    Word { word: String },
    #[error("a status is between 200 and 599, and {status} is not")]
    Status { status: u16 },
    #[error("a step holds for 1 to {TIMES_MAX} attempts")]
    Times,
    #[error("a step holds an attempt back for at most {} s", DELAY_MAX.as_secs())]
    Delay,
    #[error("a script has at most {STEPS_MAX} steps")]
    Steps,
}

/// The rest of a script.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FaultScript {
    steps: VecDeque<Step>,
}

impl Step {
    /// Checks a step's figures.
    pub fn new(fault: Fault, times: u32) -> Result<Self, ScriptError> {
        match fault {
            Fault::Status { status, .. } if !(200..=599).contains(&status) => {
                Err(ScriptError::Status { status })
            }
            Fault::Slow { delay } if DELAY_MAX < delay => Err(ScriptError::Delay),
            _ if !(1..=TIMES_MAX).contains(&times) => Err(ScriptError::Times),
            _ => Ok(Self { fault, times }),
        }
    }

    /// Reads one word.
    pub fn parse(word: &str) -> Result<Self, ScriptError> {
        let wrong = || ScriptError::Word { word: word.chars().take(60).collect() };
        let (what, times) = match word.split_once('*') {
            Some((what, times)) => (what, times.parse().map_err(|_| wrong())?),
            None => (word, 1),
        };
        let (name, wait) = match what.split_once(':') {
            Some((name, wait)) => (name, Some(duration(wait).ok_or_else(wrong)?)),
            None => (what, None),
        };
        let fault = match (name, wait) {
            ("pass", None) => Fault::Pass,
            ("timeout", None) => Fault::Timeout,
            ("reset", None) => Fault::Reset,
            ("duplicate", None) => Fault::Duplicate,
            ("reorder", None) => Fault::Reorder,
            ("slow", Some(delay)) => Fault::Slow { delay },
            (status, retry_after) if status.len() == 3 => {
                Fault::Status { status: status.parse().map_err(|_| wrong())?, retry_after }
            }
            _ => return Err(wrong()),
        };
        Self::new(fault, times)
    }
}

/// `500ms`, `2s`, `5m`.
fn duration(text: &str) -> Option<Duration> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let number: u32 = number.parse().ok()?;
    match unit {
        "ms" => Some(Duration::from_millis(number.into())),
        "s" => Some(Duration::from_secs(number.into())),
        "m" => Some(Duration::from_secs(60 * u64::from(number))),
        _ => None,
    }
}

/// A duration of a script, so that [`duration`] reads it again.
struct Written(Duration);

impl fmt::Display for Written {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.subsec_millis() == 0 {
            write!(f, "{}s", self.0.as_secs())
        } else {
            write!(f, "{}ms", self.0.as_millis())
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pass => f.write_str("pass"),
            Self::Status { status, retry_after: None } => write!(f, "{status}"),
            Self::Status { status, retry_after: Some(wait) } => write!(f, "{status}:{}", Written(*wait)),
            Self::Timeout => f.write_str("timeout"),
            Self::Reset => f.write_str("reset"),
            Self::Slow { delay } => write!(f, "slow:{}", Written(*delay)),
            Self::Duplicate => f.write_str("duplicate"),
            Self::Reorder => f.write_str("reorder"),
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.fault)?;
        if self.times == 1 { Ok(()) } else { write!(f, "*{}", self.times) }
    }
}

impl FaultScript {
    pub fn new(steps: impl IntoIterator<Item = Step>) -> Result<Self, ScriptError> {
        let steps: VecDeque<Step> = steps.into_iter().take(STEPS_MAX + 1).collect();
        if STEPS_MAX < steps.len() {
            return Err(ScriptError::Steps);
        }
        Ok(Self { steps })
    }

    /// What the attempt that starts now meets. After the last step, attempts pass.
    pub fn next_fault(&mut self) -> Fault {
        let Some(step) = self.steps.front_mut() else { return Fault::Pass };
        assert!(0 < step.times, "a step that is used up is not kept");
        step.times -= 1;
        let fault = step.fault;
        if step.times == 0 {
            self.steps.pop_front();
        }
        fault
    }

    /// What is still to come.
    pub fn steps(&self) -> impl Iterator<Item = &Step> {
        self.steps.iter()
    }

    pub fn is_over(&self) -> bool {
        self.steps.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn script(text: &str) -> FaultScript {
        let steps = text.split(' ').map(|word| Step::parse(word).unwrap());
        FaultScript::new(steps).unwrap()
    }

    #[test]
    fn a_script_is_followed_step_by_step_and_then_attempts_pass() {
        let mut script = script("503*2 pass slow:2s");
        let busy = Fault::Status { status: 503, retry_after: None };
        let slow = Fault::Slow { delay: Duration::from_secs(2) };
        let met: Vec<Fault> = (0..6).map(|_| script.next_fault()).collect();
        assert_eq!(met, [busy, busy, Fault::Pass, slow, Fault::Pass, Fault::Pass]);
        assert!(script.is_over());
    }

    #[test]
    fn a_step_is_written_as_it_is_read() {
        let text = "503 503:20s*3 200 timeout reset slow:1500ms slow:60s duplicate reorder*2 pass*1000000";
        let written: Vec<String> = script(text).steps().map(ToString::to_string).collect();
        assert_eq!(written.join(" "), text);
    }

    #[test]
    fn what_is_no_fault_is_refused() {
        for word in
            ["", "50", "5033", "slow", "slow:2", "timeout:2s", "503*", "503*x", "503:", "boom", "reset*1*1"]
        {
            let refused = Step::parse(word);
            assert!(matches!(refused, Err(ScriptError::Word { .. })), "{word}: {refused:?}");
        }
        assert_eq!(Step::parse("199"), Err(ScriptError::Status { status: 199 }));
        assert_eq!(Step::parse("600"), Err(ScriptError::Status { status: 600 }));
        assert_eq!(Step::parse("pass*0"), Err(ScriptError::Times));
        assert_eq!(Step::parse("pass*1000001"), Err(ScriptError::Times));
        assert_eq!(Step::parse("slow:121s"), Err(ScriptError::Delay));
    }

    #[test]
    fn a_script_is_bounded() {
        let step = Step::parse("pass").unwrap();
        assert!(FaultScript::new(std::iter::repeat_n(step, STEPS_MAX)).is_ok());
        assert_eq!(FaultScript::new(std::iter::repeat(step)), Err(ScriptError::Steps));
    }
}
