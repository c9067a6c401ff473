"""The page as a function of results.json: what it refuses, what it says when something was not measured, what it never does."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import synthetic

from parity import cli, report
from parity.arbitration.departures import for_report, read_departures
from parity.report import ReportError, build_report, markdown_summary
from parity.report.plots import number
from parity.report.rows import Rows, script_json
from parity.report.summary import reproduce


def small(**over: Any) -> dict[str, Any]:
    return {**synthetic.results(blocks=2, steps=2, failing=1), **over}


def build(folder: Path, content: dict[str, Any], media: bool = False) -> str:
    return build_report(synthetic.write_run(folder, content, media)).read_text()


def test_one_file_that_asks_for_nothing(tmp_path: Path) -> None:
    html = build(tmp_path, small(), media=True)
    links = re.findall(r"""(?:src|href)=["']([^"']*)""", html) + re.findall(r"url\(([^)]*)\)", html)
    assert [link for link in links if not link.startswith(("data:", "#"))] == []
    assert "default-src 'none'" in html
    assert sorted(path.name for path in tmp_path.iterdir()) == ["case", "report.html", "results.json"], (
        "a temporary file was left"
    )


def test_the_same_results_give_the_same_page(tmp_path: Path) -> None:
    content = small(fidelity=synthetic.fidelity())
    assert build(tmp_path / "a", content) == build(tmp_path / "b", content)


def test_ids_are_unique(tmp_path: Path) -> None:
    content = small(fidelity=synthetic.fidelity())
    content["cases"] = [content["cases"][0], {**content["cases"][0], "name": "second"}]
    ids = re.findall(r'\bid="([^"]+)"', build(tmp_path, content))
    assert len(ids) == len(set(ids))


def test_what_was_not_measured_is_said(tmp_path: Path) -> None:
    content = small()
    case = content["cases"][0]
    for name in ("details", "timings"):
        case.pop(name)
    case.update(rows=[], finding=None, end_to_end=[], coverage=None, provenance={}, timings={}, problem="the reference is gone")
    content.update(verdict="inconclusive", reasons=["the reference is gone"])
    html = build(tmp_path, content)
    assert html.count("not measured") >= 2
    assert "Not compared." in html
    assert "There is not enough evidence" in html
    assert "no tensor was compared" in html


def test_the_departures_of_the_external_cli_are_shown_and_an_expired_one_is_marked(tmp_path: Path) -> None:
    assert "Not arbitrated in this run" in build(tmp_path / "a", small(departures=for_report()))
    measured = tmp_path / "arbitration.json"
    rows = [{"onset": True, "departure": "EXPIRED vocoder-tanh", "cli_official": 0.03}]
    measured.write_text(json.dumps({"cli": "0.15.0", "rows": rows}))
    html = build(tmp_path / "b", small(departures=for_report(measured)))
    listed = read_departures()
    assert all(text in html for departure in listed for text in (departure.name, departure.expires))
    assert html.count("✕ expired") == len(listed)
    assert "✕ 1 not excused (EXPIRED vocoder-tanh)" in html
    assert 'id="departures"' not in build(tmp_path / "c", small())


def test_a_run_in_bfloat16_has_local_errors_and_floors_only(tmp_path: Path) -> None:
    content = small()
    case = content["cases"][0]
    names = [*case["columns"], "floor"]
    total, bound = names.index("total"), names.index("bound")
    case["rows"] = [[*row[:total], None, *row[total + 1 :], (row[bound] or 0) / 2] for row in case["rows"]]
    case.update(columns=names, dtype="bfloat16", end_to_end=[], media={})
    html = build(tmp_path, content)
    assert "floor: reference against itself" in html
    assert "largest total –" in html


def test_which_case_covers_which_ability(tmp_path: Path) -> None:
    """Cases of this run bear a mark; an ability that nothing covers is shown as a gap."""
    rows = [
        {"code": "M", "ability": "module outputs", "by": ["replays", "t2v-96x64x17", "norms"]},
        {"code": "Y", "ability": "time <and> memory", "by": []},
    ]
    html = build(tmp_path, synthetic.results(2, 2, hostile=False) | {"abilities": rows})
    assert "<strong>✓ t2v-96x64x17</strong> replays, norms" in html
    assert "time &lt;and&gt; memory" in html
    assert "✕ nothing" in html


def test_the_engine_in_force_is_what_dispatch_told(tmp_path: Path) -> None:
    told = {"engine": "bridge", "reason": "dispatch reads another verdict"}
    html = build(tmp_path, synthetic.results(2, 2, failing=0, hostile=False) | {"engine": told})
    assert "In force: <strong>bridge</strong>" in html
    assert "dispatch reads another verdict" in html


def test_a_certificate_that_does_not_hold_says_why(tmp_path: Path) -> None:
    html = build(tmp_path, small(certificate={"problem": "there is no sensitivity certificate; run `make certify`"}))
    assert html.count("here is no sensitivity certificate; run `make certify`") == 2, "on its card and in its section"


@pytest.mark.parametrize("failing", [1, 3])
def test_the_command_that_looks_closer_is_one(failing: int) -> None:
    case = synthetic.results(2, 2, failing=failing, hostile=False)["cases"][0]
    words = shlex.split(reproduce(case))
    args = cli.parser().parse_args(words[1:])
    assert (args.verb, args.site) == ("explain", case["finding"]["key"]["site"])


def test_prompts_without_a_whole_suite_make_no_score(tmp_path: Path) -> None:
    shown = {"verdict": "inconclusive", "reasons": ["none was recorded"], "metrics": {}, "shown": []}
    html = build(tmp_path, small(fidelity=shown))
    assert "0 of 0 prompts" not in html
    assert "It speaks for this suite only" not in html


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (1e-5, "1e-5"),
        (2.82e-5, "2.82e-5"),
        (2.8e-5, "2.8e-5"),
        (0.5, "0.5"),
        (12345.0, "1.23e4"),
        (-0.25, "−0.25"),
        (None, "–"),
    ],
)
def test_numbers_bear_no_empty_digits(value: float | None, shown: str) -> None:
    assert number(value) == shown


