#!/bin/sh
# On the machine with the GPU: checks and measures what pack.sh has packed, and reports.
#
#   measure.sh FOLDER SITE OUT [PART...]
#
# FOLDER is where the archive was unpacked, SITE the site-packages of a PyTorch for CUDA 13, OUT a folder for what was
# found: `report` has one line a check and JSON lines of the benchmark, the other files have what the checks said. The exit
# status is 1 if a check failed; curves are for the eye. Parts
# are check, curves, profile and bench; without any, all. REPEAT is how often the benchmark is run (2).
set -u
folder=$(cd "${1:?the unpacked archive}" && pwd)
site=$(cd "${2:?the site-packages of a PyTorch}" && pwd)
out=$(mkdir -p "${3:?a folder for the results}" && cd "$3" && pwd)
shift 3
parts=${*:-check curves profile bench}
report="$out/report"
rm -f "$out/failed"
cd "$folder"
chmod -R go-w program
# NVIDIA's libraries are PyTorch's, whose folder the loader is told.
export LD_LIBRARY_PATH="$site/nvidia/cu13/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
export FINETUNE_CANDLE=candle-cuda FINETUNE_BIN="$folder/program/finetune"
export FINETUNE_PLUGINS_DIR="$folder/program/plugins" FINETUNE_GOLDENS_DIR="$folder/tests/goldens/data"
say() { echo "$@" | tee -a "$report"; }
wants() { case " $parts " in *" $1 "*) true ;; *) false ;; esac; }
say "$(nvidia-smi --query-gpu=name,driver_version --format=csv,noheader)"
program/finetune plugins list 2>&1 | tee -a "$report"

check() {
    name=$1
    shift
    timeout 200 "$@" >"$out/$name" 2>&1
    status=$?
    [ $status = 0 ] || echo "$name" >>"$out/failed"
    say "$name: exit status $status; $(grep -E '^(test result|[0-9]+ ops)' "$out/$name" | tail -1)"
}
if wants check; then
    check candle-tests programs/candle-tests --nocapture --test-threads 1
    check goldens programs/goldens candle_plugin --test-threads 4 &
    check conformance programs/conformance program/plugins candle-cuda:0
    wait
fi

model() { python3 tests/bench/lora.py --finetune program/finetune --backend candle-cuda --models models "$@"; }
# Losses of eight steps on the processor and the GPU: MODEL PRECISION LENGTH METHOD...
curve() {
    model=$1 precision=$2 length=$3
    shift 3
    for backend in cpu candle-cuda; do
        losses=$(program/finetune train --json --backend $backend --model "models/$model" --data "models/$model/rows.jsonl" \
            --out "$out/curve" --method "$@" --precision "$precision" --batch 2 --seq-len "$length" --lr 1e-3 --steps 8 \
            2>"$out/curve-errors" |
            sed -n 's/.*"event":"step".*"loss":\([0-9.]*\).*/\1/p' | tr '\n' ' ')
        rm -rf "$out/curve"
        say "$model, $precision, $*, $backend: $losses"
    done
}
if wants curves; then
    model --preset tiny smollm2-135m --steps 1 --warmup 0 >"$out/first" 2>&1
    for precision in f32 bf16; do
        curve tiny $precision 64 lora --rank 16 --dropout 0.1
        curve tiny $precision 64 full
        # Heads of 64 channels and rows that are not short: the fused attention.
        curve smollm2-135m $precision 512 lora --rank 16
    done
fi

if wants profile; then
    FINETUNE_CANDLE_PROFILE=1 model --preset llama-1b --steps 2 --warmup 1 >"$out/profile.json" 2>"$out/profile"
fi
if wants bench; then
    if [ -d python ]; then
        export PYTHONPATH="$folder/python"
        set -- --peer "peer.py --device cuda" --peer "peer.py --device cuda --compile"
    else
        set --
    fi
    for preset in ${PRESETS:-llama-1b smollm2-135m}; do
        model --preset "$preset" "$@" --steps 8 --warmup 3 --repeat "${REPEAT:-2}" 2>>"$out/bench-errors" |
            tee -a "$report"
    done
fi

if [ -e "$out/failed" ]; then
    say "failed: $(tr '\n' ' ' <"$out/failed")"
    exit 1
fi
