"""The containers around the pixels: chunks of PNG, segments of JPEG, boxes of JPEG XL, TIFF pages.

Read here: whether a file is whole, and the metadata that the decoders drop, refuse or change.
Written here: metadata into a file that an encoder has just made.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from PIL import UnidentifiedImageError

from .metadata import (
    COLOUR_CHUNKS,
    Directory,
    Metadata,
    Tag,
    exif_of_page,
    in_order,
    iptc_of_photoshop,
    numbers,
    photoshop_of_iptc,
    read_exif,
    read_page,
    write_exif,
    write_folders,
)


class Finding(ValueError):
    """A sentence for the user, in front of which `pictures` puts the file's name."""


NAMES = "PNG, JPEG, WebP, TIFF, BMP, JPEG XL, AVIF, OpenEXR or HEIC"
PNG = b"\x89PNG\r\n\x1a\n"
MAX_PAGES = 65536
_XMP_WORD = b"XML:com.adobe.xmp"
_PIXEL_CHUNKS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
_MOTION_CHUNKS = (b"acTL", b"fcTL", b"fdAT")
_JXL_BOX = b"\0\0\0\x0cJXL \r\n\x87\n"


def cut_off(what: str) -> Finding:
    """The error for a file that ends too early."""
    return Finding(
        f"found a damaged or cut-off picture ({what}); expected a complete file. Copy or download "
        "it again."
    )


# --- which format ------------------------------------------------------------------------------

_OTHERS = {
    b"GIF8": "a GIF", b"8BPS": "a Photoshop file", b"%PDF": "a PDF", b"\0\0\1\0": "an icon",
    b"<svg": "an SVG drawing", b"<?xm": "an XML file", b"#?RA": "a Radiance HDR",
    b"\0\0\0\x0cjP": "a JPEG 2000", b"FUJI": "a camera raw file", b"IIRO": "a camera raw file",
    b"IIU\0": "a camera raw file", b"PK\3\4": "a ZIP archive", b"P6": "a PPM", b"P5": "a PGM",
    b"P3": "a PPM", b"PF": "a PFM", b"DDS ": "a DDS texture", b"SDPX": "a DPX", b"XPDS": "a DPX",
}  # fmt: skip


def kind_of(data: bytes) -> str:
    """The format of the content; raises Finding, or Pillow's error, for none of ours."""
    if data[4:8] == b"ftyp":
        brand = data[8:12]
        if brand in (b"avif", b"avis"):
            return "AVIF"
        return "AVIF" if brand in (b"mif1", b"msf1") and b"av01" in data[:4096] else "HEIF"
    starts = {
        b"\x89PNG\r\n\x1a\n": "PNG", b"\xff\xd8": "JPEG", b"BM": "BMP", b"II*\0": "TIFF",
        b"MM\0*": "TIFF", b"II+\0": "TIFF", b"MM\0+": "TIFF", b"\xff\x0a": "JPEGXL",
        b"\0\0\0\x0cJXL ": "JPEGXL", b"v/1\1": "OPENEXR",
    }  # fmt: skip
    for start, kind in starts.items():
        if data.startswith(start):
            return kind
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        if int.from_bytes(data[4:8], "little") + 8 > len(data):
            raise cut_off("the end of the WebP is missing")
        return "WEBP"
    for start, name in _OTHERS.items():
        if data.lower().startswith(start.lower()):
            raise Finding(f"found {name}; expected a {NAMES} file. Convert it to one of these.")
    raise UnidentifiedImageError


def is_deeper(data: bytes, kind: str) -> bool:
    """Whether an AVIF or HEIC says more than 8 bits (ISO/IEC 23008-12, box ``pixi``)."""
    at = data.find(b"pixi", 0, 1 << 16) if kind in ("AVIF", "HEIF") else -1
    return at >= 0 and max(data[at + 9 : at + 10], default=0) > 8


# --- PNG ---------------------------------------------------------------------------------------


