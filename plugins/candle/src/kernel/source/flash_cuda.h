// Attention without scores in memory (Dao 2023), on the matrix units that NVIDIA's cards have from compute capability
// 8.0 on: for 16-bit types and heads of 64 or 128 channels. Blocks of 128 threads: a warp has 16 rows of a tile of 64.
// Probabilities are rounded to the operands' type between the products; sums are in f32.
#pragma once
#include "attention.h"

#define TILE 64

// Two elements side by side in a register.
DEVICE u32 packed(float a, float b, bf16) {
    __nv_bfloat162 pair = __floats2bfloat162_rn(a, b);
    return *(u32 *)&pair;
}
DEVICE u32 packed(float a, float b, f16) {
    __half2 pair = __floats2half2_rn(a, b);
    return *(u32 *)&pair;
}

// c [16, 8] += a [16, 16] b [16, 8].
DEVICE void multiply(float *c, const u32 *a, u32 b0, u32 b1, bf16) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
DEVICE void multiply(float *c, const u32 *a, u32 b0, u32 b1, f16) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Rows of a tile in shared memory: so far apart that eight of them lie in different banks.
template <int D> struct Pitch {
    static constexpr int value = D + 8;
};

// Rows `first` on of x, `step` elements apart, zeros from `end` on.
template <typename T, int D, int ROWS> DEVICE void fetch(const T *x, u64 first, u64 end, u64 step, T *tile) {
    constexpr int CHUNKS = D / 8;
    for (int i = threadIdx.x; i < ROWS * CHUNKS; i += blockDim.x) {
        int row = i / CHUNKS, chunk = i % CHUNKS;
        uint4 value = make_uint4(0, 0, 0, 0);
        if (first + row < end) value = *(const uint4 *)(x + (first + row) * step + chunk * 8);
        *(uint4 *)(tile + row * Pitch<D>::value + chunk * 8) = value;
    }
}

// Rows of a tile as the left operand, 16 rows from `row` on: directly from memory.
template <typename T, int D>
DEVICE void left_rows(const T *x, u64 row, u64 end, u64 step, int lane, u32 (*a)[4]) {
    u64 top = row + lane / 4, low = top + 8;
    int t = lane % 4;
#pragma unroll
    for (int k = 0; k < D / 16; ++k) {
        const T *from = x + k * 16 + 2 * t;
        a[k][0] = top < end ? *(const u32 *)(from + top * step) : 0;
        a[k][1] = low < end ? *(const u32 *)(from + low * step) : 0;
        a[k][2] = top < end ? *(const u32 *)(from + top * step + 8) : 0;
        a[k][3] = low < end ? *(const u32 *)(from + low * step + 8) : 0;
    }
}

// c [16, N] = a [16, D] times the rows of a tile, transposed.
template <typename T, int D, int N> DEVICE void by_rows(float (*c)[4], u32 (*a)[4], const T *tile, int lane) {
#pragma unroll
    for (int n = 0; n < N / 8; ++n) {
        c[n][0] = c[n][1] = c[n][2] = c[n][3] = 0.0f;
        const T *row = tile + (n * 8 + lane / 4) * Pitch<D>::value + 2 * (lane % 4);
#pragma unroll
        for (int k = 0; k < D / 16; ++k)
            multiply(c[n], a[k], *(const u32 *)(row + k * 16), *(const u32 *)(row + k * 16 + 8), T());
    }
}

// c [16, D] += p [16, N], as by_rows has left it, times a tile [N, D].
template <typename T, int D, int N> DEVICE void by_columns(float (*c)[4], float (*p)[4], const T *tile, int lane) {
#pragma unroll
    for (int k = 0; k < N / 16; ++k) {
        u32 a[4] = {packed(p[2 * k][0], p[2 * k][1], T()), packed(p[2 * k][2], p[2 * k][3], T()),
                    packed(p[2 * k + 1][0], p[2 * k + 1][1], T()), packed(p[2 * k + 1][2], p[2 * k + 1][3], T())};
#pragma unroll
        for (int n = 0; n < D / 8; n += 2) {
            const T *from = tile + (k * 16 + lane % 16) * Pitch<D>::value + (n + lane / 16) * 8;
            u32 at = (u32)__cvta_generic_to_shared(from), b[4];
            asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                         : "=r"(b[0]), "=r"(b[1]), "=r"(b[2]), "=r"(b[3])
                         : "r"(at)
                         : "memory");
            multiply(c[n], a, b[0], b[1], T());
            multiply(c[n + 1], a, b[2], b[3], T());
        }
    }
}

