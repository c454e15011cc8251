//! Programs to programs, on their way to a device.

use finetune_plugin_api::program::{NativeOps, Program, ProgramError, lower};

/// A program as a device takes it that has these composite ops natively.
pub fn for_device(program: &Program, ops: &NativeOps) -> Result<Program, ProgramError> {
    lower(program, &|node| ops.has(node))
}
