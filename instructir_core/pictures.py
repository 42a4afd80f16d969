"""Reading and writing pictures: PNG, JPEG, WebP, TIFF, BMP, JPEG XL, AVIF, OpenEXR and HEIC.

Pixels are the file's own values divided by the largest one (OpenEXR: the light itself), with no
colour conversion except from CMYK; `colour` converts for the network. Alpha is straight (not
premultiplied). EXIF orientation is applied; other metadata is carried, as `metadata` says.

`shallow` decodes what has 8 bits, `deep` TIFF, JPEG XL, OpenEXR and all of 16 bits.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from . import colour, containers, deep, shallow
from .containers import Finding
from .encode import encode, holds_pages
from .files import brief, memory_told, tried_twice, write_atomically
from .metadata import Metadata, numbers

FORMATS = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".jpe": "JPEG",
    ".jfif": "JPEG",
    ".webp": "WEBP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".bmp": "BMP",
    ".jxl": "JPEGXL",
    ".avif": "AVIF",
    ".exr": "OPENEXR",
    ".heic": "HEIF",
    ".heif": "HEIF",
}
READABLE = frozenset(FORMATS)
"""Suffixes, in lower case, of the files that `read` and `write` know."""

MAX_PIXELS = 16384 * 16384
"""Most pixels `read` accepts; above the 201 million of the largest phone cameras."""


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture in memory; `eq=False` because arrays have no single truth value to compare by."""

    pixels: npt.NDArray[np.float32]
    """(H, W, 3) in [0, 1]; three equal channels where the file is grey."""
    alpha: npt.NDArray[np.float32] | None = None
    """(H, W) in [0, 1], straight, or None."""
    grey: bool = False
    """The file has one colour channel, and is written back with one."""
    bits: int = 8
    """Bits per sample, 8, 16 or (OpenEXR only) 32; files of 9 to 15 bits count as 16."""
    icc: bytes | None = None
    """ICC profile to carry to the output."""
    metadata: Metadata = field(default_factory=Metadata)
    scene: dict[str, Any] | None = None
    """The header of an OpenEXR; then pixels are scene-linear, and may lie outside of [0, 1]."""
    duration: int = 0
    """Milliseconds that a frame of an animation is shown; 0 for a page."""
    loop: int = 0
    """How often an animation is shown; 0: for ever."""
    notes: tuple[str, ...] = ()
    """What of the file is not in here, as sentences without a full stop."""

    @property
    def space(self) -> colour.Space | None:
        """The colour space of the pixels; None where they are taken for sRGB."""
        if self.scene is not None:
            return colour.scene_space(colour.chromaticities_of(self.scene))
        return colour.space_of_profile(self.icc)

    def with_metadata(self, what: str) -> Picture:
        """The same with what is left of its metadata under one of `metadata.METADATA`."""
        scene = self.scene
        if scene is not None and what != "all":
            keep = ("chromaticities", "types", "window") if what == "none" else tuple(scene)
            away = ("GPS", "longitude", "latitude", "altitude")
            scene = {k: v for k, v in scene.items() if k in keep and not k.startswith(away)}
        return replace(self, metadata=self.metadata.keep(what), scene=scene)

    def for_network(self) -> npt.NDArray[np.float32]:
        """The pixels as sRGB in [0, 1]."""
        return colour.for_network(self.pixels, self.space)

    def restored(self, pixels: npt.NDArray[np.float32]) -> Picture:
        """This picture with what the network made of `for_network`."""
        return replace(self, pixels=colour.from_network(self.pixels, pixels, self.space))


def read(path: str | os.PathLike[str]) -> Picture:
    """Read the first page of a picture file, told by content, not suffix; see `pages`."""
    for picture in pages(path):
        return picture
    raise AssertionError("pages() gives at least one")


