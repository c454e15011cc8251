//! Offsets in the arena: the largest block first, each into the tightest gap among those that live with it.

/// Storage that is needed from one step to another, both included.
#[derive(Clone, Copy, Debug)]
pub(super) struct Block {
    pub bytes: usize,
    pub first: usize,
    pub last: usize,
}

/// An offset for every block, and the bytes that all need together.
pub(super) fn assign(blocks: &[Block], align: usize) -> (Vec<usize>, usize) {
    let mut order: Vec<usize> = (0..blocks.len()).collect();
    order.sort_by_key(|&i| (std::cmp::Reverse(blocks[i].bytes), blocks[i].first, i));
    let mut offsets = vec![0; blocks.len()];
    // Placed blocks by offset: (offset, end, first, last).
    let mut placed: Vec<(usize, usize, usize, usize)> = Vec::with_capacity(blocks.len());
    let mut total = 0;
    for i in order {
        let block = blocks[i];
        let bytes = block.bytes.next_multiple_of(align);
        let mut best: Option<(usize, usize)> = None;
        let mut free_from = 0;
        for &(offset, end, first, last) in &placed {
            if first > block.last || last < block.first {
                continue;
            }
            if offset >= free_from + bytes {
                let gap = offset - free_from;
                if best.is_none_or(|(smallest, _)| gap < smallest) {
                    best = Some((gap, free_from));
                }
            }
            free_from = free_from.max(end);
        }
        let offset = best.map_or(free_from, |(_, offset)| offset);
        offsets[i] = offset;
        total = total.max(offset + bytes);
        let at = placed.partition_point(|&(other, ..)| other <= offset);
        placed.insert(at, (offset, offset + bytes, block.first, block.last));
    }
    (offsets, total)
}
