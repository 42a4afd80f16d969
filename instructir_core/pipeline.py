"""From pictures and sentences to restored pictures: the one class that users of the core need."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from . import memory, strips
from .checks import check_images, check_options, check_plain, check_strength
from .diagnose import Diagnosis, Judge
from .instruction import Instruction
from .masks import fit_mask, is_empty
from .memory import Plan
from .model import InstructIR
from .official import load_named
from .steady import Averages, Place
from .text import InstructionReader
from .tiles import check_tiles, run_tiled, tiles

if TYPE_CHECKING:
    from .suggest import Suggestion

log = logging.getLogger(__name__)

Progress = Callable[[int, int], None]
Steer = Callable[[Tensor], Tensor]
"""The average of a block as found -> as it steers; see `strips.run`."""


class Restorer:
    """A network, and where known the reader of its instructions and of pictures, on one device."""

    def __init__(
        self,
        network: InstructIR,
        reader: InstructionReader | None = None,
        name: str = "unnamed",
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        diagnosis: Judge | None = None,
    ) -> None:
        self.device, self.dtype, self.name, self.reader = torch.device(device), dtype, name, reader
        self.version = ""
        """Of the weights; "" where their file tells none."""
        # channels_last: convolutions run up to twice as fast on CPUs and on tensor cores.
        self.network = network.eval().requires_grad_(False)
        self.network.to(self.device, dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.diagnosis = None if diagnosis is None else Diagnosis(diagnosis.eval(), self.network)

    @classmethod
    def from_pretrained(
        cls,
        model: str | os.PathLike[str] = "mini",
        *,
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
        loaded = load_named(
            model, head=head, text_encoder=text_encoder, folder=folder, progress=progress
        )
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
        restorer = cls(
            loaded.network, reader, loaded.name, device or best_device(), dtype or torch.float32,
            diagnosis=loaded.diagnosis,
        )  # fmt: skip
        restorer.version = loaded.version
        return restorer

    def plan(
        self,
        height: int,
        width: int,
        *,
        free: int | None = None,
        tile_size: int | None = None,
        device: torch.device | None = None,
    ) -> Plan:
        """How one picture would be restored with ``free`` bytes of memory (None: plenty).

        Raises ValueError for a ``tile_size`` that is too small.
        """
        if tile_size is not None:
            check_tiles(tile_size, None)
        return memory.plan(
            self.network.config,
            height,
            width,
            value_bytes=torch.finfo(self.dtype).bits // 8,
            free=free,
            strip=memory.strip_bytes(device or self.device),
            tile=tile_size,
        )

    def read(self, text: str) -> tuple[Instruction, ...]:
        """What a sentence asks for, one instruction each, in the order to carry out; never empty.

        Errors as `encode`, which reads it as one.
        """
        from .reading import read_parts  # its patterns take a while to compile

        return read_parts(text, self._reader())

    def encode(self, text: str) -> Instruction:
        """Read a sentence as one instruction.

        Raises ValueError when it is empty, or the model has no reader.
        """
        return self._reader().read(text)

    def suggest(self, images: Tensor, most: int = 2, threshold: float | None = None) -> Suggestion:
        """Look at pictures, as `restore` takes them, and say what they need.

        A batch gets one suggestion, by a few of its frames. At most ``most`` things are suggested:
        the severest of those that reach ``threshold``, 0 to 1; None is what the diagnosis of this
        model was calibrated to. Raises ValueError on bad pictures and options, and where the
        model has no diagnosis or no reader.
        """
        from .suggest import checked, suggest  # not needed to restore

        diagnosis = checked(self.diagnosis, self.name)
        return suggest(images, diagnosis, self.encode, most=most, threshold=threshold)

    def _reader(self) -> InstructionReader:
        if self.reader is None:
            raise ValueError(
                f"The model {self.name!r} has no instruction head and text encoder; expected both "
                "to read a sentence. Load it with head=lm_instructir-7d.pt and text_encoder="
                "a folder of bge-micro-v2, or pass an instruction encoded elsewhere to restore."
            )
        return self.reader

    def restore(
        self,
        images: Tensor,
        instructions: Instruction | Tensor | Sequence[Instruction | Tensor],
        *,
        strength: float = 1.0,
        mask: Tensor | None = None,
        tile_size: int | None = None,
        overlap: int | None = None,
        progress: Progress | None = None,
        plan: Plan | None = None,
        averages: Averages | None = None,
    ) -> Tensor:
        """Restore (H, W, 3) or (B, H, W, 3) sRGB floats in [0, 1] -> the same shape, clamped.

        ``instructions`` are applied in order, each to the result of the one before (paper,
        figure 7); a bare (1, 256) embedding will do. One that asks for nothing is left out; where
        none is left, ``images`` itself is returned. ``strength`` (0 to 1) and ``mask``, (H, W) or
        (B, H, W), 1 where to restore, blend the last result with the input; where both leave
        nothing to do the network is not run. ``tile_size`` and ``overlap`` are in pixels; None
        is exact, and takes tiles only where memory is too short. ``progress(done, total)`` runs
        after each block and may raise to stop. The result is detached, float32, on their device.

        A ``plan``, made by `Restorer.plan` for pictures of this size, is carried out as it is.
        Without one a plan is made from the memory that is free, and where that runs out all the
        same, the frame is done again in smaller pieces. ``averages`` steady the frames of a shot:
        hand the same to every call, in their order.

        Raises ValueError on NaN, wrong shapes, types or ranges, and `torch.OutOfMemoryError`; the
        input is never changed.
        """
        frames = check_images(images)
        embeddings = self._embeddings(instructions)
        count, height, width, _ = frames.shape
        masks = None if mask is None else _fit_masks(mask, count, height, width)
        check_options(strength, tile_size, overlap, plan=plan, size=(height, width))
        if not embeddings:
            return images
        result = frames.detach().to(torch.float32, copy=True).clamp_(0.0, 1.0)
        if strength == 0.0 or (masks is not None and is_empty(masks)):
            return result.reshape(images.shape)
        free = memory.free_memory(self.device)
        chosen = plan or self.plan(height, width, free=free, tile_size=tile_size)
        # Frame by frame: memory stays that of one frame, however long the batch.
        for index in range(count):

            def run(pieces: Plan, index: int = index) -> Tensor:
                return self._frame(
                    result[index], embeddings, pieces, strength=strength, averages=averages,
                    mask=None if masks is None else masks[index % len(masks)], overlap=overlap,
                    progress=None if progress is None else _one_of(progress, index, count),
                )  # fmt: skip

            if plan is not None:
                result[index] = run(plan)
            else:
                result[index], chosen = memory.with_smaller_pieces(run, chosen)
        if not chosen.exact and tile_size is None and plan is None:
            log.warning("Memory is short: %s. The result is not exact.", chosen)
        return result.reshape(images.shape)

    def restore_frames(
        self,
        frames: Iterable[Tensor],
        instructions: Instruction | Tensor | Sequence[Instruction | Tensor],
        *,
        strength: float = 1.0,
        mask: Tensor | None = None,
        tile_size: int | None = None,
        overlap: int | None = None,
        progress: Progress | None = None,
        steady: bool | Averages = False,
    ) -> Iterator[Tensor]:
        """Restore (H, W, 3) frames one at a time, each as `restore` does, as they are asked for.

        A frame is taken from ``frames`` when the one before has been handed on, so memory stays
        that of one, however many there are. ``mask`` is one for all; ``progress`` is that of each
        frame. With ``steady`` the averages that steer the network are carried along a shot, see
        `steady`; `Averages` go on from where they are. Instructions and settings are checked at
        once, frames as they come.
        """
        embeddings = self._embeddings(instructions)
        check_strength(strength)
        if tile_size is not None:
            check_tiles(tile_size, overlap)
        averages = steady if isinstance(steady, Averages) else Averages() if steady else None

        def restored() -> Iterator[Tensor]:
            for frame in frames:
                if frame.ndim != 3:
                    raise ValueError(
                        f"Found a frame of shape {tuple(frame.shape)}; expected (H, W, 3). Hand "
                        "over the frames one by one."
                    )
                yield self.restore(
                    frame, embeddings, strength=strength, mask=mask, tile_size=tile_size,
                    overlap=overlap, progress=progress, averages=averages,
                )  # fmt: skip

        return restored()

    def _frame(
        self,
        pixels: Tensor,
        embeddings: Sequence[Tensor],
        plan: Plan,
        *,
        strength: float,
        mask: Tensor | None,
        overlap: int | None,
        progress: Progress | None,
        averages: Averages | None = None,
    ) -> Tensor:
        """(H, W, 3) in [0, 1] and its (H, W, 1) mask -> (H, W, 3) on the same device."""
        if averages is not None:
            averages.begin(pixels)
        height, width = pixels.shape[:2]
        tile_and_overlap = None if plan.tile is None else _tiles(plan.tile, overlap)
        pieces = 1
        if tile_and_overlap is not None:
            pieces = len(list(tiles(height, width, *tile_and_overlap)))
        done, total = 0, len(embeddings) * pieces * strips.count_blocks(self.network)

        def advance() -> None:
            nonlocal done
            done += 1
            if progress is not None:
                progress(done, total)

        frame = pixels.permute(2, 0, 1)[None].to(self.device)
        restored = frame
        for step, embedding in enumerate(embeddings):
            places = ((plan.tile or 0, step, piece) for piece in count())

            def run(
                tile: Tensor, embedding: Tensor = embedding, places: Iterator[Place] = places
            ) -> Tensor:
                steers = partial(_steer, averages, next(places))
                return self._run(tile, embedding, plan.strip, advance, steers)

            if tile_and_overlap is None:
                restored = run(restored)
            else:
                restored = run_tiled(run, restored, *tile_and_overlap)
        if averages is not None:
            averages.keep()
        blend: float | Tensor = strength
        if mask is not None:
            blend = strength * mask.to(self.device).permute(2, 0, 1)
        restored = torch.lerp(frame, restored, torch.as_tensor(blend, device=self.device))
        return restored[0].permute(1, 2, 0).to(pixels.device)

    @torch.inference_mode()
    def _run(
        self,
        image: Tensor,
        embedding: Tensor,
        strip: int,
        advance: Callable[[], None],
        steers: Callable[[], Steer],
    ) -> Tensor:
        """(1, 3, H, W) float32 on the device -> the same, clamped."""
        embedding, size = embedding.to(self.device), strips.Strips(strip)
        restored = strips.run(
            self.network,
            image.to(self.dtype),
            embedding.to(self.dtype),
            advance=advance,
            strips=size,
            steer=steers(),
        ).float()
        if self.dtype != torch.float32 and not torch.isfinite(restored).all():
            log.warning("The network left the range of %s; run again in float32.", self.dtype)
            restored = strips.run(
                _in_float32(self.network), image, embedding, strips=size, steer=steers()
            )
        if not torch.isfinite(restored).all():
            raise ValueError(
                "The network gave NaN or infinity in float32; expected finite pixels. The weights "
                "are damaged or were trained badly: load another model."
            )
        return restored.clamp_(0.0, 1.0).clone()

    def _embeddings(
        self, instructions: Instruction | Tensor | Sequence[Instruction | Tensor]
    ) -> list[Tensor]:
        """Those to run the network with: of all instructions but what asks for nothing."""
        several = (
            [instructions] if isinstance(instructions, (Instruction, Tensor)) else [*instructions]
        )
        embeddings = []
        width = self.network.config.embedding_width
        for one in several:
            if isinstance(one, str):
                raise ValueError(
                    f"Found the text {one!r} as an instruction; expected an encoded one. Call "
                    "restorer.encode(text) first."
                )
            tensor = one.embedding if isinstance(one, Instruction) else one
            check_plain(tensor, "an embedding")
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
            if isinstance(one, Instruction) and one.asks_nothing:
                log.warning("%r: the picture is left as it is. %s", one.text, one.advice)
            else:
                embeddings.append(tensor.detach().reshape(1, width))
        return embeddings


def best_device() -> torch.device:
    """The GPU when there is one, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def _fit_masks(mask: Tensor, frames: int, height: int, width: int) -> Tensor:
    """As `fit_mask`; that a mask was resized is logged."""
    check_plain(mask, "a mask")
    masks, note = fit_mask(mask, frames, height, width)
    if note is not None:
        log.warning("%s", note)
    return masks


def _tiles(tile_size: int, overlap: int | None) -> tuple[int, int]:
    """The tiles of a plan: an overlap meant for larger ones is cut to half of them."""
    return check_tiles(tile_size, None if overlap is None else min(overlap, tile_size // 2))


def _steer(averages: Averages | None, place: Place) -> Steer:
    """By the averages as they are, or as they are carried along a shot."""
    if averages is None:
        return lambda average: average
    blocks = count()
    return lambda average: averages.carry((*place, next(blocks)), average)


def _one_of(progress: Progress, index: int, count: int) -> Progress:
    """The progress of a batch, told that of its frame ``index``."""
    return lambda done, total: progress(index * total + done, count * total)


def _in_float32(network: InstructIR) -> InstructIR:
    """Another network of the same weights.

    Built from the state dict, never copied: a host hangs handles of its own on modules that it
    manages, and a copy of such a handle would free what the original still uses.
    """
    with torch.device("meta"):
        exact = InstructIR(network.config)
    weights = {name: tensor.float() for name, tensor in network.state_dict().items()}
    exact.load_state_dict(weights, assign=True)
    exact.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return exact.eval().requires_grad_(False)
