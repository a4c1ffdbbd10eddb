#!/usr/bin/env bash
# Plants one mistake at a time in the kernels, compiles them with the pinned nvcc, and runs the kernel tests on each: every
# mistake must be caught. tests/mutations.rs has the list; the tests that caught each are printed.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/toolchain.sh

NVCC=$(pinned_nvcc)
export NVCC
cargo test --locked --test main every_mutation_is_caught -- --ignored --nocapture
