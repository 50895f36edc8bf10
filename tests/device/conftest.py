"""Builds the runtime for this machine once, and networks against it; opens a page in a browser."""

from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from l1bn import device, quantized, tools
from l1bn.device.source import runtime
from l1bn.device.trial import targets
from l1bn.device.web.page import page
from small_pages import known, needs_tools, planned

if TYPE_CHECKING:
    from page_browser import Browser

FLAGS = ["-O1", "-g", "-fPIC", "-fsanitize=undefined", "-fsanitize-undefined-trap-on-error"]


class _Device(ctypes.Structure):
    _fields_ = (
        ("network", ctypes.c_void_p),
        ("state", ctypes.c_void_p),
        ("arena", ctypes.c_void_p),
        ("exponents", ctypes.c_void_p),
    )


class Host:
    """A network's C code in this process."""

    def __init__(self, build: device.Build, library: Path) -> None:
        self.build = build
        self.library = ctypes.CDLL(str(library))
        self.device = _Device.in_dll(self.library, "network")
        self.library.network_init()

    @property
    def state(self) -> bytes:
        return ctypes.string_at(self.device.state, self.build.layout.size)

    def train(
        self,
        images: quantized.QTensor,
        labels: np.ndarray,
        rate: float,
        blocks: int | None = None,
    ) -> tuple[int, np.ndarray]:
        """One step, of some blocks if they are given; its status and the logits."""
        classes = np.zeros((self.build.options.batch, self.build.classes), np.int32)
        arguments = [
            ctypes.byref(self.device),
            _pointer(_pixels(images)),
            _pointer(np.asarray(labels).astype(np.uint16)),
            ctypes.c_uint32(round(rate * 65536)),
        ]
        if blocks is None:
            return self.library.l1bn_train_step(*arguments, _pointer(classes)), classes
        part = ctypes.c_uint32(blocks)
        return self.library.l1bn_train_part(*arguments, part, _pointer(classes)), classes

    def measure(
        self, images: quantized.QTensor, labels: np.ndarray, rate: float, blocks: int, norms: Any
    ) -> None:
        """One step of some blocks, which leaves their norms."""
        status = self.library.network_train_measured(
            _pointer(_pixels(images)),
            _pointer(np.asarray(labels).astype(np.uint16)),
            ctypes.c_uint32(round(rate * 65536)),
            ctypes.c_uint32(blocks),
            _pointer(norms),
        )
        assert status == 0

    def infer(self, image: quantized.QTensor) -> np.ndarray:
        logits = np.zeros(self.build.classes, np.int32)
        self.library.network_infer(_pointer(_pixels(image)), _pointer(logits))
        return logits


def _pixels(images: quantized.QTensor) -> np.ndarray:
    return np.ascontiguousarray(images.values.permute(0, 2, 3, 1).numpy())


def _pointer(array: np.ndarray) -> ctypes.c_void_p:
    return array.ctypes.data_as(ctypes.c_void_p)


@pytest.fixture(scope="session")
def objects(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The runtime, compiled with every warning and the sanitizer of undefined behaviour."""
    if reason := tools.missing("gcc"):
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("runtime")
    files = runtime.files()
    include = {f"-I{f.parent}" for f in files}
    command = ["gcc", *targets.STRICT, *FLAGS, *include, "-c"]
    command += [str(f) for f in files if f.suffix == ".c"]
    subprocess.run(command, cwd=folder, check=True)
    return sorted(folder.glob("*.o"))


@pytest.fixture
def on_host(objects: list[Path], tmp_path: Path) -> Callable[[device.Build], Host]:
    """A function that compiles a network and starts it."""

    def start(build: device.Build) -> Host:
        folder = device.write(build, tmp_path / str(len(list(tmp_path.iterdir()))))
        library = folder / "network.so"
        command = ["gcc", *targets.STRICT, *FLAGS, "-shared", str(folder / "network.c")]
        subprocess.run([*command, *map(str, objects), "-o", str(library)], check=True)
        return Host(build, library)

    return start


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A browser at a page of a small network."""
    from page_browser import Browser  # skips where selenium is missing

    needs_tools()
    if reason := tools.missing("chromium", "chromedriver"):
        pytest.skip(reason)
    html = tmp_path_factory.mktemp("page") / "page.html"
    html.write_text(page(planned(), known(40, 20), "all"))
    browser = Browser(html, tmp_path_factory.mktemp("browser"))
    yield browser
    browser.driver.quit()


@pytest.fixture
def browser(chromium: Browser) -> Iterator[Browser]:
    """The page as it came; afterwards its console must be empty."""
    chromium.open()
    chromium.click("#over")
    chromium.says("As it came")
    yield chromium
    assert chromium.errors() == []
