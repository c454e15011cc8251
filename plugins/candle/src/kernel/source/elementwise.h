// Ops on one element of each operand: one or a few steps for each element, without a stop in memory.
#pragma once
#include "dialect.h"

#define OPERANDS 8
#define DIMENSIONS 8
#define STEPS 24
// Threads of a block, at most.
#define ELEMENTWISE_THREADS 128

// Element types, as Rust numbers them (`kernel::elementwise`).
enum Type { TYPE_F32 = 0, TYPE_F16 = 1, TYPE_BF16 = 2, TYPE_U32 = 3, TYPE_U8 = 4, TYPE_INDEX = 5 };

// How an operand lies: as the result does; everywhere one element; by strides.
enum Way { WAY_LINEAR = 0, WAY_SCALAR = 1, WAY_STRIDED = 2 };

// Laid out alike in Rust. A value is 32 bits, a float or a word. A step is op | a << 8 | b << 16: it computes from the
// operands a and b (255: none) and what the step before it has left. The last step's value is the result.
struct Elementwise {
    u64 count;
    u64 strides[OPERANDS][DIMENSIONS];
    u32 dims[DIMENSIONS];
    u32 rank;
    u32 steps;
    u32 program[STEPS];
    u32 types[OPERANDS];
    u32 ways[OPERANDS];
    u32 result;
    u32 wide;
};

// A float near the word from which rounding to 16 bits gives what rounding the word would: what does not fit into 24
// bits is kept as one bit.
DEVICE float sticky(u32 word) {
    if (word >= 0x1000000u) word = (word & ~0xffu) | ((word & 0xffu) != 0 ? 0x100u : 0u);
    return (float)word;
}

#define EACH(value)                                                                                                 \
    for (u32 j = 0; j < VECTOR; ++j) {                                                                             \
        u32 x = a[j];                                                                                              \
        left[j] = (value);                                                                                         \
    }                                                                                                              \
    break;
#define PAIR_EACH(value)                                                                                            \
    for (u32 j = 0; j < VECTOR; ++j) {                                                                             \
        u32 x = a[j], y = b[j];                                                                                    \
        left[j] = (value);                                                                                         \
    }                                                                                                              \
    break;
#define REAL_EACH(value)                                                                                           \
    for (u32 j = 0; j < VECTOR; ++j) {                                                                             \
        float x = AS_FLOAT(a[j]), y = AS_FLOAT(b[j]);                                                              \
        (void)y;                                                                                                   \
        left[j] = (value);                                                                                         \
    }                                                                                                              \
    break;

