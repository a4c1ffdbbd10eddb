#!/bin/sh
# Compiles the test kernels with nvcc 13.0, from $NVCC or the path.
cd "$(dirname "$0")" || exit
for source in *.cu; do
    "${NVCC:-nvcc}" -ptx -arch=compute_80 -std=c++17 "$source" -o "${source%.cu}.ptx" || exit
done
