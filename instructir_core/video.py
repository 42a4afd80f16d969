"""Video files: read, restored and written frame by frame, with all that belongs to them.

    restore_video(restorer, Path("in.mp4"), Path("out.mp4"), instruction, steady=True)

Sound and subtitles are copied as they are; times, rotation, colour tags and bit depth are kept.
Only what the network changed is added to a frame's own values, so nothing is lost by converting
between YUV and RGB. A few frames are in memory at a time, however long the file.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from . import __version__
from .files import temporary_name
from .instruction import Instruction
from .pipeline import Restorer
from .planes import Layout
from .segments import Coded, Parts
from .steady import Averages

if TYPE_CHECKING:
    import av

log = logging.getLogger(__name__)

FORMATS = {".mp4": "mp4", ".mov": "mov", ".webm": "webm", ".mkv": "matroska"}
"""Suffixes of the containers that are read, and written again as the same."""
ENCODERS = {
    "h264": ("libx264", {"crf": "16", "mbtree": "0"}),
    "hevc": ("libx265", {"crf": "18", "x265-params": "log-level=error"}),
    "vp8": ("libvpx", {"crf": "6", "b": "20M"}),
    "vp9": ("libvpx-vp9", {"crf": "18", "b": "0", "row-mt": "1"}),
    "av1": ("libsvtav1", {"crf": "18", "svtav1-params": "loglevel=0"}),
    "prores": ("prores_ks", {}),
    "ffv1": ("ffv1", {}),
}
"""For a video's codec: what encodes it again, and at which quality. Restoring is done once, so
these are near what the eye cannot tell from lossless. Without mbtree, because x264 with it codes
equal frames differently from run to run where the CPU has AVX-512."""
MISSING = 1.0
"""Seconds by which a whole file may end before it says."""

SEGMENT_PIXELS = 128_000_000
"""Of all frames of a segment, which is what a stop may cost: a minute or two on a CPU."""
SEGMENT_FRAMES = (24, 250)
"""Least and most of a segment: each starts with a whole picture, which takes the most bytes."""

Progress = Callable[[int, int], None]
Codec = tuple[str, dict[str, str]]
"""The name of an encoder, and its options."""


@dataclass(frozen=True)
class Clip:
    """What was written."""

    width: int
    height: int
    frames: int
    left_out: tuple[str, ...]
    """Streams that the container cannot take again, as a sentence may name them."""
    before: int = 0
    """How many of the frames an earlier run had restored."""

    def say(self, seconds: float) -> str:
        """Frames, time and pace."""
        pace = (self.frames - self.before) / max(seconds, 1e-9)
        earlier = f" ({self.before} of them before)" if self.before else ""
        left_out = f"; left out: {', '.join(self.left_out)}" if self.left_out else ""
        return (
            f"{self.frames} frames{earlier}, {seconds:.1f} s ({pace:.2f} frames per second)"
            f"{left_out}"
        )


def restore_video(
    restorer: Restorer,
    source: Path,
    target: Path,
    instructions: Instruction | Sequence[Instruction],
    *,
    strength: float = 1.0,
    tile_size: int | None = None,
    steady: bool = False,
    resume: bool = False,
    progress: Progress | None = None,
) -> Clip:
    """Restore every frame of a video file into another of the same kind.

    It is done in segments, and stopped it keeps those that are finished: ``resume`` goes on after
    them, to the same frames. ``progress(frames so far, frames in all or 0)`` runs after each and
    may raise to stop. The target appears whole or not at all. Raises OSError where PyAV is missing
    or a file cannot be read or written, and ValueError for what cannot be kept: another container,
    no video, HDR, interlaced or transparent frames, a codec or pixel format without encoder,
    damaged frames.
    """
    av = pyav()
    _check_names(source, target)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary, parts = temporary_name(target), None
    try:
        with av.open(str(source)) as container:
            reader = _Reader(container, source)
            codec = _encoder(reader)
            settings = {"strength": strength, "tile_size": tile_size, "steady": steady}
            key = _key(restorer, source, instructions) | settings | {"codec": codec}
            parts = Parts(target, key, resume=resume)
            before = parts.frames
            averages = Averages.of_state(parts.state) if parts.state else Averages()
            restored = restorer.restore_frames(
                reader.pictures(skip=before), instructions,
                strength=strength, tile_size=tile_size, steady=averages if steady else False,
            )  # fmt: skip
            _encode(reader, codec, restored, parts, averages=averages, progress=progress)
            left_out = _join(reader, codec, parts, temporary)
        if target.exists():
            shutil.copymode(target, temporary)
        os.replace(temporary, target)
        parts.discard()
    except BaseException as exc:
        with suppress(OSError):
            temporary.unlink()
        _keep_or_discard(parts, target, exc)
        if isinstance(exc, av.FFmpegError) and exc.filename == str(temporary):
            raise OSError(
                f"{target}: could not be written ({exc.strerror or exc}); expected a folder that "
                "you may write to, with space free, and frames its codec takes. Choose another."
            ) from exc
        if isinstance(exc, av.FFmpegError):
            raise ValueError(
                f"{source}: found a video that cannot be read or written ({exc.strerror or exc}); "
                "expected a complete file. Get it again, or convert it with ffmpeg."
            ) from exc
        raise
    return Clip(reader.frame.width, reader.frame.height, parts.frames, left_out, before)


def _key(
    restorer: Restorer, source: Path, instructions: Instruction | Sequence[Instruction]
) -> dict[str, Any]:
    """What the frames of a result depend on, beside the settings."""
    several = [instructions] if isinstance(instructions, Instruction) else [*instructions]
    weights = hashlib.sha256()
    for name, tensor in sorted(restorer.network.state_dict().items()):
        weights.update(name.encode() + tensor.float().cpu().contiguous().numpy().tobytes())
    status = source.stat()
    return {
        "version": __version__,
        "source": [os.fspath(source.absolute()), status.st_size, status.st_mtime_ns],
        "weights": weights.hexdigest(),
        "precision": str(restorer.dtype),
        "instructions": [[i.text, i.asks_nothing, i.embedding.flatten().tolist()] for i in several],
        "segment": [SEGMENT_PIXELS, *SEGMENT_FRAMES],
    }


def _keep_or_discard(parts: Parts | None, target: Path, exc: BaseException) -> None:
    """After a stop: segments are of use unless the video itself is to blame."""
    if parts is None:
        return
    if parts.frames and not isinstance(exc, (ValueError, pyav().FFmpegError)):
        log.warning("%s: %d frames of it are kept; --resume goes on.", target, parts.frames)
    else:
        parts.discard()


def _encode(
    reader: _Reader,
    codec: Codec,
    restored: Iterator[Tensor],
    parts: Parts,
    *,
    averages: Averages,
    progress: Progress | None,
) -> None:
    """Write all restored frames, a segment at a time, each by an encoder of its own."""
    size = SEGMENT_PIXELS // (reader.first.width * reader.first.height)
    size = min(max(size, SEGMENT_FRAMES[0]), SEGMENT_FRAMES[1])
    for first in restored:
        with parts.segment() as segment:
            encoder = pyav().CodecContext.create(codec[0], "w")
            _set_up(encoder, reader, codec)
            number = 0
            for number, pixels in enumerate(chain([first], islice(restored, size - 1)), 1):
                for packet in encoder.encode(reader.encodable(pixels)):
                    segment.add(packet)
                if progress is not None:
                    progress(parts.frames + number, reader.count)
            for packet in encoder.encode(None):
                segment.add(packet)
            segment.finish(number, averages.state())


def _join(reader: _Reader, codec: Codec, parts: Parts, place: Path) -> tuple[str, ...]:
    """Write the file: the segments, and all other streams packet by packet as the source has them.

    Returns the streams that were left out.
    """
    av = pyav()
    with (
        av.open(str(reader.path)) as again,
        av.open(str(place), "w", format=_container(reader.path)) as container,
    ):
        writer = _Writer(container, reader, codec)
        coded = parts.packets()
        for packet in again.demux([s for s in again.streams if s.type != "attachment"]):
            if packet.stream.index == reader.stream.index:
                writer.write(islice(coded, 1))
            elif packet.dts is not None or packet.pts is not None:
                writer.copy(packet)
        writer.write(coded)
    return writer.left_out


def pyav() -> Any:
    try:
        import av
    except ImportError as exc:
        raise OSError(
            "Video files need the package av (PyAV), which pictures do not. Install it with: "
            'pip install "instructir[video]"'
        ) from exc
    return av


def _container(path: Path) -> str:
    return FORMATS[path.suffix.lower()]


def _check_names(source: Path, target: Path) -> None:
    if source.suffix.lower() not in FORMATS or target.suffix.lower() != source.suffix.lower():
        raise ValueError(
            f"{target}: expected the container of {source.name}, one of {', '.join(FORMATS)}, to "
            "be kept. Choose an output of the same suffix."
        )
    if not source.is_file():
        raise OSError(f"{source}: found no such file; expected a video. Check the path.")
    if source.resolve() == target.resolve():
        raise ValueError(f"{target}: the result would overwrite the input. Choose another output.")


class _Reader:
    """The first video stream of an open file, decoded frame by frame."""

    def __init__(self, container: Any, path: Path) -> None:
        self.container, self.path = container, path
        videos = [s for s in container.streams.video if not is_cover(s)]
        if len(videos) != 1:
            raise ValueError(
                f"{path}: found {len(videos)} video streams; expected one. Choose it with ffmpeg."
            )
        self.stream = videos[0]
        if self.stream.metadata.get("alpha_mode") == "1":
            raise ValueError(
                f"{path}: found transparency, which would be lost; expected an opaque video. "
                "Convert the file with ffmpeg -pix_fmt yuv420p."
            )
        self.stream.thread_type = "AUTO"
        self.count = self.stream.frames or self._guess()
        self._packets = container.demux([s for s in container.streams if s.type != "attachment"])
        self._end = 0.0  # seconds that packets were found for
        self._frames = self._decoded()
        try:
            self.frame = next(self._frames)
        except StopIteration:
            raise ValueError(
                f"{path}: found no frame in it; expected a video. Get the file again."
            ) from None
        self.first = self.frame
        self.layout = Layout.of(self.frame, path)

    def _guess(self) -> int:
        """The number of frames by length and rate, 0 where these are unknown."""
        if not self.container.duration or not self.stream.average_rate:
            return 0
        return round(float(self.container.duration / 1_000_000 * self.stream.average_rate))

    def _decoded(self) -> Iterator[av.VideoFrame]:
        for packet in self._packets:
            if packet.pts is not None:
                ends = float((packet.pts + (packet.duration or 0)) * packet.time_base)
                self._end = max(self._end, ends)
            if packet.stream is self.stream:
                yield from packet.decode()

    def pictures(self, *, skip: int) -> Iterator[Tensor]:
        """(H, W, 3) RGB in [0, 1] of every frame but the first ``skip``.

        ``frame``, ``planes`` and ``picture`` are those of the frame handed on last.
        """
        for number, frame in enumerate(chain([self.first], self._frames)):
            self._check(frame)
            if number < skip:
                continue
            self.frame, self.planes = frame, self.layout.read(frame)
            self.picture = self.layout.to_rgb(self.planes)
            yield self.picture
        said = ((self.container.duration or 0) + (self.container.start_time or 0)) / 1_000_000
        if self._end < said - MISSING:
            raise ValueError(
                f"{self.path}: found nothing after {self._end:.1f} s; expected {said:.1f} s, as it "
                "says itself. The file is cut off: get it again."
            )

    def encodable(self, restored: Tensor) -> av.VideoFrame:
        """The frame handed on last, with what was changed in its ``picture``."""
        frame = self.frame
        made = self.layout.write(self.layout.changed(self.planes, self.picture, restored))
        made.pts, made.time_base, made.duration = frame.pts, frame.time_base, frame.duration
        made.color_range, made.colorspace = frame.color_range, frame.colorspace
        made.color_primaries, made.color_trc = frame.color_primaries, frame.color_trc
        return made

    def _check(self, frame: av.VideoFrame) -> None:
        when = f"{self.path}: at {float(frame.time or 0):.2f} s"
        if frame.is_corrupt:
            raise ValueError(f"{when} found a damaged frame. Get the file again.")
        if frame.interlaced_frame:
            raise ValueError(
                f"{when} found an interlaced frame; expected whole ones. Deinterlace it first, "
                "with ffmpeg -vf bwdif."
            )
        same = (frame.width, frame.height, frame.format.name)
        if same != (self.first.width, self.first.height, self.first.format.name):
            raise ValueError(
                f"{when} found the size or pixel format change; expected one throughout. Cut the "
                "file there."
            )


def is_cover(stream: Any) -> bool:
    return "attached_pic" in str(stream.disposition)


def _set_up(context: Any, reader: _Reader, codec: Codec) -> None:
    """An encoder for the frames of a video, the same each time."""
    old, first = reader.stream, reader.first
    context.width, context.height = first.width, first.height
    context.pix_fmt = first.format.name
    context.framerate = _rate(reader)
    context.time_base = first.time_base or old.time_base
    context.options = codec[1]
    context.thread_type = "AUTO"
    context.flags |= pyav().codec.context.Flags.global_header
    context.color_range, context.colorspace = first.color_range, first.colorspace
    context.color_primaries, context.color_trc = first.color_primaries, first.color_trc
    if old.sample_aspect_ratio:
        context.sample_aspect_ratio = old.sample_aspect_ratio


def _rate(reader: _Reader) -> Any:
    return reader.stream.average_rate or reader.stream.base_rate or 25


class _Writer:
    """The same streams in another file, packet by packet; those of the video are coded anew."""

    def __init__(self, container: Any, reader: _Reader, codec: Codec) -> None:
        self.container = container
        old, first = reader.stream, reader.first
        self.stream = container.add_stream(codec[0], rate=_rate(reader))
        _set_up(self.stream.codec_context, reader, codec)
        self.time_base = self.stream.codec_context.time_base
        if (matrix := _display_matrix(first)) is not None:
            self.stream.set_display_matrix(matrix)
        self.stream.metadata.update(_own_words(old.metadata))
        container.metadata.update(_own_words(reader.container.metadata))
        self.others: dict[int, Any] = {}
        left_out = []
        for stream in reader.container.streams:
            if stream is old:
                continue
            try:
                if stream.type not in ("audio", "subtitle") or is_cover(stream):
                    raise ValueError
                self.others[stream.index] = container.add_stream_from_template(stream)
                self.others[stream.index].metadata.update(_own_words(stream.metadata))
            except (ValueError, TypeError):
                left_out.append(f"{stream.type} stream {stream.index}")
        self.left_out = tuple(left_out)
        chapters = reader.container.chapters()
        if chapters:
            container.set_chapters(chapters)

    def copy(self, packet: av.Packet) -> None:
        """Sound or subtitles, as they are."""
        if packet.stream.index in self.others:
            packet.stream = self.others[packet.stream.index]
            self.container.mux(packet)

    def write(self, coded: Iterable[Coded]) -> None:
        """Packets of the video."""
        for one in coded:
            packet = pyav().Packet(one.data)
            packet.stream, packet.time_base = self.stream, self.time_base
            packet.pts, packet.dts, packet.duration = one.pts, one.dts, one.duration
            packet.is_keyframe = one.keyframe
            self.container.mux(packet)


def _encoder(reader: _Reader) -> Codec:
    """The encoder for a video's own codec and pixel format, and its options."""
    av = pyav()
    codec, pixel_format = reader.stream.codec_context.name, reader.first.format.name
    codec = {"libdav1d": "av1", "libvpx": "vp8", "libvpx-vp9": "vp9"}.get(codec, codec)
    if codec not in ENCODERS:
        raise ValueError(
            f"{reader.path}: found the codec {codec}; expected one of {', '.join(ENCODERS)}. "
            "Convert the file with ffmpeg."
        )
    name, options = ENCODERS[codec]
    try:
        formats = {f.name for f in av.Codec(name, "w").video_formats or ()}
    except av.codec.codec.UnknownCodecError:
        formats = set()
    if pixel_format not in formats:
        raise ValueError(
            f"{reader.path}: found {codec} in {pixel_format}, which {name} of this PyAV cannot "
            f"write; expected one of {', '.join(sorted(formats)) or 'none'}. Convert the file with "
            "ffmpeg, to 8 bits or to h264 or hevc."
        )
    return name, dict(options)


def _display_matrix(frame: av.VideoFrame) -> list[int] | None:
    """The nine numbers by which players turn the picture, where the file has them."""
    for data in frame.side_data:
        if data.type.name == "DISPLAYMATRIX":
            return list(struct.unpack("=9i", bytes(data)[:36]))
    return None


def _own_words(metadata: dict[str, str]) -> dict[str, str]:
    """Without what a muxer writes itself."""
    written = {"encoder", "major_brand", "minor_version", "compatible_brands", "duration"}
    return {k: v for k, v in metadata.items() if k.lower() not in written}
