"""A page open in Chromium, and the hands that use it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from l1bn import tools

webdriver = pytest.importorskip("selenium.webdriver")
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
