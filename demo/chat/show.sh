#!/bin/sh
# A real chat model learns another manner: its answers before, LoRA, its answers after, the picture of the run.
#
#     demo/chat/show.sh MODEL RUN [PICTURE]
#
# MODEL is SmolLM2-135M-Instruct, a folder or a GGUF file. Needs `cargo xtask build --release`; some minutes on 2 cores.
set -eu
model=$1 run=$2 picture=${3:-}
cd "$(dirname "$0")/../.."
finetune=${FINETUNE:-target/release/finetune}

answers() {
    for question in "What is the capital of France?" "What is a whale?" "How do I make coffee?"; do
        printf '\n> %s\n' "$question"
        "$finetune" generate --model "$model" "$@" --chat --temperature 0 --max-tokens 60 --prompt "$question" 2>/dev/null
        echo
    done
}

answers
"$finetune" train --model "$model" --data demo/chat/train.jsonl --valid demo/chat/valid.jsonl \
    --lr 5e-4 --schedule cosine --warmup 2 --steps 24 --seq-len 256 --eval-every 4 --out "$run"
answers --adapter "$run/adapter"
if [ -n "$picture" ]; then
    "$finetune" report "$run" --picture "$picture"
fi