def test_no_case_at_all(tmp_path: Path) -> None:
    html = build(tmp_path, small(cases=[], verdict="inconclusive", reasons=["no case was compared"]))
    assert "no case was compared" in html


@pytest.mark.parametrize("text", ["", "{", "[]", '{"verdict": "pass"}'])
def test_unreadable_results_are_refused_and_leave_nothing(tmp_path: Path, text: str) -> None:
    path = tmp_path / "results.json"
    path.write_text(text)
    with pytest.raises(ReportError, match=r"results\.json"):
        build_report(path)
    assert [item.name for item in tmp_path.iterdir()] == ["results.json"]


def test_a_missing_column_and_a_ragged_row_are_refused(tmp_path: Path) -> None:
    content = small()
    content["cases"][0]["columns"] = [name if name != "bound" else "limit" for name in content["cases"][0]["columns"]]
    with pytest.raises(ReportError, match="bound"):
        build(tmp_path, content)
    content = small()
    content["cases"][0]["rows"][3] = content["cases"][0]["rows"][3][:-1]
    with pytest.raises(ReportError, match="another length"):
        build(tmp_path, content)


def test_missing_and_broken_media_are_named(tmp_path: Path) -> None:
    content = small()
    content["cases"][0]["media"] = {"native": "gone.mp4", "reference": "broken.mp4"}
    tmp_path.joinpath("broken.mp4").write_bytes(b"not a video")
    html = build(tmp_path, content)
    assert "gone.mp4 is not beside the results" in html
    assert "broken.mp4 cannot be shown" in html


def test_sides_of_other_length_and_size_are_named(tmp_path: Path) -> None:
    content = small()
    content["cases"][0]["media"] = {"native": "n.mp4", "reference": "r.mp4"}
    synthetic.write_movie(tmp_path / "n.mp4", frames=9)
    synthetic.write_movie(tmp_path / "r.mp4", frames=5, size=(64, 64))
    html = build(tmp_path, content)
    assert "native has 9 frames, the reference 5" in html
    assert "native frames are (64, 96) pixels" in html


def test_packed_rows_read_back() -> None:
    rows = Rows.of(small()["cases"][0])
    packed = json.loads(rows.pack().replace("1e999", "Infinity"))
    assert packed["n"] == len(rows)
    assert packed["failed"] == np.flatnonzero(rows.failed).tolist()
    assert [packed["site"]["t"][i] for i in packed["site"]["i"]] == rows.columns["site"]
    assert packed["order"][0] in packed["failed"], "worst first"
    assert "<" not in rows.pack()


def test_script_json_cannot_end_its_element() -> None:
    text = "</script><!-- \u2028 &"
    assert not set("<>&\u2028") & set(script_json(text))
    assert json.loads(script_json(text)) == text


def test_a_failing_row_is_never_shown_in_bound() -> None:
    """The ratio of a failing row is beyond 1 whatever its numbers say, also without a bound or a local error."""
    case = small()["cases"][0]
    names = list(case["columns"])
    for over in ({"local": None}, {"local": 1e-9}, {"bound": 0.0, "local": 0.0}, {"problem": "NaN"}):
        row = dict(zip(names, case["rows"][5], strict=True)) | over | {"failed": True}
        assert Rows.of({**case, "rows": [[row[name] for name in names]]}).ratio[0] > 1


def test_markdown_says_verdict_cards_and_command() -> None:
    text = markdown_summary(small())
    assert text.startswith("## ❌ Parity: fail")
    assert "parity explain" in text
    assert "<script>" not in text.replace("\\<script\\>", "").split("```")[0]
    assert "| Tensors | ❌" in text
    passing = synthetic.results(2, 2, failing=0, hostile=False)
    assert markdown_summary(passing).startswith("## ✅ Parity: pass")


# Linear RGB as people see it who lack one kind of cone (Machado, Oliveira and Fernandes 2009, severity 1).
BLINDNESS = {
    "none": [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def lab(colour: str, seen: list[list[float]]) -> np.ndarray:
    """CIE L*a*b* of a hex colour through another eye."""
    rgb = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    xyz = TO_XYZ @ np.clip(np.array(seen) @ linear, 0, 1) / np.array([0.9505, 1.0, 1.089])
    x, y, z = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("eye", BLINDNESS)
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_colours_are_told_apart_by_every_eye(eye: str, theme: str) -> None:
    """Sides, difference and failure differ by 12 or more in L*a*b*; lines differ in dash and cells in mark besides."""
    style = (Path(report.__file__).parent / "templates" / "report.css").read_text()
    block = style.split(":root {")[1] if theme == "light" else style.split('[data-theme="dark"] {')[1]
    found = dict(re.findall(r"--([a-z]+): (#[0-9a-f]{6})", block.split("}")[0]))
    for one, other in (("native", "reference"), ("native", "difference"), ("native", "fail"), ("pass", "fail")):
        apart = np.linalg.norm(lab(found[one], BLINDNESS[eye]) - lab(found[other], BLINDNESS[eye]))
        assert apart >= 12, (one, other, apart)