def read_png(data: bytes) -> tuple[bytes, Metadata, bytes | None, list[str]]:
    """Take a PNG apart: the chunks of its pixels, its metadata, its ICC profile, and notes.

    Damaged chunks that no pixel depends on are left out with a note; large ones are no reason to
    refuse. Raises Finding where pixels are damaged or missing.
    """
    chunks, damaged = _png_chunks(data)
    names = {name for name, _ in chunks}
    if b"IHDR" not in names or b"IDAT" not in names:
        raise cut_off("no pixels in it")
    _check_stream(chunks)
    notes = [f"left out damaged parts of the PNG: {', '.join(sorted(damaged))}"] if damaged else []
    motion = not damaged & {name.decode() for name in _MOTION_CHUNKS}
    kept = [c for c in chunks if c[0] in _PIXEL_CHUNKS or (motion and c[0] in _MOTION_CHUNKS)]
    icc = exif = xmp = dpi = None
    carried = []
    for name, body in chunks:
        if name == b"iCCP":
            icc = icc or _unpack(body.partition(b"\0")[2][1:])
        elif name == b"eXIf":
            exif = exif or read_exif(body)
        elif name == b"pHYs" and len(body) == 9 and body[8] == 1:
            x, y = struct.unpack(">II", body[:8])
            dpi = (x * 0.0254, y * 0.0254) if x and y else None
        elif name == b"iTXt" and body.startswith(_XMP_WORD + b"\0"):
            xmp = _text(body) or xmp
        elif name in (b"zTXt", b"tEXt") and body.startswith(
            (b"Raw profile type exif\0", b"Raw profile type APP1\0")
        ):
            exif = exif or _raw_exif(name, body)
        elif name in (b"tEXt", b"zTXt", b"iTXt", *COLOUR_CHUNKS):
            carried.append((name, body))
    found = Metadata(exif=exif, xmp=xmp, dpi=dpi, chunks=tuple(carried))
    return join_png(kept), found, icc, notes


def _png_chunks(data: bytes) -> tuple[list[tuple[bytes, bytes]], set[str]]:
    chunks: list[tuple[bytes, bytes]] = []
    damaged: set[str] = set()
    at = len(PNG)
    while True:
        if at + 12 > len(data):
            raise cut_off("its end is missing")
        size, name = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        body = data[at + 8 : at + 8 + size]
        if len(body) != size or at + 12 + size > len(data):
            raise cut_off("its end is missing")
        stored = int.from_bytes(data[at + 8 + size : at + 12 + size], "big")
        at += 12 + size
        essential = name in _PIXEL_CHUNKS or not name[0] & 32
        if zlib.crc32(body, zlib.crc32(name)) == stored:
            if essential and name not in _PIXEL_CHUNKS:
                raise Finding(
                    f"found a PNG that needs the unknown extension {name!r}; expected a standard "
                    "one. Save it anew in an image editor."
                )
            chunks.append((name, body))
        elif essential:
            raise cut_off(f"wrong checksum of {name!r}")
        else:
            damaged.add(name.decode("ascii", "replace"))
        if name == b"IEND":
            return chunks, damaged


