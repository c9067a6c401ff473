"""Scoped taps on MLX modules: they see every call, change nothing, and are gone when the block ends.

MLX looks `__call__` up on the type, so a tap swaps `module.__class__` for a one-method subclass; parameter keys stay.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any

import mlx.nn as nn

OnCall = Callable[[str, nn.Module, Mapping[str, Any], Any], None]


def sites_of(component: str, root: nn.Module) -> dict[str, nn.Module]:
    """Every module below a component's root by site name; the root itself bears the component's name."""
    found = {component: root}
    for path, module in root.named_modules():
        if path:
            found[f"{component}.{path}"] = module
    return found


def call_name(module: nn.Module) -> str:
    """The type's name as the field knows it, also while the module is tapped."""
    kind = type(module)
    return kind.__mro__[1].__name__ if getattr(kind, "_parity_tap", False) else kind.__name__


def bind(call: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments by parameter name, defaults filled in; ``**kwargs`` of the callee are merged in."""
    signature = _signature(call)
    bound = signature.bind(*args, **kwargs)
    bound.apply_defaults()
    named: dict[str, Any] = {}
    for name, value in bound.arguments.items():
        if signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD:
            named.update(value)
        else:
            named[name] = value
    return named


@cache
def _signature(call: Callable[..., Any]) -> inspect.Signature:
    return inspect.signature(call)


class Taps:
    """Taps on every module of the roots given to `add`; `restore` puts the classes back.

    ``binds`` says at which sites arguments are put to names; elsewhere ``on_call`` gets none.
    """

    def __init__(self, on_call: OnCall, binds: Callable[[str], bool] | None = None) -> None:
        self._on_call = on_call
        self._binds = binds
        self._swapped: list[tuple[nn.Module, type]] = []

    def add(self, component: str, root: nn.Module, wants: Callable[[str], bool] | None = None) -> None:
        """Tap every module below a component's root, or those whose site is wanted."""
        for site, module in sites_of(component, root).items():
            if wants is not None and not wants(site):
                continue
            original = type(module)
            module.__class__ = _tap_class(original, site, self._on_call, self._binds is None or self._binds(site))
            self._swapped.append((module, original))

    def restore(self) -> None:
        for module, original in reversed(self._swapped):
            module.__class__ = original
        self._swapped.clear()


@contextmanager
def tapped(roots: Mapping[str, nn.Module], on_call: OnCall) -> Iterator[Taps]:
    """Tap every module of every root; ``on_call(site, module, inputs by name, output)`` runs when a call returns.

    More roots can be added inside the block. Classes are restored in any case, also when the tapped code or the callback
    raises.
    """
    taps = Taps(on_call)
    try:
        for component, root in roots.items():
            taps.add(component, root)
        yield taps
    finally:
        taps.restore()


def _tap_class(original: type, site: str, on_call: OnCall, binds: bool) -> type:
    def call(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        output = original.__call__(self, *args, **kwargs)
        on_call(site, self, bind(original.__call__, (self, *args), kwargs) if binds else {}, output)
        return output

    call.__wrapped__ = original.__call__  # type: ignore[attr-defined]  # the signature by which a replay hands arguments over
    return type(original.__name__, (original,), {"__call__": call, "_parity_tap": True})
