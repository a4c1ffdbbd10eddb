#!/usr/bin/env bash
# Runs one slice of the GPU bundle, each under 10 minutes, and leaves its results in OUT, at most 8 files in all.
# Correctness comes first: the other slices mean nothing where it fails.
#
#   bash run.sh correctness OUT    the CUDA suite, full-width goldens included, on the real device
#   bash run.sh sanitizer OUT      the kernel tests under compute-sanitizer: memcheck, racecheck, initcheck, synccheck
#   bash run.sh bench OUT          networks, layouts, profiles and kernels, then PyTorch and JAX: records.json, report.html, traces
#   bash run.sh all OUT            correctness, then bench: up to 18 minutes, less with BENCH_SECONDS
#
# Of records.json scripts/record.py makes a file of benches/record. bench takes BENCH_SECONDS (540) at most: what tells most comes
# first, and what no longer fits is left out and said. records.json is there after the first part and grows, so that a run that is
# stopped keeps what it has. PYTHON is a python3 with PyTorch and JAX, whose cuDNN and cuBLASLt are used where the system has none.
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

# Runs a command for at most so many seconds, and no longer than bench has left. What it prints goes to the log.
limited() {
    local left=$((deadline - SECONDS)) most=$1
    shift
    echo "== $*" >> "$out/bench.txt"
    if [ "$left" -lt 10 ]; then
        echo "left out, for lack of time: $*" | tee -a "$out/bench.txt" >&2
        status=124
        return 1
    fi
    timeout "$((most < left ? most : left))" "$@" 2>> "$out/bench.txt" || { status=$?; return 1; }
}

# Puts what there is into records.json, whose reader sees the old one or the new one.
gather() {
    "$python" -c 'import json, sys; json.dump([json.load(open(name)) for name in sys.argv[1:]], sys.stdout)' "$records"/*.json \
        > "$records/all" 2>> "$out/bench.txt" && mv "$records/all" "$out/records.json" || status=$?
}

# A command that prints a record; one that fails leaves none.
record() {
    local name=$1 most=$2
    shift 2
    if limited "$most" "$@" > "$records/$name.json"; then gather; else rm -f "$records/$name.json"; fi
}

# The kernel benchmarks, which add to one record case by case.
kernels() {
    export ALEXNET_BENCH_DEVICE=$device ALEXNET_BENCH_RECORD=$records/kernels.json ALEXNET_BENCH_PRECISIONS=${BENCH_PRECISIONS:-float16}
    export ALEXNET_BENCH_BATCHES=${KERNEL_BATCHES:-1,256}
    limited "$2" "./bench-$1" --bench --noplot --nresamples 1000 --warm-up-time 0.1 --measurement-time 0.3 >> "$out/bench.txt"
    gather
}

# A script of peers/, which writes its record result by result and stops by itself when its budget is spent.
peer() {
    local name=$1 most=$2
    shift 2
    limited "$((most + 60))" "$python" "peers/${name}_gpu.py" --alexnet ./alexnet -o "$records/$name.json" --folder "$work" \
        --duration 0.3 --budget "$most" "$@" >> "$out/bench.txt"
    gather
}

# All modes of a network.
networks() {
    record "bench-$1-$2" "$3" ./alexnet bench -m "$1" --device "$device" --precision "$2" -b "${BENCH_BATCHES:-1,8,64,256,1024}" \
        --duration "${BENCH_DURATION:-0.3}" --json
}

profiles() {
    record "profile-$1" 30 ./alexnet profile -m "$1" --device "$device" --precision float16 -b "${PROFILE_BATCH:-256}" --json \
        --trace "$out/trace-$1.json"
}

bench() {
    local status=0 deadline=$((SECONDS + ${BENCH_SECONDS:-540})) records work precision variant libraries
    records=$(mktemp -d) work=$(mktemp -d)
    # PyTorch's packages bring NVIDIA's libraries. Those of the system come first.
    libraries=$("$python" -c 'import glob, site; print(":".join(sorted(p for d in site.getsitepackages() + [site.getusersitepackages()] for p in glob.glob(d + "/nvidia/*/lib"))))' 2>/dev/null)
    [ -z "$libraries" ] || export LD_LIBRARY_PATH=${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$libraries
    # A record a precision: one that is cut off takes no other with it.
    for precision in float16 tf32 float32 bfloat16; do networks torchvision $precision 40; done
    profiles torchvision
    kernels conv 70
    kernels fc 45
    peer torch 120 --precisions float16,tf32,float32,bfloat16 -b "${BENCH_BATCHES:-1,8,64,256,1024}" ${PEERS_ARGUMENTS:-}
    record compare 60 ./alexnet compare --device "$device" --precision float16 -b "${COMPARE_BATCHES:-1,64,256}" \
        --duration "${BENCH_DURATION:-1}" --json
    networks paper float16 40
    profiles paper
    kernels pool_lrn 40
    kernels preprocess 20
    peer jax 40 --precisions float16,float32 -b "${BENCH_BATCHES:-1,64,256}"
    for variant in half single-tower caffe caffenet; do networks $variant float16 40; done
    ./alexnet report "$out/records.json" -o "$out/report.html" 2>> "$out/bench.txt" || status=$?
    rm -rf "$records" "$work"
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