def pages(path: str | os.PathLike[str]) -> Iterator[Picture]:
    """Read every page of a TIFF or OpenEXR, every frame of an animation, one at a time.

    16 bits are kept where the format has them. Palettes are expanded. CMYK becomes sRGB, through
    the file's profile where it has a usable one, and that profile is dropped.

    Raises OSError if the file cannot be opened (FileNotFoundError if it is missing) or does not
    fit in memory, and ValueError if it holds no complete picture of a supported kind, of 1 to
    `MAX_PIXELS` pixels, or if a package that it needs is not installed.
    """
    with memory_told(path):
        yield from tried_twice(lambda: _told(path))


def _told(path: str | os.PathLike[str]) -> Iterator[Picture]:
    data = b""
    try:
        data = _read_bytes(Path(path))
        kind = containers.kind_of(data)
        yield from _pages_of_tiff(path, data) if kind == "TIFF" else _pages(path, data, kind)
    except Finding as exc:
        raise ValueError(f"{path}: {exc}") from exc
    except FileNotFoundError as exc:
        wanted = "found no such file; expected a picture. Check the path."
        raise FileNotFoundError(f"{path}: {wanted}") from exc
    except UnidentifiedImageError as exc:
        raise ValueError(
            f"{path}: found content starting with {data[:8]!r}, which is not readable as a "
            f"picture; expected a complete {containers.NAMES} file. Convert it to one of these, "
            "or copy it again if it should be one."
        ) from exc
    except Exception as exc:  # decoders raise nearly every type on damaged input
        if isinstance(exc, OSError) and exc.filename is not None:  # from the file system
            raise OSError(
                f"{path}: could not be opened ({exc.strerror}); expected a file that you may "
                "read. Check the path and its permissions."
            ) from exc
        if isinstance(exc, NotImplementedError) or "nsupported" in str(exc):
            raise ValueError(
                f"{path}: found a picture of a kind that is not read ({brief(exc)}); expected a "
                "usual one. Save it anew in an image editor."
            ) from exc
        raise ValueError(
            f"{path}: found a damaged or cut-off picture ({brief(exc)}); expected a complete "
            "file. Copy or download it again, or repair it by saving it anew in an image editor."
        ) from exc


def write(path: str | os.PathLike[str], picture: Picture) -> list[str]:
    """Write a picture in the format of the path's suffix, replacing a file that is there.

    Values are clipped to [0, 1] (OpenEXR: not) and rounded to the nearest step: 16-bit steps for a
    16-bit picture in PNG, TIFF or JPEG XL, else 8-bit ones. JPEG, AVIF and HEIC are written at
    quality 95, all but HEIC (4:2:0, for devices) with whole chroma, the others without loss. A grey
    picture is written as its luminance in one channel (in WebP, AVIF and HEIC, which have none
    such, in three equal ones). JPEG and BMP hold no alpha, so there it is laid over white.

    The file appears whole or not at all: on any error, one already there is left unchanged.
    Returns what the format cannot hold, as words.

    Raises ValueError for an unknown suffix, a malformed or non-finite picture, one that the
    format cannot hold, or a missing package; OSError if the folder cannot be written to.
    """
    return write_pages(path, [picture])


def write_pages(path: str | os.PathLike[str], pictures: Iterable[Picture]) -> list[str]:
    """Write pages or frames, which may come one by one, as `write` does.

    A format without pages gets the first one only.
    """
    kind = check_suffix(path)
    # Replacing a symbolic link would leave the file that it points to as it was.
    target = Path(os.path.realpath(path))
    try:
        if not os.path.isdir(target.parent):
            raise OSError(
                f"{path}: found no folder {target.parent}; expected an existing one. Create it "
                "or choose another."
            )
        shallow.need(kind)
        with memory_told(path):
            data, lost = encode(pictures, kind, target.parent)
    except Finding as exc:
        raise ValueError(f"{path}: {exc}") from exc
    write_atomically(target, data)
    return lost


def check_suffix(path: str | os.PathLike[str]) -> str:
    """The format that a file of this name is written in; ValueError for none of ours."""
    kind = FORMATS.get(Path(path).suffix.lower())
    if kind is None:
        raise ValueError(
            f"{path}: found the suffix {Path(path).suffix!r}; expected one of "
            f"{', '.join(FORMATS)}. Rename the output."
        )
    return kind


