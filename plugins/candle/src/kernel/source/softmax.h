// Softmax over rows and its gradient. A block has a row at a time.
#pragma once
#include "dialect.h"

struct Spread {
    float most, sum;
};

// The largest element of a row and the sum of e^(x - largest), in all threads.
template <typename T>
DEVICE Spread spread_of(GLOBAL const T *x, u64 width, bool wide, SHARED float *scratch, Place at) {
    float v[VECTOR];
    float most = -m_inf, sum = 0.0f;
    for (u64 i = at.index * VECTOR; i < width; i += at.threads * VECTOR) {
        take(x, i, width, wide, v);
        float next = most;
        for (u32 j = 0; j < VECTOR; ++j)
            if (i + j < width) next = m_max(next, v[j]);
        if (next == -m_inf) continue;
        sum *= m_exp(most - next);
        for (u32 j = 0; j < VECTOR; ++j)
            if (i + j < width) sum += m_exp(v[j] - next);
        most = next;
    }
    Spread all;
    all.most = block_max(most, scratch, at);
    all.sum = block_sum(most == -m_inf ? 0.0f : sum * m_exp(most - all.most), scratch, at);
    return all;
}

// Numbers: rows, width, wide.
template <typename T>
DEVICE void softmax(GLOBAL const T *x, GLOBAL T *y, u64 rows, u64 width, bool wide, SHARED float *scratch, Place at) {
    float v[VECTOR];
    for (u64 row = at.block; row < rows; row += at.blocks) {
        Spread all = spread_of(x + row * width, width, wide, scratch, at);
        for (u64 i = at.index * VECTOR; i < width; i += at.threads * VECTOR) {
            take(x + row * width, i, width, wide, v);
            for (u32 j = 0; j < VECTOR; ++j) v[j] = m_exp(v[j] - all.most) / all.sum;
            put(y + row * width, i, width, wide, v);
        }
    }
}

template <typename T>
DEVICE void softmax_grad(GLOBAL const T *y, GLOBAL const T *dy, GLOBAL T *dx, u64 rows, u64 width, bool wide,
                         SHARED float *scratch, Place at) {
    float v[VECTOR], d[VECTOR];
    for (u64 row = at.block; row < rows; row += at.blocks) {
        float along = 0.0f;
        for (u64 i = at.index * VECTOR; i < width; i += at.threads * VECTOR) {
            take(y + row * width, i, width, wide, v);
            take(dy + row * width, i, width, wide, d);
            for (u32 j = 0; j < VECTOR; ++j) along += v[j] * d[j];
        }
        along = block_sum(along, scratch, at);
        for (u64 i = at.index * VECTOR; i < width; i += at.threads * VECTOR) {
            take(y + row * width, i, width, wide, v);
            take(dy + row * width, i, width, wide, d);
            for (u32 j = 0; j < VECTOR; ++j) d[j] = v[j] * (d[j] - along);
            put(dx + row * width, i, width, wide, d);
        }
    }
}

#define SOFTMAX(T, t)                                                                                              \
    KERNEL(softmax_##t, GLOBAL const T *x, GLOBAL T *y) {                                                          \
        SHARED_FLOATS(scratch, 32);                                                                                \
        softmax(x, y, NUMBER(0), NUMBER(1), NUMBER(2) != 0, scratch, HERE);                                        \
    }                                                                                                              \
    KERNEL(softmax_grad_##t, GLOBAL const T *y, GLOBAL const T *dy, GLOBAL T *dx) {                                \
        SHARED_FLOATS(scratch, 32);                                                                                \
        softmax_grad(y, dy, dx, NUMBER(0), NUMBER(1), NUMBER(2) != 0, scratch, HERE);                              \
    }
FLOATS(SOFTMAX)
