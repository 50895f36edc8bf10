"""`import l1bn` costs little: what it loads is bounded."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

LOADED = """
import json, sys
import torch
before = set(sys.modules)
{code}
new = sorted(set(sys.modules) - before)
print(json.dumps([n for n in new if n.partition(".")[0] not in sys.stdlib_module_names]))
"""


def loaded_by(code: str) -> list[str]:
    """The modules outside Python's own that code loads beyond torch."""
    command = [sys.executable, "-c", LOADED.format(code=code)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


TIMED = """
import time, torch
before = time.process_time()
import l1bn
print(1e3 * (time.process_time() - before))
"""


def test_the_package_takes_less_than_fifty_milliseconds_beyond_torch():
    """Processor time, which a busy machine stretches least; the shorter of two runs."""
    command = [sys.executable, "-c", TIMED]
    runs = [subprocess.run(command, check=True, capture_output=True) for _ in range(2)]
    assert min(float(run.stdout) for run in runs) < 50


def test_the_package_alone_loads_itself_only():
    assert loaded_by("import l1bn") == ["l1bn"]


@pytest.mark.parametrize("name", ["L1BatchNorm2d", "l1_batch_norm", "convert_"])
def test_its_names_load_nothing_but_the_package_and_parts_of_torch(name):
    found = loaded_by(f"from l1bn import {name}")
    others = {n.partition(".")[0] for n in found} - {"l1bn", "torch"}
    assert not others, others
    own = [n for n in found if n.startswith("l1bn") and "triton" not in n]
    assert len(own) <= 64  # builds of torch for GPUs have the Triton backend looked at, too


def test_neither_torch_nor_numpy_for_the_version():
    code = "import sys, l1bn; assert l1bn.__version__; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
