// What a kernel gets behind its operands: laid out alike in Rust (`kernel::Numbers`).
#pragma once
struct Numbers {
    u64 whole[14];
    float real[6];
};

// Where a thread is.
struct Place {
    u64 block, blocks;
    u32 index, threads;
};
