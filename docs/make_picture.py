"""Makes the pictures of a run's report, light and dark: ``python -m docs.make_picture runs/quickstart``."""

import base64
import sys
import tempfile
from pathlib import Path

from docs.made import DOCS
from tests.view.chromium import Page, start_chromium

WIDTH = 1000


def main(run: Path) -> None:
    """Takes the pictures with headless Chromium."""
    with tempfile.TemporaryDirectory() as folder:
        driver = start_chromium(Path(folder))
        assert driver is not None, "install chromium and chromium-driver"
        page = Page(driver, Path(folder))
        for name in ("light", "dark"):
            page.open(run.resolve(), WIDTH, dark=name == "dark")
            sharp = {"width": WIDTH, "height": 800, "deviceScaleFactor": 2, "mobile": False}
            driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", sharp)
            driver.refresh()
            driver.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")
            out = DOCS / f"images/report-{name}.png"
            clip = page.js(
                "(box => ({x: 0, y: box.top + scrollY - 12, width: innerWidth, height: box.height + 24, scale: 1}))"
                "(document.querySelector('canvas').closest('section').getBoundingClientRect())"
            )
            shot = driver.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True, "clip": clip})
            out.write_bytes(base64.b64decode(shot["data"]))
            print(out)
        driver.quit()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
