"""A few frames of a video file, to look at before and after it is restored."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from .planes import Layout
from .video import is_cover, pyav

COUNT = 5
"""Frames that tell what a whole video needs."""


def stills(path: Path, count: int = COUNT) -> Tensor:
    """(count or fewer, H, W, 3) RGB in [0, 1], from the middles of as many equal parts.

    Raises OSError and ValueError as `video.restore_video`.
    """
    av = pyav()
    if not path.is_file():
        raise OSError(f"{path}: found no such file; expected a video. Check the path.")
    found: dict[int, Tensor] = {}
    try:
        with av.open(str(path)) as container:
            stream = next(s for s in container.streams.video if not is_cover(s))
            start, length = container.start_time or 0, container.duration or 0
            for part in range(count):
                time = start + (2 * part + 1) * length // (2 * count)
                container.seek(time)  # to the key frame before it
                frame = None
                for frame in container.decode(stream):
                    if frame.time is None or frame.time * 1_000_000 >= time:
                        break
                if frame is not None:
                    layout = Layout.of(frame, path)
                    found.setdefault(frame.pts, layout.to_rgb(layout.read(frame)))
    except (av.FFmpegError, StopIteration) as exc:
        raise ValueError(
            f"{path}: found a video that cannot be read ({exc or 'no frames'}); expected a "
            "complete file. Get it again, or convert it with ffmpeg."
        ) from exc
    if not found:
        raise ValueError(f"{path}: found no frame in it; expected a video. Get the file again.")
    return torch.stack([*found.values()])
