//! Which device is tried first.

use std::cmp::{Ordering, Reverse};

use super::cache::Measured;
use super::row::DeviceRow;

/// Speeds that differ by less than this part are a tie: measuring again could turn them around.
const TIE: f64 = 0.05;

/// What a device is wanted for.
#[derive(Clone, Debug, PartialEq)]
pub struct Job {
    /// The element type that frozen weights and activations are held in; none takes each device's own choice.
    pub dtype: Option<String>,
    /// Bytes that it needs on any device at the very least; 0 where nothing is known.
    pub bytes: u64,
}

/// What a job asks of one device.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Need {
    /// Bytes that are planned, with as few examples at once as there can be.
    pub bytes: u64,
    /// Composite ops of a step that the device has itself.
    pub native_ops: usize,
    /// Those that are written as simpler ones for it.
    pub decomposed_ops: usize,
}

/// Whether there is memory for a job. What is known of the memory counts; a device that does not say has enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Room {
    Enough,
    /// If it were all free.
    Taken,
    TooLittle,
}

impl Job {
    /// Nothing in particular.
    pub fn any() -> Job {
        Job { dtype: None, bytes: 0 }
    }

    /// The element type in which that device would do it.
    pub fn dtype_on(&self, row: &DeviceRow) -> String {
        let has_bf16 = row.device.dtypes.iter().any(|dtype| dtype == "bf16");
        match &self.dtype {
            Some(dtype) => dtype.clone(),
            None if has_bf16 && row.device.kind == "gpu" => "bf16".into(),
            None => "f32".into(),
        }
    }

    /// Bytes that it needs on that device.
    fn bytes_on(&self, row: &DeviceRow) -> u64 {
        row.need.map_or(self.bytes, |need| need.bytes)
    }

    fn room(&self, row: &DeviceRow) -> Room {
        let (total, free) = (row.device.memory_total, row.device.memory_available);
        match self.bytes_on(row) {
            needed if total != 0 && needed > total => Room::TooLittle,
            needed if free != 0 && needed > free => Room::Taken,
            _ => Room::Enough,
        }
    }

    fn has_dtype(&self, row: &DeviceRow) -> bool {
        row.device.dtypes.iter().any(|dtype| *dtype == self.dtype_on(row))
    }

    /// The measured speed in tokens a second.
    pub fn speed(&self, row: &DeviceRow) -> Option<f64> {
        match row.measured.get(&self.dtype_on(row)) {
            Some(Measured::Speed(speed)) => Some(speed.tokens_per_s),
            _ => None,
        }
    }

    /// What of the device needs a word, as an end of a sentence.
    pub(super) fn note(&self, row: &DeviceRow) -> Option<String> {
        let dtype = self.dtype_on(row);
        if !self.has_dtype(row) {
            return Some(format!("has no {dtype}"));
        }
        let gib = |bytes: u64| bytes as f64 / (1u64 << 30) as f64;
        let (total, free) = (gib(row.device.memory_total), gib(row.device.memory_available));
        let needed = gib(self.bytes_on(row));
        match self.room(row) {
            Room::TooLittle => {
                return Some(format!("has {total:.1} GiB of memory; {needed:.1} GiB are needed at least"));
            }
            Room::Taken => {
                return Some(format!(
                    "has {free:.1} GiB of memory free, of {total:.1}; {needed:.1} GiB are needed at least"
                ));
            }
            Room::Enough => {}
        }
        match row.measured.get(&dtype) {
            Some(Measured::Failed { failed, .. }) => {
                Some(format!("could not be measured in {dtype}: {failed}"))
            }
            _ => None,
        }
    }
}

/// A device and the name of its plugin, to be compared with others.
pub(super) struct Candidate<'a> {
    pub plugin: &'a str,
    pub row: &'a DeviceRow,
}