def holds_all(path: str | os.PathLike[str], first: Picture) -> bool:
    """Whether a file of this suffix holds the pages or frames that come after the first one."""
    return holds_pages(FORMATS[Path(path).suffix.lower()], first)


# --- reading -----------------------------------------------------------------------------------


def _read_bytes(path: Path) -> bytes:
    # A pipe would wait for ever, a device never end.
    if path.exists() and not path.is_file() and not path.is_dir():
        raise Finding(
            "found a pipe, socket or device; expected a file. Save its content to a file first."
        )
    data = path.read_bytes()
    if not data:
        raise Finding("found an empty file; expected a picture. Copy or export it again.")
    return data


def _pages(path: str | os.PathLike[str], data: bytes, kind: str) -> Iterator[Picture]:
    if kind in ("JPEGXL", "OPENEXR"):
        found, notes = containers.read_jxl(data) if kind == "JPEGXL" else (Metadata(), [])
        for page in deep.read(path, data, kind, 0 if kind == "JPEGXL" else None, MAX_PIXELS):
            # JPEG XL turns its pixels itself, whatever the EXIF in it says.
            picture = _of_deep(page, found, 1)
            yield replace(picture, notes=(*picture.notes, *notes))
        return
    png, notes, icc = b"", [], None
    metadata = Metadata()
    if kind == "PNG":
        if len(data) >= 24:
            _check_size(*(int.from_bytes(data[at : at + 4], "big") for at in (16, 20)))
        png, metadata, icc, notes = containers.read_png(data)
    for picture in _read_with_pillow(png or data, kind, metadata, icc, path):
        yield replace(picture, notes=(*picture.notes, *notes))


def _read_with_pillow(
    data: bytes, kind: str, metadata: Metadata, icc: bytes | None, path: str | os.PathLike[str]
) -> Iterator[Picture]:
    with shallow.opened(data, kind) as image:
        _check_size(*image.size)
        depth = data[24] if kind == "PNG" else 8
        frames = getattr(image, "n_frames", 1)
        if kind == "JPEG":  # further pictures there are previews and gain maps
            frames = 1
        shallow.load(image)
        if kind != "PNG":
            metadata = shallow.metadata_of(image)
            icc = image.info.get("icc_profile") or None
        orientation = 1 if kind == "HEIF" else _orientation(metadata)  # turned by its decoder
        if depth == 16 and frames == 1:  # Pillow would cut most kinds to 8 bits
            for page in deep.read(path, data, "PNG", 0, MAX_PIXELS):
                yield replace(_of_deep(page, metadata, orientation), icc=icc)
            return
        cut = depth == 16 or containers.is_deeper(data, kind)
        notes = ("read at 8 bits, where the file has more",) if cut else ()
        for number in range(frames):
            if number:
                shallow.seek(image, number)
                _check_size(*image.size)
                shallow.load(image)
            samples, profile = shallow.samples(image, icc, depth)
            picture = _picture(samples, 255, orientation, profile, metadata)
            duration = int(image.info.get("duration") or 0) if frames > 1 else 0
            loop = int(image.info.get("loop") or 0)
            if frames > 1:
                picture = replace(picture, duration=max(duration, 1), loop=loop)
            yield replace(picture, notes=notes)


def _orientation(metadata: Metadata) -> int:
    tag = metadata.exif.folders[0].get(0x0112) if metadata.exif else None
    found = numbers(tag, metadata.exif.order) if metadata.exif else []
    return found[0] if found else 1