def _check_stream(chunks: Sequence[tuple[bytes, bytes]]) -> None:
    """Raise Finding unless the compressed rows are as many as the header says.

    Decoders fill missing rows with black.
    """
    header = next(body for name, body in chunks if name == b"IHDR")
    if len(header) != 13:
        raise cut_off("a header of another size")
    width, height, depth, kind, _, _, interlaced = struct.unpack(">IIBBBBB", header)
    bits = depth * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}.get(kind, 0)
    passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2),
              (0, 1, 1, 2)] if interlaced else [(0, 0, 1, 1)]  # fmt: skip
    wanted = 0
    for x, y, dx, dy in passes:
        columns, rows = -(-(width - x) // dx), -(-(height - y) // dy)
        if columns > 0 and rows > 0:
            wanted += rows * (1 + (columns * bits + 7) // 8)
    stream, found = zlib.decompressobj(), 0
    try:
        for name, body in chunks:
            rest = body if name == b"IDAT" else b""
            while rest and found < wanted:
                found += len(stream.decompress(rest, 1 << 20))
                rest = stream.unconsumed_tail
    except zlib.error as exc:
        raise cut_off(str(exc)) from exc
    if found < wanted:
        raise cut_off(f"{found} of {wanted} bytes of pixels")


def _unpack(packed: bytes) -> bytes | None:
    """Inflate up to 64 MB, far above any profile or workflow; None where it is damaged."""
    try:
        return zlib.decompressobj().decompress(packed, 1 << 26) or None
    except zlib.error:
        return None


def _text(body: bytes) -> bytes | None:
    """The text of an iTXt chunk."""
    _, _, rest = body.partition(b"\0")
    compressed, rest = rest[:1] == b"\1", rest[2:]
    text = rest.split(b"\0", 2)[-1]
    return _unpack(text) if compressed else text


def _raw_exif(name: bytes, body: bytes) -> Any:
    """EXIF as ImageMagick keeps it in text: a line of its name, one of its size, then hex."""
    text = body.partition(b"\0")[2]
    text = (_unpack(text[1:]) or b"") if name == b"zTXt" else text
    try:
        return read_exif(bytes.fromhex(b"".join(text.split()[2:]).decode("ascii")))
    except ValueError:
        return None


def join_png(chunks: Iterable[tuple[bytes, bytes]]) -> bytes:
    """A PNG file of these chunks."""
    return PNG + b"".join(
        struct.pack(">I", len(body)) + name + body
        + struct.pack(">I", zlib.crc32(body, zlib.crc32(name)))
        for name, body in chunks
    )  # fmt: skip


def put_png(data: bytes, metadata: Metadata, icc: bytes | None) -> bytes:
    """Put metadata and profile into a PNG that has neither."""
    chunks, _ = _png_chunks(data)
    own = [c for c in chunks if c[0] in _PIXEL_CHUNKS + _MOTION_CHUNKS]
    added = [(b"iCCP", b"ICC profile\0\0" + zlib.compress(icc))] if icc else []
    added += [c for c in metadata.chunks if c[0] in COLOUR_CHUNKS and (c[0] != b"sRGB" or not icc)]
    if metadata.dpi:
        x, y = (round(n / 0.0254) for n in metadata.dpi)
        added.append((b"pHYs", struct.pack(">IIB", x, y, 1)))
    if metadata.exif and (block := write_exif(metadata.exif)):
        added.append((b"eXIf", block))
    if metadata.xmp:
        added.append((b"iTXt", _XMP_WORD + bytes(5) + metadata.xmp))
    added += [c for c in metadata.chunks if c[0] not in COLOUR_CHUNKS]
    return join_png([own[0], *added, *own[1:]])


# --- JPEG --------------------------------------------------------------------------------------


def put_jpeg(data: bytes, metadata: Metadata) -> tuple[bytes, list[str]]:
    """Put EXIF, XMP, IPTC and the comment into a JPEG; also what did not fit its segments."""
    at = 4 + int.from_bytes(data[4:6], "big") if data[2:4] == b"\xff\xe0" else 2
    parts: list[tuple[str, int, bytes]] = []
    if metadata.exif:
        block = write_exif(metadata.exif, 65527)
        parts.append(("EXIF", 0xE1, b"Exif\0\0" + (block or bytes(65536))))
    if metadata.xmp:
        parts.append(("XMP", 0xE1, b"http://ns.adobe.com/xap/1.0/\0" + metadata.xmp))
    if metadata.iptc:
        block = b"Photoshop 3.0\0" + photoshop_of_iptc(metadata.iptc)
        parts.append(("IPTC", 0xED, block))
    if metadata.comment:
        parts.append(("the comment", 0xFE, metadata.comment))
    lost = [name for name, _, body in parts if len(body) > 65533]
    segments = b"".join(
        struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body
        for _, marker, body in parts
        if len(body) <= 65533
    )
    return data[:at] + segments + data[at:], lost


# --- JPEG XL -----------------------------------------------------------------------------------


def read_jxl(data: bytes) -> tuple[Metadata, list[str]]:
    """The metadata boxes of a JPEG XL file. Raises Finding where a box is cut off."""
    exif = xmp = None
    notes = []
    for name, body in _boxes(data) if data.startswith(_JXL_BOX) else ():
        if name == b"Exif" and len(body) > 4:
            exif = exif or read_exif(body[4 + int.from_bytes(body[:4], "big") :])
        elif name == b"xml ":
            xmp = xmp or body
        elif name == b"brob":
            notes.append(f"left out {body[:4]!r}, which is packed with Brotli")
    if jxl_header(data)[1]:
        notes.append("of its frames only the last is read, for OpenImageIO gives no other")
    return Metadata(exif=exif, xmp=xmp), notes


def jxl_header(data: bytes) -> tuple[int, bool]:
    """How many pixels a JPEG XL has at most, and whether it moves (ISO/IEC 18181-1, annex D)."""
    stream = data
    if data.startswith(_JXL_BOX):
        bodies = {name: body for name, body in reversed([*_boxes(data)])}
        stream = bodies.get(b"jxlc") or bodies.get(b"jxlp", b"")[4:]
    bits = f"{int.from_bytes(stream[2:42], 'little'):0320b}"[::-1]
    at = 0

    def take(count: int) -> int:
        nonlocal at
        at += count
        return int(bits[at - count : at][::-1] or "0", 2)

    def take_size(whole: Sequence[int], eighth: Sequence[int]) -> int:
        """Height, ratio (2 at most) and, for want of one, width; two bits choose how many bits."""
        small = take(1)
        lengths = eighth if small else whole
        height = take(lengths[take(2)] if len(lengths) > 1 else lengths[0]) + 1
        width = 2 * height
        if take(3) == 0:
            width = take(lengths[take(2)] if len(lengths) > 1 else lengths[0]) + 1
        return width * height * (64 if small else 1)

    pixels = take_size((9, 13, 18, 30), (5,))
    if take(1) or not take(1):  # all as usual, or no further fields
        return pixels, False
    take(3)  # the orientation
    if take(1):  # a size to show it in
        take_size((9, 13, 18, 30), (5,))
    if take(1):  # a preview
        take_size((6, 8, 10, 12), (0, 0, 5, 9))
    return pixels, bool(take(1))


def _boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 0
    while at + 8 <= len(data):
        size, name = struct.unpack_from(">I4s", data, at)
        start = at + 8
        if size == 1:
            size, start = int.from_bytes(data[at + 8 : at + 16], "big"), at + 16
        end = len(data) if size == 0 else at + size
        if end > len(data) or end < start:
            raise cut_off(f"its box {name!r} ends beyond the file")
        yield name, data[start:end]
        at = end


def put_jxl(data: bytes, metadata: Metadata) -> bytes:
    """Put EXIF and XMP into a JPEG XL file that has neither."""

    def box(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I4s", len(body) + 8, name) + body

    added = b""
    if metadata.exif and (block := write_exif(metadata.exif)):
        added += box(b"Exif", bytes(4) + block)
    if metadata.xmp:
        added += box(b"xml ", metadata.xmp)
    if data.startswith(_JXL_BOX):  # the encoder's own boxes say nothing
        stream = b"".join(box(n, body) for n, body in _boxes(data) if n in (b"jxlc", b"jxlp"))
        level = b"".join(box(n, body) for n, body in _boxes(data) if n == b"jxll")
    else:
        stream, level = box(b"jxlc", data), b""
    return _JXL_BOX + box(b"ftyp", b"jxl \0\0\0\0jxl ") + level + stream + added


# --- TIFF --------------------------------------------------------------------------------------


def tiff_pages(data: bytes) -> list[tuple[int, Directory, str, bool]]:
    """(offset, directory, byte order, BigTIFF) of every page.

    Raises Finding where strips or tiles of a page lie beyond the end of the file.
    """
    pages: list[tuple[int, Directory, str, bool]] = []
    start: int | None = None
    seen: set[int] = set()
    while start != 0 and len(pages) < MAX_PAGES:
        tags, following, order, big = read_page(data, start)
        if not tags:
            raise cut_off(f"page {len(pages) + 1} has no directory")
        for at, sizes in ((273, 279), (324, 325)):
            offsets, counts = numbers(tags.get(at), order), numbers(tags.get(sizes), order)
            for offset, count in zip(offsets, counts, strict=False):
                if offset + count > len(data):
                    raise cut_off(
                        f"pixels of page {len(pages) + 1} reach to byte {offset + count} of "
                        f"{len(data)}"
                    )
        pages.append((start or 0, tags, order, big))
        if following in seen:  # a hostile chain
            raise Finding(
                "found TIFF pages that refer to each other in a circle; expected a list of "
                "pages. Save the picture anew in an image editor."
            )
        seen.add(following)
        start = following
    return pages


def read_tiff(data: bytes, tags: Directory, order: str, big: bool) -> Metadata:
    """The metadata of one page."""
    xmp, iptc, photoshop = (tags[k].value if k in tags else None for k in (700, 33723, 34377))
    if iptc is None and photoshop is not None:
        iptc = iptc_of_photoshop(photoshop)
    exif = exif_of_page(data, tags, order, big)
    unit = {2: 1.0, 3: 2.54}.get((numbers(tags.get(296), order) or [2])[0])
    parts = [struct.unpack(order + "II", tags[t].value[:8]) for t in (282, 283)
             if t in tags and tags[t].kind == 5]  # fmt: skip
    dpi = None
    if unit and len(parts) == 2 and all(0 < a < 1e6 * b for a, b in parts):
        dpi = (unit * parts[0][0] / parts[0][1], unit * parts[1][0] / parts[1][1])
    return Metadata(exif if any(exif.folders.values()) else None, xmp, iptc, dpi)


def put_tiff(data: bytes, pages: Sequence[Metadata]) -> bytes:
    """Put metadata into a classic little-endian TIFF that an encoder has just written."""
    output = bytearray(data)
    link, start = 4, int.from_bytes(data[4:8], "little")
    for metadata in pages:
        (count,) = struct.unpack_from("<H", data, start)
        end = start + 2 + 12 * count
        raw = {
            int.from_bytes(data[at : at + 2], "little"): bytes(data[at : at + 12])
            for at in range(start + 2, end, 12)
        }
        (following,) = struct.unpack_from("<I", data, end)
        for tag in (282, 283, 296, 305, 306, 700, 33723, 34665):  # the encoder's own
            raw.pop(tag, None)
        exif = in_order(metadata.exif or exif_of_page(b"", {}, "<", False), "<")
        main = dict(exif.folders.get(0, {}))
        main.pop(274, None)
        for tag, value in ((700, metadata.xmp), (33723, metadata.iptc)):
            if value:
                main[tag] = Tag(7, len(value), value)
        if metadata.dpi:
            for tag, n in zip((282, 283), metadata.dpi, strict=True):
                main[tag] = Tag(5, 1, struct.pack("<II", round(n * 10000), 10000))
            main[296] = Tag(3, 1, struct.pack("<H", 2))
        output += bytes(len(output) % 2)
        if len(output) + sum(len(t.value) for d in exif.folders.values() for t in d.values()) > (
            2**32 - 2**20
        ):
            raise Finding("found pages of more than 4 GB, which TIFF cannot hold. Split the file.")
        struct.pack_into("<I", output, link, len(output))
        changed = replace(exif, folders={**exif.folders, 0: main})
        base = len(output)
        output += write_folders(changed, base, 0, raw, following)
        link = base + 2 + 12 * len({*raw, *main, *_pointers(changed)})
        start = following
        if not following:
            break
    return bytes(output)


def _pointers(exif: Any) -> set[int]:
    return {k for k in (0x8769, 0x8825) if exif.folders.get(k)}
