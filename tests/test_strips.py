"""Execution in strips against the plain forward."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from tiny_model import TINY, fill

from instructir_core import strips
from instructir_core.model import InstructIR, NetworkConfig
from instructir_core.strips import Strips

MINI = NetworkConfig(16, (1, 1, 2, 2), 2, (1, 1, 1, 1))
CASES = [
    (TINY, (1, 1)),
    (TINY, (37, 53)),
    (NetworkConfig(12, (1, 0, 2), 1, (2, 1, 0)), (40, 33)),
    (MINI, (64, 64)),
    (MINI, (129, 70)),
    (NetworkConfig(), (50, 61)),
]


@pytest.mark.parametrize(("config", "size"), CASES)
@pytest.mark.parametrize("strip", [1, 20_000, 1 << 30])
@torch.inference_mode()
def test_strips_equal_the_plain_forward(
    config: NetworkConfig, size: tuple[int, int], strip: int
) -> None:
    network = fill(InstructIR(config))
    generator = torch.Generator().manual_seed(1)
    image = torch.rand(1, 3, *size, generator=generator)
    embedding = F.normalize(torch.randn(1, 256, generator=generator))
    kept = image.clone()
    result = strips.run(network, image, embedding, strips=Strips(strip))
    height, width = size
    expected = network(strips.mirrored(image, config.multiple), embedding)[..., :height, :width]
    assert (result - expected).abs().max() <= 1e-5
    assert torch.equal(image, kept)


@pytest.mark.parametrize(
    ("side", "continued"),
    [
        (1, [0, 0, 0, 0]),
        (2, [0, 1, 1, 1]),  # not longer than what it lacks: the edge repeats
        (3, [0, 1, 2, 1]),
        (4, [0, 1, 2, 3]),
        (5, [0, 1, 2, 3, 4, 3, 2, 1]),
    ],
)
def test_mirrored(side: int, continued: list[int]) -> None:
    rows = torch.arange(side).float().view(1, 1, side, 1).expand(1, 3, side, 4)
    assert strips.mirrored(rows, 4)[0, 0, :, 0].tolist() == continued
    columns = rows.transpose(2, 3)
    assert strips.mirrored(columns, 4)[0, 2, 0].tolist() == continued


@torch.inference_mode()
def test_weights_stay_as_they_are() -> None:
    network = fill(InstructIR(MINI))
    before = {k: v.clone() for k, v in network.state_dict().items()}
    strips.run(network, torch.rand(1, 3, 32, 32), torch.ones(1, 256) / 16)
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())


def test_stops_within_a_block() -> None:
    network = fill(InstructIR(MINI))
    calls = []

    def advance() -> None:
        calls.append(0)
        if len(calls) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        strips.run(network, torch.rand(1, 3, 32, 32), torch.ones(1, 256) / 16, advance=advance)
    assert len(calls) == 3
    calls.clear()
    strips.run(
        network, torch.rand(1, 3, 9, 9), torch.ones(1, 256) / 16, advance=lambda: calls.append(0)
    )
    assert len(calls) == strips.count_blocks(network) == 20


def test_strips_are_pictures_in_channels_last_memory() -> None:
    # Else every convolution copies its input and its output; the result would be the same.
    picture = strips._picture(torch.empty(4, 5, 3))
    assert picture.is_contiguous(memory_format=torch.channels_last)
    assert strips._rows(picture).is_contiguous()


@pytest.mark.parametrize(("height", "rows"), [(1, 2), (2, 2), (3, 2), (7, 3), (8, 100)])
def test_spans_cover_the_picture(height: int, rows: int) -> None:
    spans = list(strips._spans(height, rows))
    assert [row for a, b in spans for row in range(a, b)] == list(range(height))
    assert all(2 <= b - a <= rows + 1 for a, b in spans) or height < 2
