#!/usr/bin/env bash
# Runs one slice of the GPU bundle, each under 10 minutes, and leaves its results in OUT, at most 8 files in all.
# Correctness comes first: the other slices mean nothing where it fails.
#
#   bash run.sh correctness OUT    the CUDA suite, full-width goldens included, on the real device
#   bash run.sh sanitizer OUT      the kernel tests under compute-sanitizer: memcheck, racecheck, initcheck, synccheck
#   bash run.sh bench OUT          networks, layouts, profiles and kernels, then PyTorch and JAX: records.json, report.html, traces
#   bash run.sh all OUT            correctness, then bench
#
# Of records.json scripts/record.py makes a file of benches/record. BENCH_SECONDS and PEERS_SECONDS, 240 and 200, are about what
# the two parts of bench take; PYTHON is a python3 with PyTorch and JAX. To see that it works without a GPU:
#   BENCH_DEVICE=cpu BENCH_PRECISION=float32 BENCH_PRECISIONS=float32 BENCH_BATCHES=1 BENCH_DURATION=0.1 bash run.sh bench OUT
set -uo pipefail
slice=$1
mkdir -p "$2"
out=$(realpath "$2")
cd "$(dirname "$0")"
export ALEXNET_TEST_ROOT=$PWD ALEXNET_TEST_DEVICE=${ALEXNET_TEST_DEVICE:-cuda}
device=${BENCH_DEVICE:-cuda}
python=${PYTHON:-python3}

{
    echo "commit $(cat commit)"
    nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.sm --format=csv,noheader 2>&1
} > "$out/device-$slice.txt"

correctness() {
    timeout 540 ./suite --include-ignored --test-threads 4 cuda f16 guards dropout preflight batches pipeline > "$out/correctness.txt" 2>&1
}

sanitizer() {
    local status=0 tool tests
    local sanitizer
    sanitizer=$(command -v compute-sanitizer || ls /usr/local/cuda*/bin/compute-sanitizer 2>/dev/null | head -n 1)
    for tool in memcheck racecheck initcheck synccheck; do
        echo "== $tool"
        # initcheck sees what a network leaves unwritten; the guards write every operand first.
        tests=(guards fused::cuda_f16)
        [ "$tool" = initcheck ] && tests=(golden::cuda)
        timeout 130 "${sanitizer:-compute-sanitizer}" --tool "$tool" --error-exitcode 9 ./suite --test-threads 1 "${tests[@]}" || status=$?
    done > "$out/sanitizer.txt" 2>&1
    return $status
}

# A command that writes a record, within a time; one that fails leaves no record, and its message in the log.
record() {
    local name=$1 seconds=$2
    shift 2
    echo "== $*" >> "$out/bench.txt"
    timeout "$seconds" "$@" > "$records/$name.json" 2>> "$out/bench.txt" || { status=$?; rm -f "$records/$name.json"; }
}

bench() {
    local status=0 variant kernels
    records=$(mktemp -d)
    local total=${BENCH_SECONDS:-240} precision=${BENCH_PRECISION:-float16}
    local precisions=${BENCH_PRECISIONS:-float32,tf32,float16,bfloat16} batches=${BENCH_BATCHES:-1,8,64,256,1024}
    for variant in torchvision paper half single-tower caffe caffenet; do
        record "bench-$variant" $((total / 3)) ./alexnet bench -m "$variant" --device "$device" \
            --precision "$precisions" -b "$batches" --duration "${BENCH_DURATION:-0.3}" --json
    done
    record compare $((total / 4)) ./alexnet compare --device "$device" --precision "$precision" -b "${BENCH_BATCHES:-1,8,64,256}" \
        --duration "${BENCH_DURATION:-2}" --json
    for variant in torchvision paper; do
        record "profile-$variant" 30 ./alexnet profile -m "$variant" --device "$device" --precision "$precision" \
            -b "${BENCH_BATCHES:-256}" --json --trace "$out/trace-$variant.json"
    done
    for kernels in conv fc pool_lrn preprocess; do
        ALEXNET_BENCH_DEVICE=$device ALEXNET_BENCH_RECORD=$records/kernels.json ALEXNET_BENCH_PRECISIONS=$precision \
            timeout $((total / 3)) ./bench-$kernels --bench >> "$out/bench.txt" 2>&1 || status=$?
    done
    local peers=${PEERS_SECONDS:-200}
    timeout $((peers + 60)) "$python" peers/torch_gpu.py --alexnet ./alexnet -o "$records/torch.json" --folder "$records/work" \
        --device "${device%%:*}" --precisions "$precisions" -b "$batches" --duration 0.3 --budget $((peers * 3 / 4)) >> "$out/bench.txt" 2>&1 || status=$?
    timeout $((peers / 4 + 60)) "$python" peers/jax_gpu.py --alexnet ./alexnet -o "$records/jax.json" --folder "$records/work" \
        --precisions "$precisions" -b "${BENCH_BATCHES:-1,64,256}" --duration 0.3 --budget $((peers / 4)) >> "$out/bench.txt" 2>&1 || status=$?
    ./alexnet report "$records"/*.json -o "$out/report.html" 2>> "$out/bench.txt" || status=$?
    "$python" -c 'import json, sys; json.dump([json.load(open(name)) for name in sys.argv[1:]], sys.stdout)' "$records"/*.json \
        > "$out/records.json" || status=$?
    rm -rf "$records"
    return $status
}

case $slice in
correctness | sanitizer | bench) "$slice" ;;
all) correctness && bench ;;
*)
    echo "no slice is called '$slice'; say correctness, sanitizer, bench or all" >&2
    exit 2
    ;;
esac
status=$?
echo "$slice ended with $status" | tee -a "$out/device-$slice.txt"
exit $status
