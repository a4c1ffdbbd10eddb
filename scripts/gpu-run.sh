#!/usr/bin/env bash
# Runs one slice of the GPU bundle, each well under 10 minutes, and leaves its results in OUT, at most 8 files in all.
# Correctness comes first: the other slices mean nothing where it fails.
#
#   bash run.sh correctness OUT    the CUDA suite, full-width goldens included, on the real device
#   bash run.sh sanitizer OUT      the kernel tests under compute-sanitizer: memcheck, racecheck, initcheck, synccheck
#   bash run.sh bench OUT          images per second of every variant in every precision; one stream against two
set -uo pipefail
slice=$1
mkdir -p "$2"
out=$(realpath "$2")
cd "$(dirname "$0")"
export ALEXNET_TEST_ROOT=$PWD ALEXNET_TEST_DEVICE=${ALEXNET_TEST_DEVICE:-cuda}

{
    echo "commit $(cat commit)"
    nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.sm --format=csv,noheader 2>&1
} > "$out/device-$slice.txt"

case $slice in
correctness)
    timeout 540 ./suite --include-ignored --test-threads 4 cuda f16 guards dropout preflight batches pipeline > "$out/correctness.txt" 2>&1
    status=$?
    ;;
sanitizer)
    sanitizer=$(command -v compute-sanitizer || ls /usr/local/cuda*/bin/compute-sanitizer 2>/dev/null | head -n 1)
    status=0
    for tool in memcheck racecheck initcheck synccheck; do
        echo "== $tool"
        # initcheck sees what a network leaves unwritten; the guards write every operand first.
        tests=(guards fused::cuda_f16)
        [ "$tool" = initcheck ] && tests=(golden::cuda)
        timeout 130 "${sanitizer:-compute-sanitizer}" --tool "$tool" --error-exitcode 9 ./suite --test-threads 1 "${tests[@]}" || status=$?
    done > "$out/sanitizer.txt" 2>&1
    ;;
bench)
    status=0
    separator='['
    for precision in float32 tf32 float16 bfloat16; do
        for variant in torchvision half single-tower paper caffe caffenet; do
            echo "$separator"
            timeout 25 ./alexnet bench -m "$variant" --device cuda --precision "$precision" -b 1,8,64,256 --duration 1 --json \
                || { status=$?; echo null; }
            separator=,
        done
    done > "$out/bench.json" 2> "$out/bench.txt"
    echo ']' >> "$out/bench.json"
    # One stream against two, on the paper's network.
    timeout 90 ./alexnet compare --device cuda --precision float16 -b 1,8,64,256 --duration 3 --json --report "$out/compare.html" \
        > "$out/compare.json" 2>> "$out/bench.txt" || status=$?
    ;;
*)
    echo "no slice is called '$slice'; say correctness, sanitizer or bench" >&2
    exit 2
    ;;
esac
echo "$slice ended with $status" | tee -a "$out/device-$slice.txt"
exit $status
