"""The report in a real browser: from disk, without network, by keyboard and mouse, readable for everyone."""

from __future__ import annotations

import io
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import synthetic
from PIL import Image

from parity.history import write_history
from parity.report import build_report

pytestmark = pytest.mark.xdist_group("browser")


def state(page: Any) -> str:
    return str(page.text_content("#site-title"))


def column(page: Any, index: int) -> list[str]:
    cells = page.locator(f"#grid tbody tr:not([aria-hidden]) td:nth-child({index})")
    return [text.strip() for text in cells.all_text_contents()]


def test_opens_from_disk_without_network_or_complaints(opened: Any) -> None:
    assert opened.complaints == []
    assert [url for url in opened.requests if not url.startswith(("file:", "data:"))] == []
    assert opened.page.title().startswith("FAIL")
    assert "In force: bridge" in opened.page.text_content(".engine")
    assert opened.page.locator("audio").count() == 6
    opened.page.wait_for_function("[...document.querySelectorAll('audio')].every((a) => a.readyState >= 1 || a.error)")
    assert opened.page.evaluate("[...document.querySelectorAll('audio')].filter((a) => a.error).length") == 0


def test_four_states_are_photographed_into_the_report_folder(opened: Any, report: Path) -> None:
    page, folder = opened.page, report.parent / "screenshots"

    def shoot(name: str, anchor: str | None) -> None:
        if anchor:
            page.evaluate("(id) => document.getElementById(id).scrollIntoView({behavior: 'instant'})", anchor)
        page.screenshot(path=folder / f"{name}.png")
        picture = np.asarray(Image.open(folder / f"{name}.png").convert("L"))
        assert picture.shape == (900, 1280)
        assert picture.std() > 5, f"{name}: an empty picture"

    shoot("1-banner", None)
    shoot("2-model-map", "map")
    page.click("#go")
    shoot("3-site-page", None)
    page.click("#theme")
    shoot("4-all-sites-dark", "sites")
    assert len(list(folder.glob("*.png"))) == 4


def test_a_failing_site_is_one_click_from_the_banner(opened: Any) -> None:
    opened.page.click("#go")
    assert state(opened.page) == synthetic.HOSTILE_SITE
    box = opened.page.locator("#site-title").bounding_box()
    assert 0 <= box["y"] < 900, "the site page is not on the screen"
    assert "out of bound" in opened.page.text_content("#status")
    assert opened.page.locator(".page.shown svg.plot").count() == 1


def test_j_and_k_walk_the_failing_sites_and_wrap_around(opened: Any) -> None:
    page = opened.page
    total = page.evaluate("JSON.parse(document.getElementById('rows').textContent)[0].failed.length")
    assert total == 5
    page.click("#go")
    seen = [page.evaluate("location.hash")]
    for _ in range(total):
        page.keyboard.press("j")
        seen.append(page.evaluate("location.hash"))
    assert len(set(seen)) == total
    assert seen[-1] == seen[0]
    page.keyboard.press("k")
    assert page.evaluate("location.hash") == seen[-2]
    page.focus("#f-text")
    page.keyboard.type("jk")
    assert page.evaluate("location.hash") == seen[-2], "typing in a field must not walk"


def test_sorting_and_filtering(opened: Any) -> None:
    page = opened.page
    assert column(page, 1)[:5] == ["✕"] * 5, "worst first"
    header = page.locator("#grid thead button", has_text="total")
    header.click()
    values = [float(text) for text in column(page, 9)]
    assert values == sorted(values, reverse=True)
    assert page.locator("th[aria-sort='descending']").count() == 1
    header.click()
    values = [float(text) for text in column(page, 9)]
    assert values == sorted(values)
    page.fill("#f-text", "gemma 3")
    assert column(page, 2) == ["gemma.layers.3"]
    assert "1 of" in page.text_content("#f-count")
    page.fill("#f-text", "")
    page.select_option("#f-show", "out")
    assert len(column(page, 2)) == 5
    page.select_option("#f-step", "4")
    assert column(page, 2) == []


def test_the_model_map_leads_to_the_worst_site_of_a_cell(opened: Any) -> None:
    page = opened.page
    cell = page.locator("svg.heat rect.h9").first
    cell.hover()
    assert "local" in page.text_content(".hint")
    cell.click()
    assert "out of bound" in page.text_content("#status")
    assert page.locator("svg.heat path.x").count() > 0, "a failing cell bears a mark besides its colour"


