#!/usr/bin/env bash
# Cross-compile the native kernels for 64-bit ARM and run their drivers under emulation.
#
#     tests/native/neon.sh
#
# Needs Debian's g++-aarch64-linux-gnu, qemu-user-static and mmdebstrap, and its package server for
# an ARM Python with NumPy (SUITE and MIRROR name another release or server). About a minute of one
# core to compile, one to run.
set -euo pipefail
cd "$(dirname "$0")/../.."
build=${BUILD:-build/neon}
compiler=aarch64-linux-gnu-g++

for tool in "$compiler" qemu-aarch64-static mmdebstrap; do
    command -v "$tool" >/dev/null && continue
    echo "neon: $tool is missing; apt-get install g++-aarch64-linux-gnu qemu-user-static mmdebstrap" >&2
    exit 2
done

root=$build/root
if [ ! -x "$root/usr/bin/python3" ]; then
    rm -rf "$root" "$root.new"
    mkdir -p "$build"
    # Unpacked, not installed: no root, and no ARM program runs.
    mmdebstrap --quiet --variant=extract --architectures=arm64 \
        --include=python3-minimal,python3-numpy,libgomp1,libstdc++6 \
        "${SUITE:-$(. /etc/os-release && echo "$VERSION_CODENAME")}" "$root.new" \
        "${MIRROR:-http://deb.debian.org/debian}"
    mv "$root.new" "$root"
fi

cmake -S . -B "$build/kernels" -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 \
    -DCMAKE_CXX_COMPILER="$compiler" >/dev/null
cmake --build "$build/kernels" --parallel >"$build/build.log" 2>&1 || { cat "$build/build.log"; exit 1; }

libraries=/usr/lib/aarch64-linux-gnu
for driver in tests/native/drive*.py; do
    echo "neon: $driver"
    qemu-aarch64-static -L "$root" -E "LD_LIBRARY_PATH=$libraries/blas:$libraries/lapack" \
        "$root/usr/bin/python3" "$driver" "$build/kernels/libl1bn.so"
done
