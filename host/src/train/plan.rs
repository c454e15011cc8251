//! The device memory that a run will need, known before it begins.

use finetune_plugin_api::plan::{PlanOptions, peak};
use finetune_plugin_api::program::{Program, Role};

use crate::data::Buckets;
use crate::optim::AdamW;

use super::error::TrainError;
use super::session::Session;

/// An upper bound of the device memory of a run, in bytes: every tensor, the inputs and outputs of every
/// program, and the largest arena and workspace, as the device's own planner lays them out.
pub(super) fn planned_peak(
    session: &Session,
    adamw: &AdamW,
    rows: usize,
    buckets: &Buckets,
    evaluates: bool,
) -> Result<u64, TrainError> {
    let options = options(session)?;
    let longest = buckets.lengths().last().copied().unwrap_or(1);
    let accumulate = session.accumulate_program(rows, longest)?;
    let apply = session.apply_program(adamw)?;
    let mut programs = vec![(&accumulate, buckets.lengths().len()), (&apply, 1)];
    let evaluate = session.evaluate_program(rows, longest)?;
    if evaluates {
        programs.push((&evaluate, buckets.lengths().len()));
    }
    let (mut arena, mut workspace, mut own) = (0, 0, 0);
    for (program, copies) in programs {
        let report = peak(program, &options);
        arena = arena.max(report.arena);
        workspace = workspace.max(report.workspace);
        own += copies * (inputs(program) + report.outputs);
    }
    // The accumulate program reads all parameters and gradients, the apply program all other state; what both
    // have is the trained tensors and their gradients.
    let tensors = tensors([&accumulate, &apply]);
    // The workspace is whatever the plugin says.
    Ok((tensors + arena + own).saturating_add(workspace) as u64)
}

/// What the device says of its planning; a device that says nothing is planned for as the simplest kind.
fn options(session: &Session) -> Result<PlanOptions, TrainError> {
    match session.backend.device.properties()?.get("plan") {
        None => Ok(PlanOptions::default()),
        Some(plan) => serde_json::from_value(plan.clone()).map_err(|error| {
            TrainError::Settings(format!(
                "the back end {} describes its memory in a way that cannot be read: {error}; its author should look \
                 at finetune_plugin_api::plan",
                session.backend.name
            ))
        }),
    }
}

fn inputs(program: &Program) -> usize {
    let inputs = program.args().iter().filter(|arg| arg.role == Role::Input);
    inputs.map(|arg| program.ty(arg.value).bytes()).sum()
}

fn tensors<const N: usize>(programs: [&Program; N]) -> usize {
    let mut bytes = std::collections::BTreeMap::new();
    for program in programs {
        for arg in program.args().iter().filter(|arg| arg.role != Role::Input) {
            bytes.insert(arg.name.as_str(), program.ty(arg.value).bytes());
        }
    }
    bytes.values().sum()
}
