"""A tiny model with random but repeatable weights."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import torch
from torch import nn

from instructir_core.model import InstructIR, NetworkConfig
from instructir_core.tasks import CLASSES
from instructir_core.text import (
    HashedEncoder,
    HashedEncoderConfig,
    InstructionHead,
)

DATA = Path(__file__).parent / "data"
TINY = NetworkConfig(8, (1, 1), 1, (1, 1))


def fill(module: nn.Module, scale: float = 1.0) -> nn.Module:
    """Weights drawn per parameter name, so that another class of equal names gets the same."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            seed = zlib.crc32(name.encode())
            values = np.random.RandomState(seed).normal(0, scale, tuple(parameter.shape))
            if name.endswith(("beta", "gamma")):
                values *= 0.2  # zero at the start of training, which would hide every block
            else:
                values *= 0.1 if parameter.ndim == 1 else 0.8 * parameter[0].numel() ** -0.5
            if name.endswith(("norm1.weight", "norm2.weight")):
                values += 1.0
            parameter.copy_(torch.from_numpy(values))
    return module.eval()


def tiny_parts() -> tuple[InstructIR, InstructionHead, HashedEncoder]:
    encoder = HashedEncoder(HashedEncoderConfig(256, 16, 2, 1))
    head = InstructionHead(16, 256, len(CLASSES))
    return fill(InstructIR(TINY)), fill(head), fill(encoder)
