"""What each version of `ltx-2-mlx` accepts: a table for the released ones, and a reading of `--help` for the others.

The table holds what the arguments do not say (a tag that crashes when it saves, a fixed frame rate); the help text of the
installed copy is checked on top of it, so that a patched or future copy is refused with the difference rather than run wrongly.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

Version = tuple[int, ...]
OLDEST: Version = (0, 2, 0)
NEWEST: Version = (0, 14, 19)

_SAVE_BUG = (
    "ltx-2-mlx {version} runs all denoising steps and then crashes when it saves the video "
    "(BasePipeline._decode_and_save_video() is called without its required frame_rate); "
    "0.2.0 to 0.13.1 can do it"
)
_DECODE_BUG = (
    "`generate` of ltx-2-mlx {version} crashes when it decodes (decode_and_stream() gets an unexpected argument "
    "'frame_rate'); 0.14.1 repairs it"
)


@dataclass(frozen=True)
class Help:
    """Options of one subcommand, read from its `--help`."""

    options: frozenset[str]
    required: frozenset[str]


@dataclass(frozen=True)
class Surface:
    """How to ask one version for a video. `pipelines` maps a pipeline to its flag; None is `generate` without a flag.

    `many_images` are the pipelines that take several images, or one at another frame or strength (`a2v` is one of them);
    `broken` maps a subcommand to the reason why the version cannot do it although it accepts the arguments.
    """

    version: str
    pipelines: Mapping[str, str | None]
    generate_rate_flag: str | None
    a2v_rate_flag: str | None
    default_stg_scale: float
    many_images: frozenset[str] = frozenset()
    broken: Mapping[str, str] = field(default_factory=dict)
    helps: Mapping[str, Help | str] = field(default_factory=dict)
    known: bool = True

    def takes(self, subcommand: str, option: str) -> bool:
        """Whether the subcommand's own help names the option."""
        return option in _options(self.helps, subcommand)

    @property
    def flagless(self) -> bool:
        """`generate` without a pipeline flag runs the distilled model in one stage, 8 steps, without guidance."""
        return None in self.pipelines.values()


def parse_version(text: str) -> Version | None:
    """`0.14.19` -> (0, 14, 19); local and pre-release suffixes are cut. None when there is no version in it."""
    found = re.search(r"(\d+)\.(\d+)(?:\.(\d+))?", text)
    return tuple(int(part or 0) for part in found.groups()) if found else None


def released(version: Version, text: str) -> Surface:
    """The surface of a released version, 0.2.0 to 0.14.19."""
    pipelines: dict[str, str | None] = {"two-stage": "--two-stage"}
    pipelines["two-stages-hq"] = "--two-stages-hq" if version >= (0, 8, 2) else "--hq"
    if version >= (0, 6, 0):
        pipelines["distilled"] = "--distilled"
    if version >= (0, 7, 0):
        pipelines["one-stage"] = "--one-stage" if version >= (0, 7, 1) else "--dev"
    if version < (0, 8, 0):
        pipelines["distilled-one-stage"] = None
    many: set[str] = set()
    if version >= (0, 11, 1):
        many = {"two-stage", "two-stages-hq", "a2v"}
    if version >= (0, 14, 13):
        many |= {"one-stage", "distilled"}
    broken = {}
    if version >= (0, 14, 0):
        broken = dict.fromkeys(("retake", "extend"), _SAVE_BUG.format(version=text))
    if version == (0, 14, 0):
        broken["generate"] = _DECODE_BUG.format(version=text)
    return Surface(
        version=text,
        pipelines=pipelines,
        generate_rate_flag="--frame-rate" if version >= (0, 14, 0) else None,
        a2v_rate_flag="--frame-rate" if version >= (0, 14, 0) else "--fps",
        default_stg_scale=1.0 if version >= (0, 11, 1) else 0.0,
        many_images=frozenset(many),
        broken=broken,
    )


