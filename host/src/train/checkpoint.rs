//! Checkpoints: a folder that PEFT or transformers can load, with the optimizer's state beside it.
//!
//! Written aside, synced and renamed. `SHA256SUMS` has the hash of every file, in the form that `sha256sum --check`
//! reads, and all are checked before any of them is believed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::data::Fingerprint;
use crate::optim::state::{first_moment, second_moment};
use crate::precision::Precision;
use crate::weights::atomic::{self, AtomicDir};
use crate::weights::peft::AdapterWriter;
use crate::weights::{
    DEFAULT_MAX_SHARD_BYTES, ModelWriter, SafetensorsWriter, TensorSpec, Tensors, WeightDType, write_config,
};

use super::error::TrainError;
use super::session::Session;

const STATE: &str = "state.json";
const SUMS: &str = "SHA256SUMS";
const OPTIMIZER: &str = "optimizer.safetensors";
const VERSION: u32 = 2;

/// What a checkpoint knows besides tensors. The data position follows from the step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// The version of this format.
    pub version: u32,
    /// Steps taken.
    pub step: u64,
    /// The last step's loss.
    pub loss: f64,
    /// The precision of the run: what `auto` came to must not change on the way.
    pub precision: Precision,
    /// The data that the run was trained on.
    pub data: Fingerprint,
    /// The files that the model's frozen tensors come from.
    pub model: BTreeMap<String, Fingerprint>,
    /// The other files of the checkpoint.
    #[serde(default)]
    pub files: Vec<String>,
}

impl State {
    /// The state after `step` steps.
    pub fn new(
        (step, loss): (u64, f64),
        precision: Precision,
        data: &Fingerprint,
        model: &BTreeMap<String, Fingerprint>,
    ) -> State {
        State {
            version: VERSION,
            step,
            loss,
            precision,
            data: data.clone(),
            model: model.clone(),
            files: Vec::new(),
        }
    }
}

/// The fingerprints of a model's files.
pub fn fingerprints(session: &Session) -> Result<BTreeMap<String, Fingerprint>, TrainError> {
    let files = session.source.files.files().into_iter();
    let named = files.map(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok((name, Fingerprint::of(&path)?))
    });
    named.collect()
}

/// Writes the checkpoint at `path`: complete or not at all.
pub fn save(session: &Session, path: &Path, mut state: State) -> Result<(), TrainError> {
    let folder = AtomicDir::create(path)?;
    match &session.adapter {
        Some(adapter) => {
            let shapes = adapter.lora.shapes();
            let mut writer = AdapterWriter::create(folder.path(), &adapter.lora.config, &shapes)?;
            for module in adapter.lora.modules() {
                let [a, b] = [module.a_shape(), module.b_shape()].map(|[rows, columns]| rows * columns);
                session.download(&module.a_name(), a, |bytes| Ok(writer.write_a(&module.path, bytes)?))?;
                session.download(&module.b_name(), b, |bytes| Ok(writer.write_b(&module.path, bytes)?))?;
            }
            writer.finish()?;
        }
        None => save_model(session, folder.path())?,
    }
    save_optimizer(session, folder.path())?;
    state.files = files(folder.path())?.iter().map(|path| file_name(path)).collect();
    let json = serde_json::to_vec_pretty(&state)
        .map_err(|error| TrainError::folder(path.join(STATE), format!("cannot be written: {error}")))?;
    fs::write(folder.path().join(STATE), json).map_err(TrainError::io("write", path.join(STATE)))?;
    write_sums(folder.path())?;
    folder.commit()?;
    tracing::info!("step {}: the checkpoint {} is written and synced", state.step, path.display());
    Ok(())
}

/// Lists every file of a folder with its hash.
fn write_sums(folder: &Path) -> Result<(), TrainError> {
    let sums = hashes(folder)?.into_iter().fold(String::new(), |mut text, (name, hash)| {
        let _ = writeln!(text, "{hash}  {name}");
        text
    });
    fs::write(folder.join(SUMS), sums).map_err(TrainError::io("write", folder.join(SUMS)))
}

fn save_model(session: &Session, path: &Path) -> Result<(), TrainError> {
    session.source.write_side_files(path)?;
    write_config(path, session.source.files.config(), WeightDType::F32)?;
    let spec = |name: &str, shape: &[usize]| TensorSpec::new(name, WeightDType::F32, shape);
    let specs: Vec<_> = session.trained().iter().map(|tensor| spec(&tensor.name, &tensor.shape)).collect();
    let mut writer = ModelWriter::create(path, &specs, DEFAULT_MAX_SHARD_BYTES)?;
    for tensor in session.trained() {
        let elements = tensor.shape.iter().product();
        session.download(&tensor.name, elements, |bytes| Ok(writer.write(&tensor.name, bytes)?))?;
    }
    writer.finish()?;
    Ok(())
}

