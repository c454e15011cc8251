#!/bin/sh
# Makes src/kernel/kernels.ptx of src/kernel/kernels.cu, with the toolkit that cuda/build.sh lays out:
#
#   plugins/candle/cuda/ptx.sh [TOOLKIT]
#
# For compute capability 8.0, so that the driver of any card from the A100 on makes its own code of it. Its first line
# is a hash of the sources, so that a test sees when it is older than they are.
set -eu
plugin=$(cd "$(dirname "$0")/.." && pwd)
toolkit=${1:-$plugin/../../target/cuda-toolkit}
home=$toolkit/nvidia/cu13
cd "$plugin/src/kernel"
made=$(mktemp)
trap 'rm -f "$made"' EXIT
PATH="$home/bin:$PATH" nvcc --ptx -arch=compute_80 -O3 -std=c++17 -I "$home/include" kernels.cu -o "$made"
# The sources that CUDA reads, in the order of their names.
hash=$(cat kernels.cu $(ls source/*.h | grep -v -e prelude_host -e prelude_metal | LC_ALL=C sort) | sha256sum | cut -d ' ' -f 1)
{
    echo "// sources: sha256 $hash"
    # Without comments, which name folders of this machine.
    sed '/^\/\//d' "$made"
} >kernels.ptx
