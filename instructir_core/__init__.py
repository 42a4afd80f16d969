"""InstructIR: restore a photo by a sentence (Conde, Geigle and Timofte, ECCV 2024)."""

from .checkpoint import load_network
from .pipeline import Restorer
from .text import Instruction

__all__ = ["Instruction", "Restorer", "load_network"]
__version__ = "0.1.0"
