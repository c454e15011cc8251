//! The machine's memory: how much of it a run may plan with, and when it is short.

use sysinfo::{Pid, ProcessRefreshKind, ProcessesToUpdate, System};

use super::error::TrainError;
use super::event::Event;
use super::session::Session;

/// The most that is left to others where nobody says how much.
const MOST_RESERVED: u64 = 8_000_000_000;
/// What a process that trains may come to hold beyond what it held after its first steps and what is planned, before it
/// is told of.
const GROWTH: u64 = 256 << 20;
/// Swap that has to come into use before it is told of.
const SWAP: u64 = 1 << 30;

/// What a run may plan with.
pub(super) struct Room {
    /// Bytes that it may need.
    pub bytes: u64,
    /// Bytes that there are.
    total: u64,
}

impl Room {
    /// That a run that needs `planned` bytes does not fit.
    pub fn shortage(&self, planned: u64, device: &str) -> String {
        let kept = match self.total - self.bytes {
            0 => String::new(),
            reserve => format!(", of which {} are left to others (--reserve)", amount(reserve)),
        };
        format!("the run would need up to {}, and {device} has {}{kept}", amount(planned), amount(self.total))
    }

    /// The same, with what to do.
    pub fn refusal(&self, planned: u64, device: &str) -> String {
        format!(
            "{}; a smaller --micro-batch or --seq-len, or --method lora with a small --rank, needs less",
            self.shortage(planned, device)
        )
    }
}

/// In GiB, and in MiB where that would be nothing.
fn amount(bytes: u64) -> String {
    let gib = bytes as f64 / (1u64 << 30) as f64;
    if gib >= 0.1 {
        format!("{gib:.1} GiB")
    } else {
        format!("{:.1} MiB", bytes as f64 / (1u64 << 20) as f64)
    }
}

/// What a run on this device may plan with; none where nobody knows what there is. A device that shares the machine's
/// memory has no more than that, whatever it says, and others need some of it.
pub(super) fn room(session: &Session, reserve: Option<u64>) -> Result<Option<Room>, TrainError> {
    let said = Some(session.backend.device.memory()?.total).filter(|total| *total > 0);
    Ok(room_of(said, session.backend.unified, machine(), reserve))
}

fn room_of(said: Option<u64>, unified: bool, machine: Option<u64>, reserve: Option<u64>) -> Option<Room> {
    let total = match unified {
        true => said.into_iter().chain(machine).min()?,
        false => said?,
    };
    let default = if unified { default_reserve(total) } else { 0 };
    let bytes = total.saturating_sub(reserve.unwrap_or(default));
    Some(Room { bytes, total })
}

/// What is left to others of so much memory where nobody says how much.
fn default_reserve(total: u64) -> u64 {
    (total / 4).min(MOST_RESERVED)
}

/// The machine's memory, or what this process may have of it.
fn machine() -> Option<u64> {
    let mut system = System::new().ok()?;
    system.refresh_memory();
    Some(total(&system)).filter(|total| *total > 0)
}

fn total(system: &System) -> u64 {
    let limit = system.cgroup_limits().map_or(u64::MAX, |limits| limits.total_memory);
    system.total_memory().min(limit)
}

/// The machine's memory and a process's at a moment, in bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// All of it.
    pub total: u64,
    /// What is free or can be freed.
    pub available: u64,
    /// Swap in use.
    pub swap: u64,
    /// What the process holds.
    pub worker: u64,
}

/// Takes samples.
pub struct Gauge(System);

impl Gauge {
    /// None where the system does not tell.
    pub fn new() -> Option<Gauge> {
        System::new().ok().map(Gauge)
    }

    /// The memory now, and that of a process.
    pub fn sample(&mut self, process: u32) -> Sample {
        let pid = Pid::from_u32(process);
        self.0.refresh_memory();
        let what = ProcessRefreshKind::nothing().with_memory();
        self.0.refresh_processes_specifics(ProcessesToUpdate::Some(&[pid]), true, what);
        let limits = self.0.cgroup_limits();
        let free = limits.filter(|limits| limits.total_memory < self.0.total_memory());
        let free = free.map_or(u64::MAX, |limits| limits.free_memory);
        Sample {
            total: total(&self.0),
            available: self.0.available_memory().min(free),
            swap: self.0.used_swap(),
            worker: own(process).unwrap_or_else(|| self.0.process(pid).map_or(0, sysinfo::Process::memory)),
        }
    }
}

