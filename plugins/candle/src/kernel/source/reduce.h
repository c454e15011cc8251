// Sums and maxima over the middle of [outer, count, inner]; a NaN wins.
#pragma once
#include "dialect.h"

DEVICE float larger(float a, float b) { return a != a || a > b ? a : b; }

// inner = 1: a block has a row at a time. Numbers: outer, count.
template <typename T>
DEVICE void reduce_rows(GLOBAL const T *x, GLOBAL T *y, u64 outer, u64 count, bool sum, SHARED float *scratch,
                        Place at) {
    for (u64 row = at.block; row < outer; row += at.blocks) {
        float value = sum ? 0.0f : -m_inf, nan = 0.0f;
        for (u64 i = at.index; i < count; i += at.threads) {
            float v = load(x, row * count + i);
            if (sum) {
                value += v;
            } else if (v != v) {
                nan = 1.0f;
            } else {
                value = m_max(value, v);
            }
        }
        if (sum) {
            value = block_sum(value, scratch, at);
        } else {
            value = block_max(value, scratch, at);
            nan = block_max(nan, scratch, at);
            if (nan != 0.0f) value = AS_FLOAT(0x7fc00000u);
        }
        if (at.index == 0) store(y, row, value);
    }
}

// inner > 1: a block has 32 columns of [count, inner], its lines of threads go over the rows in turn. With parts, rows
// `part * each` on, so that few columns keep many blocks busy: y is [outer, parts, inner].
template <typename T, typename R>
DEVICE void reduce_columns(GLOBAL const T *x, GLOBAL R *y, u64 outer, u64 count, u64 inner, u64 each, bool sum,
                           SHARED float *scratch, Place at) {
    u64 tiles = (inner + 31) / 32, parts = (count + each - 1) / each;
    u32 lane = at.index % 32, line = at.index / 32, lines = at.threads / 32;
    for (u64 work = at.block; work < outer * parts * tiles; work += at.blocks) {
        u64 column = work % tiles * 32 + lane, part = work / tiles % parts, group = work / tiles / parts;
        u64 end = (part + 1) * each < count ? (part + 1) * each : count;
        float value = sum ? 0.0f : -m_inf;
        if (column < inner) {
            for (u64 row = part * each + line; row < end; row += lines) {
                float v = load(x, (group * count + row) * inner + column);
                value = sum ? value + v : larger(v, value);
            }
        }
        BARRIER();
        scratch[at.index] = value;
        BARRIER();
        if (line == 0 && column < inner) {
            for (u32 other = 1; other < lines; ++other) {
                float v = scratch[other * 32 + lane];
                value = sum ? value + v : larger(v, value);
            }
            store(y, (group * parts + part) * inner + column, value);
        }
    }
}

// Numbers: outer, count, inner, rows of a part, whether it is a sum. Blocks of at most 256 threads.
#define REDUCE(T, t)                                                                                               \
    KERNEL(reduce_rows_##t, GLOBAL const T *x, GLOBAL T *y) {                                                      \
        SHARED_FLOATS(scratch, 32);                                                                                \
        reduce_rows(x, y, NUMBER(0), NUMBER(1), NUMBER(4) != 0, scratch, HERE);                                    \
    }                                                                                                              \
    KERNEL(reduce_columns_##t, GLOBAL const T *x, GLOBAL float *y) {                                               \
        SHARED_FLOATS(scratch, 256);                                                                               \
        reduce_columns(x, y, NUMBER(0), NUMBER(1), NUMBER(2), NUMBER(3), NUMBER(4) != 0, scratch, HERE);           \
    }                                                                                                              \
    KERNEL(reduce_parts_##t, GLOBAL const float *x, GLOBAL T *y) {                                                 \
        SHARED_FLOATS(scratch, 256);                                                                               \
        reduce_columns(x, y, NUMBER(0), NUMBER(1), NUMBER(2), NUMBER(3), NUMBER(4) != 0, scratch, HERE);           \
    }
FLOATS(REDUCE)
