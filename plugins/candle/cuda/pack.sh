#!/bin/sh
# Packs what measure.sh needs, for a machine with an NVIDIA GPU that can fetch nothing and has a Python with PyTorch
# for CUDA 13.
#
#   plugins/candle/cuda/pack.sh FINETUNE PLUGINS TESTS OUT.tar.xz [PEER.py PYTHON]
#
# FINETUNE is the program, PLUGINS a folder with the cpu plugin and candle's as cuda/build.sh leaves it, TESTS a folder
# with the programs `goldens` and `conformance` of the tests crate and `candle-tests` of cuda/build.sh. PEER.py is
# another program to be timed beside finetune, with `--device cuda` and once more with `--compile` (tests/bench/lora.py
# says what else it must take), and PYTHON a folder of packages for it.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../../.." && pwd)
finetune=${1:?the program finetune}
plugins=${2:?the folder of plugins}
tests=${3:?the folder that holds the test programs}
out=${4:?the archive to be written}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

mkdir -p "$work/program/plugins" "$work/tests/goldens" "$work/programs" "$work/demo/model" "$work/demo/box"
cp "$finetune" "$work/program/finetune"
cp "$plugins"/libfinetune_cpu.so "$plugins"/libfinetune_candle_cuda.so "$work/program/plugins/"
for program in goldens conformance candle-tests; do
    cp "$tests/$program" "$work/programs/"
done
strip "$work/program/finetune" "$work"/program/plugins/* "$work"/programs/*
cp -r "$root/tests/bench" "$work/tests/"
cp -r "$root/tests/goldens/data" "$work/tests/goldens/"
cp "$root/demo/model/tokenizer.json" "$work/demo/model/"
cp "$root/demo/box/sample.jsonl" "$work/demo/box/"
cp "$here/measure.sh" "$work/"
if [ -n "${5:-}" ]; then
    cp "$5" "$work/peer.py"
    cp -r "${6:?the folder of packages for the peer}" "$work/python"
fi
tar -c -C "$work" . | xz -1 -T0 >"$out"
ls -l "$out"
