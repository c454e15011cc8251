//! The calibration step: a short piece of real training, by which devices are compared.
//!
//! It is written by the same code as every run's step: a small model of the usual kind from random weights, adapters on
//! all its linear layers, AdamW.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::data::Batch;
use crate::optim::{self, AdamW};
use crate::plugins::{Device, Speed, Unmeasured};
use crate::precision::Precision;
use crate::train::session::{Purpose, Session};
use crate::train::source::{AdapterSource, LoraSettings, Source};
use crate::train::{Backend, TrainError};

/// Steps that are not counted: memory is allocated, kernels are compiled.
const WARM_UP: u64 = 2;
/// Counted steps go on until there are enough of them or they took long enough.
const STEPS: u64 = 12;
const LONG_ENOUGH: Duration = Duration::from_millis(1500);

const ROWS: usize = 2;
const LENGTH: usize = 128;
const VOCABULARY: u32 = 4096;
/// Large enough that its products are most of the work, small enough for a second on one processor.
const MODEL: &str = r#"{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 4096,
    "hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 256, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
    "hidden_act": "silu", "tie_word_embeddings": true}"#;

/// Trains for a moment on a device with its frozen weights and activations in `dtype`, and says how fast it went.
///
/// # Errors
/// The element type is none to compute in, the device
/// failed, or its numbers are none.
pub fn measure(device: &Device, dtype: &str) -> Result<Speed, Unmeasured> {
    let precision = match dtype {
        "f32" => Precision::F32,
        "bf16" => Precision::Bf16,
        other => return Err(Unmeasured::lasting(format!("cannot be measured in {other}"))),
    };
    let failed = |error: TrainError| {
        let reason = format!("failed in the calibration step: {error}");
        match error {
            TrainError::Device(device) => Unmeasured::of_kind(device.kind, reason),
            _ => Unmeasured::lasting(reason),
        }
    };
    let mut session = session(device, precision).map_err(failed)?;
    let (speed, loss) = steps(&mut session).map_err(failed)?;
    // A model that knows nothing finds every token equally likely, and is not far from that after a few steps.
    let expected = f64::from(VOCABULARY).ln();
    match (f64::from(loss) - expected).abs() < 1.0 {
        true => Ok(speed),
        false => Err(Unmeasured::lasting(format!(
            "computes wrongly: the calibration step's loss is {loss}, about {expected:.1} is right"
        ))),
    }
}

fn session(device: &Device, precision: Precision) -> Result<Session, TrainError> {
    let config = serde_json::from_str(MODEL).map_err(|error| TrainError::Internal(error.to_string()))?;
    let source = Source::of_config(config, 0)?;
    let adapter = AdapterSource::new(&source, Path::new(""), LoraSettings::default())?;
    let backend = Backend {
        device: device.clone(),
        name: device.plugin().into(),
        device_name: String::new(),
        kind: String::new(),
        dtypes: Vec::new(),
        unified: false,
    };
    let mut session = Session::new(backend, source, Some(adapter), precision, false)?;
    session.load(&mut |_, _| {})?;
    session.begin_state()?;
    Ok(session)
}

/// The speed, and the loss of the last step.
fn steps(session: &mut Session) -> Result<(Speed, f32), TrainError> {
    let adamw = AdamW { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.0, clip: Some(1.0) };
    let native = session.backend.device.ops()?;
    let plan = session.backend.device.properties()?.get("plan").cloned();
    let program = session.accumulate_program(ROWS, LENGTH)?;
    session.compile(Purpose::Accumulate { rows: ROWS, length: LENGTH }, &program)?;
    let apply = session.apply_program(&adamw)?;
    session.compile(Purpose::Apply, &apply)?;
    let batch = batch();
    let mut begun = Instant::now();
    let mut done = 0;
    let mut loss = f32::NAN;
    for step in 1..=WARM_UP + STEPS {
        if step == WARM_UP + 1 {
            session.backend.device.synchronize()?;
            begun = Instant::now();
        }
        session.accumulate(&batch, 0, step)?;
        let (correction1, correction2) = adamw.corrections(step);
        let inputs = [
            (optim::input::INVERSE_TOKENS, (1.0 / batch.target_tokens as f64) as f32),
            (optim::input::LR, 1e-4),
            (optim::input::CORRECTION1, correction1),
            (optim::input::CORRECTION2, correction2),
        ];
        let bytes = inputs.map(|(name, value)| (name, value.to_le_bytes()));
        let inputs: Vec<(&str, &[u8])> =
            bytes.iter().map(|(name, bytes)| (*name, bytes.as_slice())).collect();
        let outputs = session.run(&Purpose::Apply, &inputs)?;
        loss = outputs.get(optim::output::LOSS).copied().unwrap_or(f32::NAN);
        done = step.saturating_sub(WARM_UP);
        if done > 1 && begun.elapsed() > LONG_ENOUGH {
            break;
        }
    }
    let tokens = batch.target_tokens * done;
    let tokens_per_s = tokens as f64 / begun.elapsed().as_secs_f64().max(f64::MIN_POSITIVE);
    let native = native.names().map(str::to_owned).collect();
    let speed = Speed { tokens_per_s, native, plan };
    Ok((speed, loss))
}

fn batch() -> Batch {
    let count = ROWS * LENGTH;
    let token = |i: usize| (i as u32).wrapping_mul(2_654_435_761) >> 8;
    Batch {
        rows: ROWS,
        len: LENGTH,
        tokens: (0..count).map(|i| token(i) % VOCABULARY).collect(),
        targets: (1..=count).map(|i| token(i) % VOCABULARY).collect(),
        weights: vec![1.0; count],
        valid: vec![LENGTH as u32; ROWS],
        positions: (0..ROWS).flat_map(|_| 0..LENGTH as u32).collect(),
        example: (0..ROWS as u32).collect(),
        target_tokens: count as u64,
    }
}
