#!/bin/sh
# Bring build/NAME up to date with the working tree: .ci/copy.sh NAME. What the copy itself built (.c, .so, build/) stays.
set -eu
cd "$(dirname "$0")/.."
copy=build/$1

mkdir -p "$copy"
(cd "$copy" && find . -path ./build -prune -o -type f ! -name '*.so' ! -name '*.c' -exec rm -f {} +)
tar -cf - --exclude=./.git --exclude='./.venv*' --exclude=./build --exclude=./dist --exclude=./fuzz-work \
    --exclude=./vxlanfast/_ext --exclude='./.*_cache' --exclude=./.hypothesis --exclude=./.benchmarks \
    --exclude='./.coverage*' --exclude='*.egg-info' --exclude=__pycache__ --exclude='*.so' --exclude='./_ext/*.c' . |
    tar -xf - -C "$copy"
