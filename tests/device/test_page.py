"""The page in a real browser: draw, name, learn, predict, reload and go on; export and import."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch

from l1bn import quantized
from page_browser import SEVEN, THREE, Browser
from small_networks import EXPONENT, take_step
from small_pages import codes, known, planned

RATE = 0.003


def _python(exported: dict[str, Any], taken: list[list[str]]) -> bytes:
    """The state after the same steps in Python, on the examples that the page exported."""
    shown, build = known(40, 20), planned()
    own = [
        (np.frombuffer(base64.b64decode(e["pixels"]), np.uint8).reshape(8, 8), e["label"])
        for e in exported["examples"]
    ]
    images = {f"known {i}": shown.images[i, 0].numpy() for i in range(len(shown.images))}
    labels = {f"known {i}": int(label) for i, label in enumerate(shown.labels)}
    images |= {f"own {i + 1}": pixels for i, (pixels, _) in enumerate(own)}
    labels |= {f"own {i + 1}": label for i, (_, label) in enumerate(own)}
    optimizer = quantized.SGD(build.network, RATE, 0.9, 0.0, nesterov=True)
    for names in taken:
        pixels = torch.from_numpy(np.stack([images[name] for name in names])).long()[:, None]
        batch = quantized.QTensor(codes()[0][pixels], EXPONENT)
        take_step(build.network, optimizer, batch, torch.tensor([labels[n] for n in names]))
    return build.layout.pack()


def test_draw_learn_predict_reload_and_go_on(browser: Browser) -> None:
    browser.draw(SEVEN)
    assert re.fullmatch(r"\d", browser.text("guess"))
    browser.name(0)  # a class of another shape, so that it is wrong before
    browser.draw(SEVEN)
    assert browser.text("guess") != "0"
    browser.run("document.getElementById('clear').click()")
    browser.learn(60)
    assert browser.text("done") == "60"
    assert re.fullmatch(r"\d+ of 20", browser.text("known-right"))
    assert re.fullmatch(r"\d+\.\d ms", browser.text("time"))
    assert len(browser.run("return document.querySelector('#loss polyline').points")) == 60
    browser.draw(SEVEN)
    assert browser.text("guess") == "0"  # it learned it
    bars = browser.text("bars")
    taken = browser.run("return window.taken")
    assert all("own 1" in names for names in taken)

    browser.open()  # a reload
    browser.says("Here again")
    assert browser.text("done") == "60"
    browser.draw(SEVEN)
    assert browser.text("bars") == bars
    browser.run("document.getElementById('clear').click()")
    browser.learn(20)
    assert browser.text("done") == "80"
    taken += browser.run("return window.taken")
    exported = json.loads(browser.download("#export", "learned.json"))
    state = browser.download("#export-state", "state.bin")
    assert base64.b64decode(exported["state"]) == state
    assert state[24:] == _python(exported, taken)


def test_a_class_with_examples_and_the_last_class_keep_their_names(browser: Browser) -> None:
    def names() -> list[str]:
        return browser.run(
            "return [...document.querySelectorAll('#classes input')].map(i => i.value)"
        )

    empty = (
        "const input = document.querySelectorAll('#classes input')[arguments[0]];"
        "input.value = ' '; input.dispatchEvent(new Event('change'));"
    )
    browser.draw(SEVEN)
    browser.name(7)
    browser.run(empty, 7)
    browser.says("keeps its name")
    assert "7" in names()
    for _ in range(7):
        browser.run(empty, 0)
    assert names() == ["7", "8", "9"]
    for _ in range(2):
        browser.run(empty, 1)
    browser.click(".thumbs button")
    browser.run(empty, 0)
    assert names() == ["7"]
    browser.draw(SEVEN)
    assert browser.text("guess") == "7"


def test_the_last_stroke_is_taken_back(browser: Browser) -> None:
    browser.draw(SEVEN)
    bars = browser.text("bars")
    browser.draw(THREE)
    browser.wait("return document.getElementById('bars').textContent !== arguments[0]", bars)
    browser.click("#undo")
    browser.wait("return document.getElementById('bars').textContent === arguments[0]", bars)


def test_what_is_learned_is_kept_while_learning_goes_on(browser: Browser) -> None:
    browser.draw(SEVEN)
    browser.name(0)
    browser.says("Added to “0”")
    browser.run("document.getElementById('steps').value = 1000")
    browser.click("#learn")
    browser.wait("return Number(document.getElementById('done').textContent) > 0")
    kept = int(browser.run("return document.body.dataset.kept ?? '0'"))
    browser.wait("return Number(document.body.dataset.kept) > arguments[0]", kept)
    browser.open()  # in the middle of it
    browser.says("Here again")
    assert 0 < int(browser.text("done")) < 1000


def test_learning_stops_when_it_is_told_to(browser: Browser) -> None:
    browser.run("document.getElementById('steps').value = 1000")
    browser.click("#learn")
    browser.wait("return Number(document.getElementById('done').textContent) > 5")
    assert browser.text("learn") == "Stop"
    assert browser.element("#bar").get_property("value") > 5
    assert not browser.element("#import").is_enabled()
    browser.draw(THREE)  # the page lives meanwhile
    browser.click("#learn")
    browser.says("Stopped after")
    assert 5 < int(browser.text("done")) < 1000
    assert browser.text("learn") == "Learn"


def test_a_file_that_comes_while_it_learns_is_refused(browser: Browser, tmp_path: Path) -> None:
    browser.learn(2)
    file = tmp_path / "learned.json"
    file.write_bytes(browser.download("#export", "learned.json"))
    browser.run("document.getElementById('steps').value = 1000")
    browser.click("#learn")
    browser.wait("return Number(document.getElementById('done').textContent) > 5")
    browser.run("document.getElementById('import').disabled = false")  # its dialog was open before
    browser.element("#import").send_keys(str(file))
    browser.says("Not taken: stop learning first.")
    browser.click("#learn")
    browser.says("Stopped after")
    assert int(browser.text("done")) > 5


def test_what_was_learned_goes_out_and_comes_in_again(browser: Browser, tmp_path: Path) -> None:
    for _ in range(4):
        browser.draw(THREE)
        browser.name(3)
    assert len(browser.driver.find_elements("css selector", ".thumbs button.held")) == 1
    browser.learn(10)
    assert browser.text("own-right") in ("0 of 1", "1 of 1")
    exported = browser.download("#export", "learned.json")
    file, damaged, other = (tmp_path / n for n in ("learned.json", "damaged.bin", "other.json"))
    file.write_bytes(exported)
    state = bytearray(base64.b64decode(json.loads(exported)["state"]))
    state[300] ^= 4
    damaged.write_bytes(state)
    other.write_text('{"format": "another"}')
    browser.click("#over")
    browser.says("As it came")
    assert browser.text("done") == "0"
    for wrong, text in ((damaged, "another network, or damaged"), (other, 'got "another"')):
        browser.element("#import").send_keys(str(wrong))
        browser.says(text)
    browser.element("#import").send_keys(str(file))
    browser.says("Taken over from learned.json")
    assert browser.text("done") == "10"
    assert json.loads(browser.download("#export", "learned.json")) == json.loads(exported)


def test_an_example_is_kept_before_anything_is_learned(browser: Browser) -> None:
    before = int(browser.run("return document.body.dataset.kept ?? '0'"))
    browser.draw(SEVEN)
    browser.name(7)
    browser.wait("return Number(document.body.dataset.kept) > arguments[0]", before)
    browser.open()
    browser.says("Here again")
    assert len(browser.driver.find_elements("css selector", ".thumbs button")) == 1
