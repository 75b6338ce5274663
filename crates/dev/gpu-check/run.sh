#!/usr/bin/env bash
# Checks and measures Selfie's CUDA backend on this machine: needs an NVIDIA driver and cuBLASLt, nothing else.
#
#   run.sh check            every op, whole models, the kernels, single instructions; compute-sanitizer where it is
#                           installed
#   run.sh bench [FILE [OPTIONS]]
#                           the GPU's limits, a sweep, decode steps, products, ops and a profile, as a table and as JSON;
#                           OPTIONS as --small are those of bin/gpu-bench
#   run.sh all FOLDER [OPTIONS]
#                           both in about four minutes, each step with a time limit, each result written at once
#   run.sh selfie ...       the program itself, with the libraries found
#
# SELFIE_MODEL names a folder for the random checkpoint of 13.5 GB that is measured; without, it is in memory
# (/dev/shm).
# SELFIE_STEPS names the steps of `all` ("machine check kernels bench torch sanitize"), in the order in which they run.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
export SELFIE_GOLDEN="$here/golden"
commit=$(cat "$here/COMMIT")
# The environment of other people's programs: a folder with libraries for ours must not come before theirs.
outside=${LD_LIBRARY_PATH:-}
# Where containers have the driver.
export LD_LIBRARY_PATH="${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}/usr/local/nvidia/lib64:/usr/local/nvidia/lib"
model=${SELFIE_MODEL:-/dev/shm/selfie-llama-2-7b}

fail() {
    echo "error: $*" >&2
    exit 1
}

# Whether a folder that libraries are loaded from has a file of this name (a pattern).
loadable() {
    local folder folders known
    # All of the list is read: a reader that stops early would end ldconfig with a signal, and pipefail call that a
    # failure.
    known=$(ldconfig -p 2>/dev/null | awk '{print $1}' || true)
    case $'\n'$known$'\n' in
        *$'\n'$1$'\n'*) return ;;
    esac
    IFS=: read -ra folders <<<"$LD_LIBRARY_PATH"
    for folder in "${folders[@]}"; do
        if compgen -G "$folder/$1" >/dev/null; then return; fi
    done
    return 1
}

# The folder of libcublasLt: the CUDA toolkit's, or that of this machine's Python packages.
find_cublas() {
    if loadable 'libcublasLt.so.1[23]'; then
        return
    fi
    local folders=("${CUDA_HOME:-/usr/local/cuda}/lib64" /usr/local/cuda-1[23]*/lib64 /usr/lib/x86_64-linux-gnu)
    local packages package folder
    packages=$(python3 -c 'import sysconfig, site; print("\n".join({sysconfig.get_paths()["purelib"], *site.getsitepackages(), site.getusersitepackages()}))' 2>/dev/null || true)
    while read -r package; do
        folders+=("$package"/nvidia/cu1[23]/lib "$package"/nvidia/cublas/lib "$package"/torch/lib)
    done <<<"$packages"
    for folder in "${folders[@]}"; do
        if compgen -G "$folder/libcublasLt.so.1[23]" >/dev/null; then
            export LD_LIBRARY_PATH="$folder:$LD_LIBRARY_PATH"
            echo "cuBLASLt: $folder"
            return
        fi
    done
    fail "libcublasLt.so.13 or .12 was not found: install the CUDA toolkit or the Python package nvidia-cublas"
}

python() {
    LD_LIBRARY_PATH=$outside python3 "$@"
}

has_torch() {
    python -c 'import torch, transformers; assert torch.cuda.is_available()' 2>/dev/null
}

# Writes the random checkpoint, unless it is there.
checkpoint() {
    if [ ! -e "$model/config.json" ]; then
        "$here/bin/selfie" random-checkpoint --shape llama-2-7b --tokenizer "$here/golden/llama2-mha" --out "$model"
    fi
}

sanitizer() {
    command -v compute-sanitizer || compgen -G '/usr/local/cuda*/bin/compute-sanitizer' | head -1 || true
}

# Runs checks under a tool of compute-sanitizer, for so many seconds.
sanitize() {
    local tool=$1 seconds=$2 only=$3 program code=0
    program=$(sanitizer)
    timeout --foreground "$seconds" "$program" --tool "$tool" --error-exitcode 9 \
        "$here/bin/gpu-check" --in-process --no-graphs --only "$only" || code=$?
    case $code in
        0) echo "compute-sanitizer $tool of \"$only\": nothing found" ;;
        124) echo "compute-sanitizer $tool of \"$only\": stopped after $seconds s, nothing found until then" ;;
        *) echo "compute-sanitizer $tool of \"$only\": FAILED ($code)" && return 1 ;;
    esac
}