def surface(version_text: str | None, helps: Mapping[str, Help | str], saves_with_frame_rate: bool | None) -> Surface:
    """The surface to use for an installed copy.

    `helps` maps a subcommand to its options or to the reason why its help could not be read. `saves_with_frame_rate` says
    whether the source of the copy passes the frame rate when it saves a retake (None: not readable).
    """
    version = parse_version(version_text or "")
    if version is not None and version_text is not None and OLDEST <= version <= NEWEST:
        return replace(released(version, version_text), helps=helps)
    return _inferred(version_text or "of an unknown version", helps, saves_with_frame_rate)


def _inferred(version: str, helps: Mapping[str, Help | str], saves_with_frame_rate: bool | None) -> Surface:
    generate, a2v = _options(helps, "generate"), _options(helps, "a2v")
    flags = {
        "one-stage": ("--one-stage", "--dev"),
        "distilled": ("--distilled",),
        "two-stage": ("--two-stage",),
        "two-stages-hq": ("--two-stages-hq", "--hq"),
    }
    pipelines: dict[str, str | None] = {
        name: next(flag for flag in names if flag in generate) for name, names in flags.items() if generate & set(names)
    }
    if not generate & {"--one-stage", "--dev"}:
        pipelines["distilled-one-stage"] = None
    broken = {}
    if "--frame-rate" in generate and saves_with_frame_rate is not True:
        # The crash of 0.14.x comes after all the steps: without evidence of a repair, hours would be spent to learn of it.
        broken = dict.fromkeys(
            ("retake", "extend"),
            f"ltx-2-mlx {version} is not in the table of known versions and its source does not show that the crash "
            f"of 0.14.0 to 0.14.19 when saving is repaired",
        )
    return Surface(
        version=version,
        pipelines=pipelines,
        generate_rate_flag="--frame-rate" if "--frame-rate" in generate else None,
        a2v_rate_flag=next((flag for flag in ("--frame-rate", "--fps") if flag in a2v), None),
        default_stg_scale=1.0,
        many_images=frozenset({*pipelines, "a2v"} if "--frame-rate" in generate else ()),
        broken=broken,
        helps=helps,
        known=False,
    )


def _options(helps: Mapping[str, Help | str], subcommand: str) -> frozenset[str]:
    found = helps.get(subcommand)
    return found.options if isinstance(found, Help) else frozenset()


def parse_help(text: str) -> Help:
    """Read the help that argparse prints: required options stand outside brackets in the usage paragraph."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", text)
    usage, _, body = text.partition("\n\n")
    if not usage.lstrip().startswith("usage:"):
        raise ValueError("no usage line")
    outside, depth = [], 0
    for char in usage:
        depth += (char == "[") - (char == "]")
        outside.append(char if depth == 0 and char != "]" else " ")
    required = frozenset(re.findall(r"(?<![\w-])--?[A-Za-z][\w-]*", "".join(outside).partition("usage:")[2]))
    listed = re.findall(r"^ {2,4}(-.*)$", body, flags=re.MULTILINE)
    options = {name for line in listed for name in re.findall(r"(?<![\w-])--?[A-Za-z][\w-]*", re.split(r" {2,}", line)[0])}
    options |= set(re.findall(r"(?<![\w-])--[A-Za-z][\w-]*", usage))
    return Help(frozenset(options), required)


def difference(found: Help | str | None, subcommand: str, argv: list[str]) -> str | None:
    """Why this argv does not fit the installed copy's help, or None when it fits."""
    if found is None:
        return None
    if isinstance(found, str):
        return f"`{subcommand} --help` failed: {found}"
    given = {word.partition("=")[0] for word in argv if word.startswith("--")}
    unknown, missing = sorted(given - found.options), sorted(found.required - given)
    parts = []
    if unknown:
        parts.append(f"it does not know {', '.join(unknown)}")
    if missing:
        parts.append(f"it wants {', '.join(missing)}")
    return f"`{subcommand}`: {' and '.join(parts)}" if parts else None
