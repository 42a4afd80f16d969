"""Reading and writing pictures: PNG, JPEG, WebP, TIFF and BMP, at 8 or 16 bits per sample.

Pixels are the file's own values divided by the largest one, with no colour conversion except
from CMYK: an ICC profile is carried along, and without one the values are sRGB. Alpha is
straight (not premultiplied). Of an animation or a file of several pages, the first picture is
read. EXIF orientation is applied; other metadata is not carried.
"""

from __future__ import annotations

import importlib
import io
import os
import struct
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms, UnidentifiedImageError

from .files import write_atomically

FORMATS = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".webp": "WEBP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".bmp": "BMP",
}
READABLE = frozenset(FORMATS)
"""Suffixes, in lower case, of the files that `read` and `write` know."""

MAX_PIXELS = 16384 * 16384
"""Most pixels `read` accepts; above the 201 million of the largest phone cameras."""

_TIFF_MAGICS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_pillow_lock = threading.Lock()


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
    """Bits per sample, 8 or 16; shallower files count as 8, files of 9 to 15 bits as 16."""
    icc: bytes | None = None
    """ICC profile to carry to the output."""


class _Finding(ValueError):
    """A sentence for the user, in front of which `read` and `write` put the file's name."""


def read(path: str | os.PathLike[str]) -> Picture:
    """Read the first picture of a PNG, JPEG, WebP, TIFF or BMP file, told by content, not suffix.

    16-bit PNG and TIFF keep their 16 bits. Palettes are expanded. CMYK becomes sRGB, through
    the file's profile where it has a usable one, and that profile is dropped.

    Raises OSError if the file cannot be opened (FileNotFoundError if it is missing) or does not
    fit in memory, and ValueError if it holds no complete picture of a supported kind, of 1 to
    `MAX_PIXELS` pixels, or if a package that it needs is not installed.
    """
    try:
        data = Path(path).read_bytes()
        if not data:
            raise _Finding("found an empty file; expected a picture. Copy or export it again.")
        deep = _read_deep_tiff(data) if data.startswith(_TIFF_MAGICS) else None
        return deep or _read_with_pillow(data)
    except _Finding as exc:
        raise ValueError(f"{path}: {exc}") from exc
    except FileNotFoundError as exc:
        raise FileNotFoundError(
            f"{path}: found no such file; expected a picture. Check the path."
        ) from exc
    except UnidentifiedImageError as exc:
        raise ValueError(
            f"{path}: found content starting with {data[:8]!r}, which is not readable as a "
            "picture; expected a complete PNG, JPEG, WebP, TIFF or BMP file. Convert it to one "
            "of these, or copy it again if it should be one."
        ) from exc
    except MemoryError as exc:
        raise OSError(
            f"{path}: found a picture too large for the free memory; expected one that fits. "
            "Close other programs or make the picture smaller."
        ) from exc
    except Exception as exc:  # decoders raise nearly every type on damaged input
        if isinstance(exc, OSError) and exc.filename is not None:  # from the file system
            raise OSError(
                f"{path}: could not be opened ({exc.strerror}); expected a file that you may "
                "read. Check the path and its permissions."
            ) from exc
        raise ValueError(
            f"{path}: found a damaged or cut-off picture ({exc}); expected a complete file. "
            "Copy or download it again, or repair it by saving it anew in an image editor."
        ) from exc


def write(path: str | os.PathLike[str], picture: Picture) -> None:
    """Write a picture in the format of the path's suffix, replacing a file that is there.

    Values are clipped to [0, 1] and rounded to the nearest step: 16-bit steps for a 16-bit
    picture in PNG or TIFF, else 8-bit ones. JPEG is written at quality 95 without chroma
    subsampling, WebP and TIFF (deflate) without loss. A grey picture is written as its
    luminance in one channel (in WebP, which has none such, in three equal ones). JPEG and BMP
    hold no alpha, so there the picture is laid over white. BMP also drops the ICC profile.

    The file appears whole or not at all: on any error, one already there is left unchanged.

    Raises ValueError for an unknown suffix, a malformed or non-finite picture, one that the
    format cannot hold, or a missing package; OSError if the folder cannot be written to.
    """
    kind = FORMATS.get(Path(path).suffix.lower())
    if kind is None:
        raise ValueError(
            f"{path}: found the suffix {Path(path).suffix!r}; expected one of "
            f"{', '.join(FORMATS)}. Rename the output."
        )
    # Replacing a symbolic link would leave the file that it points to as it was.
    target = Path(os.path.realpath(path))
    try:
        _check(picture)
        if not os.path.isdir(target.parent):
            raise OSError(
                f"{path}: found no folder {target.parent}; expected an existing one. Create it "
                "or choose another."
            )
        data = _encode(picture, kind)
    except _Finding as exc:
        raise ValueError(f"{path}: {exc}") from exc
    write_atomically(target, data)