fn save_optimizer(session: &Session, path: &Path) -> Result<(), TrainError> {
    let moments = moments(session);
    let specs: Vec<_> = moments
        .iter()
        .map(|(name, shape)| TensorSpec::new(name.as_str(), WeightDType::F32, shape.clone()))
        .collect();
    let mut writer = SafetensorsWriter::create(&path.join(OPTIMIZER), &specs, &[])?;
    for (name, shape) in &moments {
        session.download(name, shape.iter().product(), |bytes| Ok(writer.write(name, bytes)?))?;
    }
    Ok(writer.finish()?)
}

fn moments(session: &Session) -> Vec<(String, Vec<usize>)> {
    let both = |name: &str| [first_moment(name), second_moment(name)];
    let pairs = session.trained().iter().map(|tensor| (both(&tensor.name), &tensor.shape));
    pairs.flat_map(|(names, shape)| names.map(|name| (name, shape.clone()))).collect()
}

/// Reads and checks the checkpoint at `path`, without touching the device.
pub fn check(path: &Path) -> Result<State, TrainError> {
    let listed = check_sums(path)?;
    let file = path.join(STATE);
    let bytes = fs::read(&file).map_err(TrainError::io("read", &file))?;
    let state: State = serde_json::from_slice(&bytes)
        .map_err(|error| TrainError::folder(&file, format!("it is damaged: {error}")))?;
    if let Some(name) = state.files.iter().find(|name| !listed.contains(*name)) {
        return Err(TrainError::folder(path.join(SUMS), format!("it is cut off: it does not list {name}")));
    }
    match state.version == VERSION {
        true => Ok(state),
        false => Err(TrainError::folder(
            &file,
            format!("its format has version {}; this finetune reads version {VERSION}", state.version),
        )),
    }
}

/// Checks that every file is what was written, and gives their names. The list itself is found to be damaged by what it
/// then says of the files.
fn check_sums(path: &Path) -> Result<BTreeSet<String>, TrainError> {
    let file = path.join(SUMS);
    let text = fs::read(&file).map_err(TrainError::io("read", &file))?;
    let text = String::from_utf8_lossy(&text);
    let written: BTreeMap<&str, &str> =
        text.lines().filter_map(|line| line.split_once("  ")).map(|(hash, name)| (name, hash)).collect();
    // More may have come to the folder since; what was written has to be there.
    let found = hashes(path)?;
    let damaged = written.iter().find(|(name, hash)| found.get(**name).map(String::as_str) != Some(**hash));
    let missing = (!written.contains_key(STATE)).then_some(STATE);
    match damaged.map(|(name, _)| *name).or(missing) {
        None if written.len() == text.lines().count() && text.ends_with('\n') => {
            Ok(written.keys().map(|name| (*name).to_owned()).collect())
        }
        name => Err(TrainError::folder(
            path.join(name.unwrap_or(SUMS)),
            "it is missing or is not what was written; the checkpoint cannot be used",
        )),
    }
}

/// Brings a checked checkpoint's tensors to the device.
pub fn restore(session: &Session, path: &Path) -> Result<(), TrainError> {
    match &session.adapter {
        Some(adapter) => {
            let files = crate::weights::peft::PeftAdapter::open(path)?;
            for module in adapter.lora.modules() {
                let pair = files.modules().get(&module.path).ok_or_else(|| {
                    TrainError::folder(path, format!("the checkpoint has no adapter for {}", module.path))
                })?;
                session.restore(&module.a_name(), pair.a.clone())?;
                session.restore(&module.b_name(), pair.b.clone())?;
            }
        }
        None => {
            let folder = crate::weights::ModelFolder::open(path)?;
            let tensors = folder.tensors().ok_or_else(|| TrainError::folder(path, "it holds no weights"))?;
            for tensor in session.trained() {
                session.restore(&tensor.name, tensors.require(&tensor.name, &tensor.shape)?)?;
            }
        }
    }
    let tensors = Tensors::open_file(&path.join(OPTIMIZER))?;
    for (name, shape) in moments(session) {
        session.restore(&name, tensors.require(&name, &shape)?)?;
    }
    Ok(())
}