/// What a process holds without the files that it has mapped, such as weights, which come and go; none where the system
/// does not say.
fn own(process: u32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib << 10)
}

/// Watches samples for what a person should know.
#[derive(Debug, Default)]
pub struct Watch {
    reserve: Option<u64>,
    low: bool,
    swap: Option<u64>,
    /// What the run may need on the device, which may be the process's: longer rows may come late.
    planned: u64,
    /// What the process held after its first steps, and how much more it may hold before it is told of.
    worker: Option<(u64, u64)>,
}

impl Watch {
    /// Watches that about `reserve` bytes stay free.
    pub fn new(reserve: Option<u64>) -> Watch {
        Watch { reserve, ..Watch::default() }
    }

    /// Another process trains from here on, which plans to need so many bytes.
    pub fn begin(&mut self, planned: u64) {
        (self.worker, self.planned) = (None, planned);
    }

    /// Whether so little was left at the last look that a process that was killed was likely killed for it.
    pub fn is_low(&self) -> bool {
        self.low
    }

    /// What there is to tell, if anything. `steady` says that the process has taken its first steps and loads and
    /// compiles nothing.
    pub fn look(&mut self, sample: Sample, steady: bool) -> Option<Event> {
        let shortage = self.shortage(sample).or_else(|| self.swapping(sample));
        let message = shortage.or_else(|| if steady { self.leak(sample) } else { None })?;
        Some(Event::Memory {
            available_bytes: sample.available,
            swap_bytes: sample.swap,
            worker_bytes: sample.worker,
            message,
        })
    }

    fn shortage(&mut self, sample: Sample) -> Option<String> {
        let reserve = self.reserve.unwrap_or_else(|| default_reserve(sample.total)).min(sample.total / 2);
        // Others may use most of what is left to them; with less than a quarter of it the system begins to struggle.
        let limit = (reserve / 4).max(sample.total / 50);
        let before = self.low;
        self.low = sample.available < if before { 2 * limit } else { limit };
        (self.low && !before).then(|| {
            format!(
                "the machine is short of memory: {} of {} are available, {} of swap are in use, the training holds {}; \
                 close other programs, or go on later with a smaller --micro-batch",
                amount(sample.available),
                amount(sample.total),
                amount(sample.swap),
                amount(sample.worker)
            )
        })
    }

    /// Swap that grows while memory is there is the system's housekeeping.
    fn swapping(&mut self, sample: Sample) -> Option<String> {
        let base = *self.swap.get_or_insert(sample.swap);
        self.swap = Some(base.min(sample.swap));
        let grown = sample.swap.saturating_sub(base);
        if grown < SWAP.min((sample.total / 20).max(1)) || sample.available > sample.total / 4 {
            return None;
        }
        self.swap = Some(sample.swap);
        Some(format!(
            "swap is growing: {} more are in use, {} of memory are available; training from swap is slow, a smaller \
             --micro-batch needs less",
            amount(grown),
            amount(sample.available)
        ))
    }

    fn leak(&mut self, sample: Sample) -> Option<String> {
        let (base, allowed) =
            *self.worker.get_or_insert((sample.worker, GROWTH.saturating_add(self.planned)));
        let grown = sample.worker.saturating_sub(base);
        if grown < allowed {
            return None;
        }
        self.worker = Some((base, grown.saturating_mul(2)));
        Some(format!(
            "the process that trains holds {} more than after its first steps, {} in all; the back end seems to lose \
             memory",
            amount(grown),
            amount(sample.worker)
        ))
    }
}

