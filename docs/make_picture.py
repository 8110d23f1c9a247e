"""Makes the pictures of a run's report, light and dark: ``python -m docs.make_picture runs/quickstart``."""

import base64
import sys
import tempfile
from pathlib import Path

from docs.made import DOCS
from tests.view.chromium import Page, start_chromium

WIDTH, SCALE = 1000, 2


def main(run: Path) -> None:
    """Takes the pictures with headless Chromium."""
    with tempfile.TemporaryDirectory() as folder:
        driver = start_chromium(Path(folder))
        assert driver is not None, "install chromium and chromium-driver"
        page = Page(driver, Path(folder))
        for name in ("light", "dark"):
            page.open(run.resolve(), WIDTH, dark=name == "dark")
            out = DOCS / f"images/report-{name}.png"
            clip = page.js(
                "(box => ({x: 0, y: box.top + scrollY - 16, width: innerWidth, height: box.height + 32, scale: 2}))"
                "(document.querySelector('canvas').closest('section').getBoundingClientRect())"
            )
            shot = driver.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True, "clip": clip})
            out.write_bytes(base64.b64decode(shot["data"]))
            print(out)
        driver.quit()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
