"""The network executed in strips of rows: the same numbers, bounded memory, no seams.

A block is local but for one average over the whole picture (channel attention). So it runs in two
passes over strips: the first writes the gated features and sums them up, the second applies the
attention and the feed-forward half to the feature map in place. Whole is one strip. Along the way
everything that folds exactly is folded: norm affines into the next 1x1 convolution, block scales
and attention into conv3 and conv5, the instruction's affine and gate into one affine per channel.
``InstructIR.forward`` is the plain reference this is tested against.

Feature maps are (H, W, C), so that a strip of rows is one piece of memory and every 1x1
convolution is one matrix product.
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .memory import strip_bytes
from .model import InstructionBlock, InstructIR, LayerNorm2d, NAFBlock

HUGE_PAGE = 2 << 20
"""Bytes from which on memory is asked for in huge pages (x86-64)."""


@dataclass(frozen=True)
class Strips:
    """How many rows at a time: as many as keep the widest tensor within ``bytes``."""

    bytes: int

    def rows(self, like: Tensor, channels: int) -> int:
        """Rows of a (H, W, C) map whose temporary holds ``channels`` values per pixel."""
        row = like.shape[1] * channels * like.element_size()
        return max(2, min(like.shape[0], self.bytes // row))


def _empty(like: Tensor, *shape: int) -> Tensor:
    """Uninitialised memory of the type and device of ``like``; on Linux in huge pages.

    Every block walks over whole feature maps. Pages of 4 KiB make the processor look up an address
    for every few rows, and the kernel hand them out one by one.
    """
    memory = like.new_empty(shape)
    linux = hasattr(mmap, "MADV_HUGEPAGE")
    if linux and memory.device.type == "cpu" and memory.nbytes >= HUGE_PAGE:
        # Advice on PyTorch's own memory, not a mapping of ours: freed memory is used again, which
        # spares its first touches, and running out of it is an error that is known.
        # It holds for whole pages, and what cannot follow it stays as it is.
        start = -(-memory.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
        length = (memory.data_ptr() + memory.nbytes - start) // mmap.PAGESIZE * mmap.PAGESIZE
        libc = ctypes.CDLL(None)
        libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(length), mmap.MADV_HUGEPAGE)
    return memory


def count_blocks(network: InstructIR) -> int:
    """How often `run` calls ``advance``."""
    config = network.config
    conditions = len(config.encoder_blocks) + len(config.decoder_blocks)
    plain = sum(config.encoder_blocks) + config.middle_blocks + sum(config.decoder_blocks)
    return conditions + plain


def mirrored(image: Tensor, multiple: int) -> Tensor:
    """(1, C, H, W) -> the same continued at the right and at the bottom to a ``multiple``.

    Mirrored without repeating the edge; where a side is not longer than what it lacks, the edge
    pixel is repeated.
    """
    height, width = image.shape[-2:]
    below, beside = -height % multiple, -width % multiple
    if beside:
        image = F.pad(image, (0, beside, 0, 0), "reflect" if beside < width else "replicate")
    if below:
        image = F.pad(image, (0, 0, 0, below), "reflect" if below < height else "replicate")
    return image


@torch.inference_mode()
def run(
    network: InstructIR,
    image: Tensor,
    embedding: Tensor,
    *,
    advance: Callable[[], None] = lambda: None,
    strips: Strips | None = None,
    steer: Callable[[Tensor], Tensor] = lambda average: average,
) -> Tensor:
    """(1, 3, H, W) image and (1, 256) embedding -> (1, 3, H, W), as the network's ``forward``.

    Sizes that are no multiple of ``config.multiple`` are `mirrored` instead of padded with zeros:
    the network averages over all it is given, and a black border would count as a part of the
    picture. The result is that of ``forward`` on the mirrored picture, cropped back.
    ``advance()`` runs after each of `count_blocks` blocks and may raise to stop; ``steer`` turns
    the (C,) average of each into the one to go on with.
    """
    strips = strips or Strips(strip_bytes(image.device))
    padded = _rows(mirrored(image, network.config.multiple))

    def blocks(
        x: Tensor, gated: Tensor, plain: nn.Module, condition: nn.Module | None = None
    ) -> None:
        for block in plain.children():
            assert isinstance(block, NAFBlock)
            _block(x, gated, block, None, strips, steer)
            advance()
        if condition is not None:
            assert isinstance(condition, InstructionBlock)
            gate = torch.sigmoid(condition.fc(embedding))[0]
            affine = (condition.gamma.flatten() * gate, condition.beta.flatten() * gate)
            _block(x, gated, condition.block, affine, strips, steer)
            advance()

    def level(depth: int, x: Tensor, spare: Tensor) -> None:
        """All of the U from here down, on ``x`` in place; ``spare`` is memory of its size.

        A map of the next level is half as large: it and its own spare memory share this one's.
        """
        if depth == len(network.encoders):
            blocks(x, spare.view(x.shape), network.middle_blks)
            return
        blocks(x, spare.view(x.shape), network.encoders[depth], network.enc_cond[depth])
        half, rest = spare.chunk(2)
        rows, columns, channels = x.shape
        smaller = half.view(rows // 2, columns // 2, 2 * channels)
        _down(x, network.downs[depth], smaller, strips)
        level(depth + 1, smaller, rest)
        up = -1 - depth
        _up_into(x, smaller, next(network.ups[up].children()), strips)
        blocks(x, spare.view(x.shape), network.decoders[up], network.dec_cond[up])

    x = _empty(image, *padded.shape[:2], network.config.width)
    _conv3x3(padded, network.intro, x, strips)
    del padded
    level(0, x, _empty(image, x.numel()))
    restored = _conv3x3(x, network.ending, image.new_empty(*x.shape[:2], 3), strips)
    restored = restored[: image.shape[-2], : image.shape[-1]]
    restored += _rows(image)
    return restored.permute(2, 0, 1)[None]


Affine = tuple[Tensor, Tensor]
"""Scale and shift, (C,) each."""


def _block(
    x: Tensor,
    gated: Tensor,
    block: NAFBlock,
    affine: Affine | None,
    strips: Strips,
    steer: Callable[[Tensor], Tensor],
) -> None:
    """One NAFNet block on (H, W, C), in place; what ``gated`` (H, W, C) held is lost.

    With an ``affine`` it is an instruction block: ``block(x * scale + shift) + x``.
    """
    average = _gate(x, gated, block, affine, strips)
    _apply(x, gated, block, affine, steer(average), strips)


def _gate(
    x: Tensor, gated: Tensor, block: NAFBlock, affine: Affine | None, strips: Strips
) -> Tensor:
    """First half: norm, 1x1, depthwise 3x3 and gate, into ``gated``; the gate's (C,) average."""
    height, width, channels = x.shape
    double = 2 * channels
    weight, bias = _folded_norm(block.norm1, block.conv1)
    total = torch.zeros(channels, dtype=torch.float64 if x.device.type != "mps" else torch.float32,
                        device=x.device)  # fmt: skip

    def gate(part: Tensor, first: int, padding: int) -> None:
        """Depthwise rows of ``part``, gated, into ``gated`` from row ``first`` on."""
        nonlocal total
        conv = block.conv2
        spread = F.conv2d(_picture(part), conv.weight, conv.bias, 1, (padding, 1), 1, double)
        wide = _rows(spread)
        done = gated[first : first + len(wide)]
        torch.mul(wide[..., :channels], wide[..., channels:], out=done)
        total += done.sum((0, 1), dtype=torch.float32)

    # Two rows of the strip above and two of this one: the rows between see both. Past the border
    # there is nothing.
    seam = x.new_zeros(4, width, double)
    for a, b in _spans(height, strips.rows(x, double)):
        part = x[a:b]
        if affine is not None:
            scale, shift = affine
            part = torch.addcmul(shift, part, scale)
        wide = _conv1x1(_normed(part), weight, bias)
        if b - a == height:
            gate(wide, 0, 1)
            break
        seam[2:] = wide[:2]
        if a == 0:
            gate(seam[1:], 0, 0)
        else:
            gate(seam, a - 1, 0)
        if b - a > 2:
            gate(wide, a + 1, 0)
        seam[:2] = wide[-2:]
        del wide  # before the next strip needs as much
    else:
        seam[2] = 0.0
        gate(seam[:3], height - 1, 0)
    return (total / (height * width)).to(x.dtype)


