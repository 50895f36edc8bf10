"""The page in a real browser: draw, name, learn, predict, reload and go on; export and import."""

from __future__ import annotations

import base64
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from l1bn import quantized, tools
from l1bn.device.web.page import page
from small_networks import EXPONENT, take_step
from small_pages import codes, known, needs_tools, planned

webdriver = pytest.importorskip("selenium.webdriver")
RATE = 0.003
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"),
    "--window-size=1280,1400",
)
SEVEN = [[[0.3, 0.2], [0.7, 0.2], [0.45, 0.8]]]
THREE = [[[0.3, 0.25], [0.5, 0.15], [0.65, 0.3], [0.5, 0.48], [0.65, 0.65], [0.5, 0.85]]]


class Browser:
    """A page open in Chromium, and the hands that use it."""

    def __init__(self, html: Path, folder: Path) -> None:
        options = webdriver.ChromeOptions()
        for flag in (*FLAGS, f"--user-data-dir={folder / 'profile'}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        service = webdriver.ChromeService(tools.find("chromedriver"))
        self.driver = webdriver.Chrome(options=options, service=service)
        self.downloads = folder / "downloads"
        self.address = html.as_uri()
        allow = {"behavior": "allow", "downloadPath": str(self.downloads)}
        self.driver.execute_cdp_cmd("Browser.setDownloadBehavior", allow)

    def open(self) -> None:
        self.driver.get(self.address)
        self.wait("return document.body.dataset.ready === 'yes'")
        self.run("window.taken = []; window.counts = []; window.confirm = () => true;")
        self.run(
            "document.addEventListener('l1bn', ({detail}) => {"
            "  if (detail.did === 'step') window.taken.push(detail.taken);"
            "  if (detail.did === 'test') window.counts.push([detail.own, detail.known]);"
            "})"
        )

    def run(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def wait(self, script: str, *arguments: Any, seconds: float = 60) -> None:
        end = time.monotonic() + seconds
        while not self.run(script, *arguments):
            assert time.monotonic() < end, f"waited in vain: {script}; {self.text('message')!r}"
            time.sleep(0.05)

    def element(self, selector: str) -> Any:
        return self.driver.find_element("css selector", selector)

    def text(self, name: str) -> str:
        return self.run("return document.getElementById(arguments[0]).textContent", name)

    def click(self, selector: str) -> None:
        self.element(selector).click()

    def says(self, text: str) -> None:
        self.wait(
            "return document.getElementById('message').textContent.includes(arguments[0])", text
        )

    def draw(self, strokes: list[list[list[float]]]) -> None:
        """With the mouse, as a hand does."""
        pad = self.element("#pad")
        side = pad.size["width"]
        for stroke in strokes:
            hand = webdriver.ActionChains(self.driver, duration=10)
            for step, (x, y) in enumerate(stroke):
                at = round((x - 0.5) * side), round((y - 0.5) * side)
                hand.move_to_element_with_offset(pad, *at)
                if step == 0:
                    hand.click_and_hold()
            hand.release().perform()
        self.wait("return document.querySelectorAll('#bars li').length > 0")

    def name(self, label: int) -> None:
        self.click(f"#choices button[data-label='{label}']")

    def learn(self, steps: int) -> None:
        self.run("document.getElementById('steps').add(new Option(arguments[0]))", steps)
        self.run("document.getElementById('steps').value = arguments[0]", steps)
        self.click("#learn")
        self.says(f"Learned in {steps} steps")

    def download(self, button: str, name: str) -> bytes:
        path = self.downloads / name
        path.unlink(missing_ok=True)
        self.click(button)
        end = time.monotonic() + 20
        while not path.is_file():
            assert time.monotonic() < end, f"no {name}"
            time.sleep(0.05)
        return path.read_bytes()

    def errors(self) -> list[dict[str, Any]]:
        return [e for e in self.driver.get_log("browser") if e["level"] != "INFO"]


@pytest.fixture(scope="module")
def html(tmp_path_factory: pytest.TempPathFactory) -> Path:
    needs_tools()
    path = tmp_path_factory.mktemp("page") / "page.html"
    path.write_text(page(planned(), known(40, 20), "all"))
    return path


@pytest.fixture(scope="module")
def chromium(html: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if reason := tools.missing("chromium", "chromedriver"):
        pytest.skip(reason)
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


def test_pictures_and_camera_become_examples(browser: Browser, tmp_path: Path) -> None:
    shown = known(40, 20)
    for name, image in (("dark", shown.images[0, 0]), ("light", 255 - shown.images[0, 0])):
        Image.fromarray(image.numpy()).resize((64, 64), Image.Resampling.NEAREST).save(
            tmp_path / f"{name}.png"
        )
    (tmp_path / "text.png").write_text("no picture")
    browser.click("input[value=files] + span")
    names = ("dark.png", "light.png", "text.png")
    browser.element("#files").send_keys("\n".join(str(tmp_path / n) for n in names))
    browser.says("No picture that this browser reads: text.png")
    for label in (0, 0):
        browser.wait("return document.querySelectorAll('#bars li').length > 0")
        browser.name(label)
    browser.learn(1)
    exported = json.loads(browser.download("#export", "learned.json"))
    wanted = shown.images[0, 0].reshape(-1).tolist()
    for example in exported["examples"]:  # paper is inverted, as the data has dark ground
        assert list(base64.b64decode(example["pixels"])) == wanted
    browser.click("input[value=camera] + span")
    browser.wait("return document.querySelectorAll('#bars li').length > 0")
    browser.name(1)
    browser.says("Added to “1”")
    browser.run("window.track = document.getElementById('video').srcObject.getTracks()[0]")
    browser.click("input[value=draw] + span")
    assert browser.run("return document.getElementById('video').srcObject") is None
    assert browser.run("return window.track.readyState") == "ended"


def test_a_camera_that_comes_too_late_goes_off(browser: Browser) -> None:
    browser.run(
        "const give = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);"
        "navigator.mediaDevices.getUserMedia = async (wanted) => {"
        "  await new Promise((resolve) => (window.allow = resolve));"
        "  return (window.stream = await give(wanted));"
        "};"
    )
    browser.click("input[value=camera] + span")
    browser.click("input[value=draw] + span")
    browser.run("window.allow()")
    browser.wait("return window.stream?.getTracks()[0].readyState === 'ended'", seconds=10)
    assert browser.run("return document.getElementById('video').srcObject") is None


def test_an_example_is_kept_before_anything_is_learned(browser: Browser) -> None:
    before = int(browser.run("return document.body.dataset.kept ?? '0'"))
    browser.draw(SEVEN)
    browser.name(7)
    browser.wait("return Number(document.body.dataset.kept) > arguments[0]", before)
    browser.open()
    browser.says("Here again")
    assert len(browser.driver.find_elements("css selector", ".thumbs button")) == 1


def test_everything_is_done_by_keyboard(browser: Browser) -> None:
    keys = webdriver.Keys

    def press(*what: str) -> None:
        webdriver.ActionChains(browser.driver).send_keys(*what).perform()

    browser.run("document.querySelector('input[name=source]').focus()")
    press(keys.TAB)
    assert browser.run("return document.activeElement.id") == "pad"
    press(" ", *[keys.ARROW_DOWN] * 10, *[keys.ARROW_RIGHT] * 5, " ")
    browser.wait("return document.querySelectorAll('#bars li').length > 0")
    press("4")
    browser.says("Added to “4”")
    browser.run("document.getElementById('own-classes').focus()")
    press(keys.ENTER)
    browser.says("Name your classes")
    assert browser.run("return document.querySelectorAll('#classes input').length") == 2
    browser.run("document.getElementById('learn').focus()")
    press(keys.ENTER)
    browser.says("Show it a few examples first")
    browser.run("document.getElementById('add-class').focus()")
    press(keys.ENTER, "moon", keys.ENTER)
    browser.wait("return document.getElementById('choices').textContent.includes('moon')")


def test_the_page_has_names_for_all_and_fits_a_phone(browser: Browser) -> None:
    driver = browser.driver
    driver.execute_cdp_cmd("Accessibility.enable", {})
    nodes = driver.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    roles = ("button", "combobox", "textbox", "radio", "progressbar", "application", "image")
    found = [n for n in nodes if not n["ignored"] and n["role"]["value"] in roles]
    assert len(found) > 30
    assert [n["role"]["value"] for n in found if not n["name"]["value"].strip()] == []
    size = {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        assert browser.run("return document.documentElement.scrollWidth") == 360
    finally:
        driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_the_page_asks_nobody(chromium: Browser) -> None:
    chromium.open()
    assert chromium.run("return performance.getEntriesByType('resource').length") == 0
    refused = "fetch('http://127.0.0.1:9/').catch((e) => e.message).then(arguments[0])"
    assert "Failed to fetch" in chromium.driver.execute_async_script(refused)
    assert any("Content Security Policy" in e["message"] for e in chromium.errors())
