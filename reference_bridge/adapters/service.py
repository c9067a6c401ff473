"""One JSON request per line on standard input, one JSON answer per line on standard output, until the input ends."""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, TextIO

from reference_bridge.adapters.official.checks import BadInput

Answer = dict[str, Any]
Handler = Callable[[Mapping[str, Any]], Answer]


def serve(handlers: Mapping[str, Handler], requests: TextIO, answers: TextIO, about: Mapping[str, Any]) -> None:
    """Greet with `about`, then answer {"do": NAME, …} by the handler of that name. A failure is an answer, {"error": …}."""
    print(json.dumps({"ready": True, **about, **usage()}), file=answers, flush=True)
    for line in requests:
        try:
            request = json.loads(line)
            handler = handlers.get(request.get("do"))
            if handler is None:
                expected = ", ".join(sorted(handlers))
                raise BadInput("no such request", "do", request.get("do"), expected, "Correct the request.")
            answer = handler(request)
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps({**answer, **usage()}), file=answers, flush=True)


def usage() -> dict[str, int]:
    """Peak resident bytes of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"peak_bytes": peak if sys.platform == "darwin" else peak * 1024}


def timed(run: Callable[[], Any], repeat: int = 1) -> tuple[Any, dict[str, float]]:
    """The last result with its wall and processor seconds, means of ``repeat`` runs one after the other."""
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(repeat):
        result = run()
    return result, {"seconds": (time.perf_counter() - wall) / repeat, "cpu_s": (time.process_time() - cpu) / repeat}


def own_stdout() -> TextIO:
    """The channel for answers; what a library prints goes to standard error from here on."""
    answers = sys.stdout
    sys.stdout = sys.stderr
    return answers


def quiet_environment(threads: int) -> None:
    """What PyTorch and its libraries read once, at import."""
    os.environ.update(TQDM_DISABLE="1", CUDA_VISIBLE_DEVICES="", HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(threads)
