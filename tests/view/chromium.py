"""A real browser with the report page in it."""

import base64
import shutil
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.webdriver.common.actions.action_builder import ActionBuilder
from selenium.webdriver.common.actions.interaction import POINTER_MOUSE
from selenium.webdriver.common.actions.pointer_input import PointerInput
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

from headrace.view import write_page

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-dev-shm-usage",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip


def start_chromium(profile: Path) -> webdriver.Chrome | None:
    """None where chromium or its driver is not installed."""
    chromium, chromedriver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (chromium and chromedriver):
        return None
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(chromedriver))


class Page:
    """One Chromium, and what the tests ask of it."""

    def __init__(self, driver: webdriver.Chrome, pictures: Path) -> None:
        self.driver, self.pictures = driver, pictures

    def open(self, run: Path, width: int = 1200, dark: bool = False) -> None:
        phone = width < 500
        size = {"width": width, "height": 800, "deviceScaleFactor": 2 if phone else 1, "mobile": phone}
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        self.driver.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": phone})
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        self.driver.get(write_page(run).as_uri())
        # ResizeObserver draws before the second frame.
        self.driver.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")

    def js(self, expression: str, *arguments: Any) -> Any:
        return self.driver.execute_script(f"return {expression}", *arguments)

    def text(self, selector: str) -> str:
        return str(self.js("document.querySelector(arguments[0]).textContent", selector)).replace("\u00a0", " ")

    @property
    def canvas(self) -> WebElement:
        return self.driver.find_element(By.TAG_NAME, "canvas")

    def at(self, x: int, y: int) -> tuple[float, float]:
        """Brings a place of the canvas into view and says where that is in the window."""
        self.js("scrollBy(0, arguments[0].getBoundingClientRect().y + arguments[1] - 300)", self.canvas, y)
        box = self.js("arguments[0].getBoundingClientRect().toJSON()", self.canvas)
        return box["x"] + x, box["y"] + y

    def hover(self, x: int, y: int) -> str:
        """Points at a place of the canvas, counted from its top left, and reads the tooltip."""
        actions = ActionBuilder(self.driver, mouse=PointerInput(POINTER_MOUSE, "mouse"), duration=0)
        actions.pointer_action.move_to_location(*self.at(x, y))
        actions.perform()
        return self.text(".tip")

    def keys(self, *keys: str) -> str:
        self.canvas.send_keys(*keys)
        return self.text(".tip")

    def press(self, label: str) -> None:
        self.driver.find_element(By.CSS_SELECTOR, f'[aria-label="{label}"]').click()

    def picture(self, name: str) -> None:
        shot = self.driver.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True})
        (self.pictures / f"{name}.png").write_bytes(base64.b64decode(shot["data"]))

    def complaints(self) -> list[str]:
        return [entry["message"] for entry in self.driver.get_log("browser")]
