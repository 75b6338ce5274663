#!/usr/bin/env bash
# Checks or measures Selfie's CUDA backend on this machine: needs an NVIDIA driver and cuBLASLt, nothing else.
#
#   run.sh check           every op, whole models, single instructions; compute-sanitizer where it is installed
#   run.sh bench [FILE [OPTIONS]]
#                          the GPU's limits, ops, decode steps and a sweep, as a table and as JSON; OPTIONS as --small
#                          are those of bin/gpu-bench
#
# SELFIE_MODEL names a folder for the random checkpoint of 13.5 GB that bench writes; without, it is in TMPDIR.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
export SELFIE_GOLDEN="$here/golden"
# Where containers have the driver.
export LD_LIBRARY_PATH="${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}/usr/local/nvidia/lib64:/usr/local/nvidia/lib"
commit=$(cat "$here/COMMIT")

fail() {
    echo "error: $*" >&2
    exit 1
}

# Whether a folder that libraries are loaded from has a file of this name (a pattern).
loadable() {
    local folder folders
    ldconfig -p 2>/dev/null | awk '{print $1}' | grep -qx "${1//./\\.}" && return
    IFS=: read -ra folders <<<"$LD_LIBRARY_PATH"
    for folder in "${folders[@]}"; do
        compgen -G "$folder/$1" >/dev/null && return
    done
    return 1
}

# The folder of libcublasLt: the CUDA toolkit's, or that of this machine's Python packages.
find_cublas() {
    if loadable 'libcublasLt.so.1[23]'; then
        return
    fi
    local folders=("${CUDA_HOME:-/usr/local/cuda}/lib64" /usr/local/cuda-1[23]*/lib64 /usr/lib/x86_64-linux-gnu)
    if command -v python3 >/dev/null; then
        local packages
        packages=$(python3 -c 'import sysconfig, site; print("\n".join({sysconfig.get_paths()["purelib"], *site.getsitepackages(), site.getusersitepackages()}))' 2>/dev/null || true)
        while read -r package; do
            folders+=("$package"/nvidia/cu1[23]/lib "$package"/nvidia/cublas/lib)
        done <<<"$packages"
    fi
    local folder
    for folder in "${folders[@]}"; do
        if compgen -G "$folder/libcublasLt.so.1[23]" >/dev/null; then
            export LD_LIBRARY_PATH="$folder:$LD_LIBRARY_PATH"
            echo "cuBLASLt: $folder"
            return
        fi
    done
    fail "libcublasLt.so.13 or .12 was not found: install the CUDA toolkit or the Python package nvidia-cublas"
}

sanitize() {
    local sanitizer=$1 tool=$2 only=$3
    echo "compute-sanitizer $tool, checks that begin with \"$only\""
    "$sanitizer" --tool "$tool" --error-exitcode 9 "$here/bin/gpu-check" --no-graphs --only "$only"
}

check() {
    local failed=() sanitizer
    "$here/bin/gpu-check" || failed+=("gpu-check")
    sanitizer=$(command -v compute-sanitizer || ls /usr/local/cuda*/bin/compute-sanitizer 2>/dev/null | head -1 || true)
    if [ -n "$sanitizer" ]; then
        sanitize "$sanitizer" memcheck "op " || failed+=("memcheck of ops")
        sanitize "$sanitizer" memcheck "attention" || failed+=("memcheck of attention")
        sanitize "$sanitizer" racecheck "op " || failed+=("racecheck of ops")
        sanitize "$sanitizer" racecheck "attention" || failed+=("racecheck of attention")
    else
        echo "compute-sanitizer is not installed: memory and races were not checked"
    fi
    if [ ${#failed[@]} -gt 0 ]; then
        printf 'FAILED: %s\n' "${failed[@]}"
        exit 1
    fi
    echo "all checks passed${sanitizer:+, and those of compute-sanitizer}"
}

bench() {
    local json=${1:-results.json} options=("${@:2}") model=${SELFIE_MODEL:-${TMPDIR:-/tmp}/selfie-llama-2-7b} baseline=()
    if [ ! -e "$model/config.json" ]; then
        "$here/bin/selfie" random-checkpoint --shape llama-2-7b --tokenizer "$here/golden/llama2-mha" --out "$model"
    fi
    if python3 -c 'import torch, transformers; assert torch.cuda.is_available()' 2>/dev/null; then
        # Each in a process of its own: the two do not share the GPU's memory.
        if python3 "$here/baseline/gpu.py" "$model" --out "$json.baseline"; then
            baseline=(--baseline "$json.baseline")
        else
            echo "the PyTorch baseline failed: the figures stand alone"
        fi
    else
        echo "python3 has no torch with CUDA and transformers: no baseline"
    fi
    "$here/bin/gpu-bench" --model "$model" --commit "$commit" --json "$json" "${baseline[@]}" "${options[@]}"
}

case "${1:-}" in
    check | bench) ;;
    *) fail "usage: run.sh check | run.sh bench [FILE [OPTIONS]]" ;;
esac
loadable 'libcuda.so.1' || fail "there is no CUDA driver (libcuda.so.1) on this machine: nothing was run"
find_cublas
"$@"
