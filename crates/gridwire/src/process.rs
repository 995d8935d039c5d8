//! What the operating system knows of this process, as metrics. Names and units are the usual ones.

use std::fmt::Write;
use std::fs;

use gridwire_core::time::Timestamp;
use rustix::process::{Resource, getrlimit};
use rustix::time::{ClockId, clock_gettime};

/// The metrics of the process, in the text format, to follow those of the broker.
pub(crate) fn metrics(started: Timestamp) -> String {
    let mut page = String::with_capacity(1024);
    let mut put = |name: &str, kind: &str, help: &str, value: String| {
        // Writing to a string cannot fail.
        let _ = write!(page, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}\n");
    };
    let cpu = clock_gettime(ClockId::ProcessCPUTime);
    put(
        "process_cpu_seconds_total",
        "counter",
        "Processor time used, user and system.",
        format!("{}.{:09}", cpu.tv_sec, cpu.tv_nsec),
    );
    if let Some(bytes) = resident_bytes() {
        put(
            "process_resident_memory_bytes",
            "gauge",
            "Memory in use that is not swapped out.",
            bytes.to_string(),
        );
    }
    if let Some(count) = open_files() {
        put("process_open_fds", "gauge", "Open files and sockets.", count.to_string());
    }
    if let Some(limit) = getrlimit(Resource::Nofile).current {
        put("process_max_fds", "gauge", "Files and sockets that may be open at once.", limit.to_string());
    }
    let millis = started.as_millis();
    put(
        "process_start_time_seconds",
        "gauge",
        "When the process started, in seconds since 1970.",
        format!("{}.{:03}", millis / 1000, millis % 1000),
    );
    let _ = write!(
        page,
        "# HELP gridwire_build_info Which build this is; always 1.\n# TYPE gridwire_build_info gauge\n\
         gridwire_build_info{{version=\"{}\"}} 1\n",
        env!("CARGO_PKG_VERSION")
    );
    page
}

fn resident_bytes() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

fn open_files() -> Option<usize> {
    // One of them is the directory being read.
    Some(fs::read_dir("/proc/self/fd").ok()?.count().saturating_sub(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_has_a_help_a_type_and_a_value() {
        let page = metrics(Timestamp::from_millis(1_500));
        assert!(page.contains("process_start_time_seconds 1.500\n"), "{page}");
        for name in ["process_cpu_seconds_total", "process_resident_memory_bytes", "process_open_fds"] {
            assert!(page.contains(&format!("# HELP {name} ")) && page.contains(&format!("# TYPE {name} ")));
            let value = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).unwrap();
            assert!(value.parse::<f64>().unwrap() > 0.0, "{name} {value}");
        }
    }
}
