#!/bin/sh
# On the machine with the GPU: checks and measures what pack.sh has packed, and reports.
#
#   measure.sh FOLDER SITE OUT
#
# FOLDER is where the archive was unpacked, SITE the site-packages of a PyTorch for CUDA 13, OUT a folder for what was
# found: `report` has one line a check and JSON lines of the benchmark, the other files have what the checks said. The exit
# status is 1 if a check failed; curves are for the eye.
# REPEAT is how often the benchmark is run (2). Takes some four minutes; most of it is MLX compiling kernels.
set -u
folder=$(cd "${1:?the unpacked archive}" && pwd)
site=$(cd "${2:?the site-packages of a PyTorch}" && pwd)
out=$(mkdir -p "${3:?a folder for the results}" && cd "$3" && pwd)
report="$out/report"
rm -f "$out/failed"
cd "$folder"
chmod -R go-w program

# The libraries look for NVIDIA's beside the folders that they are in.
ln -sfn "$site/nvidia" program/nvidia
if [ -d python ]; then
    ln -sfn "$site/nvidia" python/nvidia
    cp -r program/plugins/lib program/plugins/include python/mlx/
    mkdir -p python/mlx_cuda_13.libs
    cp program/plugins/lib/lib[bglq]* python/mlx_cuda_13.libs/
    export PYTHONPATH="$folder/python"
    peer="--peer peer.py"
else
    peer=
fi
say() { echo "$@" | tee -a "$report"; }
say "$(nvidia-smi --query-gpu=name,driver_version --format=csv,noheader)"

# Not compiled: each of hundreds of small programs would be kernels of its own. What training compiles is compared
# between the back ends below.
check() {
    name=$1
    shift
    FINETUNE_MLX_COMPILE=0 timeout 200 "$@" >"$out/$name" 2>&1
    status=$?
    [ $status = 0 ] || echo "$name" >>"$out/failed"
    say "$name: exit status $status; $(grep -E '^(test result|[0-9]+ ops)' "$out/$name" | tail -1)"
}
FINETUNE_BIN="$folder/program/finetune" FINETUNE_PLUGINS_DIR="$folder/program/plugins" \
    FINETUNE_GOLDENS_DIR="$folder/tests/goldens/data" check goldens programs/goldens mlx_plugin --test-threads 3 &
goldens=$!
FINETUNE_BIN="$folder/program/finetune" check conformance programs/conformance program/plugins mlx:0 &
conformance=$!

# Every program compiles its kernels once, all at the same time, each into a folder of its own.
bench() {
    preset=$1
    shift
    MLX_PTX_CACHE_DIR="$folder/kernels/$preset" python3 tests/bench/lora.py --finetune program/finetune \
        --backend mlx --models models --preset "$preset" "$@"
}
for preset in llama-1b smollm2-135m; do
    mkdir -p "kernels/$preset" "kernels/$preset-peer"
    # The peer runs by itself here, so that both compile at once.
    [ -z "$peer" ] || MLX_PTX_CACHE_DIR="$folder/kernels/$preset-peer" python3 peer.py --model "$preset" --method lora \
        --rank 16 --batch 1 --seq 1024 --steps 1 --warmup 1 --dtype bf16 >"$out/first-$preset-peer" 2>&1 &
    bench "$preset" --steps 2 --warmup 0 >"$out/first-$preset" 2>&1 &
    first="${first:-} $!"
done
curve() {
    program/finetune train --json --backend "$1" --model models/tiny --data models/tiny/rows.jsonl --out "$out/curve-$1" \
        --method lora --rank 16 --precision f32 --batch 2 --seq-len 64 --lr 1e-3 --steps 8 --dropout 0.1 2>/dev/null |
        sed -n 's/.*"event":"step".*"loss":\([0-9.]*\).*/\1/p' | tr '\n' ' '
    rm -rf "$out/curve-$1"
}
bench tiny --precision f32 --steps 1 --warmup 0 >"$out/first-tiny" 2>&1
for backend in cpu mlx; do
    say "losses in f32 with dropout, $backend: $(MLX_PTX_CACHE_DIR="$folder/kernels/curve" curve $backend)"
done
for one in $first $goldens $conformance; do
    wait "$one"
done
wait

for preset in llama-1b smollm2-135m; do
    # Both read the same folder of kernels; the peer's own are added to it.
    [ -z "$peer" ] || cp -rn "kernels/$preset-peer/." "kernels/$preset/"
    bench "$preset" $peer --steps 8 --warmup 3 --repeat "${REPEAT:-2}" 2>>"$out/bench-errors" | tee -a "$report"
done

if [ -e "$out/failed" ]; then
    say "failed: $(tr '\n' ' ' <"$out/failed")"
    exit 1
fi