// A quad of threads has a row.
DEVICE float quad_sum(float x) {
    x += __shfl_xor_sync(0xffffffffu, x, 1);
    return x + __shfl_xor_sync(0xffffffffu, x, 2);
}
DEVICE float quad_max(float x) {
    x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 1));
    return fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 2));
}

// Numbers: rows of the batch, queries, heads, keys, groups, causal, window, segmented. Reals: scale.
struct Flash {
    u64 batch, queries, heads, keys, groups, window;
    bool causal, segmented;
    float scale;
};
#define FLASH                                                                                                      \
    Flash{NUMBER(0), NUMBER(1), NUMBER(2), NUMBER(3), NUMBER(4), NUMBER(6), NUMBER(5) != 0, NUMBER(7) != 0, REAL(0)}

DEVICE Seen flash_seen(Flash f, u64 query, u64 start, u64 valid, const u32 *own) {
    u64 last = query < f.queries ? query : f.queries - 1;
    return seen_of(last, start, valid, f.keys, f.causal, f.window, f.segmented, own);
}

// Which tile a block has, which row of the batch, which head. The last tiles see the most and come first.
struct Work {
    u64 tile, row, head;
};
DEVICE Work work_of(u64 block, u64 tiles, u64 rows, u64 heads) {
    Work work;
    work.tile = tiles - 1 - block / (rows * heads);
    work.row = block / heads % rows;
    work.head = block % heads;
    return work;
}

template <typename T, int D>
DEVICE void flash_forward(const T *q, const T *k, const T *v, const u32 *start, const u32 *valid, const u32 *segments,
                          T *out, float *lse, Flash f) {
    __shared__ __align__(16) T keys[TILE * Pitch<D>::value], values[TILE * Pitch<D>::value];
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    Work work = work_of(blockIdx.x, (f.queries + TILE - 1) / TILE, f.batch, f.heads);
    const u32 *own = segments + (f.segmented ? work.row * f.keys : 0);
    u64 group = work.head / (f.heads / f.groups), first = work.tile * TILE, mine = first + warp * 16;
    u64 q_step = f.heads * D, k_step = f.groups * D;
    const T *k_rows = k + (work.row * f.keys * f.groups + group) * D, *v_rows = v + (work.row * f.keys * f.groups + group) * D;
    u32 a[D / 16][4];
    left_rows<T, D>(q + (work.row * f.queries * f.heads + work.head) * D, mine, f.queries, q_step, lane, a);
    float o[D / 8][4] = {}, most[2] = {-m_inf, -m_inf}, sum[2] = {0.0f, 0.0f};
    u64 begins = start[work.row], ends = valid[work.row];
    Seen seen[2] = {flash_seen(f, mine + lane / 4, begins, ends, own), flash_seen(f, mine + lane / 4 + 8, begins, ends, own)};
    u64 from = flash_seen(f, first, begins, ends, own).first / TILE * TILE;
    u64 to = flash_seen(f, first + TILE - 1, begins, ends, own).end;
    for (u64 tile = from; tile < to; tile += TILE) {
        __syncthreads();
        fetch<T, D, TILE>(k_rows, tile, f.keys, k_step, keys);
        fetch<T, D, TILE>(v_rows, tile, f.keys, k_step, values);
        __syncthreads();
        float s[TILE / 8][4];
        by_rows<T, D, TILE>(s, a, keys, lane);
        float next[2] = {most[0], most[1]};
#pragma unroll
        for (int n = 0; n < TILE / 8; ++n) {
#pragma unroll
            for (int c = 0; c < 4; ++c) {
                u64 key = tile + n * 8 + 2 * (lane % 4) + (c & 1);
                s[n][c] = sees(seen[c / 2], key, f.segmented, own) ? s[n][c] * f.scale : -m_inf;
                next[c / 2] = fmaxf(next[c / 2], s[n][c]);
            }
        }
#pragma unroll
        for (int r = 0; r < 2; ++r) {
            next[r] = quad_max(next[r]);
            float base = next[r] == -m_inf ? 0.0f : next[r], factor = __expf(most[r] - base), added = 0.0f;
#pragma unroll
            for (int n = 0; n < TILE / 8; ++n) {
                s[n][2 * r] = __expf(s[n][2 * r] - base);
                s[n][2 * r + 1] = __expf(s[n][2 * r + 1] - base);
                added += s[n][2 * r] + s[n][2 * r + 1];
            }
            sum[r] = sum[r] * factor + added;
            most[r] = next[r];
#pragma unroll
            for (int n = 0; n < D / 8; ++n) {
                o[n][2 * r] *= factor;
                o[n][2 * r + 1] *= factor;
            }
        }
        by_columns<T, D, TILE>(o, s, values, lane);
    }
#pragma unroll
    for (int r = 0; r < 2; ++r) {
        float total = quad_sum(sum[r]), inverse = total > 0.0f ? 1.0f / total : 0.0f;
        u64 query = mine + lane / 4 + 8 * r;
        if (query >= f.queries) continue;
        T *row = out + ((work.row * f.queries + query) * f.heads + work.head) * D + 2 * (lane % 4);
#pragma unroll
        for (int n = 0; n < D / 8; ++n)
            *(u32 *)(row + n * 8) = packed(o[n][2 * r] * inverse, o[n][2 * r + 1] * inverse, T());
        if (lane % 4 == 0)
            lse[(work.row * f.heads + work.head) * f.queries + query] = total > 0.0f ? most[r] + logf(total) : -m_inf;
    }
}

