"""InstructIR: restore a photo by a sentence (Conde, Geigle and Timofte, ECCV 2024)."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .checkpoint import load_network
    from .instruction import Instruction
    from .pipeline import Restorer
    from .suggest import Suggestion
    from .tasks import TASK_WORDS

__all__ = ["TASK_WORDS", "Instruction", "Restorer", "Suggestion", "load_network"]
__version__ = "0.1.0"

_HOMES = {
    "TASK_WORDS": "tasks", "Instruction": "instruction", "Restorer": "pipeline",
    "Suggestion": "suggest", "load_network": "checkpoint",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    """Import these only when asked for: PyTorch takes seconds, in which Ctrl-C must be heard."""
    if name in _HOMES:
        return getattr(import_module(f".{_HOMES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