/// What can do the job comes before what cannot, what was measured before what failed, the faster before the slower.
/// Where that is a tie: what has more of the job's ops itself, what is not the processor first, then the larger memory, then the plugin that bears
/// the kind's name, being made for it alone, then by name and number, so that the order never depends on the order of
/// finding.
pub(super) fn compare(job: &Job, a: &Candidate<'_>, b: &Candidate<'_>) -> Ordering {
    let key = |candidate: &Candidate<'_>| {
        let (row, device) = (candidate.row, &candidate.row.device);
        let failed = matches!(row.measured.get(&job.dtype_on(row)), Some(Measured::Failed { .. }));
        let decomposed = row.need.map_or(0, |need| need.decomposed_ops);
        let measured = (failed, Reverse(job.speed(row).map(speed_class)), decomposed);
        let declared = (device.kind == "cpu", Reverse(device.memory_total), candidate.plugin != device.kind);
        (!job.has_dtype(row), job.room(row), measured, declared)
    };
    let by_name = || (a.plugin, a.row.device.index).cmp(&(b.plugin, b.row.device.index));
    key(a).cmp(&key(b)).then_with(by_name)
}

/// Classes rather than a tolerance: "about as fast as" is no order.
fn speed_class(tokens_per_s: f64) -> i64 {
    (tokens_per_s.max(f64::MIN_POSITIVE).ln() / (1.0 + TIE).ln()).round() as i64
}

/// Whether the speeds alone do not say which of the two comes first.
pub(super) fn is_tie(job: &Job, a: &DeviceRow, b: &DeviceRow) -> bool {
    match (job.speed(a), job.speed(b)) {
        (Some(a), Some(b)) => speed_class(a) == speed_class(b),
        _ => false,
    }
}

/// Why the second of two that tie does not come first, where the job's ops say it.
pub(super) fn tie_by_ops(first: &DeviceRow, second: &DeviceRow) -> Option<String> {
    let (first, second) = (first.need?, second.need?);
    (first.decomposed_ops < second.decomposed_ops).then(|| {
        let all = second.native_ops + second.decomposed_ops;
        format!(
            "which has {} of the job's {all} composite ops itself; here it is {}",
            first.native_ops, second.native_ops
        )
    })
}

#[cfg(test)]
mod tests {
    use super::super::cache::Speed;
    use super::super::probe::ProbedDevice;
    use super::*;

    fn device(kind: &str, memory_total: u64, index: u32) -> DeviceRow {
        DeviceRow::of(ProbedDevice {
            index,
            name: String::new(),
            kind: kind.into(),
            memory_total,
            memory_available: 0,
            unified: false,
            dtypes: vec!["f32".into()],
            details: serde_json::Map::new(),
        })
    }

    fn measured(mut row: DeviceRow, dtype: &str, speed: Option<f64>) -> DeviceRow {
        let measured = match speed {
            Some(tokens_per_s) => Measured::Speed(Speed { tokens_per_s, native: Vec::new(), plan: None }),
            None => Measured::Failed { failed: "did not answer".into(), late: false },
        };
        row.measured.insert(dtype.into(), measured);
        row
    }

    fn order(job: &Job, rows: &[DeviceRow]) -> Vec<u32> {
        let mut order: Vec<_> = rows.iter().map(|row| Candidate { plugin: "p", row }).collect();
        order.sort_by(|a, b| compare(job, a, b));
        order.iter().map(|candidate| candidate.row.device.index).collect()
    }

    #[test]
    fn unmeasured_accelerators_come_before_the_processor_then_memory_then_number() {
        let rows = [device("cpu", 512, 3), device("gpu", 8, 1), device("cpu", 512, 2), device("gpu", 80, 0)];
        assert_eq!(order(&Job::any(), &rows), [0, 1, 2, 3]);
    }

