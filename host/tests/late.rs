//! A device whose runs return early gets its next step before the numbers of the last are read; nothing else changes.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use finetune_host::plugins::Device as Opened;
use finetune_host::train::{
    Backend, Event, Observer, RunConfig, Settings, StopFlag, Summary, TrainError, TrainRequest, train,
};
use finetune_plugin_api::export::{
    AnyThread, Bound, Device, DeviceDescription, Error, JsonObject, MemoryInfo, Options, Plugin, module,
};
use finetune_plugin_api::program::{DType, Program, TensorType};
use finetune_plugin_api::reference::{self, Rounding, Tensor};

/// The calls that the last device on this thread got.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Call {
    /// A run of a program with outputs: a step's last.
    Apply,
    /// An output was read.
    Read,
    /// A large tensor was read, as for a checkpoint.
    Save,
}

type Calls = Arc<Mutex<Vec<Call>>>;

thread_local! {
    static CALLS: Calls = Calls::default();
}

/// The reference interpreter; the parameter is what it says of its runs.
struct Interpreter<const ASYNCHRONOUS: bool> {
    calls: Calls,
}

struct Buffer {
    ty: TensorType,
    bytes: Vec<u8>,
}

impl<const ASYNCHRONOUS: bool> Plugin for Interpreter<ASYNCHRONOUS> {
    type Device = Self;

    fn probe() -> Result<Vec<DeviceDescription>, Error> {
        Ok(Vec::new())
    }

    fn open(_: u32, _: &Options) -> Result<Self, Error> {
        Ok(Interpreter { calls: CALLS.with(Calls::clone) })
    }
}

impl<const ASYNCHRONOUS: bool> Device for Interpreter<ASYNCHRONOUS> {
    type Buffer = Buffer;
    type Compiled = Program;
    const ASYNCHRONOUS: bool = ASYNCHRONOUS;

