"""A test that hangs ends, wherever it hangs, and the others run on."""

from __future__ import annotations

import pathlib
import subprocess
import sys

import pytest

HANGS = """
import ctypes
import pytest

@pytest.mark.parametrize("library", [ctypes.CDLL, ctypes.PyDLL], ids=["free", "locked"])
def test_hangs(library):
    libc, mutex = library(None), ctypes.create_string_buffer(256)
    libc.pthread_mutex_lock(mutex)
    libc.pthread_mutex_lock(mutex)  # never returns, and no signal ends it

def test_passes():
    pass
"""


@pytest.mark.skipif(sys.platform != "linux", reason="hangs in glibc")
def test_a_hang_in_native_code_is_ended(
    pytestconfig: pytest.Config, tmp_path: pathlib.Path
) -> None:
    """With this project's own settings, of which only the times are shorter."""
    (tmp_path / "pytest.ini").write_text("[pytest]")
    (tmp_path / "test_hangs.py").write_text(HANGS)
    settings = {
        "timeout_method": pytestconfig.getini("timeout_method"),
        "faulthandler_exit_on_timeout": pytestconfig.getini("faulthandler_exit_on_timeout"),
    }
    assert pytestconfig.getini("timeout")
    assert pytestconfig.getini("faulthandler_timeout")
    options = [f"-o{name}={value}" for name, value in settings.items()]
    options += ["-otimeout=2", "-ofaulthandler_timeout=4", "-n2", "-pno:cacheprovider"]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *options, "test_hangs.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=100,
    )
    for name in ("free", "locked"):
        assert f"crashed while running 'test_hangs.py::test_hangs[{name}]'" in run.stdout
    assert "2 failed, 1 passed" in run.stdout
