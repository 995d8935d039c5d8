//! Other processes: what they cost, read from `/proc`, and seeing to it that they end.

use std::fs;
use std::process::{Child, ExitStatus};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

/// Clock ticks in a second, as `/proc` counts them: 100 on every architecture that Linux still has.
const TICKS_PER_SECOND: u64 = 100;
/// Between two looks at a process that is to end.
const LOOK: Duration = Duration::from_millis(10);

/// What a process has used since it began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Usage {
    /// Processor time, in steps of 10 ms, of all its threads and in the kernel on their behalf.
    pub(crate) cpu: Duration,
    /// The most memory it had resident at once, in bytes.
    pub(crate) memory_peak: u64,
}

impl Usage {
    /// `None` when there is no such process, or no `/proc`.
    pub(crate) fn of(pid: u32) -> Option<Self> {
        Self::read(&pid.to_string())
    }

    pub(crate) fn of_self() -> Option<Self> {
        Self::read("self")
    }

    fn read(pid: &str) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        Some(Self { cpu: parse_cpu(&stat)?, memory_peak: parse_peak(&status)? })
    }

    /// The same from a page of Prometheus metrics, of a server on another machine. Its memory is the present
    /// one: the standard process metrics have no peak.
    pub(crate) fn from_metrics(page: &str) -> Option<Self> {
        let value = |name: &str| -> Option<f64> {
            page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
        };
        let cpu = Duration::try_from_secs_f64(value("process_cpu_seconds_total")?).ok()?;
        Some(Self { cpu, memory_peak: super::numbers::whole(value("process_resident_memory_bytes")?) })
    }
}

/// Bytes that a process holds resident and that no file stands behind: what it would need without any page
/// cache. `None` when there is no such process, or no `/proc`.
pub(crate) fn anonymous_memory(pid: u32) -> Option<u64> {
    parse_kib(&fs::read_to_string(format!("/proc/{pid}/status")).ok()?, "RssAnon:")
}

/// User and system time: the 14th and 15th field. The 2nd is the program's name in parentheses and may
/// contain anything, so counting begins behind the last `)`.
fn parse_cpu(stat: &str) -> Option<Duration> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(Duration::from_millis((user + system) * 1000 / TICKS_PER_SECOND))
}

fn parse_peak(status: &str) -> Option<u64> {
    parse_kib(status, "VmHWM:")
}

fn parse_kib(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib << 10)
}

/// A child process that ends with its owner.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
}

impl Process {
    pub(crate) fn new(child: Child) -> Self {
        Self { child }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Ends it on the spot, as a crash would.
    pub(crate) fn kill(mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// How it ended, if it did.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Asks it to end and waits up to `patience`, then ends it. Tells how it ended, if it did by itself.
    pub(crate) async fn stop(mut self, patience: Duration) -> Option<ExitStatus> {
        let pid = i32::try_from(self.id()).ok().and_then(Pid::from_raw);
        // A child that has not been waited for keeps its id, so the signal can reach nobody else.
        if let Some(pid) = pid
            && self.ended().is_none()
        {
            let _ = kill_process(pid, Signal::TERM);
        }
        let asked = super::stopwatch::Moment::now();
        while asked.elapsed() < patience {
            if let Some(status) = self.ended() {
                return Some(status);
            }
            tokio::time::sleep(LOOK).await;
        }
        None
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.ended().is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn processor_time_is_found_behind_any_program_name() {
        let check = |stat: &str, millis: Option<u64>| {
            assert_eq!(parse_cpu(stat), millis.map(Duration::from_millis), "{stat}");
        };
        check("7 (grid) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0 20", Some(3_000));
        check("7 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 1 2 0", Some(30));
        check("7 (grid) S 1 2", None);
        check("", None);
    }

    #[test]
    fn peak_memory_is_the_high_water_mark() {
        assert_eq!(parse_peak("VmPeak:\t  900 kB\nVmHWM:\t   40 kB\nVmRSS:\t 30 kB\n"), Some(40_960));
        assert_eq!(parse_peak("VmRSS:\t 30 kB\n"), None);
        assert_eq!(parse_kib("RssAnon:\t 2 kB\nRssFile:\t 9 kB\n", "RssAnon:"), Some(2_048));
    }

    #[test]
    fn metrics_of_a_distant_server_serve_as_well() {
        let page = "# HELP process_cpu_seconds_total x\nprocess_cpu_seconds_total 1.5\nprocess_resident_memory_bytes 4.096e3\n";
        let usage = Usage { cpu: Duration::from_millis(1500), memory_peak: 4096 };
        assert_eq!(Usage::from_metrics(page), Some(usage));
        assert_eq!(Usage::from_metrics("process_cpu_seconds_total_more 1\n"), None);
    }

    #[test]
    fn this_process_uses_something() {
        let usage = Usage::of_self().unwrap();
        assert!(usage.memory_peak > 0);
        assert_eq!(Usage::of(u32::MAX), None);
    }

    #[tokio::test]
    async fn a_process_is_asked_to_end_and_made_to_when_it_will_not() {
        let check = async |script: &str, patience: u64, by_itself: bool| {
            let child = Command::new("sh").args(["-c", script]).spawn().unwrap();
            let process = Process::new(child);
            let pid = process.id();
            let status = process.stop(Duration::from_millis(patience)).await;
            assert_eq!(status.is_some(), by_itself, "{script}");
            assert_eq!(Usage::of(pid), None);
        };
        check("exec sleep 60", 20_000, true).await;
        check("exit 3", 20_000, true).await;
    }
}