    /// A library that can do many things is also on the processor; what was made for it is the better guess.
    #[test]
    fn the_kinds_own_plugin_comes_before_others_of_the_kind() {
        let row = device("cpu", 512, 0);
        let mut plugins = ["a-cpu", "cpu", "b"].map(|plugin| Candidate { plugin, row: &row });
        plugins.sort_by(|a, b| compare(&Job::any(), a, b));
        assert_eq!(plugins.map(|candidate| candidate.plugin), ["cpu", "a-cpu", "b"]);
    }

    /// A processor that is faster than a small accelerator is the better choice, whatever they are called.
    #[test]
    fn the_faster_comes_first_a_failure_last_and_a_tie_is_none_of_speed() {
        let rows = [
            measured(device("gpu", 8, 0), "f32", None),
            measured(device("gpu", 8, 1), "f32", Some(100.0)),
            measured(device("cpu", 8, 2), "f32", Some(900.0)),
            measured(device("cpu", 8, 3), "f32", Some(100.1)),
        ];
        let job = Job::any();
        assert_eq!(order(&job, &rows), [2, 1, 3, 0]);
        assert!(is_tie(&job, &rows[1], &rows[3]) && !is_tie(&job, &rows[1], &rows[2]));
        assert!(job.note(&rows[0]).unwrap().contains("could not be measured in f32: did not answer"));
    }

    /// What is free counts, what is there in all decides, and what was foreseen for a device beats what is so for all.
    #[test]
    fn memory_that_is_taken_and_ops_that_are_missing_cost_the_place() {
        let free = |index, total: u64, free: u64, need: Option<Need>| {
            let mut row = measured(device("gpu", total << 30, index), "f32", Some(100.0));
            (row.device.memory_available, row.need) = (free << 30, need);
            row
        };
        let need = |bytes: u64, decomposed_ops| {
            Some(Need { bytes: bytes << 30, native_ops: 9 - decomposed_ops, decomposed_ops })
        };
        let job = Job { dtype: None, bytes: 10 << 30 };
        let rows = [
            free(0, 8, 8, None),
            free(1, 80, 9, None),
            free(2, 80, 11, need(12, 0)),
            free(3, 80, 70, need(12, 4)),
            free(4, 80, 70, need(12, 1)),
            // It says nothing of its memory.
            free(5, 0, 0, need(12, 2)),
        ];
        assert_eq!(order(&job, &rows), [4, 5, 3, 1, 2, 0]);
        assert_eq!(job.note(&rows[0]).unwrap(), "has 8.0 GiB of memory; 10.0 GiB are needed at least");
        let note = job.note(&rows[2]).unwrap();
        assert_eq!(note, "has 11.0 GiB of memory free, of 80.0; 12.0 GiB are needed at least");
        let why = tie_by_ops(&rows[4], &rows[3]).unwrap();
        assert_eq!(why, "which has 8 of the job's 9 composite ops itself; here it is 5");
        assert_eq!(tie_by_ops(&rows[3], &rows[4]), None);
    }

    #[test]
    fn what_cannot_do_the_job_comes_after_what_can_however_fast_it_is() {
        let mut both = measured(device("gpu", 100, 1), "f32", Some(10.0));
        both.device.dtypes.push("bf16".into());
        let rows = [
            measured(device("gpu", 50, 0), "f32", Some(1e6)),
            measured(both, "bf16", Some(20.0)),
            device("cpu", 100, 2),
        ];
        let job = |dtype: &str, bytes| Job { dtype: Some(dtype.into()), bytes };
        assert_eq!(order(&job("f32", 10), &rows), [0, 1, 2]);
        assert_eq!(order(&job("f32", 60), &rows), [1, 2, 0]);
        assert_eq!(order(&job("bf16", 10), &rows), [1, 0, 2]);
        assert_eq!(job("bf16", 10).note(&rows[0]).unwrap(), "has no bf16");
        assert!(job("f32", 60 << 30).note(&rows[0]).unwrap().contains("60.0 GiB are needed"));
    }
}
