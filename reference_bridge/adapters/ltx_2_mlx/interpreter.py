"""Which Python runs an installed `ltx-2-mlx`: read from the console script, without executing it."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path


def find_interpreter(script: Path, path: str | None = None) -> Path | None:
    """The Python of a console script, or None when it cannot be read from it (a binary launcher, a shell wrapper).

    Known forms: `#!/path/python`, `#!/usr/bin/env python`, and the `/bin/sh` two-liner that pip and uv write when the path is
    long, has spaces, or is relative to the script. Any other launcher stands beside its `python` in a venv's bin folder.
    """
    script = Path(os.path.realpath(script))
    try:
        with script.open("rb") as file:
            head = file.read(4096).decode("utf-8", "replace")
    except OSError:
        return None
    if head.startswith("#!"):
        first, _, rest = head[2:].partition("\n")
        words = first.split()
        if words and Path(words[0]).name == "sh":
            return _trampoline(script, rest) or _beside(script)
        if words and Path(words[0]).name == "env":
            named = [word for word in words[1:] if not word.startswith("-") and "=" not in word]
            found = shutil.which(named[0], path=path) if named else None
            return Path(found) if found else None
        # The whole line is the path: a kernel splits at the first space only, so what follows would be an argument.
        return _python(Path(words[0])) if words else None
    return _beside(script)


def _trampoline(script: Path, rest: str) -> Path | None:
    line = rest.partition("\n")[0]
    found = re.match(r"""^'''exec' (.+?) "\$0" "\$@"\s*$""", line)
    if not found:
        return None
    target = found.group(1).strip()
    here = re.match(r"""^"\$\(dirname -- "\$\(realpath -- "\$0"\)"\)"/'?([^']+)'?$""", target)
    if here:
        return _python(script.parent / here.group(1))
    return _python(Path(target.strip("\"'")))


def _beside(script: Path) -> Path | None:
    return next((found for name in ("python", "python3") if (found := _python(script.parent / name))), None)


def _python(path: Path) -> Path | None:
    # Not resolved: a venv's python is a link, and following it would leave the venv.
    return path if path.is_file() and os.access(path, os.X_OK) and "python" in path.name else None
