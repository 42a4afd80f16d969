"""Video files: read, restored and written frame by frame, with all that belongs to them.

    restore_video(restorer, Path("in.mp4"), Path("out.mp4"), instruction, steady=True)

Sound and subtitles are copied as they are; times, rotation, colour tags and bit depth are kept.
Only what the network changed is added to a frame's own values, so nothing is lost by converting
between YUV and RGB. A few frames are in memory at a time, however long the file.
"""

from __future__ import annotations

import os
import secrets
import shutil
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from .instruction import Instruction
from .pipeline import Restorer
from .planes import Layout

if TYPE_CHECKING:
    import av

FORMATS = {".mp4": "mp4", ".mov": "mov", ".webm": "webm", ".mkv": "matroska"}
"""Suffixes of the containers that are read, and written again as the same."""
ENCODERS = {
    "h264": ("libx264", {"crf": "16"}),
    "hevc": ("libx265", {"crf": "18", "x265-params": "log-level=error"}),
    "vp8": ("libvpx", {"crf": "6", "b": "20M"}),
    "vp9": ("libvpx-vp9", {"crf": "18", "b": "0", "row-mt": "1"}),
    "av1": ("libsvtav1", {"crf": "18", "svtav1-params": "loglevel=0"}),
    "prores": ("prores_ks", {}),
    "ffv1": ("ffv1", {}),
}
"""For a video's codec: what encodes it again, and at which quality. Restoring is done once, so
these are near what the eye cannot tell from lossless."""
MISSING = 1.0
"""Seconds by which a whole file may end before it says."""

Progress = Callable[[int, int], None]


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

    ``progress(frames so far, frames in all or 0)`` runs after each and may raise to stop. The
    target appears whole or not at all. Raises OSError where PyAV is missing or a file cannot be
    read or written, and ValueError for what cannot be kept: another container, no video, HDR,
    interlaced or transparent frames, a codec or pixel format without encoder, damaged frames.
    """
    av = _pyav()
    _check_names(source, target)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.parent / f".{secrets.token_hex(8)}.tmp"
    try:
        with ExitStack() as stack:
            reader = _Reader(stack.enter_context(av.open(str(source))), source)
            writer = _Writer(
                stack.enter_context(av.open(str(temporary), "w", format=_container(source))), reader
            )
            restored = restorer.restore_frames(
                reader.pictures(writer.copy), instructions,
                strength=strength, tile_size=tile_size, steady=steady,
            )  # fmt: skip
            for number, pixels in enumerate(restored, 1):
                writer.write(reader.frame, reader.planes, reader.picture, pixels)
                if progress is not None:
                    progress(number, reader.count)
            writer.finish()
        if target.exists():
            shutil.copymode(target, temporary)
        os.replace(temporary, target)
    except BaseException as exc:
        with suppress(OSError):
            temporary.unlink()
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
    return Clip(reader.frame.width, reader.frame.height, number, writer.left_out)


def _pyav() -> Any:
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
        videos = [s for s in container.streams.video if not _is_cover(s)]
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
        self._waiting: list[av.Packet] = []
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
            elif packet.dts is not None or packet.pts is not None:
                self._waiting.append(packet)

    def pictures(self, copy: Callable[[av.Packet], None]) -> Iterator[Tensor]:
        """(H, W, 3) RGB in [0, 1] of every frame; ``copy`` is given what is not of the video.

        ``frame``, ``planes`` and ``picture`` are those of the frame handed on last.
        """
        frame: av.VideoFrame | None = self.first
        while frame is not None:
            self._check(frame)
            while self._waiting:
                copy(self._waiting.pop(0))
            self.frame, self.planes = frame, self.layout.read(frame)
            self.picture = self.layout.to_rgb(self.planes)
            yield self.picture
            frame = next(self._frames, None)
        while self._waiting:
            copy(self._waiting.pop(0))
        said = ((self.container.duration or 0) + (self.container.start_time or 0)) / 1_000_000
        if self._end < said - MISSING:
            raise ValueError(
                f"{self.path}: found nothing after {self._end:.1f} s; expected {said:.1f} s, as it "
                "says itself. The file is cut off: get it again."
            )

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


def _is_cover(stream: Any) -> bool:
    return "attached_pic" in str(stream.disposition)


class _Writer:
    """The same streams in another file: the video encoded anew, the others packet by packet."""

    def __init__(self, container: Any, reader: _Reader) -> None:
        self.container, self.layout = container, reader.layout
        old, first = reader.stream, reader.first
        codec, options = _encoder(reader)
        self.stream = container.add_stream(codec, rate=old.average_rate or old.base_rate or 25)
        context = self.stream.codec_context
        context.width, context.height = first.width, first.height
        context.pix_fmt = first.format.name
        context.time_base = first.time_base or old.time_base
        context.options = options
        context.thread_type = "AUTO"
        context.color_range, context.colorspace = first.color_range, first.colorspace
        context.color_primaries, context.color_trc = first.color_primaries, first.color_trc
        if old.sample_aspect_ratio:
            context.sample_aspect_ratio = old.sample_aspect_ratio
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
                if stream.type not in ("audio", "subtitle") or _is_cover(stream):
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

    def write(
        self, frame: av.VideoFrame, planes: Sequence[Tensor], before: Tensor, after: Tensor
    ) -> None:
        """A frame in the place of another, with what was changed between two RGB pictures."""
        made = self.layout.write(self.layout.changed(planes, before, after))
        made.pts, made.time_base, made.duration = frame.pts, frame.time_base, frame.duration
        made.color_range, made.colorspace = frame.color_range, frame.colorspace
        made.color_primaries, made.color_trc = frame.color_primaries, frame.color_trc
        for packet in self.stream.encode(made):
            self.container.mux(packet)

    def finish(self) -> None:
        """What the encoder still holds."""
        for packet in self.stream.encode(None):
            self.container.mux(packet)


def _encoder(reader: _Reader) -> tuple[str, dict[str, str]]:
    """The encoder for a video's own codec and pixel format, and its options."""
    av = _pyav()
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
