"""Draws docs/pictures/page.png: the page of ``make demo-device``, after a person taught it.

    python -m benchmarks.device.page_picture runs/demo-device/page/index.html

A browser draws digits by hand, four each of seven classes, learns 100 steps, and looks.
"""

from __future__ import annotations

import argparse
import io
import math
import random
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image
from selenium import webdriver

from l1bn import tools

OUT = Path(__file__).parents[2] / "docs" / "pictures" / "page.png"
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
WIDTH, HEIGHT = 1180, 1010
Stroke = list[tuple[float, float]]


def arc(x: float, y: float, width: float, height: float, turn: tuple[int, int]) -> Stroke:
    """A part of an ellipse, from one angle to another [degrees]."""
    angles = [math.radians(turn[0] + (turn[1] - turn[0]) * i / 20) for i in range(21)]
    return [(x + width * math.cos(a), y + height * math.sin(a)) for a in angles]


DIGITS: dict[int, list[Stroke]] = {
    0: [arc(0.5, 0.5, 0.2, 0.33, (-90, 270))],
    1: [[(0.4, 0.3), (0.52, 0.18), (0.52, 0.82)]],
    2: [[*arc(0.5, 0.33, 0.19, 0.17, (-170, 40)), (0.32, 0.8), (0.7, 0.8)]],
    4: [[(0.55, 0.18), (0.3, 0.58), (0.72, 0.58)], [(0.58, 0.4), (0.58, 0.85)]],
    7: [[(0.3, 0.2), (0.7, 0.2), (0.45, 0.82)]],
    8: [arc(0.5, 0.34, 0.15, 0.15, (90, 450)) + arc(0.5, 0.66, 0.18, 0.17, (-90, 270))],
    3: [[*arc(0.48, 0.33, 0.18, 0.16, (-150, 80)), *arc(0.48, 0.66, 0.2, 0.18, (-80, 150))]],
}


def by_hand(strokes: list[Stroke], hand: random.Random) -> list[Stroke]:
    """The same strokes a little elsewhere, of another size and slant."""
    x, y, slant = (hand.uniform(-0.05, 0.05), hand.uniform(-0.05, 0.05), hand.uniform(-0.15, 0.15))
    wide, high = hand.uniform(0.8, 1.1), hand.uniform(0.8, 1.1)
    return [
        [
            (0.5 + x + wide * (a - 0.5) + slant * (b - 0.5), 0.5 + y + high * (b - 0.5))
            for a, b in stroke
        ]
        for stroke in strokes
    ]


def draw(driver: webdriver.Chrome, strokes: list[Stroke]) -> None:
    """Draw with the mouse, and wait until the network has read it."""
    pad = driver.find_element("id", "pad")
    side = pad.size["width"]
    for stroke in strokes:
        hand = webdriver.ActionChains(driver, duration=5)
        for step, (x, y) in enumerate(stroke):
            at = round((x - 0.5) * side), round((y - 0.5) * side)
            hand.move_to_element_with_offset(pad, *at)
            if step == 0:
                hand.click_and_hold()
        hand.release().perform()
    wait(driver, "return document.querySelectorAll('#bars li').length > 0")


def wait(driver: webdriver.Chrome, script: str) -> None:
    """Wait until a script returns true."""
    end = time.monotonic() + 300
    while not driver.execute_script(script):
        if time.monotonic() > end:
            raise SystemExit(f"waited in vain: {script}")
        time.sleep(0.1)


def teach(driver: webdriver.Chrome, hand: random.Random) -> None:
    """Draw and name digits, learn, and draw one more."""
    wait(driver, "return document.body.dataset.ready === 'yes'")
    for _ in range(4):
        for label, strokes in DIGITS.items():
            draw(driver, by_hand(strokes, hand))
            driver.find_element("css selector", f"[data-label='{label}']").click()
    driver.find_element("id", "learn").click()
    wait(driver, "return document.getElementById('message').textContent.includes('Learned')")
    draw(driver, by_hand(DIGITS[3], hand))
    time.sleep(5)  # until the message has faded


def main() -> None:
    """Take the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("page", type=Path)
    page = parser.parse_args().page.resolve()
    with TemporaryDirectory() as profile:
        options = webdriver.ChromeOptions()
        for flag in (*FLAGS, f"--user-data-dir={profile}", f"--window-size={WIDTH},{HEIGHT}"):
            options.add_argument(flag)
        service = webdriver.ChromeService(tools.find("chromedriver"))
        driver = webdriver.Chrome(options=options, service=service)
        size = {"width": WIDTH, "height": HEIGHT, "deviceScaleFactor": 1, "mobile": False}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        driver.execute_cdp_cmd("Emulation.setScrollbarsHidden", {"hidden": True})
        driver.get(page.as_uri())
        teach(driver, random.Random(1))
        driver.execute_script("scrollTo(0, 0)")
        image = Image.open(io.BytesIO(driver.get_screenshot_as_png())).convert("RGB")
        driver.quit()
    image.quantize(128, dither=Image.Dither.NONE).save(OUT, optimize=True)
    print(f"{OUT}: {OUT.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
