// The dialect (dialect.h) in CUDA C++.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>

typedef unsigned char u8;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef __half f16;
typedef __nv_bfloat16 bf16;

#include "numbers.h"

#define GLOBAL
#define SHARED
#define PRIVATE
#define DEVICE static __device__ __forceinline__
#define KERNEL_OF(Struct, name, ...) extern "C" __global__ void name(__VA_ARGS__, const __grid_constant__ Struct parameters)
#define KERNEL(name, ...) KERNEL_OF(Numbers, name, __VA_ARGS__)
#define NUMBER(i) (parameters.whole[i])
#define REAL(i) (parameters.real[i])
#define HERE Place{blockIdx.x, gridDim.x, threadIdx.x, blockDim.x}
#define SHARED_FLOATS(name, count) __shared__ float name[count]
#define SHARED_WORDS(name, count) __shared__ u32 name[count]
#define BARRIER() __syncthreads()
#define SHUFFLE_XOR(value, mask) __shfl_xor_sync(0xffffffffu, value, mask)
#define AS_FLOAT(word) __uint_as_float(word)
#define AS_WORD(real) __float_as_uint(real)
#define MULTIPLY_HIGH(a, b) __umulhi(a, b)

DEVICE float load(const float *x, u64 i) { return x[i]; }
DEVICE float load(const f16 *x, u64 i) { return __half2float(x[i]); }
DEVICE float load(const bf16 *x, u64 i) { return __bfloat162float(x[i]); }
DEVICE void store(float *y, u64 i, float value) { y[i] = value; }
DEVICE void store(f16 *y, u64 i, float value) { y[i] = __float2half_rn(value); }
DEVICE void store(bf16 *y, u64 i, float value) { y[i] = __float2bfloat16_rn(value); }
DEVICE float round_f16(float x) { return __half2float(__float2half_rn(x)); }
DEVICE float round_bf16(float x) { return __bfloat162float(__float2bfloat16_rn(x)); }

#define m_inf __int_as_float(0x7f800000)
DEVICE float m_exp(float x) { return expf(x); }
DEVICE float m_log(float x) { return logf(x); }
DEVICE float m_sqrt(float x) { return sqrtf(x); }
DEVICE float m_sin(float x) { return sinf(x); }
DEVICE float m_cos(float x) { return cosf(x); }
DEVICE float m_tanh(float x) { return tanhf(x); }
DEVICE float m_erf(float x) { return erff(x); }
DEVICE float m_abs(float x) { return fabsf(x); }
// The larger; what is not a NaN.
DEVICE float m_max(float a, float b) { return fmaxf(a, b); }
// Toward zero, clamped, NaN to 0.
DEVICE u32 m_word(float x) { return x > 0.0f ? __float2uint_rz(x) : 0u; }

#define HAS_VECTORS
DEVICE void take_wide(const float *x, u64 i, float *v) {
    float4 a = *(const float4 *)(x + i), b = *(const float4 *)(x + i + 4);
    v[0] = a.x, v[1] = a.y, v[2] = a.z, v[3] = a.w, v[4] = b.x, v[5] = b.y, v[6] = b.z, v[7] = b.w;
}
DEVICE void put_wide(float *y, u64 i, const float *v) {
    *(float4 *)(y + i) = make_float4(v[0], v[1], v[2], v[3]);
    *(float4 *)(y + i + 4) = make_float4(v[4], v[5], v[6], v[7]);
}
DEVICE void take_wide(const bf16 *x, u64 i, float *v) {
    uint4 raw = *(const uint4 *)(x + i);
    u32 words[4] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
    for (int j = 0; j < 4; ++j) {
        v[2 * j] = __uint_as_float(words[j] << 16);
        v[2 * j + 1] = __uint_as_float(words[j] & 0xffff0000u);
    }
}
DEVICE void put_wide(bf16 *y, u64 i, const float *v) {
    u32 words[4];
#pragma unroll
    for (int j = 0; j < 4; ++j) {
        __nv_bfloat162 pair = __floats2bfloat162_rn(v[2 * j], v[2 * j + 1]);
        words[j] = *(u32 *)&pair;
    }
    *(uint4 *)(y + i) = make_uint4(words[0], words[1], words[2], words[3]);
}
DEVICE void take_wide(const f16 *x, u64 i, float *v) {
    uint4 raw = *(const uint4 *)(x + i);
    u32 words[4] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
    for (int j = 0; j < 4; ++j) {
        float2 pair = __half22float2(*(__half2 *)&words[j]);
        v[2 * j] = pair.x, v[2 * j + 1] = pair.y;
    }
}
DEVICE void put_wide(f16 *y, u64 i, const float *v) {
    u32 words[4];
#pragma unroll
    for (int j = 0; j < 4; ++j) {
        __half2 pair = __floats2half2_rn(v[2 * j], v[2 * j + 1]);
        words[j] = *(u32 *)&pair;
    }
    *(uint4 *)(y + i) = make_uint4(words[0], words[1], words[2], words[3]);
}
