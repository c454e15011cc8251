// RMS norm and layer norm over rows, and their gradients. A block has a row at a time.
#pragma once
#include "dialect.h"

// Numbers: rows, width, wide. Reals: eps. `bias` is there for layer norm.
template <bool CENTRED, typename T, typename W>
DEVICE void norm(GLOBAL const T *x, GLOBAL const W *weight, GLOBAL const W *bias, GLOBAL T *y, u64 rows, u64 width,
                 bool wide, float eps, SHARED float *scratch, Place at) {
    float v[VECTOR], w[VECTOR], c[VECTOR];
    for (u64 row = at.block; row < rows; row += at.blocks) {
        GLOBAL const T *from = x + row * width;
        float mean = 0.0f, square = 0.0f;
        if (CENTRED) {
            for (u64 i = at.index * VECTOR; i < width; i += at.threads * VECTOR) {
                take(from, i, width, wide, v);
                for (u32 j = 0; j < VECTOR; ++j) mean += v[j];
            }
            mean = block_sum(mean, scratch, at) / (float)width;
        }
        for (u64 i = at.index * VECTOR; i < width; i += at.threads * VECTOR) {
            take(from, i, width, wide, v);
            for (u32 j = 0; j < VECTOR; ++j)
                if (i + j < width) square += (v[j] - mean) * (v[j] - mean);
        }
        float r = 1.0f / m_sqrt(block_sum(square, scratch, at) / (float)width + eps);
        for (u64 i = at.index * VECTOR; i < width; i += at.threads * VECTOR) {
            take(from, i, width, wide, v);
            take(weight, i, width, wide, w);
            for (u32 j = 0; j < VECTOR; ++j) v[j] = (v[j] - mean) * r * w[j];
            if (CENTRED) {
                take(bias, i, width, wide, c);
                for (u32 j = 0; j < VECTOR; ++j) v[j] += c[j];
            }
            put(y + row * width, i, width, wide, v);
        }
    }
}

// dx, and of each row its mean (layer norm) and r for the gradients of the weights, in `facts` f32[rows, 2].
template <bool CENTRED, typename T, typename W>
DEVICE void norm_grad(GLOBAL const T *x, GLOBAL const W *weight, GLOBAL const T *dy, GLOBAL T *dx, GLOBAL float *facts,
                      u64 rows, u64 width, bool wide, float eps, SHARED float *scratch, Place at) {
    float v[VECTOR], w[VECTOR], d[VECTOR];
    float count = (float)width;
    for (u64 row = at.block; row < rows; row += at.blocks) {
        u64 base = row * width;
        float mean = 0.0f, square = 0.0f, along = 0.0f, total = 0.0f;
        if (CENTRED) {
            for (u64 i = at.index * VECTOR; i < width; i += at.threads * VECTOR) {
                take(x + base, i, width, wide, v);
                for (u32 j = 0; j < VECTOR; ++j) mean += v[j];
            }
            mean = block_sum(mean, scratch, at) / count;
        }
        // dn = dy w; dx = r (dn - n mean(dn n)), less the mean of dn for layer norm.
        for (u64 i = at.index * VECTOR; i < width; i += at.threads * VECTOR) {
            take(x + base, i, width, wide, v);
            take(weight, i, width, wide, w);
            take(dy + base, i, width, wide, d);
            for (u32 j = 0; j < VECTOR; ++j) {
                if (i + j >= width) continue;
                float centred = v[j] - mean;
                square += centred * centred;
                along += d[j] * w[j] * centred;
                total += d[j] * w[j];
            }
        }
        float r = 1.0f / m_sqrt(block_sum(square, scratch, at) / count + eps);
        along = block_sum(along, scratch, at) / count * r * r;
        total = CENTRED ? block_sum(total, scratch, at) / count : 0.0f;
        if (at.index == 0) {
            facts[2 * row] = mean;
            facts[2 * row + 1] = r;
        }
        for (u64 i = at.index * VECTOR; i < width; i += at.threads * VECTOR) {
            take(x + base, i, width, wide, v);
            take(weight, i, width, wide, w);
            take(dy + base, i, width, wide, d);
            for (u32 j = 0; j < VECTOR; ++j) d[j] = r * (d[j] * w[j] - (v[j] - mean) * along - total);
            put(dx + base, i, width, wide, d);
        }
    }
}

