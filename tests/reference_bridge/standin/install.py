"""Install the stand-in as a package of a given version into a small environment of its own, as uv or pip would."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

HERE = Path(__file__).parent
VERSIONS = ("0.2.0", "0.7.1", "0.8.2", "0.13.1", "0.14.0", "0.14.19")


def install(folder: Path, version: str, *, metadata: bool = True, repaired: bool = False, extra: str = "") -> Path:
    """The console script of the new environment. `repaired` and `extra` change the source, as a later version would."""
    site = folder / f"lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages"
    package = site / "ltx_pipelines_mlx"
    package.mkdir(parents=True)
    (folder / "bin").mkdir()
    base = Path(sys._base_executable)  # type: ignore[attr-defined]
    (folder / "pyvenv.cfg").write_text(f"home = {base.parent}\ninclude-system-site-packages = false\n")
    python = folder / "bin/python"
    python.symlink_to(base)
    for name in ("cli.py", "movie.py"):
        shutil.copyfile(HERE / name, package / name)
    (package / "__init__.py").touch()
    (package / "VERSION").write_text(version)
    rate = ", frame_rate=args.frame_rate" if repaired else ""
    call = f"pipe._decode_and_save_video(video, audio, args.output{rate})"
    save = f"\n\ndef _decode_and_save(pipe, video, audio, args):\n    {call}\n"
    source = (package / "cli.py").read_text()
    source = source.replace('\n\nif __name__ == "__main__"', f'{save}\n\nif __name__ == "__main__"')
    (package / "cli.py").write_text(
        source.replace("    sub = parser.add_subparsers", f"{extra}    sub = parser.add_subparsers")
    )
    info = site / f"ltx_pipelines_mlx-{version}.dist-info"
    if metadata:
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: ltx-pipelines-mlx\nVersion: {version}\n")
    script = folder / "bin/ltx-2-mlx"
    script.write_text(f"#!{python}\nimport sys\nfrom ltx_pipelines_mlx.cli import main\nsys.exit(main())\n")
    script.chmod(0o755)
    return script