    fn ops(&self) -> Vec<&'static str> {
        Vec::new()
    }

    fn properties(&self) -> JsonObject {
        JsonObject::new()
    }

    fn allocate(&mut self, ty: &TensorType) -> Result<Buffer, Error> {
        Ok(Buffer { ty: ty.clone(), bytes: vec![0; ty.bytes()] })
    }

    fn upload(&mut self, buffer: &mut Buffer, offset: usize, bytes: &[u8]) -> Result<(), Error> {
        buffer.bytes[offset..offset + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    fn download(&mut self, buffer: &Buffer, offset: usize, into: &mut [u8]) -> Result<(), Error> {
        self.calls.lock().unwrap().push(if into.len() == 4 { Call::Read } else { Call::Save });
        into.copy_from_slice(&buffer.bytes[offset..offset + into.len()]);
        Ok(())
    }

    fn compile(&mut self, program: Program) -> Result<Program, Error> {
        Ok(program)
    }

    fn run(
        &mut self,
        program: &mut Program,
        arguments: &mut [Bound<'_, Buffer>],
        outputs: &mut [&mut Buffer],
    ) -> Result<(), Error> {
        if outputs.len() == 2 {
            self.calls.lock().unwrap().push(Call::Apply);
        }
        let tensors: Result<Vec<Tensor>, _> =
            arguments.iter().map(|arg| Tensor::from_bytes(&arg.get().ty, &arg.get().bytes)).collect();
        let outcome = reference::run(program, &tensors.unwrap(), Rounding::Storage).unwrap();
        for (buffer, tensor) in outputs.iter_mut().zip(&outcome.outputs) {
            buffer.bytes = tensor.to_bytes();
        }
        let states = arguments.iter_mut().filter_map(Bound::get_mut);
        for (buffer, (_, tensor)) in states.zip(&outcome.states) {
            buffer.bytes = tensor.to_bytes();
        }
        Ok(())
    }

    fn memory(&mut self) -> Result<MemoryInfo, Error> {
        Ok(MemoryInfo::default())
    }

    fn reset_peak(&mut self) -> Result<(), Error> {
        Ok(())
    }

    fn synchronize(&mut self) -> Result<(), Error> {
        Ok(())
    }
}

/// What a run told, did and left.
struct Told {
    events: Vec<Event>,
    calls: Vec<Call>,
    result: Result<Summary, TrainError>,
    out: PathBuf,
}

/// Keeps events, and asks for a stop at one step.
struct Listener {
    events: Vec<Event>,
    stop: StopFlag,
    stop_at: u64,
}

impl Observer for Listener {
    fn event(&mut self, event: &Event) {
        if matches!(event, Event::Step { step, .. } if *step == self.stop_at) {
            self.stop.stop();
        }
        let mut event = event.clone();
        // No two runs take the same time.
        match &mut event {
            Event::Step { step_s, tokens_per_s, .. } => {
                assert!(*step_s > 0.0 && *tokens_per_s >= 0.0);
                (*step_s, *tokens_per_s) = (0.0, 0.0);
            }
            Event::End { seconds, .. } => *seconds = 0.0,
            Event::Saved { path, .. } => *path = path.file_name().unwrap().into(),
            _ => {}
        }
        self.events.push(event);
    }
}

fn goldens(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/goldens/data").join(path)
}

fn run<const ASYNCHRONOUS: bool>(out: &Path, stop_at: u64, change: impl Fn(&mut Settings)) -> Told {
    let mut settings = Settings {
        model: Some(goldens("llama3/model")),
        data: Some(goldens("text/train.jsonl")),
        valid: Some(goldens("text/valid.jsonl")),
        rank: Some(2),
        dropout: Some(0.1),
        batch: Some(2),
        micro_batch: Some(1),
        seq_len: Some(8),
        steps: Some(7),
        lr: Some(1e-2),
        save_every: Some(3),
        eval_every: Some(5),
        ..Settings::default()
    };
    change(&mut settings);
    let resume = out.exists();
    let config: RunConfig = settings.clone().resolve(out.into()).unwrap();
    let request = TrainRequest { config, settings: settings.complete(), resume };
    CALLS.with(|calls| calls.lock().unwrap().clear());
    let object = module::<Interpreter<ASYNCHRONOUS>, AnyThread>().open()(0, "".into()).into_result().unwrap();
    let backend = Backend {
        device: Opened::from_object("test", object),
        name: "test".into(),
        device_name: "interpreter".into(),
        unified: false,
        kind: "cpu".into(),
        dtypes: vec![DType::F32.name().into()],
    };
    let stop = StopFlag::new();
    let mut listener = Listener { events: Vec::new(), stop: stop.clone(), stop_at };
    let result = train(&request, backend, &stop, &mut listener);
    let calls = CALLS.with(|calls| calls.lock().unwrap().clone());
    Told { events: listener.events, calls, result, out: out.into() }
}

fn adapter(told: &Told) -> Vec<u8> {
    std::fs::read(told.out.join("adapter/adapter_model.safetensors")).unwrap()
}

/// How many applied steps had not been read when each step was applied.
fn depth(calls: &[Call]) -> Vec<usize> {
    let (mut applied, mut read, mut depths) = (0, 0, Vec::new());
    for call in calls {
        match call {
            Call::Apply => {
                depths.push(applied - read / 2);
                applied += 1;
            }
            // Losses of held-out data are read when there is nothing else to read.
            Call::Read if read < 2 * applied => read += 1,
            Call::Read => {}
            Call::Save => assert_eq!(read, 2 * applied, "what is saved was checked"),
        }
    }
    assert_eq!(read, 2 * applied, "every step is read in the end");
    depths
}

/// Steps that were applied and never read.
fn depth_at_end(calls: &[Call]) -> usize {
    let applied = calls.iter().filter(|call| **call == Call::Apply).count();
    let read =
        calls.iter().skip_while(|call| **call != Call::Apply).filter(|call| **call == Call::Read).count();
    applied - read / 2
}

#[test]
fn events_and_weights_are_those_of_a_device_that_waits() {
    let dir = tempfile::tempdir().unwrap();
    let waits = run::<false>(&dir.path().join("waits"), 0, |_| ());
    let early = run::<true>(&dir.path().join("early"), 0, |_| ());
    assert_eq!(waits.events, early.events);
    assert_eq!(waits.events.iter().filter(|event| matches!(event, Event::Step { .. })).count(), 7);
    assert_eq!(adapter(&waits), adapter(&early));
    assert_eq!(depth(&waits.calls), [0; 7]);
    // The first is read at once, the third saved, the fifth evaluated after, the sixth saved, the last.
    assert_eq!(depth(&early.calls), [0, 0, 1, 0, 1, 0, 0]);
}

/// A stop ends the run with what was handed over already; going on from there is the unbroken run.
#[test]
fn a_stop_saves_all_that_was_done() {
    let dir = tempfile::tempdir().unwrap();
    let whole = run::<false>(&dir.path().join("whole"), 0, |_| ());
    let out = dir.path().join("parts");
    let first = run::<true>(&out, 4, |_| ());
    let summary = first.result.unwrap();
    assert!(summary.stopped && (4..=5).contains(&summary.steps), "{summary:?}");
    let name = format!("step-{:08}", summary.steps);
    assert!(out.join("checkpoints").join(name).is_dir() && !out.join("adapter").exists());
    depth(&first.calls);
    let second = run::<true>(&out, 0, |_| ());
    assert_eq!(second.result.unwrap().steps, 7);
    assert_eq!(adapter(&whole), std::fs::read(out.join("adapter/adapter_model.safetensors")).unwrap());
    let losses = |told: &[Event]| -> Vec<(u64, f64)> {
        let losses = told.iter().filter_map(|event| match event {
            Event::Step { step, loss, .. } => Some((*step, *loss)),
            _ => None,
        });
        losses.collect()
    };
    assert_eq!([losses(&first.events), losses(&second.events)].concat(), losses(&whole.events));
}

/// A step that is no number any more ends the run at that step, and nothing of it is saved.
#[test]
fn divergence_is_found_before_anything_is_saved() {
    let dir = tempfile::tempdir().unwrap();
    let wild = |settings: &mut Settings| {
        (settings.lr, settings.alpha, settings.save_every) = (Some(1e18), Some(1e18), Some(3));
        (settings.eval_every, settings.weight_decay) = (Some(0), Some(1.0));
    };
    let waits = run::<false>(&dir.path().join("waits"), 0, wild);
    let early = run::<true>(&dir.path().join("early"), 0, wild);
    let (waits_error, early_error) = (waits.result.unwrap_err(), early.result.unwrap_err());
    let step = |error: &TrainError| match error {
        TrainError::Diverged { step, what, .. } => (*step, *what),
        other => panic!("{other}"),
    };
    assert_eq!(step(&waits_error), step(&early_error));
    // The step after it was on its way, and would have been saved.
    assert_eq!((step(&early_error).0, depth_at_end(&early.calls)), (2, 1));
    assert_eq!(waits.events, early.events);
    assert!(!early.calls.contains(&Call::Save));
    assert!(!early.out.join("checkpoints").exists() && !early.out.join("adapter").exists());
}
