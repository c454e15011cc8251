// The dialect (dialect.h) in the Metal Shading Language, compiled with safe math (`kernel::metal`).
#pragma once
#include <metal_stdlib>

typedef uchar u8;
typedef uint u32;
typedef ulong u64;
typedef half f16;
// The upper half of a float, converted by its bits: nothing here depends on how Metal's own type rounds.
struct bf16 {
    ushort bits;
};

#include "numbers.h"

#define GLOBAL device
#define SHARED threadgroup
#define PRIVATE thread
#define DEVICE static inline
// What follows the operands is in constant memory; where a thread is comes as arguments of the kernel alone.
#define KERNEL_OF(Struct, name, ...)                                                                               \
    kernel void name(__VA_ARGS__, constant Struct &parameters, uint3 place_block [[threadgroup_position_in_grid]], \
                     uint3 place_blocks [[threadgroups_per_grid]],                                                 \
                     uint3 place_thread [[thread_position_in_threadgroup]],                                        \
                     uint3 place_threads [[threads_per_threadgroup]])
#define KERNEL(name, ...) KERNEL_OF(Numbers, name, __VA_ARGS__)
#define NUMBER(i) (parameters.whole[i])
#define REAL(i) (parameters.real[i])
#define HERE Place{place_block.x, place_blocks.x, place_thread.x, place_threads.x}
#define SHARED_FLOATS(name, count) threadgroup float name[count]
#define SHARED_WORDS(name, count) threadgroup u32 name[count]
#define BARRIER() \
    metal::threadgroup_barrier(metal::mem_flags::mem_threadgroup | metal::mem_flags::mem_device)
// Apple's GPUs have 32 threads to a SIMD group.
#define SHUFFLE_XOR(value, mask) metal::simd_shuffle_xor(value, (ushort)(mask))
#define AS_FLOAT(word) as_float(word)
#define AS_WORD(real) as_word(real)
#define MULTIPLY_HIGH(a, b) metal::mulhi((u32)(a), (u32)(b))

// Opened here only: elsewhere the library's names would meet the kernels'.
DEVICE float as_float(u32 word) {
    using namespace metal;
    return as_type<float>(word);
}
DEVICE u32 as_word(float real) {
    using namespace metal;
    return as_type<u32>(real);
}

#define m_inf INFINITY
DEVICE float m_exp(float x) { return metal::precise::exp(x); }
DEVICE float m_log(float x) { return metal::precise::log(x); }
DEVICE float m_sqrt(float x) { return metal::precise::sqrt(x); }
DEVICE float m_sin(float x) { return metal::precise::sin(x); }
DEVICE float m_cos(float x) { return metal::precise::cos(x); }
DEVICE float m_tanh(float x) { return metal::precise::tanh(x); }
DEVICE float m_abs(float x) { return metal::fabs(x); }
DEVICE float m_fma(float a, float b, float c) { return metal::fma(a, b, c); }
// The larger; what is not a NaN.
DEVICE float m_max(float a, float b) { return metal::precise::fmax(a, b); }
// Toward zero, clamped, NaN to 0: a conversion beyond the range would be undefined.
DEVICE u32 m_word(float x) { return x >= 4294967296.0f ? 0xffffffffu : x > 0.0f ? (u32)x : 0u; }
#include "erf.h"

DEVICE ushort bits_of_bf16(float x) {
    u32 word = AS_WORD(x);
    if ((word & 0x7fffffffu) > 0x7f800000u) return (ushort)((word >> 16) | 0x40u);
    return (ushort)((word + 0x7fffu + ((word >> 16) & 1u)) >> 16);
}

DEVICE float load(device const float *x, u64 i) { return x[i]; }
DEVICE float load(device const f16 *x, u64 i) { return (float)x[i]; }
DEVICE float load(device const bf16 *x, u64 i) { return AS_FLOAT((u32)x[i].bits << 16); }
DEVICE void store(device float *y, u64 i, float value) { y[i] = value; }
DEVICE void store(device f16 *y, u64 i, float value) { y[i] = (f16)value; }
DEVICE void store(device bf16 *y, u64 i, float value) { y[i].bits = bits_of_bf16(value); }
DEVICE float round_f16(float x) { return (float)(f16)x; }
DEVICE float round_bf16(float x) { return AS_FLOAT((u32)bits_of_bf16(x) << 16); }

#define HAS_VECTORS
DEVICE void take_wide(device const float *x, u64 i, thread float *v) {
    float4 a = *(device const float4 *)(x + i), b = *(device const float4 *)(x + i + 4);
    v[0] = a.x, v[1] = a.y, v[2] = a.z, v[3] = a.w, v[4] = b.x, v[5] = b.y, v[6] = b.z, v[7] = b.w;
}
DEVICE void put_wide(device float *y, u64 i, thread const float *v) {
    float4 a, b;
    a.x = v[0], a.y = v[1], a.z = v[2], a.w = v[3], b.x = v[4], b.y = v[5], b.z = v[6], b.w = v[7];
    *(device float4 *)(y + i) = a;
    *(device float4 *)(y + i + 4) = b;
}
DEVICE void take_wide(device const bf16 *x, u64 i, thread float *v) {
    uint4 raw = *(device const uint4 *)(x + i);
    u32 words[4] = {raw.x, raw.y, raw.z, raw.w};
    for (u32 j = 0; j < 4; ++j) {
        v[2 * j] = as_float(words[j] << 16);
        v[2 * j + 1] = as_float(words[j] & 0xffff0000u);
    }
}
DEVICE void put_wide(device bf16 *y, u64 i, thread const float *v) {
    u32 words[4];
    for (u32 j = 0; j < 4; ++j) words[j] = bits_of_bf16(v[2 * j]) | (u32)bits_of_bf16(v[2 * j + 1]) << 16;
    uint4 raw;
    raw.x = words[0], raw.y = words[1], raw.z = words[2], raw.w = words[3];
    *(device uint4 *)(y + i) = raw;
}
DEVICE void take_wide(device const f16 *x, u64 i, thread float *v) {
    half4 a = *(device const half4 *)(x + i), b = *(device const half4 *)(x + i + 4);
    v[0] = (float)a.x, v[1] = (float)a.y, v[2] = (float)a.z, v[3] = (float)a.w;
    v[4] = (float)b.x, v[5] = (float)b.y, v[6] = (float)b.z, v[7] = (float)b.w;
}
DEVICE void put_wide(device f16 *y, u64 i, thread const float *v) {
    half4 a, b;
    a.x = (half)v[0], a.y = (half)v[1], a.z = (half)v[2], a.w = (half)v[3];
    b.x = (half)v[4], b.y = (half)v[5], b.z = (half)v[6], b.w = (half)v[7];
    *(device half4 *)(y + i) = a;
    *(device half4 *)(y + i + 4) = b;
}
