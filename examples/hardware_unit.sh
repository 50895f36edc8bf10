#!/usr/bin/env bash
# Generate the training unit: Verilog, manifest, C header and datasheet.
#
#     pip install '.[rtl]'; examples/hardware_unit.sh [FOLDER]
set -euo pipefail
folder=${1:-rtl}
l1bn rtl generate --width 8 --elements 256 --overlap --out "$folder"
ls -l "$folder"
