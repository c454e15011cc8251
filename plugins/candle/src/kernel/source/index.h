// Rows by number.
#pragma once
#include "dialect.h"

// Rows of words of `T`; numbers beyond the last row are the last row. Numbers: rows of the result, width, rows of the
// table.
template <typename T>
DEVICE void gather(GLOBAL const T *table, GLOBAL const u32 *indices, GLOBAL T *out, u64 rows, u64 width, u64 last,
                   Place at) {
    for (u64 i = at.block * at.threads + at.index; i < rows * width; i += at.blocks * at.threads) {
        u64 row = i / width, from = indices[row];
        out[i] = table[(from < last ? from : last - 1) * width + i % width];
    }
}

KERNEL(gather_8, GLOBAL const u8 *table, GLOBAL const u32 *indices, GLOBAL u8 *out) {
    gather(table, indices, out, NUMBER(0), NUMBER(1), NUMBER(2), HERE);
}
KERNEL(gather_16, GLOBAL const f16 *table, GLOBAL const u32 *indices, GLOBAL f16 *out) {
    gather(table, indices, out, NUMBER(0), NUMBER(1), NUMBER(2), HERE);
}
KERNEL(gather_32, GLOBAL const u32 *table, GLOBAL const u32 *indices, GLOBAL u32 *out) {
    gather(table, indices, out, NUMBER(0), NUMBER(1), NUMBER(2), HERE);
}

