#!/usr/bin/env bash
# Puts everything that a GPU machine without Rust or network needs into target/gpu-bundle: the test suite as one stripped
# binary, the command line, the kernel benchmarks, the scripts for PyTorch and JAX, test data, and run.sh. At most 60 MB.
#
#   scripts/gpu-bundle.sh
#   (on the GPU machine)  bash run.sh correctness|sanitizer|bench|all OUT
set -euo pipefail
cd "$(dirname "$0")/.."

bundle=target/gpu-bundle
rm -rf "$bundle" && mkdir -p "$bundle/src/cuda"
suite=$(cargo test -p alexnet --release --locked --no-run --test main --message-format=json-render-diagnostics \
    | sed -n 's/.*"name":"main".*"executable":"\([^"]*\)".*/\1/p' | tail -n 1)
cargo build -p alexnet --release --locked
strip -o "$bundle/suite" "$suite"
strip -o "$bundle/alexnet" target/release/alexnet
for library in cuemu cublaslt_emulated cudnn_emulated; do
    strip --strip-unneeded -o "$bundle/lib$library.so" "$(dirname "$suite")/lib$library.so"
done
cp -r samples "$bundle/samples"
mkdir "$bundle/tests" && cp -r tests/data "$bundle/tests/data"
cp src/cuda/{device,cublaslt}.rs "$bundle/src/cuda/" # tests read the lists of functions from them
for name in conv fc pool_lrn preprocess; do
    executable=$(cargo bench -p alexnet --locked --no-run --bench "$name" --message-format=json-render-diagnostics \
        | sed -n "s/.*\"name\":\"$name\".*\"executable\":\"\([^\"]*\)\".*/\1/p" | tail -n 1)
    strip -o "$bundle/bench-$name" "$executable"
done
mkdir "$bundle/peers" && cp benches/peers/*.py "$bundle/peers/"
cp scripts/gpu-run.sh "$bundle/run.sh"
git describe --always --dirty > "$bundle/commit"

size=$(du -sm "$bundle" | cut -f 1)
echo "$bundle: $size MB"
[ "$size" -le 60 ] || { echo "the bundle is over 60 MB" >&2; exit 1; }
