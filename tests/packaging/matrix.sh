#!/usr/bin/env bash
# Run the tests of the layers with another torch: matrix.sh PYTHON oldest|newest|VERSION
# The environment lies in build/matrix-VERSION, so that a second run only runs the tests.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=$1 torch=$2
oldest=$(sed -nE 's/^dependencies = .*"torch>=([0-9.]+)".*/\1/p' pyproject.toml)
case $torch in
    oldest) want="torch==$oldest.*" ;;
    newest) want="torch" ;;
    *) want="torch==$torch" ;;
esac
folder=build/matrix-$torch
[ -x "$folder/bin/python" ] || "$python" -m venv "$folder"
# TORCH_INDEX may name an index of CPU builds.
"$folder/bin/python" -m pip install -q "$want" ${TORCH_INDEX:+--index-url "$TORCH_INDEX"}
# Held by a constraint: tools that want another torch must not replace it.
"$folder/bin/python" -m pip freeze | sed -nE 's/^(torch==[0-9.]+).*/\1/p' >"$folder/torch.txt"
"$folder/bin/python" -m pip install -q -c "$folder/torch.txt" --config-settings=build-dir="$folder/build" '.[suite]'
"$folder/bin/python" -c 'import sys, torch; print("Python", sys.version.split()[0], "torch", torch.__version__)'
"$folder/bin/l1bn" build
"$folder/bin/python" -m pytest -n auto tests
