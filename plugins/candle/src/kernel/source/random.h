// Philox4x32-10 (Salmon et al. 2011).
#pragma once
#include "dialect.h"

struct Words {
    u32 word[4];
};

DEVICE Words philox(u32 c0, u32 c1, u32 c2, u32 c3, u32 k0, u32 k1) {
    for (u32 round = 0; round < 10; ++round) {
        u32 high0 = MULTIPLY_HIGH(0xD2511F53u, c0), low0 = 0xD2511F53u * c0;
        u32 high1 = MULTIPLY_HIGH(0xCD9E8D57u, c2), low1 = 0xCD9E8D57u * c2;
        c0 = high1 ^ c1 ^ k0;
        c1 = low1;
        c2 = high0 ^ c3 ^ k1;
        c3 = low0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    Words words;
    words.word[0] = c0, words.word[1] = c1, words.word[2] = c2, words.word[3] = c3;
    return words;
}

// Numbers: rows, channels, site. A thread makes a block of four words.
KERNEL(random_bits, GLOBAL const u32 *seed, GLOBAL const u32 *step, GLOBAL const u32 *example,
       GLOBAL const u32 *position, GLOBAL u32 *out) {
    Place at = HERE;
    u64 rows = NUMBER(0), channels = NUMBER(1);
    u32 first = (u32)NUMBER(2) << 16;
    u64 blocks = (channels + 3) / 4;
    for (u64 i = at.block * at.threads + at.index; i < rows * blocks; i += at.blocks * at.threads) {
        u64 row = i / blocks, block = i % blocks;
        Words words = philox(position[row], example[row], step[0], first | (u32)block, seed[0], seed[1]);
        for (u32 j = 0; j < 4 && 4 * block + j < channels; ++j) out[row * channels + 4 * block + j] = words.word[j];
    }
}

// Numbers: rows, channels, site, the least bits that are kept. Reals: what is kept is multiplied with.
template <typename T>
DEVICE void dropout(GLOBAL const T *x, GLOBAL const u32 *seed, GLOBAL const u32 *step, GLOBAL const u32 *example,
                    GLOBAL const u32 *position, GLOBAL T *out, u64 rows, u64 channels, u32 site, u64 least,
                    float factor, Place at) {
    u64 blocks = (channels + 3) / 4;
    for (u64 i = at.block * at.threads + at.index; i < rows * blocks; i += at.blocks * at.threads) {
        u64 row = i / blocks, block = i % blocks;
        Words words = philox(position[row], example[row], step[0], (site << 16) | (u32)block, seed[0], seed[1]);
        for (u32 j = 0; j < 4 && 4 * block + j < channels; ++j) {
            u64 k = row * channels + 4 * block + j;
            store(out, k, words.word[j] >= least ? load(x, k) * factor : 0.0f);
        }
    }
}

#define DROPOUT(T, t)                                                                                              \
    KERNEL(dropout_##t, GLOBAL const T *x, GLOBAL const u32 *seed, GLOBAL const u32 *step,                         \
           GLOBAL const u32 *example, GLOBAL const u32 *position, GLOBAL T *out) {                                 \
        dropout(x, seed, step, example, position, out, NUMBER(0), NUMBER(1), (u32)NUMBER(2), NUMBER(3), REAL(0),   \
                HERE);                                                                                             \
    }
FLOATS(DROPOUT)