def _read_with_pillow(data: bytes) -> Picture:
    formats = sorted(set(FORMATS.values()))
    with _no_pillow_limit(), Image.open(io.BytesIO(data), formats=formats) as image:
        _check_size(*image.size)
        depth = data[24] if image.format == "PNG" else 8
        image.load()  # before getexif: PNG may hold it after the pixels, TIFF is turned here
        orientation = image.getexif().get(0x0112, 1)
        icc: bytes | None = image.info.get("icc_profile") or None
        if depth == 16:  # Pillow would cut most kinds to 8 bits
            samples = _need("imagecodecs").png_decode(data)
            return _picture(samples, 65535, orientation, icc)
        if depth < 8 and image.mode == "L" and "transparency" in image.info:
            # Pillow scales the samples of 2 and 4 bits to 8, but not the transparent value.
            image.info["transparency"] *= 255 // (2**depth - 1)
        if image.mode == "CMYK":
            return _picture(np.asarray(_cmyk_to_rgb(image, icc)), 255, orientation, None)
        grey = image.mode in ("1", "L", "LA", "La")
        if not grey and image.mode not in ("P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "YCbCr"):
            raise _Finding(
                f"found pixels of kind {image.mode}; expected grey or RGB at 8 or 16 bits, or "
                "CMYK at 8. Convert the picture to RGB in an image editor."
            )
        mode = ("L" if grey else "RGB") + ("A" if image.has_transparency_data else "")
        return _picture(np.asarray(image.convert(mode)), 255, orientation, icc)


def _read_deep_tiff(data: bytes) -> Picture | None:
    """Read a TIFF of more than 8 bits per sample; None for others, which Pillow reads well."""
    with _need("tifffile").TiffFile(io.BytesIO(data)) as tiff:
        page = tiff.pages[0]
        bits, photometric = page.bitspersample, int(page.photometric)
        # CMYK, Lab and the like at 8 bits, and 16-bit palettes of 8-bit indices, go to Pillow.
        if bits <= 8:
            return None
        _check_size(page.imagewidth, page.imagelength)
        if bits > 16 or page.sampleformat != 1 or photometric > 2 or page.imagedepth != 1:
            raise _Finding(
                f"found a TIFF of {bits} bits, sample format {int(page.sampleformat)}, "
                f"photometric {photometric}; expected unsigned grey or RGB of at most 16 bits. "
                "Convert it to 16-bit RGB in an image editor."
            )
        _need("imagecodecs")  # tifffile looks for it only once it meets compressed data
        samples = page.asarray()
        tags = page.tags
        icc, orientation = tags.valueof(34675), tags.valueof(274, 1)
        if samples.ndim == 3 and page.planarconfig == 2:
            samples = np.moveaxis(samples, 0, -1)
        colours = 3 if photometric == 2 else 1
        extra = [int(kind) for kind in page.extrasamples]
    samples = samples.reshape(*samples.shape[:2], -1)
    peak = 2**bits - 1
    if photometric == 0:  # white is zero
        samples = samples.copy()
        samples[..., 0] = peak - samples[..., 0]
    has_alpha = bool(extra) and extra[0] in (1, 2)  # a sample of unstated meaning is left out
    picture = _picture(samples[..., : colours + has_alpha], peak, orientation, icc or None)
    if has_alpha and extra[0] == 1:  # premultiplied; where alpha is 0 there is no colour
        alpha = picture.alpha[..., None] if picture.alpha is not None else np.float32(1)
        np.divide(picture.pixels, alpha, out=picture.pixels, where=alpha > 0)
        np.clip(picture.pixels, 0, 1, out=picture.pixels)
    return picture


def _picture(samples: npt.NDArray[Any], peak: int, orientation: int, icc: bytes | None) -> Picture:
    """Make a Picture of unsigned samples, (H, W) or (H, W, 1 to 4), the last even one alpha."""
    samples = _orient(samples.reshape(*samples.shape[:2], -1), orientation)
    channels = samples.shape[2]
    scale = np.float32(peak)
    colour, alpha = samples, None
    if channels in (2, 4):
        colour = samples[..., :-1]
        alpha = np.divide(samples[..., -1], scale, dtype=np.float32, order="C")
    pixels = np.divide(colour, scale, dtype=np.float32, order="C")
    if channels < 3:
        pixels = np.repeat(pixels, 3, axis=2)
    return Picture(pixels, alpha, channels < 3, 16 if peak > 255 else 8, icc)


def _orient(samples: npt.NDArray[Any], orientation: int) -> npt.NDArray[Any]:
    if orientation not in range(2, 9):  # cameras also write 0 and worse
        return samples
    if orientation > 4:
        samples = samples.swapaxes(0, 1)
    rows, columns = ((1, 1), (1, -1), (-1, -1), (-1, 1))[(orientation - 1) % 4]
    return samples[::rows, ::columns]


def _cmyk_to_rgb(image: Image.Image, icc: bytes | None) -> Image.Image:
    """Convert through the file's profile: Pillow's own formula gives glaring colours."""
    if icc:
        # A broken profile, or a Pillow built without LittleCMS.
        with suppress(ImportError, OSError, ImageCms.PyCMSError):
            profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
            srgb = ImageCms.createProfile("sRGB")
            return ImageCms.buildTransform(profile, srgb, "CMYK", "RGB").apply(image)
    return image.convert("RGB")


def _check_size(width: int, height: int) -> None:
    if not 0 < width * height <= MAX_PIXELS:
        raise _Finding(
            f"found a header that says {width} x {height} pixels; expected 1 to {MAX_PIXELS} "
            "pixels. Copy the file again if that is not its size, or make the picture smaller."
        )


@contextmanager
def _no_pillow_limit() -> Iterator[None]:
    """Lift Pillow's limit, half of which warns, for one read; `_check_size` takes its place.

    The limit is a global of Pillow, hence the lock; TIFF decoding looks at it once more.
    """
    with _pillow_lock:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _need(package: str) -> Any:
    try:
        return importlib.import_module(package)
    except ImportError as exc:
        raise _Finding(
            f"found no working package {package} ({exc}); expected it for TIFF and for 16-bit "
            "PNG. Install it with: pip install imagecodecs tifffile"
        ) from exc


def _check(picture: Picture) -> None:
    pixels, alpha = picture.pixels, picture.alpha
    if pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size or pixels.dtype.kind != "f":
        raise _Finding(
            f"found pixels of shape {pixels.shape} and type {pixels.dtype}; expected (H, W, 3) "
            "floats in [0, 1]. Reshape or scale them."
        )
    if alpha is not None and (alpha.shape != pixels.shape[:2] or alpha.dtype.kind != "f"):
        raise _Finding(
            f"found alpha of shape {alpha.shape} and type {alpha.dtype}; expected "
            f"{pixels.shape[:2]} floats in [0, 1]. Resize or scale it like the pixels."
        )
    if picture.bits not in (8, 16):
        raise _Finding(f"found bits={picture.bits}; expected 8 or 16. Choose one of them.")
    if not np.isfinite(pixels).all() or not (alpha is None or np.isfinite(alpha).all()):
        raise _Finding(
            "found NaN or infinity among the values to write; expected numbers in [0, 1]. The "
            "model failed on this picture: try it in full (float32) precision."
        )


def _encode(picture: Picture, kind: str) -> bytes:
    deep = picture.bits == 16 and kind in ("PNG", "TIFF")
    samples = _quantise(picture, kind, deep)
    icc = picture.icc if kind != "BMP" else None
    output = io.BytesIO()
    try:
        if kind == "TIFF":
            _need("imagecodecs")
            channels = samples.shape[2] if samples.ndim == 3 else 1
            _need("tifffile").imwrite(
                output,
                samples,
                photometric="rgb" if channels > 2 else "minisblack",
                planarconfig="contig" if channels > 1 else None,
                extrasamples=("unassalpha",) if channels in (2, 4) else None,
                compression="zlib",
                predictor=True,
                metadata=None,
                iccprofile=icc,
            )
        elif deep:
            return _with_iccp(_need("imagecodecs").png_encode(samples), icc)
        else:
            options: dict[str, Any] = {"icc_profile": icc} if icc else {}
            if kind == "JPEG":
                options |= {"quality": 95, "subsampling": 0}
            elif kind == "WEBP":  # exact: keep the colours under full transparency
                options |= {"lossless": True, "exact": True}
            Image.fromarray(samples).save(output, kind, **options)
    except (_Finding, MemoryError):
        raise
    except Exception as exc:  # the encoders share no type of error
        height, width = samples.shape[:2]
        raise _Finding(
            f"found {width} x {height} pixels that could not be encoded as {kind} ({exc}); "
            "expected a picture within the limits of the format. Write PNG or TIFF instead."
        ) from exc
    return output.getvalue()


def _quantise(picture: Picture, kind: str, deep: bool) -> npt.NDArray[Any]:
    """Return (H, W) or (H, W, 2 to 4) uint8 or uint16 samples in the layout of the format."""
    colour = np.clip(picture.pixels, 0, 1)
    alpha = None if picture.alpha is None else np.clip(picture.alpha, 0, 1)[..., None]
    if alpha is not None and kind in ("JPEG", "BMP"):
        colour, alpha = colour * alpha + (1 - alpha), None
    if picture.grey:
        colour = colour @ np.array([[0.299], [0.587], [0.114]], colour.dtype)
    values = colour if alpha is None else np.concatenate([colour, alpha], axis=2)
    steps = np.rint(values * np.float32(65535 if deep else 255))
    samples: npt.NDArray[Any] = steps.astype(np.uint16 if deep else np.uint8, order="C")
    return samples[..., 0] if samples.shape[2] == 1 else samples


def _with_iccp(png: bytes, icc: bytes | None) -> bytes:
    """Insert the profile after the header chunk; the 16-bit encoder has no option for it."""
    if not icc:
        return png
    body = b"iCCP" + b"ICC Profile\0\0" + zlib.compress(icc)
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    return png[:33] + chunk + png[33:]
