//! Rows of tables at run-time positions.

use super::{GRAIN, Step, parallel};
use crate::storage::Src;

/// Elements of a row of a table [V, R..].
fn row_width(table: &Src) -> usize {
    table.shape[1..].iter().product()
}

pub fn gather(step: &mut Step) {
    let [table, indices] = &step.src[..] else { return };
    let Some(y) = step.out() else { return };
    let (rows, width) = (table.shape[0], row_width(table));
    parallel(indices.elements(), (GRAIN / width).max(1), |range| {
        for i in range {
            let from = (indices.at_u32(i) as usize).min(rows - 1) * width;
            super::movement::copy_range(table, from, y, i * width, width);
        }
    });
}

pub fn scatter_add(step: &mut Step) {
    let [base, indices, updates] = &step.src[..] else { return };
    let Some(y) = step.out() else { return };
    let (rows, width) = (base.shape[0], row_width(base));
    // Sorted by row, and by position within a row, so that a row is added up by one task and in one order.
    let mut order: Vec<(usize, usize)> =
        (0..indices.elements()).map(|i| ((indices.at_u32(i) as usize).min(rows - 1), i)).collect();
    order.sort_unstable();
    if !y.is_at(base) {
        super::movement::copy(base, y);
    }
    let groups: Vec<&[(usize, usize)]> = order.chunk_by(|a, b| a.0 == b.0).collect();
    parallel(groups.len(), (GRAIN / width).max(1), |range| {
        let (mut sum, mut update) = (vec![0.0; width], vec![0.0; width]);
        let current = y.as_src();
        for group in &groups[range] {
            let row = group[0].0;
            current.load(row * width, &mut sum);
            for &(_, i) in *group {
                let update = updates.borrow(i * width, &mut update);
                sum.iter_mut().zip(update).for_each(|(sum, x)| *sum += x);
            }
            y.store(row * width, &sum);
        }
    });
}
