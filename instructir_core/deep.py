"""Pixels through OpenImageIO: TIFF, JPEG XL, OpenEXR, and PNG of 16 bits."""

from __future__ import annotations

import importlib
import os
import secrets
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .containers import Finding, cut_off, jxl_header
from .files import ROOM, room

_SUFFIXES = {"TIFF": ".tif", "JPEGXL": ".jxl", "OPENEXR": ".exr", "PNG": ".png"}
_OWN = ("oiio:", "openexr:", "tiff:", "ICCProfile", "compression", "planarconfig", "colorInterop")
"""Attributes that OpenImageIO makes up or that belong to the old encoding."""


@dataclass(frozen=True, eq=False)
class Page:
    """One decoded page."""

    samples: npt.NDArray[Any]
    """(H, W, 1 to 4), the last even one alpha: uint8, uint16, or of an OpenEXR float32."""
    bits: int
    icc: bytes | None = None
    scene: dict[str, Any] | None = None
    """The header of an OpenEXR."""
    premultiplied: bool = False
    cmyk: bool = False
    """The four channels are inks."""
    notes: tuple[str, ...] = ()


def need(kind: str) -> Any:
    """OpenImageIO. Raises Finding where it is not installed, or lacks this format."""
    try:
        oiio = importlib.import_module("OpenImageIO")
    except ImportError as exc:
        raise Finding(
            f"found no working package OpenImageIO ({exc}); expected it for TIFF, JPEG XL, "
            "OpenEXR and 16-bit PNG. Install it with: pip install OpenImageIO"
        ) from exc
    if kind.lower() not in oiio.get_string_attribute("format_list").split(","):
        raise Finding(
            f"found OpenImageIO {oiio.VERSION_STRING}, which has no {kind}; expected 3.2.1 or "
            "newer. Update it with: pip install -U OpenImageIO"
        )
    # Otherwise content that one reader refuses is shown to thirty others.
    oiio.attribute("try_all_readers", 0)
    return oiio


# --- reading -----------------------------------------------------------------------------------


def read(
    path: str | os.PathLike[str] | None,
    data: bytes,
    kind: str,
    number: int | None,
    max_pixels: int,
) -> Iterator[Page]:
    """Read page ``number`` of the file, or all of them. ``data`` is its content.

    Without a path, or where its name would mislead the library, a copy is read.
    """
    oiio = need(kind)
    if kind == "JPEGXL" and len(data) < 128:  # of shorter ones the library doubts the signature
        path, data = None, data.ljust(128, b"\0")
    with _readable(path, data, kind) as name:
        config = oiio.ImageSpec()
        config["oiio:UnassociatedAlpha"] = 1
        pixels = jxl_header(data)[0] if kind == "JPEGXL" else 1  # of which opening decodes all
        with room(ROOM * min(pixels, max_pixels)):
            source = _open(oiio, name, config)
        try:
            page = number or 0
            while source.seek_subimage(page, 0):
                spec = source.spec()
                if not 0 < spec.width * spec.height * max(spec.depth, 1) <= max_pixels:
                    raise Finding(
                        f"found a header that says {spec.width} x {spec.height} pixels; expected "
                        f"1 to {max_pixels} pixels. Copy the file again if that is not its size, "
                        "or make the picture smaller."
                    )
                with room(ROOM * spec.width * spec.height):
                    if kind == "OPENEXR":
                        found = _scene(source, spec, page)
                    else:
                        found = _samples(oiio, source, spec, page, name, kind)
                yield found
                page += 1
                if number is not None:
                    return
            if page == (number or 0):
                raise cut_off(source.geterror() or "a page is missing")
        finally:
            source.close()


@contextmanager
def _readable(path: str | os.PathLike[str] | None, data: bytes, kind: str) -> Iterator[str]:
    wanted = _SUFFIXES[kind]
    if path is not None:
        name = os.fspath(path)
        with suppress(UnicodeEncodeError):
            name.encode("utf-8")
            if Path(name).suffix.lower() in (wanted, wanted + "f"):
                yield name
                return
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / f"picture{wanted}"
        copy.write_bytes(data)
        yield str(copy)


