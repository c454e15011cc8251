// The optimizer.
#pragma once
#include "dialect.h"

// The sum of the squares of the elements that a block has, f32[blocks]. Numbers: elements, wide.
template <typename T>
DEVICE void squares(GLOBAL const T *x, GLOBAL float *out, u64 count, bool wide, SHARED float *scratch, Place at) {
    float v[VECTOR];
    float sum = 0.0f;
    for (u64 i = (at.block * at.threads + at.index) * VECTOR; i < count; i += at.blocks * at.threads * VECTOR) {
        take(x, i, count, wide, v);
        for (u32 j = 0; j < VECTOR; ++j) sum += v[j] * v[j];
    }
    sum = block_sum(sum, scratch, at);
    if (at.index == 0) out[at.block] = sum;
}

#define SQUARES(T, t)                                                                                              \
    KERNEL(squares_##t, GLOBAL const T *x, GLOBAL float *out) {                                                    \
        SHARED_FLOATS(scratch, 32);                                                                                \
        squares(x, out, NUMBER(0), NUMBER(1) != 0, scratch, HERE);                                                 \
    }
FLOATS(SQUARES)

// The new param, m and v, each of which may lie where the old one lies. Numbers: elements, wide. Reals: beta1,
// 1 - beta1, beta2, 1 - beta2, eps, weight decay.
KERNEL(adamw, GLOBAL const float *param, GLOBAL const float *m, GLOBAL const float *v, GLOBAL const float *grad,
       GLOBAL const float *scale, GLOBAL const float *lr, GLOBAL const float *correction1,
       GLOBAL const float *correction2, GLOBAL float *new_param, GLOBAL float *new_m, GLOBAL float *new_v) {
    Place at = HERE;
    u64 count = NUMBER(0);
    bool wide = NUMBER(1) != 0;
    float factor = scale[0], rate = lr[0] / correction1[0], root = m_sqrt(correction2[0]);
    float shrink = 1.0f - lr[0] * REAL(5);
    float p[VECTOR], a[VECTOR], b[VECTOR], g[VECTOR];
    for (u64 i = (at.block * at.threads + at.index) * VECTOR; i < count; i += at.blocks * at.threads * VECTOR) {
        take(param, i, count, wide, p);
        take(m, i, count, wide, a);
        take(v, i, count, wide, b);
        take(grad, i, count, wide, g);
        for (u32 j = 0; j < VECTOR; ++j) {
            float d = g[j] * factor;
            a[j] = REAL(0) * a[j] + REAL(1) * d;
            b[j] = REAL(2) * b[j] + REAL(3) * (d * d);
            p[j] = p[j] * shrink - rate * (a[j] / (m_sqrt(b[j]) / root + REAL(4)));
        }
        put(new_param, i, count, wide, p);
        put(new_m, i, count, wide, a);
        put(new_v, i, count, wide, b);
    }
}
