"""A headless Chromium without network, and the reports it opens."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import synthetic

from parity.arbitration.departures import for_report
from parity.report import build_report

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
MAC = Path("/Applications/Google Chrome.app/Contents/MacOS/Google Chrome")


def browser_path() -> str:
    found = os.environ.get("PARITY_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if found is None and MAC.is_file():
        found = str(MAC)
    if found is None:
        pytest.fail("no Chromium to open the report with; install it (make system) or name it in PARITY_CHROMIUM")
    return found


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-gpu", "--autoplay-policy=no-user-gesture-required"]
        browser = playwright.chromium.launch(executable_path=browser_path(), args=arguments, timeout=120_000)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def report() -> Path:
    """A failing run with everything on the page, hostile texts included; stays in reports/browser for people to look at."""
    folder = ROOT / "reports" / "browser"
    shutil.rmtree(folder, ignore_errors=True)
    content = synthetic.results(blocks=6, steps=5, failing=4)
    content["fidelity"] = synthetic.fidelity()
    content["certificate"] = synthetic.certificate()
    content["abilities"] = [
        {"code": "M", "ability": "module outputs on identical inputs", "by": ["replays", content["cases"][0]["name"]]},
        {"code": "Y", "ability": "time and memory", "by": []},
    ]
    content["fidelity"]["shown"] = synthetic.shown(folder)
    content["departures"] = for_report()
    return build_report(synthetic.write_run(folder, content))


class Opened:
    """A page opened from disk with the network off, and everything it complained about."""

    def __init__(self, context: Any, path: Path) -> None:
        context.set_default_timeout(60_000)
        self.page = context.new_page()
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.complaints.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.complaints.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(path.resolve().as_uri())


@pytest.fixture
def opened(browser: Any, report: Path) -> Iterator[Opened]:
    context = browser.new_context(viewport={"width": 1280, "height": 900}, offline=True, color_scheme="light")
    yield Opened(context, report)
    context.close()


@pytest.fixture
def open_page(browser: Any) -> Iterator[Any]:
    contexts = []

    def open_(path: Path, **options: Any) -> Opened:
        contexts.append(browser.new_context(viewport={"width": 1280, "height": 900}, offline=True, **options))
        return Opened(contexts[-1], path)

    yield open_
    for context in contexts:
        context.close()
