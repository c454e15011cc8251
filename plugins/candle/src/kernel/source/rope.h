// Rotary position embedding: a block has the heads of one place at a time.
#pragma once
#include "dialect.h"

#define ROPE_PAIRS 256

// Numbers: places, heads, channels, half, interleaved. Reals: scale, scale of the sine (negative for the inverse).
template <typename T>
DEVICE void rope(GLOBAL const T *x, GLOBAL const u32 *positions, GLOBAL const float *inv_freq, GLOBAL T *y, u64 places,
                 u64 heads, u32 channels, u32 half_, bool interleaved, float scale, float sine, SHARED float *turns,
                 Place at) {
    for (u64 place = at.block; place < places; place += at.blocks) {
        float position = (float)positions[place];
        u64 base = place * heads * channels;
        for (u32 first = 0; first < half_; first += ROPE_PAIRS) {
            u32 pairs = half_ - first < ROPE_PAIRS ? half_ - first : ROPE_PAIRS;
            BARRIER();
            for (u32 i = at.index; i < pairs; i += at.threads) {
                float angle = position * inv_freq[first + i];
                turns[2 * i] = m_cos(angle) * scale;
                turns[2 * i + 1] = m_sin(angle) * sine;
            }
            BARRIER();
            for (u64 work = at.index; work < heads * pairs; work += at.threads) {
                u32 i = (u32)(work % pairs);
                u64 row = base + work / pairs * channels;
                u64 k = row + (interleaved ? 2 * (first + i) : first + i), l = k + (interleaved ? 1 : half_);
                float a = load(x, k), b = load(x, l), c = turns[2 * i], s = turns[2 * i + 1];
                store(y, k, a * c - b * s);
                store(y, l, b * c + a * s);
            }
        }
        u32 rest = channels - 2 * half_;
        for (u64 work = at.index; work < heads * rest; work += at.threads) {
            u64 k = base + work / rest * channels + 2 * half_ + work % rest;
            store(y, k, load(x, k));
        }
    }
}

#define ROPE(T, t)                                                                                                 \
    KERNEL(rope_##t, GLOBAL const T *x, GLOBAL const u32 *positions, GLOBAL const float *inv_freq, GLOBAL T *y) {  \
        SHARED_FLOATS(turns, 2 * ROPE_PAIRS);                                                                      \
        rope(x, positions, inv_freq, y, NUMBER(0), NUMBER(1), (u32)NUMBER(2), (u32)NUMBER(3), NUMBER(4) != 0,      \
             REAL(0), REAL(1), turns, HERE);                                                                       \
    }
FLOATS(ROPE)
