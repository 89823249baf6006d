"""The demo's page in a real browser: headless Chromium, driven by Selenium."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny import tiny_teacher, tiny_tokenizer

pytest.importorskip("gradio", reason='the extra "demo" is not installed')
pytest.importorskip("selenium", reason='the extra "dev" is not installed')

from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webdriver import WebDriver
from selenium.webdriver.support.wait import WebDriverWait

from alad_hf.demo import launch_demo

CHROMIUM, DRIVER = (shutil.which(name) for name in ("chromium", "chromedriver"))
pytestmark = [
    pytest.mark.skipif(
        not (CHROMIUM and DRIVER), reason="no chromium and chromedriver: apt-get install chromium chromium-driver"
    ),
    # Of what gradio and its server stand on, not of this package.
    pytest.mark.filterwarnings("default::DeprecationWarning", "default::FutureWarning"),
]
# Sends text into the box as pasting does: typing 100,000 characters by keys takes minutes.
PASTE = """
    const box = arguments[0];
    Object.getOwnPropertyDescriptor(HTMLTextAreaElement.prototype, "value").set.call(box, arguments[1]);
    box.dispatchEvent(new Event("input", {bubbles: true}));
"""


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(("student", "teacher")):
        tiny_teacher(16, seed=seed + 1).save_pretrained(folder / name)
        tiny_tokenizer().save_pretrained(folder / name)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    page = launch_demo([str(folder / "student")], teacher=str(folder / "teacher"), port=port, block=False)
    yield page.local_url
    page.close()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebDriver]:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM or ""
    profile = tmp_path_factory.mktemp("profile")
    for flag in (
        "headless=new",
        "no-sandbox",  # which root cannot have
        "disable-gpu",
        "disable-dev-shm-usage",
        "disable-quic",
        "no-first-run",
        "disable-background-networking",
        "disable-component-update",
        "disable-sync",
        f"user-data-dir={profile}",
        "window-size=1280,1000",
    ):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


def box(browser: WebDriver) -> object:
    return WebDriverWait(browser, 30).until(lambda b: b.find_element(By.CSS_SELECTOR, "#alad-text textarea"))


def output(browser: WebDriver) -> str:
    return browser.find_element(By.ID, "alad-output").get_attribute("innerHTML")


def run(browser: WebDriver, text: str, expected: str) -> str:
    """Put a text into the box, press the button, and wait for a result that holds something of its own."""
    area = box(browser)
    browser.execute_script(PASTE, area, text)
    browser.find_element(By.ID, "alad-run").click()
    WebDriverWait(browser, 60).until(
        lambda b: expected in b.find_element(By.ID, "alad-output").get_attribute("textContent")
    )
    return output(browser)


def test_the_page(address: str, browser: WebDriver) -> None:
    assert address.startswith("http://127.0.0.1:")
    browser.get(address)
    box(browser).send_keys("Smith visited New York .")
    browser.find_element(By.ID, "alad-run").click()
    panels = WebDriverWait(browser, 30).until(lambda b: b.find_elements(By.CLASS_NAME, "alad-panel"))
    assert [panel.find_element(By.CLASS_NAME, "alad-name").text for panel in panels] == ["student", "teacher teacher"]
    for panel in panels:
        assert re.fullmatch(r"[\d.]+ m?s", panel.find_element(By.CLASS_NAME, "alad-ms").text)
        assert re.search(r"[\d.]+ MB stored", panel.find_element(By.CLASS_NAME, "alad-facts").text)
    marks = browser.find_elements(By.CSS_SELECTOR, ".alad-text .alad-span")
    assert marks
    # The style has arrived: a mark has a colour of its own.
    assert marks[0].value_of_css_property("background-color") not in ("rgba(0, 0, 0, 0)", "rgba(255, 255, 0, 1)")
    if folder := os.environ.get("ALAD_SCREENSHOTS"):
        browser.save_screenshot(str(Path(folder) / "test_page.png"))

    hostile = (
        "<script>window.hit = 1</script><img src=x onerror='window.hit = 1'> {{constructor}} ${window.hit = 1} end1"
    )
    run(browser, hostile, "end1")
    assert browser.execute_script("return window.hit") is None
    texts = browser.find_elements(By.CLASS_NAME, "alad-text")
    # Labels stand beside what they mark, so that only what the model left alone is in one piece.
    shown = browser.execute_script(
        "const copy = arguments[0].cloneNode(true); copy.querySelectorAll('small').forEach(e => e.remove());"
        "return copy.textContent",
        texts[0],
    )
    assert shown == hostile
    assert not browser.find_elements(By.CSS_SELECTOR, "#alad-output script, #alad-output img")

    assert "only white space" in run(browser, " \n ", "only white space")
    html = run(browser, "smith visited london . " * 900 + "end2", "end2")  # more than 20,000 characters
    assert html.count("london") >= 1800
    assert "no text yet" in run(browser, "", "no text yet")

    requested = [
        message["params"]["request"]["url"]
        for message in (json.loads(entry["message"])["message"] for entry in browser.get_log("performance"))
        if message["method"] == "Network.requestWillBeSent"
    ]
    assert requested
    assert [url for url in requested if not url.startswith((address, "data:", "blob:", "chrome:"))] == []
    severe = [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    assert severe == []


def test_users_do_not_see_each_other(address: str, browser: WebDriver) -> None:
    browser.get(address)
    first = browser.current_window_handle
    box(browser)
    browser.switch_to.new_window("tab")
    second = browser.current_window_handle
    browser.get(address)
    box(browser)
    for window, text in ((first, "smith alpha"), (second, "jones omega")):
        browser.switch_to.window(window)
        browser.execute_script(PASTE, box(browser), text)
        browser.find_element(By.ID, "alad-run").click()
    for window, own, others in ((first, "alpha", "omega"), (second, "omega", "alpha")):
        browser.switch_to.window(window)
        WebDriverWait(browser, 30).until(lambda b, own=own: own in output(b))
        assert others not in output(browser)
