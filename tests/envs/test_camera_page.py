"""A browser sees camera-sim's page move."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.sim import playing

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
BROWSER = next((found for name in BROWSERS if (found := shutil.which(name))), None)


@pytest.fixture
def page() -> Iterator[str]:
    with playing("tests.support:TaggedEnv", rate=10) as sim:
        yield sim.page


def screenshot(page: str, path: Path, wait: int) -> np.ndarray:
    assert BROWSER is not None
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=800,600",
               f"--user-data-dir={path.parent / 'profile'}", f"--timeout={wait}"]  # fmt: skip
    command = [BROWSER, *options, f"--screenshot={path}", page]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    image = cv2.imread(str(path))
    assert image is not None
    return image


@pytest.mark.skipif(BROWSER is None, reason=f"no browser is installed: {', '.join(BROWSERS)}")
def test_a_browser_sees_the_page_move(page: str, tmp_path: Path) -> None:
    first = screenshot(page, tmp_path / "first.png", 2000)
    second = screenshot(page, tmp_path / "second.png", 2700)
    for image in (first, second):
        assert image[100:300, 300:500].std() > 10  # TaggedEnv's pattern, enlarged
    assert np.abs(first[100:300, 300:500].astype(int) - second[100:300, 300:500]).mean() > 5
