"""The network against outputs of upstream's own code, stored by `make_parity.py`."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from make_parity import CASES, inputs
from safetensors.torch import load_file
from tiny_model import DATA, TINY, fill

from instructir_core.model import InstructIR, LayerNorm2d, NetworkConfig

STORED = load_file(DATA / "parity.safetensors")


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_equals_upstream(case: str) -> None:
    config, shape = CASES[case]
    restored = fill(InstructIR(config))(*inputs(shape))
    assert restored.shape == shape
    assert (restored - STORED[case]).abs().max() <= 1e-5


def test_released_layout() -> None:
    with torch.device("meta"):
        network = InstructIR(NetworkConfig())
    assert len(network.state_dict()) == 696
    assert sum(p.numel() for p in network.parameters()) == 15_843_363


@pytest.mark.parametrize(
    "config",
    [NetworkConfig(), TINY, NetworkConfig(12, (1, 0, 3), 2, (2, 1, 0), 40)],
)
def test_config_is_read_from_shapes(config: NetworkConfig) -> None:
    with torch.device("meta"):
        state = InstructIR(config).state_dict()
    shapes = {k: tuple(v.shape) for k, v in state.items()}
    assert NetworkConfig.from_shapes(shapes) == config
    assert NetworkConfig.from_dict(config.to_dict()) == config


def test_plain_nafnet_is_told_apart() -> None:
    with torch.device("meta"):
        state = InstructIR(TINY).state_dict()
    shapes = {k: tuple(v.shape) for k, v in state.items() if "_cond" not in k}
    with pytest.raises(ValueError, match="plain NAFNet"):
        NetworkConfig.from_shapes(shapes)


def test_layer_norm_is_over_channels() -> None:
    x = torch.rand(2, 6, 5, 4, generator=torch.Generator().manual_seed(0))
    norm = fill(LayerNorm2d(6))
    mean = x.mean(1, keepdim=True)
    expected = (x - mean) / ((x - mean) ** 2).mean(1, keepdim=True).add(1e-6).sqrt()
    expected = expected * norm.weight[:, None, None] + norm.bias[:, None, None]
    torch.testing.assert_close(norm(x), expected)


@torch.no_grad()
def test_untrained_network_returns_its_input() -> None:
    network = InstructIR(TINY)
    image = torch.rand(1, 3, 9, 11)
    torch.nn.init.zeros_(network.ending.weight)
    torch.nn.init.zeros_(network.ending.bias)
    assert torch.equal(network(image, F.normalize(torch.ones(1, 256))), image)


@torch.no_grad()
def test_the_instruction_steers() -> None:
    network = fill(InstructIR(TINY))
    image, embedding = inputs((1, 3, 16, 16))
    assert (network(image, embedding) - network(image, -embedding)).abs().max() > 1e-3
