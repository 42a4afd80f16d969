"""The pack's own socket types."""

from typing import Any

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
