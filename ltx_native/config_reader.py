"""Reads one section of a JSON config and remembers what was read, so that what is left over can be refused."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypeVar

from ltx_native.errors import ConfigError

T = TypeVar("T")
_ABSENT: Any = object()
NEXT_STEP = "Use a checkpoint of LTX-2.3 (dev or distilled), or teach ltx_native/config.py what this value means"


class Section:
    """A section of a config with a name for messages (`file: transformer`)."""

    def __init__(self, data: Mapping[str, Any], where: str) -> None:
        if not isinstance(data, Mapping):
            raise ConfigError("A config section is not an object", where, data, "a JSON object", NEXT_STEP)
        self.data, self.where, self._seen = data, where, set[str]()

    @classmethod
    def of(cls, config: Mapping[str, Any], name: str, where: str) -> Section:
        return Section(config, where).child(name)

    def child(self, name: str, absent: bool = False) -> Section:
        self._seen.add(name)
        if name not in self.data and not absent:
            raise ConfigError("A config section is missing", self.where, sorted(self.data), name, NEXT_STEP)
        return Section(self.data.get(name, {}), f"{self.where}: {name}")

    def skip(self, *keys: str) -> None:
        """Keys that describe the training or are read elsewhere; any value."""
        self._seen.update(keys)

    def describe(self, key: str, expected: object, required: bool = False) -> None:
        """A key that only one value is implemented for and that no field carries."""
        self.fixed(key, expected, absent=_ABSENT if required else expected)

    def fixed(self, key: str, expected: T, absent: Any = _ABSENT) -> T:
        value = self._take(key, expected, absent)
        same_kind = isinstance(value, bool) == isinstance(expected, bool)
        matches = value == expected
        if isinstance(value, str) and isinstance(expected, str):  # published files spell some values in upper case
            matches = value.casefold() == expected.casefold()
        if not same_kind or not matches:
            raise self._refuse(key, value, expected)
        return expected

    def integer(self, key: str, absent: Any = _ABSENT) -> int:
        value = self._take(key, "an integer", absent)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise self._refuse(key, value, "an integer of at least 1")
        return value

    def index(self, key: str, absent: Any = _ABSENT) -> int:
        value = self._take(key, "an index", absent)
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise self._refuse(key, value, "an integer of at least 0")
        return value

    def number(self, key: str, absent: Any = _ABSENT) -> float:
        value = self._take(key, "a number", absent)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value <= 0:
            raise self._refuse(key, value, "a finite number above 0")
        return float(value)

    def boolean(self, key: str, absent: Any = _ABSENT) -> bool:
        value = self._take(key, "true or false", absent)
        if not isinstance(value, bool):
            raise self._refuse(key, value, "true or false")
        return value

    def integers(self, key: str, length: int | None = None, absent: Any = _ABSENT) -> tuple[int, ...]:
        value = self._take(key, "a list of integers", absent)
        if not _positive_integers(value) or length not in (None, len(value)):
            raise self._refuse(key, value, f"a list of {'' if length is None else f'{length} '}positive integers")
        return tuple(value)

    def blocks(self, key: str, suffix: str) -> tuple[tuple[str, dict[str, int]], ...]:
        """The block list of one half of the video VAE: `[["res_x", {"num_layers": 4}], …]`."""
        value = self._take(key, "a list of blocks", _ABSENT)
        allowed = {"res_x": "num_layers"} | {f"compress_{axes}{suffix}": "multiplier" for axes in ("all", "space", "time")}
        if not isinstance(value, list) or not value:
            raise self._refuse(key, value, "a list of [name, parameters]")
        result: list[tuple[str, dict[str, int]]] = []
        for entry in value:
            name, params = entry if isinstance(entry, list | tuple) and len(entry) == 2 else (None, None)
            if name not in allowed or not isinstance(params, Mapping):
                raise self._refuse(key, entry, f"one of {sorted(allowed)} with its parameters")
            number = params.get(allowed[name])
            rest = {k: v for k, v in params.items() if k != allowed[name] and v is not False}
            if rest or isinstance(number, bool) or not isinstance(number, int) or number < 1:
                raise self._refuse(key, entry, f"{name} with {allowed[name]} of at least 1 and nothing else")
            result.append((name, {allowed[name]: number}))
        return tuple(result)

    def generator(self, *, final_activation: bool) -> dict[str, Any]:
        """The fields that the vocoder and the bandwidth extension share."""
        dilations = self._take("resblock_dilation_sizes", "a list of lists", _ABSENT)
        if not isinstance(dilations, list) or not all(_positive_integers(d) for d in dilations):
            raise self._refuse("resblock_dilation_sizes", dilations, "a list of lists of integers")
        fields: dict[str, Any] = {
            "upsample_initial_channel": self.integer("upsample_initial_channel"),
            "resblock": self.fixed("resblock", "AMP1"),
            "upsample_rates": self.integers("upsample_rates"),
            "upsample_kernel_sizes": self.integers("upsample_kernel_sizes"),
            "resblock_kernel_sizes": self.integers("resblock_kernel_sizes"),
            "resblock_dilation_sizes": tuple(tuple(d) for d in dilations),
            "stereo": self.fixed("stereo", True),
            "use_tanh_at_final": self.boolean("use_tanh_at_final", absent=True),
            "activation": self.fixed("activation", "snakebeta"),
            "use_bias_at_final": self.boolean("use_bias_at_final", absent=True),
            "apply_final_activation": self.fixed("apply_final_activation", final_activation, absent=final_activation),
        }
        self.equal("upsample_kernel_sizes", len(fields["upsample_kernel_sizes"]), len(fields["upsample_rates"]))
        self.equal("resblock_dilation_sizes", len(dilations), len(fields["resblock_kernel_sizes"]))
        if fields["upsample_initial_channel"] % 2 ** len(fields["upsample_rates"]):
            raise self._refuse(
                "upsample_initial_channel", fields["upsample_initial_channel"], "one halving for each upsample rate"
            )
        return fields

    def equal(self, key: str, value: int, expected: int) -> None:
        if value != expected:
            raise self._refuse(key, value, expected)

    def one_of(self, key: str, value: object, allowed: tuple[object, ...]) -> None:
        if value not in allowed:
            raise self._refuse(key, value, f"one of {allowed}")

    def close(self, result: T) -> T:
        """Refuse what was not read; returns `result`."""
        for key, value in self.data.items():
            if key not in self._seen:
                raise ConfigError(f"Unknown config key {key!r}", self.where, value, "only keys that this port knows", NEXT_STEP)
        return result

    def _take(self, key: str, expected: object, absent: Any) -> Any:
        self._seen.add(key)
        if key in self.data:
            return self.data[key]
        if absent is _ABSENT:
            raise ConfigError(f"Config key {key!r} is missing", self.where, "nothing", expected, NEXT_STEP)
        return absent

    def _refuse(self, key: str, value: object, expected: object) -> ConfigError:
        return ConfigError(f"Config key {key!r} has a value that is not implemented", self.where, value, expected, NEXT_STEP)


def _positive_integers(value: object) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(i, int) and not isinstance(i, bool) and i > 0 for i in value)
