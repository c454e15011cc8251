// The kernels for CUDA. Arguments: operands, result, numbers (see `Launch`). `cuda/ptx.sh` makes kernels.ptx.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

typedef unsigned int u32;

__device__ __forceinline__ size_t here() { return (size_t)blockIdx.x * blockDim.x + threadIdx.x; }

__device__ __forceinline__ u32 word(u32 what, u32 a, u32 b) {
    switch (what) {
        case 0: return a + b;
        case 1: return a - b;
        case 2: return a * b;
        case 3: return b == 0 ? 0 : a / b;
        case 4: return a > b ? a : b;
        case 5: return a < b ? a : b;
        case 6: return a & b;
        case 7: return a | b;
        case 8: return b < 32 ? a << b : 0;
        default: return b < 32 ? a >> b : 0;
    }
}

extern "C" __global__ void words_u32(const u32 *a, const u32 *b, u32 *out, u32 count, u32 what) {
    size_t i = here();
    if (i < count) out[i] = word(what, a[i], b[i]);
}

extern "C" __global__ void words_u8(const unsigned char *a, const unsigned char *b, unsigned char *out, u32 count,
                                    u32 what) {
    size_t i = here();
    if (i < count) out[i] = (unsigned char)word(what, a[i], b[i]);
}

// A double holds every u32, so each is rounded once.
extern "C" __global__ void words_to_f16(const u32 *x, __half *out, u32 count) {
    size_t i = here();
    if (i < count) out[i] = __double2half((double)x[i]);
}

extern "C" __global__ void words_to_bf16(const u32 *x, __nv_bfloat16 *out, u32 count) {
    size_t i = here();
    if (i < count) out[i] = __double2bfloat16((double)x[i]);
}

extern "C" __global__ void f32_to_words(const float *x, u32 *out, u32 count) {
    size_t i = here();
    // Toward zero, clamped, NaN to 0.
    if (i < count) out[i] = x[i] > 0.0f ? __float2uint_rz(x[i]) : 0;
}

// Philox4x32-10 (Salmon et al. 2011); a thread makes a block of four words.
extern "C" __global__ void random_bits(const u32 *seed, const u32 *step, const u32 *example, const u32 *position,
                                       u32 *out, u32 rows, u32 channels, u32 site) {
    size_t i = here();
    u32 blocks = (channels + 3) / 4;
    if (i >= (size_t)rows * blocks) return;
    u32 row = (u32)(i / blocks), block = (u32)(i % blocks);
    u32 c0 = position[row], c1 = example[row], c2 = step[0], c3 = (site << 16) | block;
    u32 k0 = seed[0], k1 = seed[1];
    for (int round = 0; round < 10; ++round) {
        u32 high0 = __umulhi(0xD2511F53u, c0), low0 = 0xD2511F53u * c0;
        u32 high1 = __umulhi(0xCD9E8D57u, c2), low1 = 0xCD9E8D57u * c2;
        c0 = high1 ^ c1 ^ k0;
        c1 = low1;
        c2 = high0 ^ c3 ^ k1;
        c3 = low0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    u32 words[4] = {c0, c1, c2, c3};
    for (u32 j = 0; j < 4 && 4 * block + j < channels; ++j) out[(size_t)row * channels + 4 * block + j] = words[j];
}