/// Makes `to` the loadable part of a checkpoint: its files without the optimizer's, as hard links where the
/// file system has them.
pub fn publish(checkpoint: &Path, to: &Path) -> Result<(), TrainError> {
    atomic::recover(to)?;
    let folder = AtomicDir::create(to)?;
    for path in files(checkpoint)? {
        let name = path.file_name().unwrap_or_default();
        if name == STATE || name == OPTIMIZER || name == SUMS {
            continue;
        }
        let target = folder.path().join(name);
        if fs::hard_link(&path, &target).is_err() {
            fs::copy(&path, &target).map_err(TrainError::io("copy", &path))?;
        }
    }
    folder.commit()?;
    Ok(())
}

/// Whether the files of the checkpoint at `path` can be opened, whatever is in them.
///
/// # Errors
/// One is there and cannot be.
pub fn check_readable(path: &Path) -> Result<(), TrainError> {
    let unreadable = |file: &Path, error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => Ok(()),
        _ => Err(TrainError::folder(
            file,
            format!(
                "cannot be read: {error}; the run cannot go on without knowing what is in its checkpoints"
            ),
        )),
    };
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) => return unreadable(path, error),
    };
    for entry in entries {
        let file = entry.map_err(TrainError::io("list", path))?.path();
        if let Err(error) = File::open(&file) {
            unreadable(&file, error)?;
        }
    }
    Ok(())
}

fn files(path: &Path) -> Result<Vec<PathBuf>, TrainError> {
    let entries = fs::read_dir(path).map_err(TrainError::io("list", path))?;
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(TrainError::io("list", path))?.path();
        if path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// SHA-256 of every file but the list of them, lower-case hexadecimal.
fn hashes(path: &Path) -> Result<BTreeMap<String, String>, TrainError> {
    let listed = files(path)?.into_iter().filter(|path| path.file_name() != Some(SUMS.as_ref()));
    listed.map(|path| Ok((file_name(&path), sha256(&path)?))).collect()
}

fn sha256(path: &Path) -> Result<String, TrainError> {
    let mut file = File::open(path).map_err(TrainError::io("read", path))?;
    let (mut hasher, mut room) = (Sha256::new(), vec![0u8; 1 << 20]);
    loop {
        match file.read(&mut room).map_err(TrainError::io("read", path))? {
            0 => return Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()),
            read => hasher.update(&room[..read]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checkpoint(folder: &Path) {
        let data = folder.join("adapter_model.safetensors");
        fs::write(&data, "weights").unwrap();
        fs::write(folder.join(OPTIMIZER), "moments").unwrap();
        let data = Fingerprint::of(&data).unwrap();
        let model = BTreeMap::from([("model.safetensors".to_owned(), data.clone())]);
        // Behind the state in the list: the last to be cut off.
        fs::write(folder.join("tokenizer.json"), "{}").unwrap();
        let mut state = State::new((7, 1.0 / 3.0), Precision::F32, &data, &model);
        state.files = files(folder).unwrap().iter().map(|path| file_name(path)).collect();
        fs::write(folder.join(STATE), serde_json::to_vec_pretty(&state).unwrap()).unwrap();
        write_sums(folder).unwrap();
    }

    /// A step, a hash or a fingerprint that is off by a bit would be another run; each file counts, the list as well.
    #[test]
    fn every_bit_of_a_checkpoint_is_checked() {
        let folder = tempfile::tempdir().unwrap();
        checkpoint(folder.path());
        assert_eq!(check(folder.path()).unwrap().step, 7);
        for path in files(folder.path()).unwrap() {
            let good = fs::read(&path).unwrap();
            for bit in 0..good.len() * 8 {
                let mut bytes = good.clone();
                bytes[bit / 8] ^= 1 << (bit % 8);
                fs::write(&path, bytes).unwrap();
                let name = path.file_name().unwrap();
                assert!(check(folder.path()).is_err(), "bit {bit} of {name:?} was not noticed");
            }
            for length in 0..good.len() {
                fs::write(&path, &good[..length]).unwrap();
                assert!(check(folder.path()).is_err(), "{} cut to {length} bytes", path.display());
            }
            fs::remove_file(&path).unwrap();
            assert!(check(folder.path()).is_err(), "{} is missing", path.display());
            fs::write(&path, good).unwrap();
        }
        // What others have put there is not looked at.
        fs::write(folder.path().join("notes.txt"), "mine").unwrap();
        check(folder.path()).unwrap();
    }
}
