// The kernels are written once, in the part of C++ that CUDA, Metal and a plain C++ compiler share. Its rules:
//
// - A kernel is `KERNEL(name, operands...) { ... }`; an operand is `GLOBAL const T *x` or, where it is written,
//   `GLOBAL T *y`. Behind its operands it gets `Numbers`: whole numbers `NUMBER(i)` (u64) and reals `REAL(i)`
//   (float), read in the kernel itself and handed on by value. `KERNEL_OF(Struct, name, operands...)` gets a struct
//   of plain data instead, as `parameters`. A kernel writes every element of its results, unless it says otherwise.
// - `Place at = HERE;` in a kernel says where it runs: `at.block` of `at.blocks`, `at.index` of `at.threads`. The
//   number of threads of a block is a power of two, at least 32 and at most 1024; that of blocks is any: kernels go
//   over their work in strides (`for (u64 row = at.block; row < rows; row += at.blocks)`).
// - Memory of a block is declared in the kernel: `SHARED_FLOATS(scratch, 32);`, handed on as `SHARED float *`, or
//   `SHARED_WORDS`.
//   `BARRIER()` is met by all threads of a block or by none. `block_sum` and `block_max` (here, below) begin
//   with one, and what comes after them may not write their scratch memory, 32 floats, before another.
// - Pointers into a thread's own arrays are `PRIVATE float *`. Functions are `DEVICE`, templates may be used; a
//   template becomes kernels through a macro with a row for each type: `FLOATS(M)` calls M(T, name of T).
// - Elements are read and written with `load(x, i)` and `store(y, i, value)`, in f32 whatever their type, rounded
//   once to nearest even. `take` and `put` move VECTOR elements; `wide` says that all addresses are multiples of 16
//   bytes and all rows of VECTOR elements. Words are `u32`, truth values `u8`.
// - An index is a u64 wherever a product of sizes goes into it. There is no double.
// - Mathematics by the prelude's names (`m_exp`, ...), which are accurate: within 4 units in the last place.
//
// A prelude gives: u8 u32 u64 f16 bf16, GLOBAL SHARED PRIVATE DEVICE, KERNEL KERNEL_OF NUMBER REAL HERE SHARED_FLOATS
// BARRIER, AS_FLOAT AS_WORD MULTIPLY_HIGH, load store for f32 f16 bf16, round_f16 round_bf16 (a float to the nearest
// of that type), the m_ functions, SHUFFLE_XOR (the value of the thread of the same 32 whose number differs in those
// bits; all 32 come to it), and may give vector forms of take and put (HAS_VECTORS). It includes `numbers.h`.
#pragma once
#if defined(__METAL_VERSION__)
#include "prelude_metal.h"
#elif defined(__CUDACC__)
#include "prelude_cuda.h"
#else
#include "prelude_host.h"
#endif

#define FLOATS(M) M(float, f32) M(f16, f16) M(bf16, bf16)

#define VECTOR 8u

#ifndef HAS_VECTORS
template <typename T> DEVICE void take_wide(GLOBAL const T *x, u64 i, PRIVATE float *v) {
    for (u32 j = 0; j < VECTOR; ++j) v[j] = load(x, i + j);
}
template <typename T> DEVICE void put_wide(GLOBAL T *y, u64 i, PRIVATE const float *v) {
    for (u32 j = 0; j < VECTOR; ++j) store(y, i + j, v[j]);
}
#endif

// Elements i to i + VECTOR of x, zeros from `end` on.
template <typename T> DEVICE void take(GLOBAL const T *x, u64 i, u64 end, bool wide, PRIVATE float *v) {
    if (wide && i + VECTOR <= end) {
        take_wide(x, i, v);
        return;
    }
    for (u32 j = 0; j < VECTOR; ++j) v[j] = i + j < end ? load(x, i + j) : 0.0f;
}

template <typename T> DEVICE void put(GLOBAL T *y, u64 i, u64 end, bool wide, PRIVATE const float *v) {
    if (wide && i + VECTOR <= end) {
        put_wide(y, i, v);
        return;
    }
    for (u32 j = 0; j < VECTOR; ++j)
        if (i + j < end) store(y, i + j, v[j]);
}

DEVICE float warp_sum(float value) {
    for (u32 mask = 16; mask > 0; mask /= 2) value += SHUFFLE_XOR(value, mask);
    return value;
}

DEVICE float warp_max(float value) {
    for (u32 mask = 16; mask > 0; mask /= 2) value = m_max(value, SHUFFLE_XOR(value, mask));
    return value;
}

DEVICE float block_sum(float value, SHARED float *scratch, Place at) {
    value = warp_sum(value);
    BARRIER();
    if (at.index % 32 == 0) scratch[at.index / 32] = value;
    BARRIER();
    return warp_sum(at.index % 32 < at.threads / 32 ? scratch[at.index % 32] : 0.0f);
}

DEVICE float block_max(float value, SHARED float *scratch, Place at) {
    value = warp_max(value);
    BARRIER();
    if (at.index % 32 == 0) scratch[at.index / 32] = value;
    BARRIER();
    return warp_max(at.index % 32 < at.threads / 32 ? scratch[at.index % 32] : -m_inf);
}