// delta [B, H, T]: dout out. A warp has a row of the operands.
template <typename T, int D>
DEVICE void flash_delta(const T *dout, const T *out, float *delta, Flash f) {
    u64 rows = f.batch * f.queries * f.heads;
    int lane = threadIdx.x % 32;
    for (u64 row = blockIdx.x * (u64)(blockDim.x / 32) + threadIdx.x / 32; row < rows; row += gridDim.x * (u64)(blockDim.x / 32)) {
        float sum = 0.0f;
        for (int i = lane; i < D; i += 32) sum += load(dout, row * D + i) * load(out, row * D + i);
        sum = warp_sum(sum);
        u64 head = row % f.heads, query = row / f.heads % f.queries, batch = row / f.heads / f.queries;
        if (lane == 0) delta[(batch * f.heads + head) * f.queries + query] = sum;
    }
}

template <typename T, int D>
DEVICE void flash_queries(const T *q, const T *k, const T *v, const u32 *start, const u32 *valid, const u32 *segments,
                          const T *dout, const float *lse, const float *delta, T *dq, Flash f) {
    __shared__ __align__(16) T keys[TILE * Pitch<D>::value], values[TILE * Pitch<D>::value];
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    Work work = work_of(blockIdx.x, (f.queries + TILE - 1) / TILE, f.batch, f.heads);
    const u32 *own = segments + (f.segmented ? work.row * f.keys : 0);
    u64 group = work.head / (f.heads / f.groups), first = work.tile * TILE, mine = first + warp * 16;
    u64 q_step = f.heads * D, k_step = f.groups * D, base = (work.row * f.queries * f.heads + work.head) * D;
    const T *k_rows = k + (work.row * f.keys * f.groups + group) * D, *v_rows = v + (work.row * f.keys * f.groups + group) * D;
    u32 a[D / 16][4], d[D / 16][4];
    left_rows<T, D>(q + base, mine, f.queries, q_step, lane, a);
    left_rows<T, D>(dout + base, mine, f.queries, q_step, lane, d);
    float sums[D / 8][4] = {};
    u64 begins = start[work.row], ends = valid[work.row];
    Seen seen[2] = {flash_seen(f, mine + lane / 4, begins, ends, own), flash_seen(f, mine + lane / 4 + 8, begins, ends, own)};
    float known[2], mean[2];
    for (int r = 0; r < 2; ++r) {
        u64 query = mine + lane / 4 + 8 * r, at = (work.row * f.heads + work.head) * f.queries + query;
        known[r] = query < f.queries ? lse[at] : 0.0f;
        mean[r] = query < f.queries ? delta[at] : 0.0f;
    }
    u64 from = flash_seen(f, first, begins, ends, own).first / TILE * TILE;
    u64 to = flash_seen(f, first + TILE - 1, begins, ends, own).end;
    for (u64 tile = from; tile < to; tile += TILE) {
        __syncthreads();
        fetch<T, D, TILE>(k_rows, tile, f.keys, k_step, keys);
        fetch<T, D, TILE>(v_rows, tile, f.keys, k_step, values);
        __syncthreads();
        float s[TILE / 8][4], dp[TILE / 8][4];
        by_rows<T, D, TILE>(s, a, keys, lane);
        by_rows<T, D, TILE>(dp, d, values, lane);
#pragma unroll
        for (int n = 0; n < TILE / 8; ++n) {
#pragma unroll
            for (int c = 0; c < 4; ++c) {
                u64 key = tile + n * 8 + 2 * (lane % 4) + (c & 1);
                bool is_seen = sees(seen[c / 2], key, f.segmented, own);
                float p = is_seen ? __expf(s[n][c] * f.scale - known[c / 2]) : 0.0f;
                s[n][c] = p * (dp[n][c] - mean[c / 2]) * f.scale;
            }
        }
        by_columns<T, D, TILE>(sums, s, keys, lane);
    }
#pragma unroll
    for (int r = 0; r < 2; ++r) {
        u64 query = mine + lane / 4 + 8 * r;
        if (query >= f.queries) continue;
        T *row = dq + base + query * q_step + 2 * (lane % 4);
#pragma unroll
        for (int n = 0; n < D / 8; ++n) *(u32 *)(row + n * 8) = packed(sums[n][2 * r], sums[n][2 * r + 1], T());
    }
}

