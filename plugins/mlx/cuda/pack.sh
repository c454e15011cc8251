#!/bin/sh
# Packs what measure.sh needs, for a machine with an NVIDIA GPU that can fetch nothing and has a Python with PyTorch
# for CUDA 13.
#
#   plugins/mlx/cuda/pack.sh FOLDER TESTS ARCHITECTURE OUT.tar.xz [PEER.py PYTHON]
#
# FOLDER is laid out by lay_out.sh (target/release). TESTS holds the programs `goldens` and `conformance` of the tests
# crate. ARCHITECTURE is the GPU's (90 for Hopper): the kernels for others are left out. PEER.py is another program to
# be timed beside finetune (tests/bench/lora.py says what it must take), and PYTHON a folder of packages for it, for
# MLX's own the files of `mlx` without its libraries, which are finetune's.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../../.." && pwd)
folder=${1:?the folder that holds finetune and plugins/}
tests=${2:?the folder that holds the test programs}
architecture=${3:?the architecture of the GPU, as 90}
out=${4:?the archive to be written}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

mkdir -p "$work/program/plugins/lib" "$work/tests/goldens" "$work/programs" "$work/demo/model" "$work/demo/box"
cp "$folder/finetune" "$work/program/"
cp "$folder"/plugins/libfinetune_*.so "$work/program/plugins/"
cp -r "$folder/plugins/include" "$work/program/plugins/"
cp "$folder"/plugins/lib/*.so* "$work/program/plugins/lib/"
python3 "$here/thin.py" "$folder/plugins/lib/libmlx.so" "$architecture" "$work/program/plugins/lib/libmlx.so"
for program in goldens conformance; do
    cp "$tests/$program" "$work/programs/"
done
strip "$work/program/finetune" "$work"/program/plugins/libfinetune_*.so "$work"/programs/*
cp -r "$root/tests/bench" "$work/tests/"
cp -r "$root/tests/goldens/data" "$work/tests/goldens/"
cp "$root/demo/model/tokenizer.json" "$work/demo/model/"
cp "$root/demo/box/sample.jsonl" "$work/demo/box/"
cp "$here/measure.sh" "$work/"
if [ -n "${5:-}" ]; then
    cp "$5" "$work/peer.py"
    cp -r "${6:?the folder of packages for the peer}" "$work/python"
fi
tar -c -C "$work" . | xz -3 -T0 >"$out"
ls -l "$out"
