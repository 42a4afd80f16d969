"""The pack's own socket types, and checks of what comes through any socket.

Another node may be linked to every widget, and the host does not hold what it gives to the
widget's choices or range.
"""

from collections.abc import Iterable
from numbers import Real
from typing import Any

import torch
from comfy_api.latest import io

RESTORER = io.Custom("INSTRUCTIR_RESTORER")
"""A `host.ManagedRestorer`."""
INSTRUCTION = io.Custom("INSTRUCTIR_INSTRUCTION")
"""A tuple of `Instruction`, applied in order."""
CATEGORY = "image/restoration"


def where_known(**fields: Any) -> dict[str, Any]:
    """Those of the fields that this host's `io.Schema` knows: it has grown with its versions."""
    known = getattr(io.Schema, "__dataclass_fields__", {})
    return {name: value for name, value in fields.items() if name in known}


def advanced(widget: Any) -> Any:
    """Fold an input away where the host's interface knows how; older hosts just show it."""
    widget.extra_dict = {**(widget.extra_dict or {}), "advanced": True}
    return widget


def colours_of(image: torch.Tensor) -> torch.Tensor:
    """An IMAGE of 1, 3 or 4 channels -> its colours, (B, H, W, 3), a view; else ValueError."""
    if image.ndim != 4 or image.shape[-1] not in (1, 3, 4):
        raise ValueError(
            f"Found an image of shape {tuple(image.shape)}; expected (batch, height, width, "
            "1, 3 or 4). Connect a node that gives an IMAGE."
        )
    return image.expand(-1, -1, -1, 3) if image.shape[-1] == 1 else image[..., :3]


def choice(name: str, value: object, choices: Iterable[str]) -> str:
    """The value, where it is one of the choices; else ValueError."""
    known = [*choices]
    if value not in known:
        raise ValueError(
            f"{name} is {value!r}; expected one of {', '.join(known)}. Choose one, or correct the "
            "node that gives it."
        )
    return str(value)


def number(name: str, value: object, low: float, high: float) -> float:
    """The value, where it is a number from ``low`` to ``high``; else ValueError."""
    if not isinstance(value, Real) or not low <= float(value) <= high:
        raise ValueError(
            f"{name} is {value!r}; expected a number from {low:g} to {high:g}. Correct it, or the "
            "node that gives it."
        )
    return float(value)
