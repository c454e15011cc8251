// Affine groups of whole numbers of 4 or 8 bits.
#pragma once
#include "dialect.h"

// A thread has a word. Numbers: rows, words of a row, bits, numbers of a group.
template <typename T>
DEVICE void dequantize(GLOBAL const u32 *packed, GLOBAL const T *scales, GLOBAL const T *biases, GLOBAL T *out, u64 rows,
                       u64 words, u32 bits, u64 group, Place at) {
    u32 each = 32 / bits, mask = (1u << bits) - 1;
    u64 groups = words * each / group;
    for (u64 i = at.block * at.threads + at.index; i < rows * words; i += at.blocks * at.threads) {
        u64 row = i / words, first = i % words * each;
        u32 word = packed[i];
        for (u32 j = 0; j < each; ++j) {
            u64 k = row * groups + (first + j) / group;
            float number = (float)((word >> (j * bits)) & mask);
            store(out, row * words * each + first + j, load(scales, k) * number + load(biases, k));
        }
    }
}

#define DEQUANTIZE(T, t)                                                                                           \
    KERNEL(dequantize_##t, GLOBAL const u32 *packed, GLOBAL const T *scales, GLOBAL const T *biases,               \
           GLOBAL T *out) {                                                                                        \
        dequantize(packed, scales, biases, out, NUMBER(0), NUMBER(1), (u32)NUMBER(2), NUMBER(3), HERE);            \
    }
FLOATS(DEQUANTIZE)
