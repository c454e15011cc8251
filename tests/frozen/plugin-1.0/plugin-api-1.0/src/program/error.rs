use super::ValueId;

/// Why a program is not one.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ProgramError {
    /// The text form breaks a rule; `line` counts from 1.
    #[error("line {line}: {message}")]
    Text {
        /// The line, counted from 1.
        line: usize,
        /// What is wrong with it.
        message: String,
    },
    /// An op cannot be applied so.
    #[error("op {op} at {at}: {message}")]
    Op {
        /// The op's name.
        op: String,
        /// Where in the program: a position and, where the builder knows one, the part of the model.
        at: String,
        /// What is wrong, with the types of the operands.
        message: String,
    },
    /// An argument, update or output breaks a rule.
    #[error("{0}")]
    Binding(String),
    /// A value that belongs to another program, or to none.
    #[error("value {0} is not defined in this program")]
    Undefined(ValueId),
}
