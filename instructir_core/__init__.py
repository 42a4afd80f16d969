"""InstructIR: restore a photo by a sentence (Conde, Geigle and Timofte, ECCV 2024)."""

from .checkpoint import load_network
from .instruction import Instruction
from .pipeline import Restorer
from .tasks import TASK_WORDS

__all__ = ["TASK_WORDS", "Instruction", "Restorer", "load_network"]
__version__ = "0.1.0"
