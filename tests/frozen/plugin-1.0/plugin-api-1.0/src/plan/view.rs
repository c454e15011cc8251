//! Views: how a value's elements are found in storage.

use crate::program::DType;

use super::Storage;

/// How a value's elements are found: element `i` is at `start + sum(i[d] * strides[d])` of the storage.
#[derive(Clone, Debug, PartialEq)]
pub struct View {
    /// The storage.
    pub storage: Storage,
    /// The type of the elements in storage. Differs from `declared` only for widening views.
    pub stored: DType,
    /// The type of the value.
    pub declared: DType,
    /// The shape of the value.
    pub shape: Vec<usize>,
    /// The first element, counted in elements of the stored type.
    pub start: usize,
    /// Elements from one index to the next, for each dimension.
    pub strides: Vec<usize>,
}

impl View {
    /// The whole of a storage, contiguous.
    pub fn whole(storage: Storage, dtype: DType, shape: &[usize]) -> View {
        let strides = contiguous(shape);
        View { storage, stored: dtype, declared: dtype, shape: shape.to_vec(), start: 0, strides }
    }

    /// Whether the elements lie one after another, in order.
    pub fn is_contiguous(&self) -> bool {
        let want = contiguous(&self.shape);
        (0..self.shape.len()).all(|d| self.shape[d] == 1 || self.strides[d] == want[d])
    }

    /// Whether it is contiguous, from the first element on, in its declared type.
    pub fn is_plain(&self) -> bool {
        self.start == 0 && self.stored == self.declared && self.is_contiguous()
    }

    pub(super) fn permuted(&self, perm: &[usize]) -> View {
        let pick = |list: &[usize]| perm.iter().map(|&dim| list[dim]).collect();
        View { shape: pick(&self.shape), strides: pick(&self.strides), ..self.clone() }
    }

    pub(super) fn broadcast(&self, shape: &[usize]) -> View {
        let added = shape.len() - self.shape.len();
        let stride = |d: usize| match d.checked_sub(added) {
            Some(own) if self.shape[own] == shape[d] => self.strides[own],
            _ => 0,
        };
        View { strides: (0..shape.len()).map(stride).collect(), shape: shape.to_vec(), ..self.clone() }
    }

    pub(super) fn sliced(&self, start: &[usize], size: &[usize]) -> View {
        let skipped: usize = start.iter().zip(&self.strides).map(|(start, stride)| start * stride).sum();
        View { shape: size.to_vec(), start: self.start + skipped, ..self.clone() }
    }

    /// The same elements in another shape, if strides can say it.
    pub(super) fn reshaped(&self, shape: &[usize]) -> Option<View> {
        let strides = reshaped_strides(&self.shape, &self.strides, shape)?;
        Some(View { shape: shape.to_vec(), strides, ..self.clone() })
    }
}

/// Row-major strides.
pub(super) fn contiguous(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; shape.len()];
    for d in (1..shape.len()).rev() {
        strides[d - 1] = strides[d] * shape[d];
    }
    strides
}

/// Groups of old dimensions and of new ones that hold equally many elements are matched from the front; a
/// group can be split anew only if its old dimensions lie evenly.
fn reshaped_strides(old: &[usize], old_strides: &[usize], new: &[usize]) -> Option<Vec<usize>> {
    let old: Vec<(usize, usize)> =
        old.iter().copied().zip(old_strides.iter().copied()).filter(|(dim, _)| *dim != 1).collect();
    let mut strides = vec![0; new.len()];
    let (mut i, mut j) = (0, 0);
    while i < old.len() {
        let (mut have, mut end) = (old[i].0, i + 1);
        let first = j;
        let mut want = 1;
        while want != have {
            if want < have {
                want *= new.get(j)?;
                j += 1;
            } else {
                have *= old.get(end)?.0;
                end += 1;
            }
        }
        let even = (i..end - 1).all(|d| old[d].1 == old[d + 1].1 * old[d + 1].0);
        if !even {
            return None;
        }
        let mut stride = old[end - 1].1;
        for d in (first..j).rev() {
            strides[d] = stride;
            stride *= new[d];
        }
        i = end;
    }
    Some(strides)
}
