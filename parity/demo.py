"""`make demo`: one prompt, both engines, every module compared, a verdict that dispatch obeys, a page to look at."""

from __future__ import annotations

import os
import sys
import time

os.environ.setdefault("MLX_ENABLE_TF32", "0")

from ltx_native.dispatch import InferenceEngine
from parity.capture.native import request_of
from parity.capture.reference import ReferenceCache
from parity.cases import T2V_SQUARE
from parity.checkpoints import ROOT, cache_folder, tiny
from parity.session import Session


def main() -> int:
    started = time.perf_counter()
    checkpoint = tiny()
    reports = ROOT / "reports"
    session = Session(checkpoint, reports / "demo", ReferenceCache(cache_folder() / "reference"), quiet=False)
    result = session.compare(T2V_SQUARE)
    verdict = session.finish(reports / "verdict.json")

    if result.coverage is not None:
        print(result.coverage.sentence())
    for item in result.end_to_end:
        print(f"{item.name:13} {item.metric:8} {item.value:.2e}  (bound {item.bound:.2e})")
    for reason in verdict["reasons"]:
        print(f"reason: {reason}")

    video = reports / "demo" / "video.mp4"
    request = request_of(T2V_SQUARE, video, checkpoint)
    served = InferenceEngine(verdict=reports / "verdict.json").generate_video(request)
    print(served.last_line())
    print(f"took {time.perf_counter() - started:.0f} s")
    print(f"verdict: {verdict['verdict']}")
    print(f"video:   {served.video_path}")
    print(f"report:  {reports / 'demo' / 'report.html'}")
    return 0 if verdict["verdict"] == "pass" else 1


if __name__ == "__main__":
    sys.exit(main())
