"""Ways to the page in a real browser: pictures, camera, keyboard, phones; none to a network."""

from __future__ import annotations

import base64
import json
from pathlib import Path

from PIL import Image

from page_browser import Browser, webdriver
from small_pages import known


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
