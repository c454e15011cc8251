//! What a run asks of a device, foreseen before one is opened: the same programs, written for a device that has the same
//! ops and lays out memory in the same way, and computes nothing.

use std::path::Path;
use std::sync::Arc;

use finetune_plugin_api::export::{
    AnyThread, Bound, Device as Export, DeviceDescription, Error, JsonObject, MemoryInfo, Options, Plugin,
    module,
};
use finetune_plugin_api::program::{Class, NativeOps, Program, TensorType, table};
use serde_json::Value;

use crate::data::{EvalBatches, Loader, LoaderOptions, Tokenizer};
use crate::plugins::{Device, Need, Speed};
use crate::precision::Precision;

use super::backend::Backend;
use super::begin::{adamw, loader_options, lora_settings};
use super::config::{Length, Method, RunConfig};
use super::error::TrainError;
use super::eval::Chat;
use super::plan::{Lengths, planned_peak};
use super::session::Session;
use super::source::{AdapterSource, Source};

/// A run that is to be, and the lengths of its batches.
pub struct Demand<'a> {
    config: &'a RunConfig,
    lengths: Lengths,
}

impl<'a> Demand<'a> {
    /// Looks at the run's data.
    ///
    /// # Errors
    /// What would keep the run from beginning.
    pub fn of(config: &'a RunConfig) -> Result<Demand<'a>, TrainError> {
        let tokenizer = Tokenizer::from_model(&config.model)?;
        let mut chat = Chat::new(config.chat_template.as_deref(), &config.model)?;
        let mut open = |path: &Path| chat.open(path, &tokenizer, config.seq_len);
        // One example at once: what the run can do with if it must.
        let options = LoaderOptions { micro_batch: 1, ..loader_options(config) };
        let loader = Loader::new(Arc::new(open(&config.data)?), options)?;
        let steps = match config.length {
            Length::Steps(steps) => steps,
            Length::Epochs(_) => loader.steps().unwrap_or(u64::MAX),
        };
        let held_out = match &config.valid {
            Some(valid) => EvalBatches::lengths(&open(valid)?, 1)?,
            None => Vec::new(),
        };
        Ok(Demand { config, lengths: Lengths { training: loader.lengths(steps)?, held_out } })
    }

    /// What it asks of a device that was measured.
    ///
    /// # Errors
    /// The model or the adapter cannot be used, or the device describes itself in a way that cannot be read.
    pub fn on(&self, speed: &Speed, precision: Precision) -> Result<Need, TrainError> {
        let config = self.config;
        let source = Source::open(&config.model, config.seed)?;
        let full = config.method == Method::Full;
        let adapter = match full {
            true => None,
            false => Some(AdapterSource::new(&source, &config.model, lora_settings(config))?),
        };
        let backend = Backend {
            device: paper(speed)?,
            name: "paper".into(),
            device_name: String::new(),
            kind: String::new(),
            dtypes: Vec::new(),
            unified: false,
        };
        let mut session = Session::new(backend, source, adapter, precision, full)?;
        let longest = self.lengths.training.last().copied().unwrap_or(1);
        let whole = session.whole_accumulate_program(1, longest)?;
        let native = NativeOps::of(&speed.native.iter().map(String::as_str).collect::<Vec<_>>());
        let composites = whole.nodes().iter().filter(|node| node.op.def().class == Class::Composite);
        let (native_ops, decomposed_ops) =
            composites.fold((0, 0), |(has, not), node| match native.has(node) {
                true => (has + 1, not),
                false => (has, not + 1),
            });
        let bytes = planned_peak(&mut session, &adamw(config), 1, &self.lengths)?;
        Ok(Need { bytes, native_ops, decomposed_ops })
    }
}

/// A device that has those ops and that layout of memory, on paper.
fn paper(speed: &Speed) -> Result<Device, TrainError> {
    let options = serde_json::json!({ "native": speed.native, "plan": speed.plan }).to_string();
    let opened = module::<Paper, AnyThread>().open()(0, options.as_str().into()).into_result();
    let object = opened.map_err(|error| TrainError::Internal(error.message.into_string()))?;
    Ok(Device::from_object("paper", object))
}

struct Paper {
    native: Vec<String>,
    plan: Option<Value>,
}

impl Plugin for Paper {
    type Device = Self;

    fn probe() -> Result<Vec<DeviceDescription>, Error> {
        Ok(Vec::new())
    }

    fn open(_: u32, options: &Options) -> Result<Self, Error> {
        Ok(Paper { native: options.get("native")?.unwrap_or_default(), plan: options.get("plan")?.flatten() })
    }
}

fn computes_nothing<T>() -> Result<T, Error> {
    Err(Error::internal("this device is there to plan for, and computes nothing"))
}

impl Export for Paper {
    type Buffer = ();
    type Compiled = ();
    const ASYNCHRONOUS: bool = false;

    fn ops(&self) -> Vec<&'static str> {
        let known = table::TABLE.iter().map(|def| def.name).chain(["attention.lse"]);
        known.filter(|name| self.native.iter().any(|native| native == name)).collect()
    }

    fn properties(&self) -> JsonObject {
        self.plan.iter().map(|plan| ("plan".to_owned(), plan.clone())).collect()
    }

    fn allocate(&mut self, _: &TensorType) -> Result<(), Error> {
        computes_nothing()
    }

    fn upload(&mut self, (): &mut (), _: usize, _: &[u8]) -> Result<(), Error> {
        computes_nothing()
    }

    fn download(&mut self, (): &(), _: usize, _: &mut [u8]) -> Result<(), Error> {
        computes_nothing()
    }

    fn compile(&mut self, _: Program) -> Result<(), Error> {
        computes_nothing()
    }

    fn run(&mut self, (): &mut (), _: &mut [Bound<'_, ()>], _: &mut [&mut ()]) -> Result<(), Error> {
        computes_nothing()
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
