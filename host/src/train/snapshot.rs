//! The trained state after the latest steps, for the process that goes on when this one has died.
//!
//! It is written to a file without a name, which the supervisor made in the run folder and hands to each worker. What
//! was written is the system's as soon as the call returns, so it is there whatever then becomes of the worker; it
//! costs no memory that the training wants, any size will do, and nothing of it is left when the supervisor is gone.
//! It is never synced: against a power cut there are checkpoints.
//!
//! Two slots are written in turn. A slot's head says what is in it and carries a hash of all of it; it is made void
//! first and written last, so that a slot that was being written is none.

use std::fs::File;
use std::hash::{DefaultHasher, Hasher};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::time::{Duration, Instant};

use finetune_plugin_api::program::DType;

use crate::optim::state::{first_moment, second_moment};

use super::checkpoint::State;
use super::error::TrainError;
use super::session::Session;

/// Bytes of a slot's head: mark, lengths and hash, and the state's JSON, which names every file of the model.
const HEAD: u64 = 4 << 20;
const MARK: &[u8; 8] = b"finesnap";
const FIXED: usize = 32;
/// Bytes that are read at once.
const PIECE: usize = 16 << 20;
/// The part of the time that snapshots may take.
const SHARE: f64 = 0.01;
/// Seconds that each process may spend beyond its share: without its first one all its steps would be lost.
const FIRST: f64 = 0.02;
/// What is expected of the first one, in bytes a second.
const EXPECTED_RATE: f64 = 5e8;

/// The snapshots of a run.
#[derive(Debug)]
pub struct Snapshots {
    file: File,
    /// Bytes of the trained state.
    bytes: u64,
    slot: u64,
    /// Seconds that may be spent.
    credit: f64,
    /// Seconds that one takes.
    cost: f64,
}

/// A snapshot that was found whole.
#[derive(Debug)]
pub struct Found {
    /// What it is of.
    pub state: State,
    slot: u64,
}

impl Snapshots {
    /// Snapshots of a session's trained tensors and moments, in a file.
    pub fn new(file: File, session: &Session) -> Snapshots {
        let bytes = tensors(session).iter().map(|(_, elements)| (elements * DType::F32.size()) as u64).sum();
        Snapshots { file, bytes, slot: 0, credit: FIRST, cost: 1e-4 + bytes as f64 / EXPECTED_RATE }
    }

    /// Whether it is time for one, after a step that took so long.
    pub fn is_due(&mut self, step: Duration) -> bool {
        self.credit = (self.credit + SHARE * step.as_secs_f64()).min(self.cost);
        self.credit >= self.cost
    }

    /// Takes one; `stall` is what the device stands idle for beside that.
    ///
    /// # Errors
    /// The device's in reading. Where the file cannot be written, [`TrainError::File`] without a name.
    pub fn take(&mut self, session: &Session, state: &State, stall: Duration) -> Result<(), TrainError> {
        let begun = Instant::now();
        let slot = self.slot;
        let start = slot * (HEAD + self.bytes);
        let io = |error: io::Error| {
            TrainError::folder("the file of snapshots", format!("cannot be written: {error}"))
        };
        let json = serde_json::to_vec(state).map_err(|error| io(error.into()))?;
        if json.len() as u64 > HEAD - FIXED as u64 {
            return Err(io(io::Error::other("the model has too many files")));
        }
        self.write_at(start, &[0; FIXED]).map_err(io)?;
        let mut hasher = DefaultHasher::new();
        hasher.write(&json);
        self.file.seek(SeekFrom::Start(start + HEAD)).map_err(io)?;
        let mut file = &self.file;
        for (name, elements) in tensors(session) {
            session.download(&name, elements, |bytes| {
                hasher.write(bytes);
                file.write_all(bytes).map_err(io)
            })?;
        }
        let lengths = [json.len() as u64, self.bytes, hasher.finish()].map(u64::to_le_bytes).concat();
        self.write_at(start + FIXED as u64, &json).map_err(io)?;
        self.write_at(start, &[MARK.as_slice(), &lengths].concat()).map_err(io)?;
        self.slot = 1 - slot;
        self.cost = (begun.elapsed() + stall).as_secs_f64();
        self.credit -= self.cost;
        Ok(())
    }

    /// Empties the file: its space may be wanted for something else.
    pub fn give_back(self) {
        // If it cannot be, nothing is worse than before.
        let _ = self.file.set_len(0);
    }

    fn write_at(&mut self, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.seek(SeekFrom::Start(at))?;
        self.file.write_all(bytes)
    }

    /// The latest snapshot that is whole, if there is one. From here on the other slot is written first.
    pub fn find(&mut self) -> Option<Found> {
        let found = (0..2).filter_map(|slot| Some(Found { state: self.read(slot).ok()?, slot }));
        let latest = found.max_by_key(|found| found.state.step)?;
        self.slot = 1 - latest.slot;
        Some(latest)
    }