// One op on VECTOR elements: by the numbers that Rust has for them (`kernel::elementwise::Code`).
DEVICE void apply(u32 op, PRIVATE u32 *left, PRIVATE const u32 *a, PRIVATE const u32 *b) {
    switch (op) {
        case 0: EACH(x)
        case 1: REAL_EACH(AS_WORD(-x))
        case 2: REAL_EACH(AS_WORD(m_abs(x)))
        case 3: REAL_EACH(AS_WORD(m_exp(x)))
        case 4: REAL_EACH(AS_WORD(m_log(x)))
        case 5: REAL_EACH(AS_WORD(m_sqrt(x)))
        case 6: REAL_EACH(AS_WORD(1.0f / m_sqrt(x)))
        case 7: REAL_EACH(AS_WORD(m_sin(x)))
        case 8: REAL_EACH(AS_WORD(m_cos(x)))
        case 9: REAL_EACH(AS_WORD(m_tanh(x)))
        case 10: REAL_EACH(AS_WORD(m_erf(x)))
        case 16: REAL_EACH(AS_WORD(x + y))
        case 17: REAL_EACH(AS_WORD(x - y))
        case 18: REAL_EACH(AS_WORD(x * y))
        case 19: REAL_EACH(AS_WORD(x / y))
        // A NaN wins.
        case 20: REAL_EACH(AS_WORD(x != x || x > y ? x : y))
        case 21: REAL_EACH(AS_WORD(x != x || x < y ? x : y))
        case 24: REAL_EACH(x == y ? 1u : 0u)
        case 25: REAL_EACH(x != y ? 1u : 0u)
        case 26: REAL_EACH(x < y ? 1u : 0u)
        case 27: REAL_EACH(x <= y ? 1u : 0u)
        case 28: REAL_EACH(x > y ? 1u : 0u)
        case 29: REAL_EACH(x >= y ? 1u : 0u)
        case 32: PAIR_EACH(x + y)
        case 33: PAIR_EACH(x - y)
        case 34: PAIR_EACH(x * y)
        case 35: PAIR_EACH(y == 0 ? 0u : x / y)
        case 36: PAIR_EACH(x > y ? x : y)
        case 37: PAIR_EACH(x < y ? x : y)
        case 38: PAIR_EACH(x & y)
        case 39: PAIR_EACH(x | y)
        case 40: PAIR_EACH(y < 32 ? x << y : 0u)
        case 41: PAIR_EACH(y < 32 ? x >> y : 0u)
        case 48: PAIR_EACH(x == y ? 1u : 0u)
        case 49: PAIR_EACH(x != y ? 1u : 0u)
        case 50: PAIR_EACH(x < y ? 1u : 0u)
        case 51: PAIR_EACH(x <= y ? 1u : 0u)
        case 52: PAIR_EACH(x > y ? 1u : 0u)
        case 53: PAIR_EACH(x >= y ? 1u : 0u)
        // One of two, by the truth value that was left.
        case 56: PAIR_EACH(left[j] != 0 ? x : y)
        case 57: EACH(x != 0 ? 1u : 0u)
        case 58: REAL_EACH(x != 0.0f ? 1u : 0u)
        case 59: EACH(x == 0 ? 1u : 0u)
        case 60: EACH(AS_WORD((float)x))
        case 61: REAL_EACH(m_word(x))
        default: EACH(AS_WORD(sticky(x)))
    }
}

DEVICE u32 read_element(GLOBAL const u8 *x, u32 type, u64 i) {
    switch (type) {
        case TYPE_F32: return AS_WORD(load((GLOBAL const float *)x, i));
        case TYPE_F16: return AS_WORD(load((GLOBAL const f16 *)x, i));
        case TYPE_BF16: return AS_WORD(load((GLOBAL const bf16 *)x, i));
        case TYPE_U32: return ((GLOBAL const u32 *)x)[i];
        case TYPE_U8: return x[i];
        default: return (u32)i;
    }
}

DEVICE void write_element(GLOBAL u8 *y, u32 type, u64 i, u32 value) {
    switch (type) {
        case TYPE_F32: store((GLOBAL float *)y, i, AS_FLOAT(value)); break;
        case TYPE_F16: store((GLOBAL f16 *)y, i, AS_FLOAT(value)); break;
        case TYPE_BF16: store((GLOBAL bf16 *)y, i, AS_FLOAT(value)); break;
        case TYPE_U32: ((GLOBAL u32 *)y)[i] = value; break;
        default: y[i] = (u8)value;
    }
}

template <typename T> DEVICE void read_floats(GLOBAL const u8 *x, u64 i, u64 end, bool wide, PRIVATE u32 *into) {
    float v[VECTOR];
    take((GLOBAL const T *)x, i, end, wide, v);
    for (u32 j = 0; j < VECTOR; ++j) into[j] = AS_WORD(v[j]);
}

template <typename T> DEVICE void write_floats(GLOBAL u8 *y, u64 i, u64 end, bool wide, PRIVATE const u32 *from) {
    float v[VECTOR];
    for (u32 j = 0; j < VECTOR; ++j) v[j] = AS_FLOAT(from[j]);
    put((GLOBAL T *)y, i, end, wide, v);
}

