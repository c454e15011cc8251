// Matrix products, accumulated in f32, where no library has them: of 16-bit types with f32 or to f32, added to what
// is there, between parts of tensors.
#pragma once
#include "dialect.h"

// A block has a tile of that many rows and columns of the result, and goes along k in steps of PRODUCT_DEPTH.
#define PRODUCT_TILE 64
#define PRODUCT_DEPTH 16
// Threads of a block, exactly: 16 x 16, each with the elements 16 apart.
#define PRODUCT_THREADS 256
#define PRODUCT_EACH 4

// Where matrix number 0 begins, elements from row to row as it lies, and from matrix to matrix.
struct Lying {
    u64 first, row, step;
    bool transposed;
};

// PRODUCT_DEPTH x PRODUCT_TILE elements, zeros beyond the matrix: element (line, along) of a tile is `along` of k and
// `line` of the other dimension. Threads that follow each other read elements that do.
template <typename T>
DEVICE void product_tile(GLOBAL const T *x, u64 begin, u64 row, bool along_k, u64 line0, u64 lines, u64 k0, u64 k,
                         SHARED float *tile, Place at) {
    for (u32 e = at.index; e < PRODUCT_TILE * PRODUCT_DEPTH; e += PRODUCT_THREADS) {
        u32 along = along_k ? e % PRODUCT_DEPTH : e / PRODUCT_TILE;
        u32 line = along_k ? e / PRODUCT_DEPTH : e % PRODUCT_TILE;
        bool inside = line0 + line < lines && k0 + along < k;
        u64 place = along_k ? (line0 + line) * row + k0 + along : (k0 + along) * row + line0 + line;
        tile[along * PRODUCT_TILE + line] = inside ? load(x, begin + place) : 0.0f;
    }
}

template <typename A, typename B, typename R>
DEVICE void product(GLOBAL const A *a, GLOBAL const B *b, GLOBAL R *c, u64 m, u64 n, u64 k, u64 count, Lying in_a,
                    Lying in_b, Lying in_c, float alpha, float beta, SHARED float *tile_a, SHARED float *tile_b,
                    Place at) {
    u64 down = (m + PRODUCT_TILE - 1) / PRODUCT_TILE, across = (n + PRODUCT_TILE - 1) / PRODUCT_TILE;
    u32 y = at.index / 16, x = at.index % 16;
    for (u64 work = at.block; work < count * down * across; work += at.blocks) {
        u64 matrix = work / (down * across), row0 = work / across % down * PRODUCT_TILE,
            column0 = work % across * PRODUCT_TILE;
        float sums[PRODUCT_EACH * PRODUCT_EACH];
        for (u32 i = 0; i < PRODUCT_EACH * PRODUCT_EACH; ++i) sums[i] = 0.0f;
        for (u64 k0 = 0; k0 < k; k0 += PRODUCT_DEPTH) {
            BARRIER();
            product_tile(a, in_a.first + matrix * in_a.step, in_a.row, !in_a.transposed, row0, m, k0, k, tile_a, at);
            product_tile(b, in_b.first + matrix * in_b.step, in_b.row, in_b.transposed, column0, n, k0, k, tile_b, at);
            BARRIER();
            for (u32 along = 0; along < PRODUCT_DEPTH; ++along) {
                float left[PRODUCT_EACH], right[PRODUCT_EACH];
                for (u32 i = 0; i < PRODUCT_EACH; ++i) {
                    left[i] = tile_a[along * PRODUCT_TILE + y + 16 * i];
                    right[i] = tile_b[along * PRODUCT_TILE + x + 16 * i];
                }
                for (u32 i = 0; i < PRODUCT_EACH; ++i)
                    for (u32 j = 0; j < PRODUCT_EACH; ++j)
                        sums[PRODUCT_EACH * i + j] = m_fma(left[i], right[j], sums[PRODUCT_EACH * i + j]);
            }
        }
        for (u32 i = 0; i < PRODUCT_EACH; ++i) {
            for (u32 j = 0; j < PRODUCT_EACH; ++j) {
                u64 row = row0 + y + 16 * i, column = column0 + x + 16 * j;
                if (row >= m || column >= n) continue;
                u64 place = in_c.first + matrix * in_c.step + row * in_c.row + column;
                float value = alpha * sums[PRODUCT_EACH * i + j];
                // What is there is not read where it does not count: it may be anything.
                store(c, place, beta == 0.0f ? value : value + beta * load((GLOBAL const R *)c, place));
            }
        }
    }
}

DEVICE Lying lying_of(u64 first, u64 row, u64 step, bool transposed) {
    Lying lying;
    lying.first = first, lying.row = row, lying.step = step, lying.transposed = transposed;
    return lying;
}

// Numbers: m, n, k, count; of a, b and c each first, row, step; whether a (1) and b (2) lie transposed. Reals: alpha,
// beta.
#define PRODUCT(A, a_, B, b_, R, r)                                                                                \
    KERNEL(product_##a_##_##b_##_##r, GLOBAL const A *a, GLOBAL const B *b, GLOBAL R *c) {                         \
        SHARED_FLOATS(tile_a, PRODUCT_TILE * PRODUCT_DEPTH);                                                       \
        SHARED_FLOATS(tile_b, PRODUCT_TILE * PRODUCT_DEPTH);                                                       \
        product(a, b, c, NUMBER(0), NUMBER(1), NUMBER(2), NUMBER(3),                                               \
                lying_of(NUMBER(4), NUMBER(5), NUMBER(6), NUMBER(13) % 2 != 0),                                    \
                lying_of(NUMBER(7), NUMBER(8), NUMBER(9), NUMBER(13) / 2 != 0),                                    \
                lying_of(NUMBER(10), NUMBER(11), NUMBER(12), false), REAL(0), REAL(1), tile_a, tile_b, HERE);      \
    }
// CUDA has cuBLAS.
#ifndef __CUDACC__
PRODUCT(float, f32, float, f32, float, f32)
#define PRODUCTS(T, t)                                                                                             \
    PRODUCT(T, t, T, t, T, t)                                                                                      \
    PRODUCT(T, t, T, t, float, f32)                                                                                \
    PRODUCT(float, f32, T, t, T, t)                                                                                \
    PRODUCT(float, f32, T, t, float, f32)
PRODUCTS(f16, f16)
PRODUCTS(bf16, bf16)
#endif
