// The dialect (dialect.h) in plain C++20: the kernels as functions of the processor, for tests. A block's threads
// are coroutines on one thread of the system, and stop only at a barrier, in an order that is asked for: what is
// missing a barrier gives something else in another order. `emulator.h` runs them.
#pragma once
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

typedef std::uint8_t u8;
typedef std::uint16_t u16;
typedef std::uint32_t u32;
// As in CUDA and Metal, where a literal with `ul` fits.
typedef unsigned long u64;
struct f16 {
    u16 bits;
};
struct bf16 {
    u16 bits;
};

#include "numbers.h"

#define GLOBAL
#define SHARED
#define PRIVATE
#define DEVICE [[maybe_unused]] static inline
#define KERNEL_OF(Struct, name, ...)                                                                               \
    static void name##_kernel(const Struct &parameters, Place place, __VA_ARGS__);                                 \
    [[maybe_unused]] static const bool name##_known = emulator::know(#name);                                       \
    extern "C" const char *name(const emulator::Launch *launch) {                                                  \
        return emulator::run(#name, name##_kernel, *launch);                                                       \
    }                                                                                                              \
    static void name##_kernel([[maybe_unused]] const Struct &parameters, Place place, __VA_ARGS__)
#define KERNEL(name, ...) KERNEL_OF(Numbers, name, __VA_ARGS__)
#define NUMBER(i) (parameters.whole[i])
#define REAL(i) (parameters.real[i])
#define HERE place
#define SHARED_ARRAY(type, name, count) type *name = emulator::shared<type>(#name, count)
#define SHARED_FLOATS(name, count) SHARED_ARRAY(float, name, count)
#define SHARED_WORDS(name, count) SHARED_ARRAY(u32, name, count)
#define BARRIER() emulator::barrier(__COUNTER__, __LINE__)
#define SHUFFLE_XOR(value, mask) emulator::exchange(value, mask, __COUNTER__, __LINE__)
#define AS_FLOAT(word) std::bit_cast<float>((u32)(word))
#define AS_WORD(real) std::bit_cast<u32>((float)(real))
#define MULTIPLY_HIGH(a, b) ((u32)(((u64)(u32)(a) * (u32)(b)) >> 32))

#include "emulator.h"

#define m_inf std::numeric_limits<float>::infinity()
DEVICE float m_exp(float x) { return std::exp(x); }
DEVICE float m_log(float x) { return std::log(x); }
DEVICE float m_sqrt(float x) { return std::sqrt(x); }
DEVICE float m_sin(float x) { return std::sin(x); }
DEVICE float m_cos(float x) { return std::cos(x); }
DEVICE float m_tanh(float x) { return std::tanh(x); }
DEVICE float m_abs(float x) { return std::fabs(x); }
DEVICE float m_fma(float a, float b, float c) { return std::fma(a, b, c); }
// The larger; what is not a NaN.
DEVICE float m_max(float a, float b) { return std::fmax(a, b); }
// Toward zero, clamped, NaN to 0.
DEVICE u32 m_word(float x) { return x >= 4294967296.0f ? 0xffffffffu : x > 0.0f ? (u32)x : 0u; }
#include "erf.h"

DEVICE u16 bits_of_bf16(float x) {
    u32 word = AS_WORD(x);
    if ((word & 0x7fffffffu) > 0x7f800000u) return (u16)((word >> 16) | 0x40u);
    return (u16)((word + 0x7fffu + ((word >> 16) & 1u)) >> 16);
}
DEVICE u16 bits_of_f16(float x) {
    u32 word = AS_WORD(x), sign = (word >> 16) & 0x8000u;
    float size = std::fabs(x);
    if (size != size) return (u16)(sign | 0x7e00u);
    if (size >= 65520.0f) return (u16)(sign | 0x7c00u);
    // Below the smallest normal number: whole multiples of 2^-24, to nearest even.
    if (size < 0x1p-14f) return (u16)(sign | (u32)std::nearbyint(size * 0x1p24f));
    u32 rounded = (word & 0x7fffffffu) + 0xfffu + ((word >> 13) & 1u);
    return (u16)(sign | ((rounded - 0x38000000u) >> 13));
}
DEVICE float of_f16(u16 bits) {
    u32 sign = (bits & 0x8000u) << 16, exponent = (bits >> 10) & 31u, fraction = bits & 0x3ffu;
    if (exponent == 31) return AS_FLOAT(sign | 0x7f800000u | fraction << 13);
    if (exponent == 0) return std::copysign((float)fraction * 0x1p-24f, AS_FLOAT(sign));
    return AS_FLOAT(sign | (exponent + 112u) << 23 | fraction << 13);
}

DEVICE float load(const float *x, u64 i) { return x[i]; }
DEVICE float load(const f16 *x, u64 i) { return of_f16(x[i].bits); }
DEVICE float load(const bf16 *x, u64 i) { return AS_FLOAT((u32)x[i].bits << 16); }
DEVICE void store(float *y, u64 i, float value) { y[i] = value; }
DEVICE void store(f16 *y, u64 i, float value) { y[i].bits = bits_of_f16(value); }
DEVICE void store(bf16 *y, u64 i, float value) { y[i].bits = bits_of_bf16(value); }
DEVICE float round_f16(float x) { return of_f16(bits_of_f16(x)); }
DEVICE float round_bf16(float x) { return AS_FLOAT((u32)bits_of_bf16(x) << 16); }
