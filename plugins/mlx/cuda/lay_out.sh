#!/bin/sh
# Lets the MLX plugin use an NVIDIA GPU: puts MLX's library for CUDA 13 in the place of the one for processors.
#
#   plugins/mlx/cuda/lay_out.sh FOLDER [SITE]
#
# FOLDER holds the program and `plugins/`, as `cargo xtask build` leaves them (target/release). SITE is a Python's
# site-packages with NVIDIA's CUDA 13 libraries in `nvidia/`, as PyTorch brings them; without it they are fetched
# with pip, held to the hashes in nvidia.txt. WHEEL names the wheel of mlx-cuda-13 and is held to the hash of it in
# requirements.txt; without it that is fetched. What is in FOLDER can be moved only with `nvidia`. Run again after `cargo xtask build`,
# which lays the library for processors back.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
folder=$(cd "${1:?the folder that holds plugins/}" && pwd)
site=${2:-}

[ -f "$folder/plugins/libfinetune_mlx.so" ] || {
    echo "$folder/plugins has no libfinetune_mlx.so; cargo xtask build makes it" >&2
    exit 1
}

work=$(mktemp -d "$folder/.mlx-cuda.XXXXXX")
trap 'rm -rf "$work"' EXIT
if [ -z "${WHEEL:-}" ]; then
    python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: --require-hashes \
        --requirement "$here/requirements.txt" --dest "$work"
    WHEEL=$(echo "$work"/mlx_cuda_13-*.whl)
fi
sum=$(sha256sum "$WHEEL" | cut -d ' ' -f 1)
grep -q "sha256:$sum" "$here/requirements.txt" || {
    echo "$WHEEL is not the wheel that $here/requirements.txt names: its SHA-256 is $sum" >&2
    exit 1
}
python3 -m zipfile --extract "$WHEEL" "$work/wheel"
chmod -R go-w "$work/wheel"

# The library looks for its headers, of which it compiles kernels, in ../include, and for NVIDIA's libraries and
# headers in ../../nvidia: beside the program.
mkdir -p "$folder/plugins/lib"
for library in "$work"/wheel/mlx/lib/libmlx.so "$work"/wheel/mlx_cuda_13.libs/*; do
    mv -f "$library" "$folder/plugins/lib/"
done
rm -rf "$folder/plugins/include"
mv "$work/wheel/mlx/include" "$folder/plugins/include"

if [ -n "$site" ]; then
    [ -d "$site/nvidia" ] || {
        echo "$site has no folder nvidia; it should be the site-packages of a PyTorch for CUDA 13" >&2
        exit 1
    }
    if [ -d "$folder/nvidia" ] && [ ! -L "$folder/nvidia" ]; then
        echo "$folder/nvidia is a folder, of an earlier run without $site; remove it first" >&2
        exit 1
    fi
    ln -sfn "$(cd "$site/nvidia" && pwd)" "$folder/nvidia"
elif [ ! -e "$folder/nvidia" ]; then
    python3 -m pip install --quiet --disable-pip-version-check --only-binary :all: --no-deps \
        --require-hashes --requirement "$here/nvidia.txt" --target "$work/site"
    mv "$work/site/nvidia" "$folder/nvidia"
fi
echo "MLX in $folder/plugins uses CUDA 13 now; $folder/finetune plugins list says whether it finds a GPU."