def bar(page: Any, side: str) -> int:
    """Column of the moving bar, in the video's pixels, read from what is on the screen."""
    shot = page.locator(f"section.case .frame[data-side='{side}']").screenshot()
    picture = np.asarray(Image.open(io.BytesIO(shot)).convert("RGB")).astype(int)
    bright = (picture[..., 0] - picture[..., 2]).clip(0).sum(axis=0)
    return round(float(bright.argmax()) / picture.shape[1] * 96)


def test_both_sides_show_the_same_frame(opened: Any) -> None:
    page = opened.page
    for frame in (0, 3, 8):
        page.evaluate(
            """(n) => {
                const scrubber = document.querySelector('section.case .viewer input');
                scrubber.value = n;
                scrubber.dispatchEvent(new Event('input'));
            }""",
            frame,
        )
        native, reference = bar(page, "native"), bar(page, "reference")
        assert abs(reference - 8 * frame) <= 8, "the picture is not the frame the scrubber names"
        assert abs(native - reference) <= 7, "the sides are a frame apart (the bar moves 8 columns a frame, native is 1 ahead)"
    page.locator("section.case .play").click()
    frames = page.evaluate(
        """() => new Promise((done) => {
            const seen = [], tick = () => {
                seen.push([...document.querySelectorAll('section.case .frame')].map((f) => Number(f.dataset.frame)));
                seen.length < 30 ? requestAnimationFrame(tick) : done(seen);
            };
            requestAnimationFrame(tick);
        })"""
    )
    assert max(max(row) - min(row) for row in frames) <= 1
    assert len({row[0] for row in frames}) > 1, "nothing moved"
    page.locator("section.case .play").click()


def test_hostile_texts_are_shown_as_text(opened: Any) -> None:
    page = opened.page
    assert page.evaluate("window.broken") is None
    assert page.text_content(".prompt") == synthetic.HOSTILE_PROMPT
    assert page.locator("img[src='x'], main script, b[x]").count() == 0
    page.click("#go")
    assert synthetic.HOSTILE_SITE in page.text_content(".live")
    assert "<img src=x onerror=alert(1)>" in page.text_content(".live")
    page.fill("#f-text", "<script>")
    assert column(page, 2) == [synthetic.HOSTILE_SITE]
    assert opened.complaints == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_serious_accessibility_violation(open_page: Any, report: Path, scheme: str) -> None:
    from axe_playwright_python.sync_playwright import Axe

    opened = open_page(report, color_scheme=scheme)
    opened.page.click("#go")
    found = Axe().run(opened.page).response
    assert len(found["passes"]) > 10, "axe checked nothing"
    serious = [rule for rule in found["violations"] if rule["impact"] in ("serious", "critical")]
    told = [
        f"{rule['id']}: {node['html'][:160]} {node['failureSummary'][:200]}" for rule in serious for node in rule["nodes"][:3]
    ]
    assert not serious, "\n".join(told)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_history_page_is_quiet_and_accessible(open_page: Any, tmp_path: Path, scheme: str) -> None:
    from axe_playwright_python.sync_playwright import Axe

    numbers = {
        "worst_local": 1e-6,
        "worst_site": "transformer <b>",
        "compared": 9,
        "failing": 0,
        "end_to_end": {},
        "fidelity": None,
    }
    for day, verdict in enumerate(("pass", "fail", "inconclusive"), 1):
        entry = tmp_path / "promoted" / "history" / f"2026010{day}"
        entry.mkdir(parents=True)
        created = {"created": f"2026-01-0{day}T10:00:00+00:00", "commit": "a" * 40, "verdict": verdict}
        (entry / "verdict.json").write_text(json.dumps(created))
        (entry / "summary.json").write_text(json.dumps(numbers))
    opened = open_page(write_history(tmp_path / "promoted", tmp_path / "history.html"), color_scheme=scheme)
    assert opened.page.locator("tbody tr").count() == 3
    assert opened.page.locator("svg.plot").count() >= 1
    found = Axe().run(opened.page).response
    assert [rule["id"] for rule in found["violations"] if rule["impact"] in ("serious", "critical")] == []
    assert opened.complaints == []