    /// Reads a slot through and checks it.
    fn read(&mut self, slot: u64) -> io::Result<State> {
        let none = || io::Error::from(io::ErrorKind::InvalidData);
        let start = slot * (HEAD + self.bytes);
        self.file.seek(SeekFrom::Start(start))?;
        let mut fixed = [0; FIXED];
        self.file.read_exact(&mut fixed)?;
        let word = |i: usize| u64::from_le_bytes(fixed[8 * i..8 * i + 8].try_into().expect("eight bytes"));
        let (json_length, bytes, hash) = (word(1), word(2), word(3));
        if &fixed[..8] != MARK || bytes != self.bytes || json_length > HEAD - FIXED as u64 {
            return Err(none());
        }
        let mut json = vec![0; json_length as usize];
        self.file.read_exact(&mut json)?;
        let mut hasher = DefaultHasher::new();
        hasher.write(&json);
        self.pieces(start + HEAD, |piece| {
            hasher.write(piece);
            Ok::<(), io::Error>(())
        })?;
        match hasher.finish() == hash {
            true => serde_json::from_slice(&json).map_err(io::Error::from),
            false => Err(none()),
        }
    }

    fn pieces<E: From<io::Error>>(
        &mut self,
        start: u64,
        mut piece: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        self.file.seek(SeekFrom::Start(start))?;
        let mut left = self.bytes;
        let mut room = vec![0; PIECE.min(self.bytes as usize)];
        while left > 0 {
            let length = left.min(PIECE as u64) as usize;
            self.file.read_exact(&mut room[..length])?;
            piece(&room[..length])?;
            left -= length as u64;
        }
        Ok(())
    }

    /// Brings a snapshot's tensors to the device.
    ///
    /// # Errors
    /// The device's, or the file cannot be read any more.
    pub fn restore(&mut self, session: &Session, found: &Found) -> Result<(), TrainError> {
        let io = |error: io::Error| {
            TrainError::folder("the file of snapshots", format!("cannot be read: {error}"))
        };
        self.file.seek(SeekFrom::Start(found.slot * (HEAD + self.bytes) + HEAD)).map_err(io)?;
        let mut room = vec![0; PIECE.min(self.bytes as usize)];
        for (name, elements) in tensors(session) {
            let bytes = elements * DType::F32.size();
            for offset in (0..bytes).step_by(PIECE) {
                let room = &mut room[..PIECE.min(bytes - offset)];
                self.file.read_exact(room).map_err(io)?;
                session.overwrite(&name, offset, room)?;
            }
        }
        Ok(())
    }
}

/// All that training changes from step to step, with the number of elements; gradients are zero between steps.
fn tensors(session: &Session) -> Vec<(String, usize)> {
    let all = session.slots().iter().flat_map(|tensor| {
        let name = &tensor.name;
        let elements = tensor.shape.iter().product();
        [name.clone(), first_moment(name), second_moment(name)].map(|name| (name, elements))
    });
    all.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshots(bytes: u64) -> Snapshots {
        let file = tempfile::tempfile().expect("a file");
        Snapshots { file, bytes, slot: 0, credit: 0.0, cost: 1.0 }
    }

    /// Once given up, they leave the disk to the checkpoints.
    #[test]
    fn what_is_given_back_takes_no_space() {
        let mut snapshots = snapshots(4);
        snapshots.write_at(HEAD, &[1, 2, 3, 4]).unwrap();
        let file = snapshots.file.try_clone().unwrap();
        snapshots.give_back();
        assert_eq!(file.metadata().unwrap().len(), 0);
    }

    /// However the steps and the snapshots take, those cost no more than their share.
    #[test]
    fn snapshots_take_no_more_than_their_share_of_the_time() {
        let mut snapshots = snapshots(4);
        let (mut steps, mut taken) = (0.0, 0.0);
        for _ in 0..10_000 {
            steps += 2.0;
            if snapshots.is_due(Duration::from_secs(2)) {
                taken += 0.7;
                (snapshots.cost, snapshots.credit) = (0.7, snapshots.credit - 0.7);
            }
            assert!(taken <= SHARE * steps + 1e-9, "{taken} of {steps}");
        }
        assert!(taken > 0.9 * SHARE * steps, "they are taken as often as they may be");
        snapshots.cost = 1e-3;
        assert!(snapshots.is_due(Duration::from_secs(2)), "cheap ones are taken at every step");
    }

    /// A worker may die while it writes, and a plugin may scribble over the file.
    #[test]
    fn a_slot_that_is_not_whole_is_none() {
        let mut snapshots = snapshots(4);
        assert!(snapshots.find().is_none(), "an empty file holds none");
        let json = br#"{"version":1,"step":3,"loss":1.5,"precision":"f32","data":{"bytes":1,"sha256":""},"model":{},"files":[]}"#;
        let state: Result<State, _> = serde_json::from_slice(json);
        let json = match state {
            Ok(_) => json.to_vec(),
            Err(error) => panic!("{error}"),
        };
        let mut hasher = DefaultHasher::new();
        hasher.write(&json);
        hasher.write(&[1, 2, 3, 4]);
        let lengths = [json.len() as u64, 4, hasher.finish()].map(u64::to_le_bytes).concat();
        snapshots.write_at(HEAD, &[1, 2, 3, 4]).unwrap();
        snapshots.write_at(FIXED as u64, &json).unwrap();
        assert!(snapshots.find().is_none(), "the head comes last");
        snapshots.write_at(0, &[MARK.as_slice(), &lengths].concat()).unwrap();
        assert_eq!(snapshots.find().map(|found| found.state.step), Some(3));
        assert_eq!(snapshots.slot, 1, "the good one is not written over");
        snapshots.write_at(HEAD + 2, &[9]).unwrap();
        assert!(snapshots.find().is_none(), "the hash is of all of it");
    }
}
