"""One browser for all tests of the page."""

import os
from collections.abc import Iterator

import pytest
from chromium import Page, start_chromium

MISSING = "chromium and chromedriver are missing; apt-get install chromium chromium-driver"


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    driver = start_chromium(tmp_path_factory.mktemp("chromium"))
    if driver is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(MISSING)
    yield Page(driver, tmp_path_factory.mktemp("screenshots"))
    driver.quit()


@pytest.fixture
def page(browser: Page) -> Iterator[Page]:
    """Every test must end with a silent console and nothing fetched."""
    browser.complaints()
    yield browser
    assert browser.complaints() == []
    assert browser.js("performance.getEntriesByType('resource').map((entry) => entry.name)") == []
