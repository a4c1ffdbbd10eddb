#!/usr/bin/env bash
# Compiles the kernels with the pinned nvcc (13.0.88, from PyPI) and writes kernels/prebuilt.
#
#   scripts/prebuilt.sh            write
#   scripts/prebuilt.sh --check    fail where kernels/prebuilt differs, and assemble every kernel for every GPU
#                                  generation with the ptxas of CUDA 12.8 and of 13.0: no errors, no spills
set -euo pipefail
cd "$(dirname "$0")/.."

source scripts/toolchain.sh
nvcc=$(pinned_nvcc)

built=$(NVCC=$nvcc cargo check -p alexnet --message-format=json-render-diagnostics \
    | sed -n 's/.*"package_id":"[^"]*#\(alexnet@\)\{0,1\}[0-9.]*".*"out_dir":"\([^"]*\)".*/\2/p' | tail -n 1)
names=$(find kernels -name '*.cu' -exec basename {} .cu \; | sort)
if [ "${1:-}" != "--check" ]; then
    rm -f kernels/prebuilt/*.ptx
    for name in $names; do cp "$built/$name.ptx" kernels/prebuilt/; done
    exit
fi

stale() { echo "kernels/prebuilt is stale: run scripts/prebuilt.sh" >&2; exit 1; }
[ "$names" = "$(find kernels/prebuilt -name '*.ptx' -exec basename {} .ptx \; | sort)" ] || stale
for name in $names; do
    cmp "$built/$name.ptx" "kernels/prebuilt/$name.ptx" || stale
done

cuda12=$(toolchain ptxas-12.8 nvidia-cuda-nvcc-cu12==12.8.93)
assemble() { # ptxas, architectures...
    local ptxas=$1 arch ptx log; shift
    for arch in "$@"; do
        for ptx in kernels/prebuilt/*.ptx; do
            log=$("$ptxas" -v "-arch=sm_$arch" "$ptx" -o /dev/null 2>&1) || { echo "$log" >&2; exit 1; }
            if grep -E '[1-9][0-9]* bytes (stack frame|spill)' <<<"$log"; then
                echo "$ptx spills or has a stack frame on sm_$arch" >&2; exit 1
            fi
            echo "$(basename "$ptx") sm_$arch: $(grep -o 'Used .*' <<<"$log" | tr '\n' ';')"
        done
    done
}
assemble "$(find "$cuda12" -path '*/bin/ptxas')" 80 86 89 90
assemble "$(find "$(cuda13)" -path '*/bin/ptxas')" 80 86 89 90 100 120
