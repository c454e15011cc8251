#!/bin/sh
# Makes src/kernel/kernels.ptx of src/kernel/kernels.cu, with the toolkit that cuda/build.sh lays out:
#
#   plugins/candle/cuda/ptx.sh [TOOLKIT]
#
# For compute capability 8.0, so that the driver of any card from the A100 on makes its own code of it.
set -eu
plugin=$(cd "$(dirname "$0")/.." && pwd)
toolkit=${1:-$plugin/../../target/cuda-toolkit}
home=$toolkit/nvidia/cu13
PATH="$home/bin:$PATH" nvcc --ptx -arch=compute_80 -O3 -I "$home/include" \
    "$plugin/src/kernel/kernels.cu" -o "$plugin/src/kernel/kernels.ptx"