def _open(oiio: Any, name: str, config: Any) -> Any:
    source = oiio.ImageInput.open(name, config)
    if source is None:
        raise cut_off(_reason(oiio.geterror()))
    return source


def _reason(message: str) -> str:
    return " ".join(message.split())[:200] or "the library gave no reason; memory may have ended"


def _decoded(source: Any, spec: Any, page: int, kind: str) -> npt.NDArray[Any]:
    pixels = source.read_image(page, 0, 0, spec.nchannels, kind)
    error = source.geterror()
    if pixels is None or error:
        raise cut_off(_reason(error))
    return np.asarray(pixels).reshape(spec.height, spec.width, spec.nchannels)


def _samples(oiio: Any, source: Any, spec: Any, page: int, name: str, kind: str) -> Page:
    photometric = spec.get_int_attribute("tiff:PhotometricInterpretation", 2)
    depth = {"uint8": 8, "uint16": 16}.get(str(spec.format), 0)
    if kind == "JPEGXL" and not depth:
        depth = 16
    bits = spec.get_int_attribute("oiio:BitsPerSample", depth)
    if not depth or photometric not in (0, 1, 2, 3, 5, 6) or spec.depth > 1:
        raise Finding(
            f"found a TIFF of {bits} bits, sample format {spec.format}, photometric "
            f"{photometric}; expected unsigned grey or RGB of at most 16 bits. Convert it to "
            "16-bit RGB in an image editor."
        )
    icc = spec.getattribute("ICCProfile")
    profile = None if icc is None else np.asarray(icc, np.uint8).tobytes()
    if photometric == 5:
        config = oiio.ImageSpec()
        config["oiio:RawColor"] = 1
        raw = _open(oiio, name, config)
        try:
            raw.seek_subimage(page, 0)
            inks = _decoded(raw, raw.spec(), page, "uint8")
        finally:
            raw.close()
        if inks.shape[2] < 4:
            raise cut_off("fewer than four inks")
        notes = ("read at 8 bits, as CMYK is",) if depth == 16 else ()
        return Page(np.ascontiguousarray(inks[..., :4]), 8, profile, cmyk=True, notes=notes)
    pixels = _decoded(source, spec, page, f"uint{depth}")
    colours = 3 if spec.nchannels > 2 else 1
    if photometric == 0 and bits > 8:  # white is zero; up to 8 bits the library turns it
        pixels = pixels.copy()
        pixels[..., 0] = 65535 - pixels[..., 0]
    has_alpha = spec.alpha_channel == colours  # a sample of unstated meaning is left out
    premultiplied = (
        kind == "TIFF" and has_alpha and not spec.get_int_attribute("oiio:UnassociatedAlpha", 0)
    )
    kept = colours + has_alpha
    notes = (f"left out {spec.nchannels - kept} extra channels",) if spec.nchannels > kept else ()
    return Page(pixels[..., :kept], depth, profile, None, premultiplied, notes=notes)


def _scene(source: Any, spec: Any, page: int) -> Page:
    names = list(spec.channelnames)
    wanted = [n for n in ("R", "G", "B") if n in names]
    if len(wanted) != 3:
        wanted = ["Y"] if "Y" in names and "RY" not in names else []
    if not wanted:
        raise Finding(
            f"found OpenEXR channels {', '.join(names)[:200]}; expected R, G and B, or Y. Export "
            "a picture with these."
        )
    wanted += ["A"] if "A" in names else []
    if spec.deep:
        raise Finding("found a deep OpenEXR; expected a flat one. Flatten it.")
    pixels = _decoded(source, spec, page, "float")[..., [names.index(n) for n in wanted]]
    if not np.isfinite(pixels).all():
        raise Finding(
            "found infinite values or NaN in the OpenEXR; expected light. Repair the render, or "
            "replace them in a compositor."
        )
    header = {
        a.name: (str(a.type), a.value)
        for a in spec.extra_attribs
        if not a.name.startswith(_OWN) and isinstance(a.value, str | int | float | tuple)
    }
    scene: dict[str, Any] = {name: value for name, (_, value) in header.items()}
    scene["types"] = {name: kind for name, (kind, _) in header.items()}
    scene["window"] = (spec.x, spec.y, spec.full_x, spec.full_y, spec.full_width, spec.full_height)
    others = [n for n in names if n not in wanted]
    notes = (f"left out the channels {', '.join(others)[:200]}",) if others else ()
    bits = 16 if str(spec.format) == "half" else 32
    return Page(pixels, bits, scene=scene, notes=notes)


