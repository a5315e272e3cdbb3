//! Processor, memory and files of the process, under the names that other exporters use. They come from
//! `/proc`; where there is none they stay zero.

use std::fs;
use std::sync::atomic::AtomicU64;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// Ticks of `/proc/self/stat` per second: USER_HZ, which is 100 on every Linux that we run on.
const TICKS_PER_SECOND: f64 = 100.0;

/// `/proc/self/status` gives memory in KiB, whatever the size of a page.
const BYTES_PER_KIB: i64 = 1024;

pub(super) struct Process {
    cpu: Counter<f64, AtomicU64>,
    memory: Gauge,
    threads: Gauge,
    files: Gauge,
    files_max: Gauge,
}

impl Process {
    pub(super) fn new(registry: &mut Registry) -> Self {
        let process = Self {
            cpu: Counter::default(),
            memory: Gauge::default(),
            threads: Gauge::default(),
            files: Gauge::default(),
            files_max: Gauge::default(),
        };
        registry.register(
            "process_cpu_seconds",
            "Seconds of processor time, user and system",
            process.cpu.clone(),
        );
        let gauges = [
            (
                "resident_memory_bytes",
                "Resident memory in bytes",
                &process.memory,
            ),
            ("threads", "Threads", &process.threads),
            ("open_fds", "Open files and sockets", &process.files),
            (
                "max_fds",
                "Limit of open files and sockets",
                &process.files_max,
            ),
        ];
        for (name, help, gauge) in gauges {
            registry.register(format!("process_{name}"), help, gauge.clone());
        }
        let started = Gauge::<f64, AtomicU64>::default();
        started.set(started_at().unwrap_or_default());
        registry.register(
            "process_start_time_seconds",
            "Start time of the process, in seconds since the Unix epoch",
            started,
        );
        process
    }

    pub(super) fn sample(&self) {
        if let Some(seconds) = cpu_seconds() {
            let bits = seconds.to_bits();
            self.cpu
                .inner()
                .store(bits, std::sync::atomic::Ordering::Relaxed);
        }
        let status = read("status");
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_whitespace().next()?.parse::<i64>().ok()
        };
        self.memory
            .set(field("VmRSS:").unwrap_or_default() * BYTES_PER_KIB);
        self.threads.set(field("Threads:").unwrap_or_default());
        // The one that is open to read the folder is not counted.
        let files =
            fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count().saturating_sub(1));
        self.files.set(i64::try_from(files).unwrap_or(i64::MAX));
        self.files_max.set(files_max().unwrap_or_default());
    }
}

fn read(name: &str) -> String {
    fs::read_to_string(format!("/proc/self/{name}")).unwrap_or_default()
}

/// The fields of `/proc/self/stat` after the program's name, which may have spaces; proc(5) counts
/// the first of them as 3.
fn stat(field: usize) -> Option<f64> {
    let stat = read("stat");
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(field - 3)?.parse().ok()
}

fn cpu_seconds() -> Option<f64> {
    let (user, system) = (stat(14)?, stat(15)?);
    Some((user + system) / TICKS_PER_SECOND)
}

fn started_at() -> Option<f64> {
    let boot = fs::read_to_string("/proc/stat").ok()?;
    let boot = boot.lines().find_map(|line| line.strip_prefix("btime "))?;
    Some(boot.trim().parse::<f64>().ok()? + stat(22)? / TICKS_PER_SECOND)
}

fn files_max() -> Option<i64> {
    let limits = read("limits");
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn linux_has_every_value() {
        let process = Process::new(&mut Registry::default());
        process.sample();
        assert!(process.memory.get() > 1_000_000);
        assert!(process.threads.get() >= 1);
        assert!(process.files.get() >= 3);
        assert!(process.files_max.get() >= process.files.get());
        assert!(cpu_seconds().is_some_and(|seconds| seconds >= 0.0));
        // Long after this was written.
        assert!(started_at().is_some_and(|at| at > 1_700_000_000.0));
    }
}
