//! Where the time of a program's runs goes: with `FINETUNE_CANDLE_PROFILE` set, every op is waited for, and at the end of
//! a run its ops are listed with the time that they took, those of one kind and type together.

use std::cell::RefCell;
use std::collections::HashMap;
use std::time::{Duration, Instant};

use candle_core::{Device as Placed, Result};
use finetune_plugin_api::program::Program;

/// Times of a run by kind of op.
#[derive(Default)]
pub struct Profile(RefCell<HashMap<String, (usize, Duration)>>);

impl Profile {
    /// If the environment asks for it.
    pub fn wanted() -> Option<Profile> {
        std::env::var_os("FINETUNE_CANDLE_PROFILE").map(|_| Profile::default())
    }

    pub fn begin(&self) -> Instant {
        Instant::now()
    }

    pub fn end(&self, program: &Program, node: usize, begun: Instant, placed: &Placed) -> Result<()> {
        placed.synchronize()?;
        let took = begun.elapsed();
        let node = &program.nodes()[node];
        let types = |values: &[finetune_plugin_api::program::ValueId]| {
            values.iter().map(|&value| program.ty(value).to_string()).collect::<Vec<_>>().join(", ")
        };
        let kind = format!("{} ({}) -> {}", node.op.name(), types(&node.operands), types(&node.results));
        let mut times = self.0.borrow_mut();
        let (count, total) = times.entry(kind).or_default();
        *count += 1;
        *total += took;
        Ok(())
    }

    /// Says what the run took, on standard error; the next one begins anew. (The process that trains is not there to
    /// say it at its end.)
    pub fn tell(&self) {
        let mut lines: Vec<_> = self.0.take().into_iter().collect();
        lines.sort_by_key(|(_, (_, total))| std::cmp::Reverse(*total));
        let all: Duration = lines.iter().map(|(_, (_, total))| *total).sum();
        eprintln!("{:10.3} ms in all of a run's ops", all.as_secs_f64() * 1e3);
        for (kind, (count, total)) in lines {
            eprintln!("{:10.3} ms {count:6} {kind}", total.as_secs_f64() * 1e3);
        }
    }
}
