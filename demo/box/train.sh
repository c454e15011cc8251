#!/bin/sh
# Trains the demo's model from random weights.
#
#     demo/box/train.sh BUNDLE RUN [SECONDS]
#
# BUNDLE holds finetune, plugins/, model/ (config.json and the tokenizer), train.jsonl and valid.jsonl; demo/README.md
# says how it is made. RUN is the run folder. After SECONDS (default 540) the run stops at a checkpoint, and the same
# command goes on with it. When it is done, the model is in RUN/model.
#
#     BACKEND=cpu   the back end (auto)
#     STEPS=N       steps; by default as many as fit into SECONDS, at most 5000 (8 times through the text)
#     BATCH=32  LR=3e-3  DECAY=0.1  SEED=1
set -eu
bundle=$1 run=$2 seconds=${3:-540}
start=$(date +%s)
finetune="$bundle/finetune"
backend=${BACKEND:-auto} batch=${BATCH:-32} most=${MOST:-5000}
chmod +x "$finetune"
common="--backend $backend --plugins $bundle/plugins"

recipe() {
    echo "--model $bundle/model/config.json --data $bundle/train.jsonl --valid $bundle/valid.jsonl --method full" \
        "--batch $batch --seq-len 256 --lr ${LR:-3e-3} --schedule cosine --warmup 100 --weight-decay ${DECAY:-0.1}" \
        "--beta2 0.95 --clip 1 --seed ${SEED:-1} --precision f32"
}

# `timeout` asks the run to stop; it then saves and exits with 130 or so, which is no failure here.
limited() {
    left=$((seconds - ($(date +%s) - start)))
    timeout -s TERM "$left" "$finetune" train "$@" || echo "stopped with exit code $?"
}

"$finetune" plugins list --plugins "$bundle/plugins"
if [ -f "$run/config.toml" ]; then
    limited --resume --out "$run" $common
else
    if [ -z "${STEPS:-}" ]; then
        probe="$run.probe"
        rm -rf "$probe"
        "$finetune" train $(recipe) $common --steps 40 --save-every 0 --out "$probe" >/dev/null 2>&1
        # The first steps compile; the median of the later ones is the pace.
        pace=$(sed -n 's/.*"event":"step".*"step_s":\([0-9.e-]*\).*/\1/p' "$probe/metrics.jsonl" | tail -n 30 | sort -g | sed -n 15p)
        left=$((seconds - ($(date +%s) - start)))
        STEPS=$(awk "BEGIN { n = int(0.9 * $left / $pace); print n < $most ? n : $most }")
        echo "a step takes $pace s: $STEPS steps"
        rm -rf "$probe"
    fi
    limited $(recipe) $common --steps "$STEPS" --save-every 1000 --eval-every 500 --out "$run"
fi
if [ -d "$run/model" ]; then
    ls -l "$run/model"
    if [ -n "${OUT:-}" ]; then
        cp "$run"/model/* "$run/config.toml" "$run/metrics.jsonl" "$OUT/"
    fi
fi
