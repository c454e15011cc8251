// Cross entropy of rows of logits.
#pragma once
#include "softmax.h"

// loss f32[rows] of each row; its gradient overwrites the logits, or goes to `dlogits`, which may be where the logits
// are: `pitch` elements of its own type from row to row. A row of it may begin where its row of wider logits begins:
// a block writes elements only once it has read all up to them.
template <typename T, typename R>
DEVICE void cross_entropy(GLOBAL const T *logits, GLOBAL const u32 *targets, GLOBAL const float *weights,
                          GLOBAL float *loss, GLOBAL R *dlogits, u64 rows, u64 classes, bool wide, bool gradient,
                          u64 pitch, SHARED float *scratch, Place at) {
    float v[VECTOR];
    for (u64 row = at.block; row < rows; row += at.blocks) {
        GLOBAL const T *from = logits + row * classes;
        u64 target = targets[row] < classes ? targets[row] : classes - 1;
        float weight = weights[row], chosen = load(from, target);
        Spread all = spread_of(from, classes, wide, scratch, at);
        if (at.index == 0) loss[row] = weight * (m_log(all.sum) - (chosen - all.most));
        if (!gradient) continue;
        u64 stride = at.threads * VECTOR;
        for (u64 first = 0; first < classes; first += stride) {
            u64 i = first + at.index * VECTOR;
            take(from, i, classes, wide, v);
            for (u32 j = 0; j < VECTOR; ++j)
                v[j] = weight * (m_exp(v[j] - all.most) / all.sum - (i + j == target ? 1.0f : 0.0f));
            BARRIER();
            put(dlogits + row * pitch, i, classes, wide, v);
        }
        BARRIER();
    }
}

// Numbers: rows, classes, wide, whether the gradient is wanted, elements from row to row of the gradient.
#define CROSS_ENTROPY(T, t)                                                                                        \
    KERNEL(cross_entropy_##t, GLOBAL const T *logits, GLOBAL const u32 *targets, GLOBAL const float *weights,      \
           GLOBAL float *loss, GLOBAL T *dlogits) {                                                                \
        SHARED_FLOATS(scratch, 32);                                                                                \
        cross_entropy(logits, targets, weights, loss, dlogits, NUMBER(0), NUMBER(1), NUMBER(2) != 0,               \
                      NUMBER(3) != 0, NUMBER(4), scratch, HERE);                                                   \
    }
FLOATS(CROSS_ENTROPY)

// f32 logits, the gradient in their place in a 16-bit type: `pitch` is twice the number of classes.
#define CROSS_ENTROPY_NARROW(T, t)                                                                                 \
    KERNEL(cross_entropy_narrow_##t, GLOBAL const float *logits, GLOBAL const u32 *targets,                        \
           GLOBAL const float *weights, GLOBAL float *loss, GLOBAL T *dlogits) {                                   \
        SHARED_FLOATS(scratch, 32);                                                                                \
        cross_entropy(logits, targets, weights, loss, dlogits, NUMBER(0), NUMBER(1), NUMBER(2) != 0,               \
                      NUMBER(3) != 0, NUMBER(4), scratch, HERE);                                                   \
    }
CROSS_ENTROPY_NARROW(f16, f16)
CROSS_ENTROPY_NARROW(bf16, bf16)
