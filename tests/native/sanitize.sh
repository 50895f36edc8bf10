#!/usr/bin/env bash
# Run the native kernels under the address and undefined-behaviour sanitizers, without torch.
#
#     tests/native/sanitize.sh [portable] [native]
#
# `native` is the instruction set of this machine. Each takes about a minute of one core.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${PYTHON:-.venv/bin/python}
build=${BUILD:-build/sanitize}

# Python itself is not instrumented, so the runtime is loaded before it; it leaks by design.
runtime=$("${CXX:-c++}" -print-file-name=libasan.so)
for kind in "${@:-native}"; do
    folder=$build/$kind
    case $kind in
        portable) flags= ;;
        native) flags=-march=native ;;
        *) echo "sanitize: expected portable or native, got $kind" >&2 && exit 2 ;;
    esac
    cmake -S . -B "$folder" -DL1BN_SANITIZE=address,undefined -DCMAKE_CXX_FLAGS="$flags" >/dev/null
    cmake --build "$folder" --parallel >"$folder/build.log" 2>&1 || { cat "$folder/build.log"; exit 1; }
    for driver in tests/native/drive*.py; do
        echo "sanitize: $driver $kind"
        LD_PRELOAD=$runtime ASAN_OPTIONS=detect_leaks=0 PYTHONMALLOC=malloc \
            "$python" "$driver" "$folder/libl1bn.so"
    done
done
