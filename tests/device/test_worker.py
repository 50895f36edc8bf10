"""The page's worker learns what Python learns, integer for integer: here in Node."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from l1bn import device, quantized
from l1bn.device.web.page import Shown, page
from small_networks import CLASSES, EXPONENT, take_step
from small_pages import BATCH, known, needs_tools, planned

RATE = 0.02
DRIVER = Path(__file__).with_name("worker.mjs")


def talk(html: Path, *messages: dict[str, Any]) -> list[dict[str, Any]]:
    """What the worker of a page answers."""
    lines = "".join(json.dumps(m) + "\n" for m in messages)
    done = subprocess.run(
        ["node", str(DRIVER), str(html)], input=lines, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def lesson(shown: Shown, own: list[int], steps: int, rate: float = RATE) -> dict[str, Any]:
    """A message: what to learn, the examples numbered as they come."""
    values = shown.codes[0][shown.images.permute(0, 2, 3, 1).long()].reshape(len(shown.images), -1)
    every = [
        {"id": i, "label": int(label), "image": image.tolist()}
        for i, (label, image) in enumerate(zip(shown.labels, values, strict=True))
    ]
    learned = [e for e, aside in zip(every, shown.held.tolist(), strict=True) if not aside]
    aside = [e for e, aside in zip(every, shown.held.tolist(), strict=True) if aside]
    return {
        "do": "learn",
        "own": [learned[i] for i in own],
        "known": [e for e in learned if e["id"] not in own],
        "held": {"own": [], "known": aside},
        "used": list(range(CLASSES)),
        **{"steps": steps, "batch": BATCH, "seed": 7, "classes": CLASSES, "size": 64},
        "rate": round(rate * 65536),
    }


def python_learns(
    build: device.Build, shown: Shown, taken: list[list[int]], rate: float = RATE
) -> list[np.ndarray]:
    """Take the same steps in Python; the logits of each."""
    options = build.options
    optimizer = quantized.SGD(
        build.network, rate, options.momentum, options.weight_decay, options.nesterov
    )
    found = []
    for places in taken:
        values = shown.codes[0][shown.images[places].long()]
        batch = quantized.QTensor(
            values.contiguous(memory_format=torch.channels_last), options.exponent
        )
        found.append(take_step(build.network, optimizer, batch, shown.labels[places]).numpy())
    return found


@pytest.fixture(scope="module")
def html(tmp_path_factory: pytest.TempPathFactory) -> Path:
    needs_tools()
    path = tmp_path_factory.mktemp("page") / "page.html"
    path.write_text(page(planned(), known(40, 20), "all"))
    return path


def test_the_worker_learns_what_python_learns(html: Path) -> None:
    shown, build = known(40, 20), planned()
    answers = talk(html, lesson(shown, own=[3, 5], steps=30))
    steps = [a for a in answers if a["did"] == "step"]
    taken = [a["taken"] for a in steps]
    wanted = python_learns(build, shown, taken)
    for number, (step, logits) in enumerate(zip(steps, wanted, strict=True)):
        np.testing.assert_array_equal(step["logits"], logits.reshape(-1), f"step {number}")
    assert bytes(answers[-1]["state"])[24:] == build.layout.pack()
    build.network.eval()
    right = 0
    for place in range(40, 60):
        image = quantized.QTensor(shown.codes[0][shown.images[place : place + 1].long()], EXPONENT)
        right += int(build.network(image).values[0].argmax() == shown.labels[place])
    assert [a for a in answers if a["did"] == "test"][-1]["known"] == [right, 20]


def test_a_batch_is_partly_a_persons_own(html: Path) -> None:
    answers = talk(html, lesson(known(40, 20), own=[3, 5], steps=20))
    for taken in (a["taken"] for a in answers if a["did"] == "step"):
        assert len(taken) == BATCH
        assert sorted(i for i in taken if i in (3, 5)) == [3, 5]
    seen = {i for a in answers if a["did"] == "step" for i in a["taken"]}
    assert seen == set(range(40))  # the test's examples are never learned


def test_the_loss_is_that_of_the_logits(html: Path) -> None:
    shown, build = known(40, 20), planned()
    first = next(a for a in talk(html, lesson(shown, [], steps=1)) if a["did"] == "step")
    values = shown.codes[0][shown.images[first["taken"]].long()]
    logits = build.network(quantized.QTensor(values, EXPONENT))
    loss = torch.nn.functional.cross_entropy(
        logits.values.double() * 2.0**logits.exponent, shown.labels[first["taken"]]
    )
    assert first["loss"] == pytest.approx(float(loss), rel=1e-9)


def test_a_state_goes_on_in_another_session_and_damage_is_refused(html: Path) -> None:
    shown = known(40, 20)
    whole = talk(html, lesson(shown, [], steps=4))[-1]["state"]
    image = shown.codes[0][shown.images[50].permute(1, 2, 0).long()].reshape(-1).tolist()
    ask = {"do": "infer", "image": image, "classes": CLASSES, "number": 1}
    fresh, after, refused, same, anew = (
        talk(html, *messages)
        for messages in (
            [ask],
            [{"do": "load", "state": whole}, ask],
            [{"do": "load", "state": [*whole[:100], whole[100] ^ 1, *whole[101:]]}, ask],
            [{"do": "load", "state": whole[:-1]}, ask],
            [{"do": "load", "state": whole}, {"do": "load", "state": None}, ask],
        )
    )
    assert after[1]["status"] == 0
    assert after[-1]["logits"] != fresh[-1]["logits"]
    for answers in (refused, same):
        assert answers[1]["status"] == 3
        assert "another network, or damaged" in answers[1]["reason"]
        assert answers[-1]["logits"] == fresh[-1]["logits"]
    assert anew[-1]["logits"] == fresh[-1]["logits"]


def test_a_refused_step_is_told(html: Path) -> None:
    message = {**lesson(known(40, 20), [], steps=1), "rate": 65 << 16}
    assert talk(html, message)[-1] == {
        "did": "failed",
        "reason": "the step was refused with status 2",
    }


def test_a_page_needs_what_fits_the_network() -> None:
    shown = known(4, 2)
    for field, value, text in (
        ("classes", ["a"], "expected 10 classes, as the network takes, got 1"),
        ("codes", shown.codes[:, :5], "expected (1, 256) codes of shape"),
        ("images", shown.images[:, :, :4], "expected (1, 8, 8) images of shape"),
        ("labels", shown.labels[:3], "expected 6 labels"),
    ):
        wrong = Shown(**{**vars(shown), field: value})
        with pytest.raises(ValueError, match=text.replace("(", r"\(").replace(")", r"\)")):
            page(planned(), wrong, "all")
    with pytest.raises(ValueError, match="expected layers that learn, got none"):
        page(planned("none"), shown, "none")
