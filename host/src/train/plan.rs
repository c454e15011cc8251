//! The device memory that a run will need, known before it begins.

use finetune_plugin_api::plan::{PlanOptions, peak};
use finetune_plugin_api::program::{Program, Role};

use crate::optim::AdamW;

use super::error::TrainError;
use super::session::{Purpose, Session};

/// What the inputs of a shorter length may need beyond their share of the longest's: those that do not shrink.
const INPUT_SLACK: usize = 1 << 10;

/// The lengths that batches will have, ascending.
pub(super) struct Lengths {
    /// Of training.
    pub training: Vec<usize>,
    /// Of the held-out data; none if there is none.
    pub held_out: Vec<usize>,
}

/// An upper bound of the device memory of a run, in bytes: every tensor, the inputs and outputs of every
/// program, and the largest arena and workspace, as the device's own planner lays them out. The programs that were
/// built for it stay with the session, which will need them.
pub(super) fn planned_peak(
    session: &mut Session,
    adamw: &AdamW,
    rows: usize,
    lengths: &Lengths,
) -> Result<u64, TrainError> {
    let options = options(session)?;
    let last = |lengths: &[usize]| lengths.last().copied();
    let longest = last(&lengths.training).unwrap_or(1);
    let accumulate = session.accumulate_program(rows, longest)?;
    let apply = session.apply_program(adamw)?;
    let evaluate =
        last(&lengths.held_out).map(|length| session.evaluate_program(rows, length)).transpose()?;
    let (mut arena, mut workspace, mut own) = (0, 0, 0);
    let programs = [
        (Some(&accumulate), &lengths.training[..]),
        (Some(&apply), &[1]),
        (evaluate.as_ref(), &lengths.held_out),
    ];
    for (program, lengths) in programs {
        let (Some(program), Some(longest)) = (program, last(lengths)) else { continue };
        let report = peak(program, &options);
        arena = arena.max(report.arena);
        workspace = workspace.max(report.workspace);
        // Every length is a program with inputs of its own, and those grow with it at most.
        let shares = lengths.iter().map(|length| (inputs(program) * length).div_ceil(longest) + INPUT_SLACK);
        own += shares.sum::<usize>() + lengths.len() * report.outputs;
    }
    // The accumulate program reads all parameters and gradients, the apply program all other state; what both
    // have is the trained tensors and their gradients.
    let tensors = tensors([&accumulate, &apply]);
    session.keep(Purpose::Accumulate { rows, length: longest }, accumulate);
    session.keep(Purpose::Apply, apply);
    if let (Some(program), Some(length)) = (evaluate, last(&lengths.held_out)) {
        session.keep(Purpose::Evaluate { rows, length }, program);
    }
    tracing::info!(
        "planned for {rows} rows of at most {longest} positions: {tensors} bytes of tensors, an arena of {arena}, \
         {workspace} of workspace, {own} of inputs and outputs"
    );
    // The workspace is whatever the plugin says.
    Ok((tensors + arena + own).saturating_add(workspace) as u64)
}

/// What the device says of its planning; a device that says nothing is planned for as the simplest kind.
pub(crate) fn options(session: &Session) -> Result<PlanOptions, TrainError> {
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
