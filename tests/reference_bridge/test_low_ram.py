"""`low_ram` reaches the versions that have it and is named where it does nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ltx_native.cli import parser, request_of
from reference_bridge.command import official
from reference_bridge.engine import BridgeEngine
from reference_bridge.job import Job


@pytest.mark.parametrize(("version", "given"), [("0.14.19", True), ("0.3.0", True), ("0.2.0", False)])
def test_it_is_passed_on_where_the_version_has_it(
    engine: Callable[..., BridgeEngine], job: Callable[..., Job], version: str, given: bool
) -> None:
    for low_ram in (False, True):
        plan = engine(version).plan(job(low_ram=low_ram), Path("/out/video.mp4"))
        assert ("--low-ram" in plan.argv) == (low_ram and given)
        assert any("low_ram is not used" in text for text in plan.warnings) == (low_ram and not given)


def test_the_official_adapter_says_that_it_has_none(job: Callable[..., Job]) -> None:
    warned = official(job(low_ram=True, model="m", gemma="g"), "o.mp4").warnings
    assert warned == ("low_ram is not used: the official adapter has no option for it",)


def test_the_native_command_line_asks_for_it() -> None:
    for flags, wanted in (([], False), (["--low-ram"], True)):
        asked = request_of(parser().parse_args(["generate", "-p", "a fox", *flags]))
        assert Job.from_request(asked.resolved()).low_ram is wanted
