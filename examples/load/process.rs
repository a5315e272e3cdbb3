//! What a process costs, as the kernel counts it.

use std::fs;
use std::time::{Duration, Instant};

use crate::Failure;

/// USER_HZ, which Linux keeps at 100 on every machine we run on.
const TICKS_PER_SECOND: f64 = 100.0;

/// Processor time so far, user and system.
pub(crate) fn cpu(pid: u32) -> Result<Duration, Failure> {
    cpu_of(&format!("/proc/{pid}/stat"))
}

/// Processor time of this thread so far.
pub(crate) fn thread_cpu() -> Result<Duration, Failure> {
    cpu_of("/proc/thread-self/stat")
}

fn cpu_of(path: &str) -> Result<Duration, Failure> {
    let stat = fs::read_to_string(path)?;
    let (_, fields) = stat.rsplit_once(") ").ok_or("no process name in stat")?;
    let ticks: u64 = fields
        .split(' ')
        .skip(11)
        .take(2)
        .filter_map(|field| field.parse::<u64>().ok())
        .sum();
    Ok(Duration::from_secs_f64(
        f64::from(u32::try_from(ticks)?) / TICKS_PER_SECOND,
    ))
}

/// Memory in use, MiB.
pub(crate) fn memory_mib(pid: u32) -> Result<f64, Failure> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let kib = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|rest| rest.trim().strip_suffix(" kB"))
        .ok_or("no VmRSS in status")?;
    Ok(f64::from(kib.trim().parse::<u32>()?) / 1024.0)
}

/// Processor time since a moment, in parts of one core.
pub(crate) struct Meter {
    pid: u32,
    since: Instant,
    cpu: Duration,
}

impl Meter {
    pub(crate) fn start(pid: u32) -> Result<Self, Failure> {
        Ok(Self {
            pid,
            since: Instant::now(),
            cpu: cpu(pid)?,
        })
    }

    pub(crate) fn cores(&self) -> Result<f64, Failure> {
        let spent = cpu(self.pid)?.saturating_sub(self.cpu);
        Ok(spent.as_secs_f64() / self.since.elapsed().as_secs_f64())
    }
}
