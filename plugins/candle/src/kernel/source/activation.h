// Activations, gated and not, and their gradients. Kinds: 0 silu, 1 gelu, 2 gelu_tanh.
#pragma once
#include "dialect.h"

// The factor y / x.
DEVICE float gate_of(u32 kind, float x) {
    if (kind == 0) return 1.0f / (1.0f + m_exp(-x));
    if (kind == 1) return 0.5f * (1.0f + m_erf(x * 0.70710678f));
    return 0.5f * (1.0f + m_tanh(0.79788456f * (x * (1.0f + 0.044715f * x * x))));
}

DEVICE float slope_of(u32 kind, float x, float gate) {
    if (kind == 0) return gate * (1.0f + x * (1.0f - gate));
    if (kind == 1) return gate + x * 0.39894228f * m_exp(-0.5f * x * x);
    float t = 2.0f * gate - 1.0f;
    return gate + 0.5f * 0.79788456f * x * ((1.0f - t * t) * (1.0f + 3.0f * 0.044715f * x * x));
}

// Numbers: elements, kind, wide.
#define OVER_ELEMENTS(count)                                                                                       \
    for (u64 i = (at.block * at.threads + at.index) * VECTOR; i < (count); i += at.blocks * at.threads * VECTOR)

template <typename T>
DEVICE void activation(GLOBAL const T *x, GLOBAL T *y, u64 count, u32 kind, bool wide, Place at) {
    float v[VECTOR];
    OVER_ELEMENTS(count) {
        take(x, i, count, wide, v);
        for (u32 j = 0; j < VECTOR; ++j) v[j] *= gate_of(kind, v[j]);
        put(y, i, count, wide, v);
    }
}

template <typename T>
DEVICE void activation_grad(GLOBAL const T *x, GLOBAL const T *dy, GLOBAL T *dx, u64 count, u32 kind, bool wide,
                            Place at) {
    float v[VECTOR], d[VECTOR];
    OVER_ELEMENTS(count) {
        take(x, i, count, wide, v);
        take(dy, i, count, wide, d);
        for (u32 j = 0; j < VECTOR; ++j) d[j] *= slope_of(kind, v[j], gate_of(kind, v[j]));
        put(dx, i, count, wide, d);
    }
}

template <typename T>
DEVICE void gated(GLOBAL const T *gate, GLOBAL const T *up, GLOBAL T *y, u64 count, u32 kind, bool wide, Place at) {
    float v[VECTOR], u[VECTOR];
    OVER_ELEMENTS(count) {
        take(gate, i, count, wide, v);
        take(up, i, count, wide, u);
        for (u32 j = 0; j < VECTOR; ++j) v[j] = v[j] * gate_of(kind, v[j]) * u[j];
        put(y, i, count, wide, v);
    }
}

// A result may lie where an operand lies.
template <typename T>
DEVICE void gated_grad(GLOBAL const T *gate, GLOBAL const T *up, GLOBAL const T *dy, GLOBAL T *dgate, GLOBAL T *dup,
                       u64 count, u32 kind, bool wide, Place at) {
    float v[VECTOR], u[VECTOR], d[VECTOR];
    OVER_ELEMENTS(count) {
        take(gate, i, count, wide, v);
        take(up, i, count, wide, u);
        take(dy, i, count, wide, d);
        for (u32 j = 0; j < VECTOR; ++j) {
            float factor = gate_of(kind, v[j]), slope = slope_of(kind, v[j], factor);
            u[j] *= d[j] * slope;
            d[j] *= v[j] * factor;
        }
        put(dgate, i, count, wide, u);
        put(dup, i, count, wide, d);
    }
}

#define ACTIVATIONS(T, t)                                                                                          \
    KERNEL(activation_##t, GLOBAL const T *x, GLOBAL T *y) {                                                       \
        activation(x, y, NUMBER(0), (u32)NUMBER(1), NUMBER(2) != 0, HERE);                                         \
    }                                                                                                              \
    KERNEL(activation_grad_##t, GLOBAL const T *x, GLOBAL const T *dy, GLOBAL T *dx) {                             \
        activation_grad(x, dy, dx, NUMBER(0), (u32)NUMBER(1), NUMBER(2) != 0, HERE);                               \
    }                                                                                                              \
    KERNEL(gated_##t, GLOBAL const T *gate, GLOBAL const T *up, GLOBAL T *y) {                                     \
        gated(gate, up, y, NUMBER(0), (u32)NUMBER(1), NUMBER(2) != 0, HERE);                                       \
    }                                                                                                              \
    KERNEL(gated_grad_##t, GLOBAL const T *gate, GLOBAL const T *up, GLOBAL const T *dy, GLOBAL T *dgate,          \
           GLOBAL T *dup) {                                                                                        \
        gated_grad(gate, up, dy, dgate, dup, NUMBER(0), (u32)NUMBER(1), NUMBER(2) != 0, HERE);                     \
    }
FLOATS(ACTIVATIONS)