def _pages_of_tiff(path: str | os.PathLike[str], data: bytes) -> Iterator[Picture]:
    found = containers.tiff_pages(data)
    if any(50706 in tags for _, tags, _, _ in found) or data[8:10] == b"CR":
        raise Finding(
            f"found a camera raw file; expected a {containers.NAMES} file. Develop it in a raw "
            "converter and export a TIFF."
        )
    given = 0
    for number, (_, tags, order, big) in enumerate(found):
        # Bit 0 of NewSubfileType: a smaller version of another page.
        if given and (numbers(tags.get(254), order) or [0])[0] & 1:
            continue
        _check_size(*((numbers(tags.get(tag), order) or [0])[0] for tag in (256, 257)))
        metadata = containers.read_tiff(data, tags, order, big)
        orientation = (numbers(tags.get(274), order) or [1])[0]
        icc = tags[34675].value if 34675 in tags else None
        for page in deep.read(path, data, "TIFF", number, MAX_PIXELS):
            yield _of_deep(page, metadata, orientation, icc)
        given += 1


def _of_deep(
    page: deep.Page, metadata: Metadata, orientation: int, icc: bytes | None = None
) -> Picture:
    """A page of OpenImageIO as a Picture."""
    profile = icc or page.icc
    samples = page.samples
    if page.cmyk:
        image = Image.fromarray(samples, "CMYK")
        samples, profile = np.asarray(colour.cmyk_to_rgb(image, profile)), None
    if page.scene is not None:
        values = samples.astype(np.float32, copy=False)
        alpha = np.ascontiguousarray(values[..., -1]) if values.shape[2] in (2, 4) else None
        light = values[..., : values.shape[2] - (alpha is not None)]
        grey = light.shape[2] == 1
        light = np.repeat(light, 3, 2) if grey else np.ascontiguousarray(light)
        if alpha is not None:  # OpenEXR is premultiplied
            np.divide(light, alpha[..., None], out=light, where=alpha[..., None] > 0)
            alpha = np.clip(alpha, 0, 1)
        return Picture(light, alpha, grey, page.bits, scene=page.scene, notes=page.notes)
    peak = 255 if samples.dtype == np.uint8 else 65535
    picture = _picture(samples, peak, orientation, profile, metadata)
    if page.premultiplied and picture.alpha is not None:  # where alpha is 0 there is no colour
        alpha = picture.alpha[..., None]
        np.divide(picture.pixels, alpha, out=picture.pixels, where=alpha > 0)
        np.clip(picture.pixels, 0, 1, out=picture.pixels)
    return replace(picture, notes=page.notes)


def _picture(
    samples: npt.NDArray[Any], peak: int, orientation: int, icc: bytes | None, metadata: Metadata
) -> Picture:
    """Make a Picture of unsigned samples, (H, W) or (H, W, 1 to 4), the last even one alpha."""
    samples = _orient(samples.reshape(*samples.shape[:2], -1), orientation)
    channels = samples.shape[2]
    alpha = _unit(samples[..., -1], peak) if channels in (2, 4) else None
    pixels = _unit(samples[..., : channels - (alpha is not None)], peak)
    if channels < 3:
        pixels = np.repeat(pixels, 3, axis=2)
    height, width = pixels.shape[:2]
    metadata = metadata.renewed(width, height)
    return Picture(pixels, alpha, channels < 3, 16 if peak > 255 else 8, icc, metadata)


def _unit(samples: npt.NDArray[Any], peak: int) -> npt.NDArray[np.float32]:
    # One division of both types takes a buffer, without which NumPy ends the process.
    values = samples.astype(np.float32, order="C")
    values /= np.float32(peak)
    return values


def _orient(samples: npt.NDArray[Any], orientation: int) -> npt.NDArray[Any]:
    if orientation not in range(2, 9):  # cameras also write 0 and worse
        return samples
    if orientation > 4:
        samples = samples.swapaxes(0, 1)
    rows, columns = ((1, 1), (1, -1), (-1, -1), (-1, 1))[(orientation - 1) % 4]
    return samples[::rows, ::columns]


def _check_size(width: int, height: int) -> None:
    if not 0 < width * height <= MAX_PIXELS:
        raise Finding(
            f"found a header that says {width} x {height} pixels; expected 1 to {MAX_PIXELS} "
            "pixels. Copy the file again if that is not its size, or make the picture smaller."
        )