// Where the element i of the result is in an operand.
#define STRIDED_OFFSET(offset, number, index)                                                                      \
    {                                                                                                              \
        u64 rest = index;                                                                                          \
        offset = 0;                                                                                                \
        for (u32 d = parameters.rank; d-- > 0;) {                                                                  \
            u32 dim = parameters.dims[d];                                                                          \
            u64 next = rest < 0x100000000ul ? (u64)((u32)rest / dim) : rest / dim;                                 \
            offset += (rest - next * dim) * parameters.strides[number][d];                                         \
            rest = next;                                                                                           \
        }                                                                                                          \
    }

// A macro, because what a kernel's parameters are in (constant memory) has no name that all dialects share.
#define FETCH(number, into)                                                                                        \
    {                                                                                                              \
        u32 type = parameters.types[number];                                                                       \
        GLOBAL const u8 *x = operands[number];                                                                     \
        if (parameters.ways[number] == WAY_SCALAR) {                                                               \
            u32 value = read_element(x, type, 0);                                                                  \
            for (u32 j = 0; j < VECTOR; ++j) into[j] = value;                                                      \
        } else if (parameters.ways[number] == WAY_LINEAR && type == TYPE_BF16) {                                   \
            read_floats<bf16>(x, i, parameters.count, wide, into);                                                 \
        } else if (parameters.ways[number] == WAY_LINEAR && type == TYPE_F32) {                                    \
            read_floats<float>(x, i, parameters.count, wide, into);                                                \
        } else if (parameters.ways[number] == WAY_LINEAR && type == TYPE_F16) {                                    \
            read_floats<f16>(x, i, parameters.count, wide, into);                                                  \
        } else {                                                                                                   \
            for (u32 j = 0; j < VECTOR; ++j) {                                                                     \
                u64 offset = i + j;                                                                                \
                if (offset >= parameters.count) break;                                                             \
                if (parameters.ways[number] == WAY_STRIDED) STRIDED_OFFSET(offset, number, i + j)                  \
                into[j] = read_element(x, type, offset);                                                           \
            }                                                                                                      \
        }                                                                                                          \
    }

// A result may lie where an operand lies that has its shape.
KERNEL_OF(Elementwise, elementwise, GLOBAL const u8 *x0, GLOBAL const u8 *x1, GLOBAL const u8 *x2, GLOBAL const u8 *x3,
          GLOBAL const u8 *x4, GLOBAL const u8 *x5, GLOBAL const u8 *x6, GLOBAL const u8 *x7, GLOBAL u8 *out) {
    Place at = HERE;
    GLOBAL const u8 *operands[OPERANDS] = {x0, x1, x2, x3, x4, x5, x6, x7};
    bool wide = parameters.wide != 0;
    u64 stride = at.blocks * at.threads * VECTOR;
    for (u64 i = (at.block * at.threads + at.index) * VECTOR; i < parameters.count; i += stride) {
        u32 left[VECTOR], a[VECTOR], b[VECTOR];
        for (u32 j = 0; j < VECTOR; ++j) left[j] = a[j] = b[j] = 0;
        for (u32 s = 0; s < parameters.steps; ++s) {
            u32 step = parameters.program[s];
            u32 op = step & 255, from_a = (step >> 8) & 255, from_b = (step >> 16) & 255;
            if (from_a < OPERANDS) FETCH(from_a, a)
            if (from_b < OPERANDS) FETCH(from_b, b)
            apply(op, left, a, b);
        }
        if (parameters.result == TYPE_BF16) {
            write_floats<bf16>(out, i, parameters.count, wide, left);
        } else if (parameters.result == TYPE_F32) {
            write_floats<float>(out, i, parameters.count, wide, left);
        } else {
            for (u32 j = 0; j < VECTOR; ++j)
                if (i + j < parameters.count) write_element(out, parameters.result, i + j, left[j]);
        }
    }
}