check() {
    local failed=() tool
    "$here/bin/gpu-check" --jobs 4 || failed+=("gpu-check")
    if [ -n "$(sanitizer)" ]; then
        for tool in memcheck racecheck; do
            sanitize "$tool" 600 "op " || failed+=("$tool of ops")
            sanitize "$tool" 600 "attention" || failed+=("$tool of attention")
        done
    else
        echo "compute-sanitizer is not installed: memory and races were not checked"
    fi
    if [ ${#failed[@]} -gt 0 ]; then
        printf 'FAILED: %s\n' "${failed[@]}"
        exit 1
    fi
    echo "all checks passed"
}

bench() {
    local json=${1:-results.json} options=("${@:2}") baseline=()
    checkpoint
    if has_torch; then
        # Each in a process of its own: the two do not share the GPU's memory.
        if python "$here/baseline/gpu.py" "$model" --out "$json.baseline"; then
            baseline=(--baseline "$json.baseline")
        else
            echo "the PyTorch baseline failed: the figures stand alone"
        fi
    else
        echo "python3 has no torch with CUDA and transformers: no baseline"
    fi
    "$here/bin/gpu-bench" --model "$model" --commit "$commit" --json "$json" "${baseline[@]}" "${options[@]}"
}

# Runs a command for at most so many seconds, notes what it printed, and goes on whatever it did.
step() {
    local seconds=$1 name=$2 start=$SECONDS
    code=0
    shift 2
    echo "=== $name" >>"$out/log.txt"
    timeout -k 5 "$seconds" "$@" >>"$out/log.txt" 2>&1 || code=$?
    if [ "$code" = 0 ]; then
        echo "ok      $name ($((SECONDS - start)) s)"
    elif [ "$code" = 124 ]; then
        echo "STOPPED $name after $seconds s"
    else
        echo "FAILED  $name with $code ($((SECONDS - start)) s)"
        tail -n 15 "$out/log.txt" | sed 's/^/        /'
    fi
}

# What is asked of gpu-bench goes to one file, section by section, each in a process of its own.
section() {
    step "$1" "$2" "$here/bin/gpu-bench" --model "$model" --commit "$commit" --json "$out/results.json" --section "$2" \
        "${options[@]}"
}

all() {
    out=$(realpath -m "${1:?run.sh all FOLDER}")
    local options=("${@:2}") writing tool code checks=("$here/bin/gpu-check" --jobs 8 --limit 60 --results "$out/checks.jsonl")
    mkdir -p "$out"
    for name in ${SELFIE_STEPS:-machine check kernels bench torch sanitize}; do
        case $name in
            machine)
                nvidia-smi -q >"$out/nvidia-smi.txt" 2>&1 || true
                nvidia-smi --query-gpu=timestamp,clocks.sm,clocks.mem,power.draw,temperature.gpu,utilization.gpu \
                    --format=csv -lms 500 >"$out/clocks.csv" 2>&1 &
                trap "kill $! 2>/dev/null || true" EXIT
                checkpoint >"$out/checkpoint.txt" 2>&1 &
                writing=$!
                ;;
            check)
                step 150 check "${checks[@]}" --only "op rms_norm" --only "op linear" --only attention --only "op attend" \
                    --only graph --only model --only instructions --only op
                ;;
            kernels) step 90 kernels "${checks[@]}" --only kernels ;;
            bench)
                if [ -n "${writing:-}" ]; then wait "$writing" || cat "$out/checkpoint.txt"; fi
                section 40 floors
                [ "$code" = 0 ] || fail "the GPU's limits could not be measured: nothing else is tried"
                section 60 sweep
                section 60 decode
                section 60 ops
                section 60 products
                section 60 profile
                ;;
            torch)
                if has_torch; then
                    LD_LIBRARY_PATH=$outside step 150 torch python3 "$here/baseline/gpu.py" "$model" --out "$out/torch.json" \
                        --batches 608,256
                else
                    echo "python3 has no torch with CUDA and transformers: no baseline"
                fi
                ;;
            sanitize)
                if [ -n "$(sanitizer)" ]; then
                    for tool in memcheck racecheck; do
                        step 60 "$tool" bash "$here/run.sh" sanitize "$tool" 25 attention
                    done
                fi
                ;;
            *) fail "there is no step $name" ;;
        esac
    done
    grep -E '^ok .*\[|checks passed' "$out/log.txt" || true
}

case "${1:-}" in
    check | bench | all | sanitize) ;;
    selfie) ;;
    *) fail "usage: run.sh check | run.sh bench [FILE [OPTIONS]] | run.sh all FOLDER | run.sh selfie ..." ;;
esac
loadable 'libcuda.so.1' || fail "there is no CUDA driver (libcuda.so.1) on this machine: nothing was run"
find_cublas
if [ "$1" = selfie ]; then
    exec "$here/bin/selfie" "${@:2}"
fi
"$@"