# --- writing -----------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Sheet:
    """One page to be encoded."""

    samples: npt.NDArray[Any]
    """(H, W, 1 to 4), the last even one alpha: uint8, uint16, or of an OpenEXR float32."""
    icc: bytes | None = None
    scene: Mapping[str, Any] | None = None
    half: bool = False
    """Store an OpenEXR as half floats."""


def write(sheets: Iterable[Sheet], kind: str, folder: Path) -> bytes:
    """Encode pages, taken one by one; ``folder`` holds the file meanwhile.

    Raises RuntimeError where the library cannot, Finding where it is missing.
    """
    oiio = need(kind)
    place = tempfile.mkdtemp(prefix=f".{secrets.token_hex(4)}.", suffix=".tmp", dir=folder)
    name = str(Path(os.path.relpath(place)) if not _plain(place) else Path(place))
    name = os.path.join(name, f"picture{_SUFFIXES[kind]}")
    try:
        output = oiio.ImageOutput.create(name)
        if output is None:
            raise RuntimeError(_reason(oiio.geterror()))
        mode = "Create"
        for sheet in sheets:
            spec = _spec(oiio, sheet, kind)
            fine = output.open(name, spec, mode) and output.write_image(sheet.samples)
            if not fine:
                raise RuntimeError(_reason(output.geterror()))
            mode = "AppendSubimage"
        if not output.close():
            raise RuntimeError(_reason(output.geterror()))
        return Path(name).read_bytes()
    finally:  # by name: to list the folder takes memory, which may have ended
        with suppress(OSError):
            os.unlink(name)
        with suppress(OSError):
            os.rmdir(place)


def _plain(name: str) -> bool:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _spec(oiio: Any, sheet: Sheet, kind: str) -> Any:
    height, width, channels = sheet.samples.shape
    depth = str(sheet.samples.dtype)
    if kind == "OPENEXR":
        depth = "half" if sheet.half else "float"
    spec = oiio.ImageSpec(width, height, channels, depth)
    spec["oiio:UnassociatedAlpha"] = 1
    spec["compression"] = {"JPEGXL": "jpegxl:100", "PNG": ""}.get(kind, "zip")
    spec["DateTime"] = ""  # or it writes the time, and no two files are alike
    if kind == "JPEGXL":
        spec["jpegxl:effort"] = 3
    if channels in (2, 4):
        spec.alpha_channel = channels - 1
    if kind == "OPENEXR":
        names = (["R", "G", "B"] if channels > 2 else ["Y"]) + (["A"] * (channels in (2, 4)))
        spec.channelnames = names
        header = dict(sheet.scene or {})
        kinds, window = header.pop("types", {}), header.pop("window", None)
        for key, value in header.items():
            spec.attribute(key, kinds[key], value) if key in kinds else spec.attribute(key, value)
        if window is not None:
            (spec.x, spec.y, spec.full_x, spec.full_y, spec.full_width, spec.full_height) = window
    elif sheet.icc:
        profile = np.frombuffer(sheet.icc, np.uint8)
        spec.attribute("ICCProfile", oiio.TypeDesc(f"uint8[{len(profile)}]"), profile)
    return spec
