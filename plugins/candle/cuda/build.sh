#!/bin/sh
# Builds the candle plugin for CUDA 13, on a machine that needs neither a GPU nor NVIDIA's toolkit.
#
#   plugins/candle/cuda/build.sh [FOLDER]
#
# NVIDIA's compiler and headers come from PyPI into FOLDER (target/cuda-toolkit), once; the plugin is built with
# them in release mode into target/cuda and stripped: target/cuda/libfinetune_candle_cuda.so, to be put into the folder
# `plugins` beside the program, where the build for the processor may stay. NVIDIA's libraries (cublas, nvrtc, curand)
# are looked for where the system has them, and in `nvidia` beside the program, where mlx/cuda/lay_out.sh puts them or
# `python3 -m pip install --target FOLDER --no-deps --requirement plugins/mlx/cuda/nvidia.txt`, which makes FOLDER/nvidia. CUDA_COMPUTE_CAP chooses the oldest card that it is for: 80 (the default) runs on
# all from the A100 on, 90 on H100 and H200 only, where kernels need not be compiled again when the plugin is loaded.
# With TESTS set, target/cuda/candle-tests is made, too: tests that want the GPU.
# The kernels take nvcc some twenty minutes on two cores, once for each FOLDER and capability.
set -eu
root=$(cd "$(dirname "$0")/../../.." && pwd)
mkdir -p "${1:-$root/target/cuda-toolkit}"
toolkit=$(cd "${1:-$root/target/cuda-toolkit}" && pwd)
home=$toolkit/nvidia/cu13

if [ ! -e "$toolkit/ready" ]; then
    python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: \
        --requirement "$root/plugins/candle/cuda/toolkit.txt" --dest "$toolkit/wheels"
    for wheel in "$toolkit"/wheels/*.whl; do
        python3 -m zipfile --extract "$wheel" "$toolkit"
    done
    chmod +x "$home"/bin/* "$home"/nvvm/bin/*
    ln -sfn lib "$home/lib64"
    ln -sf libcudart.so.13 "$home/lib/libcudart.so"
    ln -sf libcurand.so.10 "$home/lib/libcurand.so"
    # What stands in for libraries that come with the driver and with CUDA: only their names are linked against.
    for library in cuda.so.1 cublas.so.13 cublasLt.so.13 nvrtc.so.13; do
        stub=$home/lib/lib${library%.so.*}.so
        cc -shared -nostdlib -x c /dev/null -Wl,-soname,"lib$library" -o "$stub"
    done
    touch "$toolkit/ready"
fi

export CUDA_HOME="$home" CUDA_PATH="$home" CUDA_ROOT="$home" CUDA_TOOLKIT_ROOT_DIR="$home"
export PATH="$home/bin:$PATH" CUDA_COMPUTE_CAP="${CUDA_COMPUTE_CAP:-80}" CARGO_TARGET_DIR="$root/target/cuda"
export LIBRARY_PATH="$home/lib${LIBRARY_PATH:+:$LIBRARY_PATH}" NVCC="$home/bin/nvcc"
# Libraries of which nothing is called while linking are named all the same: the loader then says which is missing.
export RUSTFLAGS="${RUSTFLAGS:-} -L native=$home/lib -C link-arg=-Wl,--no-as-needed"
cd "$root"
# The compiler leaves out libraries of whose stand-ins it calls nothing; without them the loader finds no function.
libraries=-Wl,--no-as-needed,-lcuda,-lcublas,-lcublasLt,-lnvrtc,-rpath,'$ORIGIN/lib:$ORIGIN/../nvidia/cu13/lib'
cargo rustc --release --package finetune-candle --lib --features cuda -- -C link-arg=$libraries
# What tests/cuda.rs says needs the GPU, for cuda/measure.sh there.
if [ -n "${TESTS:-}" ]; then
    cargo rustc --release --package finetune-candle --features cuda --test cuda -- \
        -C link-arg=$libraries -C link-arg=-Wl,--unresolved-symbols=ignore-all
    cp "$(ls -t "$root"/target/cuda/release/deps/cuda-* | grep -v '\.d$' | head -1)" "$root/target/cuda/candle-tests"
fi
strip -o "$root/target/cuda/libfinetune_candle_cuda.so" "$root/target/cuda/release/libfinetune_candle.so"
ls -l "$root/target/cuda/libfinetune_candle_cuda.so"