// Sums over rows of dy n and of dy, in parts of `each` rows: f32[parts, width] each. A block has a part of 32
// columns; threads of a column go over rows in turn. `dbias` is written if `centred`.
template <typename T>
DEVICE void norm_weights(GLOBAL const T *x, GLOBAL const T *dy, GLOBAL const float *facts, GLOBAL float *dweight,
                         GLOBAL float *dbias, u64 rows, u64 width, u64 each, bool centred, SHARED float *scratch,
                         Place at) {
    u64 tiles = (width + 31) / 32, parts = (rows + each - 1) / each;
    u32 lane = at.index % 32, line = at.index / 32, lines = at.threads / 32;
    for (u64 work = at.block; work < tiles * parts; work += at.blocks) {
        u64 column = work % tiles * 32 + lane, part = work / tiles;
        u64 end = (part + 1) * each < rows ? (part + 1) * each : rows;
        float along = 0.0f, total = 0.0f;
        if (column < width) {
            for (u64 row = part * each + line; row < end; row += lines) {
                float d = load(dy, row * width + column);
                along += d * (load(x, row * width + column) - facts[2 * row]) * facts[2 * row + 1];
                total += d;
            }
        }
        BARRIER();
        scratch[at.index] = along;
        scratch[at.threads + at.index] = total;
        BARRIER();
        if (line == 0 && column < width) {
            for (u32 other = 1; other < lines; ++other) {
                along += scratch[other * 32 + lane];
                total += scratch[at.threads + other * 32 + lane];
            }
            dweight[part * width + column] = along;
            if (centred) dbias[part * width + column] = total;
        }
    }
}

#define NORMS(T, t, W, w)                                                                                          \
    KERNEL(rms_norm_##t##_##w, GLOBAL const T *x, GLOBAL const W *weight, GLOBAL T *y) {                           \
        SHARED_FLOATS(scratch, 32);                                                                                \
        norm<false, T, W>(x, weight, weight, y, NUMBER(0), NUMBER(1), NUMBER(2) != 0, REAL(0), scratch, HERE);     \
    }                                                                                                              \
    KERNEL(layer_norm_##t##_##w, GLOBAL const T *x, GLOBAL const W *weight, GLOBAL const W *bias, GLOBAL T *y) {   \
        SHARED_FLOATS(scratch, 32);                                                                                \
        norm<true, T, W>(x, weight, bias, y, NUMBER(0), NUMBER(1), NUMBER(2) != 0, REAL(0), scratch, HERE);        \
    }                                                                                                              \
    KERNEL(rms_norm_grad_##t##_##w, GLOBAL const T *x, GLOBAL const W *weight, GLOBAL const T *dy, GLOBAL T *dx,   \
           GLOBAL float *facts) {                                                                                  \
        SHARED_FLOATS(scratch, 32);                                                                                \
        norm_grad<false, T, W>(x, weight, dy, dx, facts, NUMBER(0), NUMBER(1), NUMBER(2) != 0, REAL(0), scratch,   \
                               HERE);                                                                              \
    }                                                                                                              \
    KERNEL(layer_norm_grad_##t##_##w, GLOBAL const T *x, GLOBAL const W *weight, GLOBAL const T *dy, GLOBAL T *dx, \
           GLOBAL float *facts) {                                                                                  \
        SHARED_FLOATS(scratch, 32);                                                                                \
        norm_grad<true, T, W>(x, weight, dy, dx, facts, NUMBER(0), NUMBER(1), NUMBER(2) != 0, REAL(0), scratch,    \
                              HERE);                                                                               \
    }
NORMS(float, f32, float, f32)
NORMS(f16, f16, f16, f16)
NORMS(bf16, bf16, bf16, bf16)
NORMS(f16, f16, float, f32)
NORMS(bf16, bf16, float, f32)

// Numbers: rows, width, rows of a part, whether there is a bias. Blocks of 256 threads.
#define NORM_WEIGHTS(T, t)                                                                                         \
    KERNEL(norm_weights_##t, GLOBAL const T *x, GLOBAL const T *dy, GLOBAL const float *facts,                     \
           GLOBAL float *dweight, GLOBAL float *dbias) {                                                           \
        SHARED_FLOATS(scratch, 512);                                                                               \
        norm_weights(x, dy, facts, dweight, dbias, NUMBER(0), NUMBER(1), NUMBER(2), NUMBER(3) != 0, scratch,       \
                     HERE);                                                                                        \
    }
FLOATS(NORM_WEIGHTS)