/// How many processes the system has ended for lack of memory; 0 where it does not say.
pub fn kills() -> u64 {
    let text = std::fs::read_to_string("/proc/vmstat").unwrap_or_default();
    let count = text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok());
    count.unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn message(event: Option<Event>) -> String {
        match event {
            Some(Event::Memory { message, .. }) => message,
            other => format!("{other:?}"),
        }
    }

    /// What a plugin says of its memory is believed only where it could be true.
    #[test]
    fn a_device_that_shares_the_machines_memory_has_no_more_than_that() {
        let bytes = |said, unified, reserve| {
            room_of(said, unified, Some(16 * GIB), reserve).map(|room| (room.bytes, room.total))
        };
        assert_eq!(bytes(Some(1 << 50), true, None), Some((12 * GIB, 16 * GIB)));
        assert_eq!(bytes(None, true, None), Some((12 * GIB, 16 * GIB)));
        assert_eq!(bytes(Some(4 * GIB), true, Some(GIB)), Some((3 * GIB, 4 * GIB)));
        assert_eq!(bytes(Some(80 * GIB), false, None), Some((80 * GIB, 80 * GIB)), "it is its own");
        assert_eq!(bytes(Some(80 * GIB), false, Some(GIB)), Some((79 * GIB, 80 * GIB)));
        assert_eq!(bytes(None, false, None), None);
        assert_eq!(bytes(Some(GIB), true, Some(2 * GIB)), Some((0, GIB)));
        assert_eq!(default_reserve(256 * GIB), MOST_RESERVED);
        let room = room_of(Some(4 * GIB), true, None, Some(GIB)).unwrap();
        let text = room.refusal(5 * GIB, "a device");
        assert!(text.contains("up to 5.0 GiB, and a device has 4.0 GiB, of which 1.0 GiB"), "{text}");
    }

    #[test]
    fn a_shortage_is_told_once_until_it_is_over() {
        let mut watch = Watch::new(None);
        let sample = |available| Sample { total: 16 * GIB, available, swap: 0, worker: 0 };
        assert_eq!(watch.look(sample(3 * GIB), true), None);
        assert!(message(watch.look(sample(GIB / 2), true)).contains("short of memory"));
        assert!(watch.is_low());
        assert_eq!(watch.look(sample(GIB), true), None, "it has been told");
        assert_eq!(watch.look(sample(8 * GIB), true), None);
        assert!(!watch.is_low());
        assert!(message(watch.look(sample(GIB / 2), true)).contains("short of memory"));
    }

    #[test]
    fn swap_counts_where_it_grows_and_memory_is_scarce() {
        let mut watch = Watch::new(None);
        let sample = |available, swap| Sample { total: 16 * GIB, available, swap, worker: 0 };
        assert_eq!(
            watch.look(sample(3 * GIB, 4 * GIB), true),
            None,
            "what others had swapped before is theirs"
        );
        assert!(message(watch.look(sample(3 * GIB, 5 * GIB), true)).contains("1.0 GiB more"));
        assert_eq!(watch.look(sample(3 * GIB, 5 * GIB), true), None);
        assert_eq!(watch.look(sample(9 * GIB, 7 * GIB), true), None, "there is enough memory");
    }

    #[test]
    fn a_process_that_holds_more_and_more_is_told_of_at_each_doubling() {
        let mut watch = Watch::new(None);
        let sample = |worker| Sample { total: 64 * GIB, available: 32 * GIB, swap: 0, worker };
        assert_eq!(watch.look(sample(9 * GIB), false), None, "loading takes what it takes");
        assert_eq!(watch.look(sample(GIB), true), None);
        assert!(message(watch.look(sample(GIB + GROWTH), true)).contains("seems to lose memory"));
        assert_eq!(watch.look(sample(GIB + GROWTH + 1), true), None);
        assert!(message(watch.look(sample(GIB + 2 * GROWTH), true)).contains("lose"));
        watch.begin(GIB);
        assert_eq!(watch.look(sample(2 * GIB), true), None);
        assert_eq!(watch.look(sample(3 * GIB), true), None, "it was planned");
        assert!(message(watch.look(sample(3 * GIB + GROWTH), true)).contains("lose"));
    }
}