def _apply(
    x: Tensor, gated: Tensor, block: NAFBlock, affine: Affine | None, mean: Tensor, strips: Strips
) -> None:
    """Second half: attention by the ``mean`` and 1x1 into the residual, then feed-forward."""
    height, _, channels = x.shape
    sca = block.sca[1]
    assert isinstance(sca, nn.Conv2d) and sca.bias is not None
    assert block.conv3.bias is not None and block.conv5.bias is not None
    attention = torch.addmv(sca.bias, sca.weight.flatten(1), mean)
    beta, gamma = block.beta.flatten(), block.gamma.flatten()
    weight3 = block.conv3.weight.flatten(1) * beta[:, None] * attention
    bias3 = block.conv3.bias * beta
    if affine is not None:
        bias3 = bias3 + affine[1]
    weight4, bias4 = _folded_norm(block.norm2, block.conv4)
    weight5 = block.conv5.weight.flatten(1) * gamma[:, None]
    bias5 = block.conv5.bias * gamma

    def feed_forward(y: Tensor) -> Tensor:
        """``conv5(gate(conv4(norm2(y))))``, all of it folded."""
        normed = _normed(y)
        wide = _conv1x1(normed, weight4, bias4)
        product = torch.mul(wide[..., :channels], wide[..., channels:], out=normed)
        return _conv1x1(product, weight5, bias5)

    for a, b in _spans(height, strips.rows(x, 2 * channels)):
        part = x[a:b]
        y = _conv1x1(gated[a:b], weight3, bias3)
        if affine is None:
            part += y
            part += feed_forward(part)
        else:
            y.addcmul_(part, affine[0])
            part += feed_forward(y)
            part += y


