"""The picture of the report in the README: `make screenshot` after `make demo`.

python tests/report/photograph.py REPORT PICTURE
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

from conftest import browser_path
from PIL import Image
from playwright.sync_api import sync_playwright

SIZE = {"width": 1280, "height": 1240}
COLOURS = 128  # the page has few; a palette keeps the file small


def photograph(page: Path, picture: Path) -> None:
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        browser = playwright.chromium.launch(executable_path=browser_path(), args=arguments, timeout=120_000)
        context = browser.new_context(viewport=SIZE, offline=True, color_scheme="light")
        opened = context.new_page()
        opened.goto(page.resolve().as_uri())
        opened.wait_for_selector("#grid tbody tr")
        shot = opened.screenshot()
        browser.close()
    small = Image.open(io.BytesIO(shot)).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    small.save(picture, optimize=True)


if __name__ == "__main__":
    photograph(Path(sys.argv[1]), Path(sys.argv[2]))
