//! What programs are for.

use std::fmt;

/// What a compiled program is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Loss and gradients of a micro-batch, added to the state.
    Accumulate {
        /// Positions in a row.
        length: usize,
        /// Rows.
        rows: usize,
    },
    /// The loss of a batch.
    Evaluate {
        /// Positions in a row.
        length: usize,
        /// Rows.
        rows: usize,
    },
    /// The optimizer's step.
    Apply,
    /// Positions appended to a cache, and logits.
    Extend {
        /// Positions.
        length: usize,
        /// Positions that the cache has room for.
        capacity: usize,
    },
    /// A cache copied to a larger one.
    Grow {
        /// Positions that the smaller one has room for.
        from: usize,
    },
}

impl fmt::Display for Purpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Purpose::Accumulate { length, rows } => write!(f, "accumulate {rows} rows of {length} positions"),
            Purpose::Evaluate { length, rows } => write!(f, "evaluate {rows} rows of {length} positions"),
            Purpose::Apply => f.write_str("apply a step"),
            Purpose::Extend { length, capacity } => {
                write!(f, "append {length} positions to a cache of {capacity}")
            }
            Purpose::Grow { from } => write!(f, "copy a cache of {from} positions to a larger one"),
        }
    }
}
