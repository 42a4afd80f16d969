"""From pictures and sentences to restored pictures: the one class that users of the core need."""

from __future__ import annotations

import copy
import logging
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from . import bounded
from .model import InstructIR
from .official import load_named
from .text import Instruction, InstructionReader
from .tiles import check_tiles, run_tiled, tiles

log = logging.getLogger(__name__)

Progress = Callable[[int, int], None]


class Restorer:
    """A network, and where known the reader of its instructions, on one device."""

    def __init__(
        self,
        network: InstructIR,
        reader: InstructionReader | None = None,
        name: str = "unnamed",
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.device, self.dtype, self.name, self.reader = torch.device(device), dtype, name, reader
        # channels_last: convolutions run up to twice as fast on CPUs and on tensor cores.
        self.network = network.eval().requires_grad_(False)
        self.network.to(self.device, dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]

    @classmethod
    def from_pretrained(
        cls,
        model: str | os.PathLike[str] = "mini",
        head: str | os.PathLike[str] | None = None,
        text_encoder: str | os.PathLike[str] | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        folder: Path | None = None,
        progress: Progress | None = None,
    ) -> Restorer:
        """Load "mini" (bundled), "7d" (official, downloaded once into ``folder``) or a path.

        ``head`` is a head file for a network file that has none, ``text_encoder`` a folder of a
        BERT-like encoder; ``progress`` reports a download. ``device`` None takes the GPU when
        there is one; ``dtype`` None is float32. Raises OSError or ValueError, naming the file
        and the remedy.
        """
        loaded = load_named(model, head, text_encoder, folder, progress)
        assert loaded.network is not None
        reader = None
        if loaded.head is not None and loaded.text_encoder is not None:
            wanted, found = loaded.network.config.embedding_width, loaded.head.fc1.out_features
            if wanted != found:
                raise ValueError(
                    f"{head or model}: found a head with embeddings of width {found}; expected "
                    f"{wanted}, as the network takes. Choose the head it was trained with."
                )
            reader = InstructionReader(loaded.text_encoder, loaded.head, loaded.tasks, loaded.name)
        return cls(
            loaded.network, reader, loaded.name, device or best_device(), dtype or torch.float32
        )

    def plan(
        self,
        height: int,
        width: int,
        free: int | None = None,
        tile_size: int | None = None,
        device: torch.device | None = None,
    ) -> bounded.Plan:
        """How one picture would be restored with ``free`` bytes of memory (None: plenty)."""
        value = torch.finfo(self.dtype).bits // 8
        strip = bounded.strips_for(device or self.device).bytes
        return bounded.plan(self.network.config, height, width, value, free, strip, tile_size)

    def encode(self, text: str) -> Instruction:
        """Read a sentence. Raises ValueError when it is empty, or the model has no reader."""
        if self.reader is None:
            raise ValueError(
                f"The model {self.name!r} has no instruction head and text encoder; expected both "
                "to read a sentence. Load it with head=lm_instructir-7d.pt and text_encoder="
                "a folder of bge-micro-v2, or pass an instruction encoded elsewhere to restore."
            )
        return self.reader.read(text)

    def restore(
        self,
        images: Tensor,
        instructions: Instruction | Tensor | Sequence[Instruction | Tensor],
        strength: float = 1.0,
        mask: Tensor | None = None,
        tile_size: int | None = None,
        overlap: int | None = None,
        progress: Progress | None = None,
    ) -> Tensor:
        """Restore (H, W, 3) or (B, H, W, 3) sRGB floats in [0, 1] -> the same shape, clamped.

        ``instructions`` are applied in order, each to the result of the one before (paper,
        figure 7); a bare (1, 256) embedding will do. ``strength`` (0 to 1) and ``mask``, (H, W)
        or (B, H, W), 1 where to restore, blend the last result with the input; where both leave
        nothing to do the network is not run. ``tile_size`` and ``overlap`` are in pixels; None
        is exact at any size, and takes tiles only where memory is too short for that.
        ``progress(done, total)`` runs after each block of the network and may raise to stop. The
        result is detached, float32, on the images' device.

        Raises ValueError on NaN, wrong shapes, types or ranges; the input is never changed.
        """
        frames = _check_images(images)
        embeddings = self._embeddings(instructions)
        number = isinstance(strength, (int, float)) and not isinstance(strength, bool)
        if not number or not 0.0 <= strength <= 1.0:
            raise ValueError(f"strength is {strength}; expected 0 (unchanged) to 1 (restored).")
        amount = _check_mask(mask, frames)
        if tile_size is not None:
            check_tiles(tile_size, overlap)

        result = frames.detach().to(torch.float32, copy=True).clamp_(0.0, 1.0)
        if strength == 0.0 or (amount is not None and not amount.any()):
            return result.reshape(images.shape)
        height, width = frames.shape[1:3]
        planned = self.plan(height, width, bounded.free_memory(self.device), tile_size)
        cut = None if planned.tile is None else check_tiles(planned.tile, overlap)
        if cut is not None and tile_size is None:
            log.warning("Memory is short: %s. The result is not exact.", planned)
        pieces = 1 if cut is None else len(list(tiles(height, width, *cut)))
        blocks = bounded.count_blocks(self.network)
        done, total = 0, len(frames) * len(embeddings) * pieces * blocks

        def advance() -> None:
            nonlocal done
            done += 1
            if progress is not None:
                progress(done, total)

        # Frame by frame: memory stays that of one frame, however long the batch.
        for index in range(len(frames)):
            frame = result[index].permute(2, 0, 1)[None].to(self.device)
            restored = frame
            for embedding in embeddings:
                if cut is None:
                    restored = self._run(restored, embedding, advance)
                else:
                    restored = run_tiled(
                        lambda tile, e=embedding: self._run(tile, e, advance),  # type: ignore[misc]
                        restored,
                        *cut,
                    )
            blend: float | Tensor = strength
            if amount is not None:
                blend = strength * amount[index % len(amount)].to(self.device)
            restored = torch.lerp(frame, restored, torch.as_tensor(blend, device=self.device))
            result[index] = restored[0].permute(1, 2, 0).to(result.device)
        return result.reshape(images.shape)

    @torch.inference_mode()
    def _run(self, image: Tensor, embedding: Tensor, advance: Callable[[], None]) -> Tensor:
        """(1, 3, H, W) float32 on the device -> the same, clamped."""
        embedding = embedding.to(self.device)
        restored = bounded.run(
            self.network, image.to(self.dtype), embedding.to(self.dtype), advance
        ).float()
        if self.dtype != torch.float32 and not torch.isfinite(restored).all():
            log.warning("The network left the range of %s; run again in float32.", self.dtype)
            exact = copy.deepcopy(self.network).float()
            restored = bounded.run(exact, image, embedding, lambda: None)
        if not torch.isfinite(restored).all():
            raise ValueError(
                "The network gave NaN or infinity in float32; expected finite pixels. The weights "
                "are damaged or were trained badly: load another model."
            )
        return restored.clamp_(0.0, 1.0).clone()

    def _embeddings(
        self, instructions: Instruction | Tensor | Sequence[Instruction | Tensor]
    ) -> list[Tensor]:
        several = (
            [instructions] if isinstance(instructions, (Instruction, Tensor)) else [*instructions]
        )
        if not several:
            raise ValueError("Found an empty list of instructions; expected one at least.")
        embeddings = []
        width = self.network.config.embedding_width
        for one in several:
            if isinstance(one, str):
                raise ValueError(
                    f"Found the text {one!r} as an instruction; expected an encoded one. Call "
                    "restorer.encode(text) first."
                )
            tensor = one.embedding if isinstance(one, Instruction) else one
            _check_plain(tensor, "an embedding")
            if isinstance(one, Instruction) and self.reader is not None and one.model != self.name:
                log.warning(
                    "The instruction %r was encoded by %r and is used with %r, which may not "
                    "understand it.", one.text, one.model, self.name,
                )  # fmt: skip
            if tensor.shape not in ((1, width), (width,)) or not torch.isfinite(tensor).all():
                raise ValueError(
                    f"Found an embedding of shape {tuple(tensor.shape)}; expected (1, {width}), "
                    "all finite. Encode the sentence with the model's own encoder."
                )
            embeddings.append(tensor.detach().reshape(1, width))
        return embeddings


def best_device() -> torch.device:
    """The GPU when there is one, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def _check_plain(value: object, what: str) -> None:
    """Raise ValueError unless it is an ordinary tensor with values in memory."""
    if not isinstance(value, Tensor):
        raise ValueError(
            f"Found {what} of type {type(value).__name__}; expected a tensor. Convert it with "
            "torch.as_tensor."
        )
    if value.layout != torch.strided or value.device.type == "meta" or value.is_quantized:
        raise ValueError(
            f"Found {what} of layout {value.layout} on {value.device}; expected a dense tensor "
            "with values. Call .to_dense() on it, or load it."
        )


def _check_images(images: Tensor) -> Tensor:
    """(H, W, 3) or (B, H, W, 3) -> (B, H, W, 3), a view."""
    expected = "expected (H, W, 3) or (B, H, W, 3) floats in [0, 1]"
    _check_plain(images, "images")
    if images.ndim not in (3, 4) or images.shape[-1] != 3 or not images.numel():
        raise ValueError(f"Found images of shape {tuple(images.shape)}; {expected}.")
    if not images.is_floating_point():
        raise ValueError(f"Found images of type {images.dtype}; {expected}. Divide bytes by 255.")
    low, high = (float(v) for v in images.detach().aminmax())
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError(
            f"Found NaN or infinity among the pixels; {expected}. A node or a file before this "
            "one failed: look at its result."
        )
    # Decoders and sharpeners overshoot a little, which is clamped; bytes passed as floats are not.
    if low < -1.0 or high > 2.0:
        raise ValueError(
            f"Found pixels from {low:.3g} to {high:.3g}; {expected}. Divide 8-bit values by 255."
        )
    return images.reshape(-1, *images.shape[-3:])


def _check_mask(mask: Tensor | None, frames: Tensor) -> Tensor | None:
    """(H, W), (1, H, W) or (B, H, W) -> (1 or B, H, W) float32 clamped to [0, 1]."""
    if mask is None:
        return None
    _check_plain(mask, "a mask")
    batch, height, width, _ = frames.shape
    amount = mask[None] if mask.ndim == 2 else mask
    if amount.ndim != 3 or amount.shape[1:] != (height, width) or len(amount) not in (1, batch):
        raise ValueError(
            f"Found a mask of shape {tuple(mask.shape)}; expected ({height}, {width}) or "
            f"({batch}, {height}, {width}), the size of the images. Resize the mask."
        )
    amount = amount.detach().float()
    if not torch.isfinite(amount).all():
        raise ValueError("Found NaN or infinity in the mask; expected 0 (keep) to 1 (restore).")
    return amount.clamp(0.0, 1.0)
