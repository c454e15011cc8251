#!/bin/sh
# Makes demo/model again, from the text on; demo/README.md says what it is.
#
#     demo/box/make.sh [bundle|train|keep]
#
# bundle  builds the program, fetches the text, learns the tokenizer: target/box/bundle is then all that training needs,
#         also on a machine without Rust and without a network
# train   trains in target/box/run; BACKEND, STEPS and so on as for train.sh
# keep    writes the trained model in bf16 to target/box/model, with its hashes
#
# Without a word it does the three. Needs Rust, Python 3.9 or newer, npm.
set -eu
cd "$(dirname "$0")/../.."
box=target/box
bundle=$box/bundle

bundle() {
    cargo xtask build --release
    python3 demo/box/prepare.py $box
    rm -rf $bundle
    mkdir -p $bundle/plugins
    cp $box/train.jsonl $box/valid.jsonl $bundle/
    target/release/finetune tokenizer --data $box/train.jsonl --vocab 2048 --out $bundle/model
    cp demo/box/config.json demo/box/generation_config.json $bundle/model/
    cp target/release/finetune $bundle/
    cp -r target/release/plugins/. $bundle/plugins/
}

train() {
    # On two cores it takes many hours: each round stops at a checkpoint after nine minutes.
    until [ -d $box/run/model ]; do
        STEPS=${STEPS:-4500} BATCH=${BATCH:-32} DECAY=${DECAY:-0.3} demo/box/train.sh $bundle $box/run 2400
    done
}

keep() {
    rm -rf $box/model
    $bundle/finetune export --model $box/run/model --dtype bf16 --out $box/model
    cp $bundle/model/tokenizer_config.json $box/model/
    (cd $box && sha256sum train.jsonl valid.jsonl model/*) | tee $box/SHA256SUMS
}

case ${1:-all} in
    bundle | train | keep) "$1" ;;
    all) bundle && train && keep ;;
    *) echo "bundle, train or keep was expected, not $1" >&2 && exit 2 ;;
esac