// dk and dv of a tile of keys, from N queries at a time of all heads that read them: scores stand here as [keys,
// queries], so that what a warp sums is its own.
template <typename T, int D, int N>
DEVICE void flash_keys(const T *q, const T *k, const T *v, const u32 *start, const u32 *valid, const u32 *segments,
                       const T *dout, const float *lse, const float *delta, T *dk, T *dv, Flash f) {
    __shared__ __align__(16) T queries[N * Pitch<D>::value], slopes[N * Pitch<D>::value];
    __shared__ float known[N], mean[N];
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    Work work = work_of(blockIdx.x, (f.keys + TILE - 1) / TILE, f.batch, f.groups);
    // Here the first tiles are read by the most queries.
    u64 first = ((f.keys + TILE - 1) / TILE - 1 - work.tile) * TILE, mine = first + warp * 16;
    const u32 *own = segments + (f.segmented ? work.row * f.keys : 0);
    u64 each = f.heads / f.groups, q_step = f.heads * D, k_step = f.groups * D;
    u64 base = (work.row * f.keys * f.groups + work.head) * D;
    u32 a[D / 16][4], b[D / 16][4];
    left_rows<T, D>(k + base, mine, f.keys, k_step, lane, a);
    left_rows<T, D>(v + base, mine, f.keys, k_step, lane, b);
    float to_k[D / 8][4] = {}, to_v[D / 8][4] = {};
    u64 begins = start[work.row], ends = valid[work.row];
    for (u64 head = work.head * each; head < (work.head + 1) * each; ++head) {
        u64 q_base = (work.row * f.queries * f.heads + head) * D, facts = (work.row * f.heads + head) * f.queries;
        for (u64 tile = 0; tile < f.queries; tile += N) {
            if (flash_seen(f, tile, begins, ends, own).first >= first + TILE) break;
            if (flash_seen(f, tile + N - 1, begins, ends, own).end <= first) continue;
            __syncthreads();
            fetch<T, D, N>(q + q_base, tile, f.queries, q_step, queries);
            fetch<T, D, N>(dout + q_base, tile, f.queries, q_step, slopes);
            for (int i = threadIdx.x; i < N; i += blockDim.x) {
                known[i] = tile + i < f.queries ? lse[facts + tile + i] : 0.0f;
                mean[i] = tile + i < f.queries ? delta[facts + tile + i] : 0.0f;
            }
            __syncthreads();
            float s[N / 8][4], dp[N / 8][4];
            by_rows<T, D, N>(s, a, queries, lane);
            by_rows<T, D, N>(dp, b, slopes, lane);
#pragma unroll
            for (int n = 0; n < N / 8; ++n) {
#pragma unroll
                for (int odd = 0; odd < 2; ++odd) {
                    int i = n * 8 + 2 * (lane % 4) + odd;
                    Seen seen = flash_seen(f, tile + i, begins, ends, own);
#pragma unroll
                    for (int r = 0; r < 2; ++r) {
                        int c = 2 * r + odd;
                        bool is_seen = tile + i < f.queries && sees(seen, mine + lane / 4 + 8 * r, f.segmented, own);
                        float p = is_seen ? __expf(s[n][c] * f.scale - known[i]) : 0.0f;
                        dp[n][c] = p * (dp[n][c] - mean[i]) * f.scale;
                        s[n][c] = p;
                    }
                }
            }
            by_columns<T, D, N>(to_v, s, slopes, lane);
            by_columns<T, D, N>(to_k, dp, queries, lane);
        }
    }
#pragma unroll
    for (int r = 0; r < 2; ++r) {
        u64 key = mine + lane / 4 + 8 * r;
        if (key >= f.keys) continue;
        u64 at = base + key * k_step + 2 * (lane % 4);
#pragma unroll
        for (int n = 0; n < D / 8; ++n) {
            *(u32 *)(dk + at + n * 8) = packed(to_k[n][2 * r], to_k[n][2 * r + 1], T());
            *(u32 *)(dv + at + n * 8) = packed(to_v[n][2 * r], to_v[n][2 * r + 1], T());
        }
    }
}

