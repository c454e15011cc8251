//! Short names for applying ops: formulas in models, rules and decompositions are written with these.

use crate::program::ValueId;
use crate::program::attrs::Attrs;
use crate::program::builder::Builder;
use crate::program::table::Op;
use crate::program::types::{DType, TensorType};

macro_rules! one_to_one {
    ($($name:ident $op:ident;)*) => {
        impl Builder {$(
            #[doc = concat!("Applies `", stringify!($name), "`.")]
            pub fn $name(&mut self, x: ValueId) -> ValueId {
                self.apply(Op::$op, &[x], Attrs::none())
            }
        )*}
    };
}

one_to_one! {
    neg Neg; abs Abs; exp Exp; log Log; sqrt Sqrt; rsqrt Rsqrt; sin Sin; cos Cos; tanh Tanh; erf Erf;
    softmax Softmax; sum_squares SumSquares;
}

macro_rules! two_to_one {
    ($($name:ident $broadcast:ident $op:ident;)*) => {
        impl Builder {$(
            #[doc = concat!("Applies `", stringify!($name), "` to values of one type.")]
            pub fn $name(&mut self, x: ValueId, y: ValueId) -> ValueId {
                self.apply(Op::$op, &[x, y], Attrs::none())
            }

            #[doc = concat!("Applies `", stringify!($name), "` after repeating y to x's shape.")]
            pub fn $broadcast(&mut self, x: ValueId, y: ValueId) -> ValueId {
                let shape = self.shape(x);
                let y = self.broadcast(y, &shape);
                self.$name(x, y)
            }
        )*}
    };
}

two_to_one! {
    add add_broadcast Add; sub sub_broadcast Sub; mul mul_broadcast Mul; div div_broadcast Div;
}

impl Builder {
    /// A constant repeated to a type's shape.
    pub fn full(&mut self, value: f64, ty: &TensorType) -> ValueId {
        let constant = self.constant(value, ty.dtype);
        self.broadcast(constant, &ty.shape)
    }

    /// A constant repeated to a value's type.
    pub fn full_like(&mut self, value: f64, like: ValueId) -> ValueId {
        let ty = self.ty(like).clone();
        self.full(value, &ty)
    }

    /// x times a number.
    pub fn scale(&mut self, x: ValueId, factor: f64) -> ValueId {
        if factor == 1.0 {
            return x;
        }
        let factor = self.full_like(factor, x);
        self.mul(x, factor)
    }

    /// x plus a number.
    pub fn add_scalar(&mut self, x: ValueId, number: f64) -> ValueId {
        let number = self.full_like(number, x);
        self.add(x, number)
    }

    /// x as another element type; x itself if it has it.
    pub fn cast(&mut self, x: ValueId, dtype: DType) -> ValueId {
        match self.dtype(x) == dtype {
            true => x,
            false => self.apply(Op::Cast, &[x], Attrs::none().dtype("dtype", dtype)),
        }
    }

    /// x in another shape; x itself if it has it.
    pub fn reshape(&mut self, x: ValueId, shape: &[usize]) -> ValueId {
        match self.ty(x).shape == shape {
            true => x,
            false => self.apply(Op::Reshape, &[x], Attrs::none().ints("shape", shape)),
        }
    }

    /// x repeated to a shape; x itself if it has it.
    pub fn broadcast(&mut self, x: ValueId, shape: &[usize]) -> ValueId {
        match self.ty(x).shape == shape {
            true => x,
            false => self.apply(Op::Broadcast, &[x], Attrs::none().ints("shape", shape)),
        }
    }

    /// x with its dimensions in another order.
    pub fn permute(&mut self, x: ValueId, perm: &[usize]) -> ValueId {
        self.apply(Op::Permute, &[x], Attrs::none().ints("perm", perm))
    }

    /// The block of x at `start` of shape `size`.
    pub fn slice(&mut self, x: ValueId, start: &[usize], size: &[usize]) -> ValueId {
        match self.ty(x).shape == size {
            true => x,
            false => self.apply(Op::Slice, &[x], Attrs::none().ints("start", start).ints("size", size)),
        }
    }

    /// The operands one after another.
    pub fn concat(&mut self, operands: &[ValueId], axis: usize) -> ValueId {
        self.apply(Op::Concat, operands, Attrs::none().int("axis", axis))
    }

    /// Each element's index along `axis`.
    pub fn iota(&mut self, dtype: DType, shape: &[usize], axis: usize) -> ValueId {
        self.apply(Op::Iota, &[], Attrs::none().dtype("dtype", dtype).ints("shape", shape).int("axis", axis))
    }

    /// Whether a is `kind` (`eq`, `ne`, `lt`, `le`, `gt`, `ge`) to b.
    pub fn compare(&mut self, kind: &'static str, a: ValueId, b: ValueId) -> ValueId {
        self.apply(Op::Compare, &[a, b], Attrs::none().word("kind", kind))
    }

    /// a where cond is true, b elsewhere.
    pub fn select(&mut self, cond: ValueId, a: ValueId, b: ValueId) -> ValueId {
        self.apply(Op::Select, &[cond, a, b], Attrs::none())
    }

    /// The sum over axes, which stay as dimensions of 1.
    pub fn reduce_sum(&mut self, x: ValueId, axes: &[usize]) -> ValueId {
        self.apply(Op::ReduceSum, &[x], Attrs::none().ints("axes", axes))
    }

    /// The largest element over axes, which stay as dimensions of 1.
    pub fn reduce_max(&mut self, x: ValueId, axes: &[usize]) -> ValueId {
        self.apply(Op::ReduceMax, &[x], Attrs::none().ints("axes", axes))
    }

    /// The sum of all elements, a scalar.
    pub fn sum_all(&mut self, x: ValueId) -> ValueId {
        let axes: Vec<usize> = (0..self.ty(x).rank()).collect();
        let sum = if axes.is_empty() { x } else { self.reduce_sum(x, &axes) };
        self.reshape(sum, &[])
    }

    /// The sum over all but the last dimension, of shape `[C]`.
    pub fn sum_rows(&mut self, x: ValueId) -> ValueId {
        let shape = self.shape(x);
        let axes: Vec<usize> = (0..shape.len().saturating_sub(1)).collect();
        let sum = if axes.is_empty() { x } else { self.reduce_sum(x, &axes) };
        self.reshape(sum, &shape[axes.len()..])
    }

    /// The mean over the dimension `last`, which stays as a dimension of 1.
    pub fn mean_last(&mut self, x: ValueId, last: usize) -> ValueId {
        let length = self.ty(x).shape.get(last).copied().unwrap_or(1);
        let sum = self.reduce_sum(x, &[last]);
        self.scale(sum, 1.0 / length as f64)
    }

    /// The matrix product over the last two dimensions.
    pub fn matmul(&mut self, a: ValueId, b: ValueId, transpose_a: bool, transpose_b: bool) -> ValueId {
        let attrs = Attrs::none().bool("transpose_a", transpose_a).bool("transpose_b", transpose_b);
        self.apply(Op::Matmul, &[a, b], attrs)
    }
}