def test_works_without_javascript(open_page: Any, report: Path) -> None:
    page = open_page(report, java_script_enabled=False).page
    assert "The port must not ship" in page.text_content("h1")
    page.click("#go")
    assert page.locator("details.page[open] svg.plot").first.is_visible()
    assert page.locator(".nojs tr.failed").first.is_visible()
    assert page.locator("img.strip").first.is_visible()
    assert not page.locator("#grid").is_visible()


def test_is_readable_in_print(opened: Any) -> None:
    page = opened.page
    page.emulate_media(media="print", color_scheme="dark")
    assert not page.locator("nav.bar").is_visible()
    assert page.locator(".nojs table").first.is_visible()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert len(page.pdf()) > 50_000


def free_share() -> float:
    """Share of a core that this process gets right now: other work on the machine must not decide what a page costs."""
    wall, cpu = time.perf_counter(), time.process_time()
    while time.perf_counter() - wall < 0.4:
        pass
    return (time.process_time() - cpu) / (time.perf_counter() - wall)


def test_a_production_run_builds_opens_and_filters_in_time(open_page: Any, tmp_path: Path) -> None:
    """48 blocks × 30 steps: built in ≤ 30 s, ≤ 15 MB, opened and filtered in ≤ 2 s of a free core (best of three)."""
    results = synthetic.results(blocks=48, steps=30, failing=40, hostile=False)
    assert len(results["cases"][0]["rows"]) > 40_000
    path = synthetic.write_run(tmp_path, results)
    start = time.perf_counter()
    page_path = build_report(path)
    built = time.perf_counter() - start
    told = [f"built in {built:.1f} s, {page_path.stat().st_size / 1e6:.1f} MB"]
    assert built * free_share() <= 30
    assert page_path.stat().st_size <= 15_000_000
    times = []
    for _ in range(3):
        share = free_share()
        page = open_page(page_path).page
        opening = page.evaluate("performance.timing.loadEventEnd - performance.timing.navigationStart")
        filtering = page.evaluate(
            """() => {
                const start = performance.now(), field = document.getElementById('f-text');
                field.value = 'transformer_blocks.47 to_q';
                field.dispatchEvent(new Event('input', {bubbles: true}));
                document.getElementById('grid').getBoundingClientRect();
                return performance.now() - start;
            }"""
        )
        assert page.locator("#grid tbody tr").count() > 10
        told.append(f"opened in {opening:.0f} ms and filtered in {filtering:.0f} ms with {share:.0%} of a core")
        times.append((opening + filtering) * share)
        if times[-1] <= 2000:
            break
    print("\n".join(told))
    assert min(times) <= 2000, told


def test_several_cases_are_shown_one_at_a_time_and_walked_as_one(open_page: Any, tmp_path: Path) -> None:
    """The second case holds the failing rows, a third could not be compared at all."""
    content = synthetic.results(blocks=3, steps=2, failing=0, hostile=False)
    broken = synthetic.results(blocks=3, steps=2, failing=2, hostile=False)["cases"][0]
    empty = {
        **content["cases"][0],
        "name": "empty",
        "rows": [],
        "details": [],
        "coverage": None,
        "end_to_end": [],
        "problem": "gone",
    }
    content["cases"] = [content["cases"][0], {**broken, "name": "second"}, empty]
    content.update(verdict="fail", reasons=["second is off"])
    opened = open_page(build_report(synthetic.write_run(tmp_path, content, media=False)))
    page = opened.page
    assert page.locator("section.case:visible").count() == 1
    assert page.text_content("section.case:visible h2").startswith("second"), "the case with the failure is shown first"
    page.locator(".case-button").nth(0).click()
    assert page.evaluate("document.getElementById('growth').closest('section').dataset.case") == "0", "links follow the case"
    page.keyboard.press("j")
    assert page.text_content("section.case:visible h2").startswith("second")
    assert page.evaluate("location.hash").startswith("#site=1:")
    page.locator(".case-button").nth(2).click()
    assert "Not compared." in page.text_content("section.case:visible")
    assert opened.complaints == []


def test_a_passing_run_has_no_failing_site_to_walk_to(open_page: Any, tmp_path: Path) -> None:
    content = synthetic.results(blocks=2, steps=2, failing=0, hostile=False)
    opened = open_page(build_report(synthetic.write_run(tmp_path, content, media=False)))
    assert opened.page.title().startswith("PASS")
    assert opened.page.locator("#go").count() == 0
    opened.page.keyboard.press("j")
    assert opened.page.text_content("#status") == "No site is out of bound."
    assert opened.complaints == []