#define FLASH_KERNELS(T, t, D, N)                                                                                  \
    extern "C" __global__ void __launch_bounds__(128)                                                              \
        flash_forward_##t##_##D(const T *q, const T *k, const T *v, const u32 *start, const u32 *valid,            \
                                const u32 *segments, T *out, float *lse, const __grid_constant__ Numbers parameters) { \
        flash_forward<T, D>(q, k, v, start, valid, segments, out, lse, FLASH);                                     \
    }                                                                                                              \
    extern "C" __global__ void __launch_bounds__(128)                                                              \
        flash_delta_##t##_##D(const T *dout, const T *out, float *delta, const __grid_constant__ Numbers parameters) { \
        flash_delta<T, D>(dout, out, delta, FLASH);                                                                \
    }                                                                                                              \
    extern "C" __global__ void __launch_bounds__(128)                                                              \
        flash_queries_##t##_##D(const T *q, const T *k, const T *v, const u32 *start, const u32 *valid,            \
                                const u32 *segments, const T *dout, const float *lse, const float *delta, T *dq,   \
                                const __grid_constant__ Numbers parameters) {                                      \
        flash_queries<T, D>(q, k, v, start, valid, segments, dout, lse, delta, dq, FLASH);                         \
    }                                                                                                              \
    extern "C" __global__ void __launch_bounds__(128)                                                              \
        flash_keys_##t##_##D(const T *q, const T *k, const T *v, const u32 *start, const u32 *valid,               \
                             const u32 *segments, const T *dout, const float *lse, const float *delta, T *dk, T *dv, \
                             const __grid_constant__ Numbers parameters) {                                         \
        flash_keys<T, D, N>(q, k, v, start, valid, segments, dout, lse, delta, dk, dv, FLASH);                     \
    }
FLASH_KERNELS(bf16, bf16, 64, 64)
FLASH_KERNELS(f16, f16, 64, 64)
FLASH_KERNELS(bf16, bf16, 128, 32)
FLASH_KERNELS(f16, f16, 128, 32)
