// Rows by number, and a part of a tensor at a position that is known when a program runs.
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

// Writes `update` [outer, size, inner] into `out` [outer, length, inner] from place `start` of its middle on, or as far
// behind as there is room; the rest of `out` stays. Numbers: outer, length, size, inner.
template <typename T>
DEVICE void update_slice(GLOBAL const T *update, GLOBAL const u32 *start, GLOBAL T *out, u64 outer, u64 length,
                         u64 size, u64 inner, Place at) {
    u64 first = start[0];
    if (first > length - size) first = length - size;
    for (u64 i = at.block * at.threads + at.index; i < outer * size * inner; i += at.blocks * at.threads)
        out[(i / (size * inner) * length + first) * inner + i % (size * inner)] = update[i];
}

#define WORDS(T, bits)                                                                                             \
    KERNEL(gather_##bits, GLOBAL const T *table, GLOBAL const u32 *indices, GLOBAL T *out) {                       \
        gather(table, indices, out, NUMBER(0), NUMBER(1), NUMBER(2), HERE);                                        \
    }                                                                                                              \
    KERNEL(update_slice_##bits, GLOBAL const T *update, GLOBAL const u32 *start, GLOBAL T *out) {                  \
        update_slice(update, start, out, NUMBER(0), NUMBER(1), NUMBER(2), NUMBER(3), HERE);                        \
    }
WORDS(u8, 8)
WORDS(f16, 16)
WORDS(u32, 32)