def _normed(x: Tensor) -> Tensor:
    """(H, W, C) -> the same with mean 0 and variance 1 over C: a layer norm without its affine."""
    channels = x.shape[-1]
    if x.device.type != "cpu" or x.dtype != torch.float32:
        return F.layer_norm(x, (channels,), eps=1e-6)
    # PyTorch's kernel takes pixel by pixel: three times slower where channels are few.
    centred = x - x.mean(-1, keepdim=True)
    norm = torch.linalg.vector_norm(centred, dim=-1, keepdim=True)
    variance = torch.addcmul(norm.new_tensor(1e-6), norm, norm, value=1.0 / channels)
    return centred.mul_(variance.rsqrt_())


def _folded_norm(norm: LayerNorm2d, conv: nn.Conv2d) -> tuple[Tensor, Tensor]:
    """(2C, C) weight and (2C,) bias of a 1x1 convolution that takes the norm's affine with it."""
    weight = conv.weight.flatten(1)
    assert conv.bias is not None
    return weight * norm.weight, torch.addmv(conv.bias, weight, norm.bias)


def _spans(height: int, rows: int) -> Iterator[tuple[int, int]]:
    """First and last row + 1 of each strip; the last strip may have one row more, but not one."""
    a = 0
    while a < height:
        b = a + rows if a + rows < height - 1 else height
        yield a, b
        a = b


def _picture(rows: Tensor) -> Tensor:
    """(H, W, C) -> (1, C, H, W), a view that PyTorch recognises as channels_last."""
    return rows[None].permute(0, 3, 1, 2)


def _rows(picture: Tensor) -> Tensor:
    """(1, C, H, W) -> (H, W, C), a view; contiguous when the picture is channels_last."""
    return picture[0].permute(1, 2, 0)


def _conv1x1(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """(H, W, C) -> (H, W, D) by a (D, C) weight."""
    onednn: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if onednn and x.device.type == "cpu" and x.dtype == torch.float32:
        # oneDNN's convolution is up to a quarter faster than the BLAS of a linear layer.
        return _rows(F.conv2d(_picture(x), weight[:, :, None, None], bias))
    return F.linear(x, weight, bias)


def _conv3x3(x: Tensor, conv: nn.Conv2d, result: Tensor, strips: Strips) -> Tensor:
    """(H, W, C) -> ``result`` (H, W, D), zeros around."""
    height = x.shape[0]
    rows = strips.rows(x, max(conv.in_channels, conv.out_channels))
    for a, b in _spans(height, rows):
        top, bottom = max(a - 1, 0), min(b + 1, height)
        part = F.pad(_picture(x[top:bottom]), (1, 1, top - a + 1, b + 1 - bottom))
        result[a:b] = _rows(F.conv2d(part, conv.weight, conv.bias))
    return result


def _down(x: Tensor, conv: nn.Module, result: Tensor, strips: Strips) -> None:
    """(H, W, C) -> ``result`` (H / 2, W / 2, 2C) by a 2x2 convolution of stride 2."""
    assert isinstance(conv, nn.Conv2d)
    height, _, channels = x.shape
    rows = max(2, strips.rows(x, channels) // 2 * 2)
    for a in range(0, height, rows):
        part = F.conv2d(_picture(x[a : a + rows]), conv.weight, conv.bias, stride=2)
        result[a // 2 : (a + rows) // 2] = _rows(part)


def _up_into(skip: Tensor, x: Tensor, conv: nn.Module, strips: Strips) -> None:
    """``skip += pixel_shuffle(conv(x))``: (H, W, C) from (H / 2, W / 2, 2C)."""
    assert isinstance(conv, nn.Conv2d)
    height, width, channels = skip.shape
    # Output channels in the order (row, column, channel) make the shuffle a plain addition.
    weight = conv.weight.view(channels, 2, 2, -1).permute(1, 2, 0, 3).reshape(4 * channels, -1)
    rows = strips.rows(x, 4 * channels)
    for a in range(0, height // 2, rows):
        b = min(a + rows, height // 2)
        wide = _conv1x1(x[a:b], weight, None)
        spread = wide.view(b - a, width // 2, 2, 2, channels).permute(0, 2, 1, 3, 4)
        skip[2 * a : 2 * b].view(b - a, 2, width // 2, 2, channels).add_(spread)
