#!/usr/bin/env bash
# Plants one mistake at a time in the kernels, compiles them with the pinned nvcc, and runs on each the kernel test that must
# catch it. tests/mutations/list.rs has the list.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/toolchain.sh

ALEXNET_TEST_NVCC=$(pinned_nvcc)
export ALEXNET_TEST_NVCC
cargo test --locked --test main every_mutation_is_caught -- --ignored --nocapture
