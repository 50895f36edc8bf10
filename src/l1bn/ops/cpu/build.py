"""Compile the node of autograd (``csrc/torch``) for the torch and the Python that run."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sysconfig
import tempfile
from pathlib import Path

from l1bn.ops.cpu import node

_LIBRARIES = ("torch", "torch_cpu", "torch_python", "c10")


def command(source: Path, out: Path) -> list[str]:
    """The compiler's command line; its first word is ``$CXX``, or g++.

    Args:
        source: the file to compile.
        out: the file to write.
    """
    import torch
    from torch.utils.cpp_extension import include_paths

    folder = node.sources()
    libraries = Path(torch.__file__).parent / "lib"
    headers = [*include_paths(), sysconfig.get_paths()["include"]]
    return [
        *shlex.split(os.environ.get("CXX", "g++")),
        "-std=c++20",
        "-O2",
        "-shared",
        "-fPIC",
        "-fvisibility=hidden",
        f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}",
        f"-I{folder}",
        *(f"-isystem{path}" for path in headers),
        str(source),
        f"-L{libraries}",
        *(f"-l{name}" for name in _LIBRARIES),
        "-o",
        str(out),
    ]


def build() -> Path:
    """Compile the node, unless it is there, and return its file.

    Raises:
        RuntimeError: there is no compiler, or it failed.
    """
    path = node.place()
    if path.is_file():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        made, whole = Path(folder) / path.name, Path(folder) / "whole.cpp"
        # PyTorch's headers take longer than all the rest: they are read once.
        parts = sorted((node.sources() / "torch").glob("*.cpp"))
        whole.write_text("".join(f'#include "{part}"\n' for part in parts))
        words = command(whole, made)
        if shutil.which(words[0]) is None:
            raise RuntimeError(
                f"expected a C++ compiler, found no {words[0]}: install one (Debian: apt-get "
                "install g++), or name yours in CXX"
            )
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{shlex.join(words)}\nfailed:\n{done.stderr.strip()}")
        # In one step: whoever looks meanwhile finds a whole file or none.
        made.replace(path)
    return path
