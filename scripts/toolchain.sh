# Pinned compilers from PyPI, in target/toolchains; to be sourced from the root of the repository. PTX carries its
# compiler's build: versions are exact.

# A Python environment with the packages named, made once; prints its folder.
toolchain() { # name, packages...
    local folder="target/toolchains/$1"; shift
    if [ ! -e "$folder/complete" ]; then
        rm -rf "$folder"
        python3 -m venv "$folder"
        "$folder/bin/pip" install --quiet --upgrade pip
        "$folder/bin/pip" install --quiet "$@"
        touch "$folder/complete"
    fi
    echo "$folder"
}

cuda13() {
    toolchain cuda-13.0 nvidia-cuda-nvcc==13.0.88 nvidia-cuda-crt==13.0.88 nvidia-nvvm==13.0.88 \
        nvidia-cuda-runtime==13.0.96 nvidia-cuda-cccl==13.0.85
}

# The full path of the pinned nvcc.
pinned_nvcc() {
    realpath "$(find "$(cuda13)" -path '*/bin/nvcc' | head -n 1)"
}

nvdisasm() {
    toolchain nvdisasm nvidia-cuda-nvdisasm==13.5.37
}
