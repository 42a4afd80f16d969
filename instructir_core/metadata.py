"""What a picture file says beside its pixels: EXIF, XMP, IPTC, resolution, PNG text.

Everything goes from the input to the output except what would be false there: orientation is
reset (it was applied), pixel sizes are renewed, and thumbnails, gain maps and references to signed
claims of origin are dropped. EXIF is a small TIFF file (EXIF 2.32, section 4.5; TIFF 6.0), so one
reader of directories serves both.
"""

from __future__ import annotations

import re
import struct
import xml.etree.ElementTree as ElementTree  # nosec B405
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from xml.parsers.expat import ExpatError

METADATA = ("all", "no-location", "none")
"""What may be carried: everything, everything but places, or nothing but the colour profile."""

_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
_WORDS = {3: 2, 4: 4, 5: 4, 8: 2, 9: 4, 10: 4, 11: 4, 12: 8, 13: 4}
EXIF, GPS, INTEROP = 0x8769, 0x8825, 0xA005
ORIENTATION, MAKER_NOTE = 0x0112, 0x927C
_LAYOUT = frozenset(
    [
        *(*range(254, 260), 262, 263, *range(264, 269), 273, *range(277, 282), 284),
        *(*range(288, 294), 301, *range(317, 350), *range(512, 533), 559, *range(32995, 32999)),
        *(34377, 34675, 37724, *range(50706, 51200), *range(52525, 52560), *range(45056, 45059)),
    ]
)
"""Tags that describe how pixels lie in the file, or that hold other pictures (layers, raw data)."""
_WIDTHS, _HEIGHTS = (0xA002, 0x0100), (0xA003, 0x0101)
_GEO_TAGS = (33550, 33922, 34264, 34735, 34736, 34737)
_IPTC_PLACES = (26, 27, 90, 92, 95, 100, 101)


@dataclass(frozen=True)
class Tag:
    """One field of a TIFF directory; ``value`` lies in the byte order of its directory."""

    kind: int
    count: int
    value: bytes


Directory = dict[int, Tag]


@dataclass(frozen=True)
class Exif:
    """The directories of an EXIF block, or those of a TIFF page that say what EXIF says."""

    order: str
    """"<" or ">"."""
    folders: dict[int, Directory] = field(default_factory=dict)
    """The main directory under 0, the others under the tag that points to them."""
    note_offset: int = 0
    """Where the maker's note lay: makers count from the start of the block."""


@dataclass(frozen=True)
class Metadata:
    """All that is carried beside pixels and the colour profile."""

    exif: Exif | None = None
    xmp: bytes | None = None
    iptc: bytes | None = None
    """IPTC-IIM records, without Photoshop's wrapper."""
    dpi: tuple[float, float] | None = None
    chunks: tuple[tuple[bytes, bytes], ...] = ()
    """PNG text and colour chunks as (type, body)."""
    comment: bytes | None = None
    """Of a JPEG."""

    @property
    def has_location(self) -> bool:
        """Whether it tells where the picture was taken."""
        return self.keep("no-location") != self

    def keep(self, what: str) -> Metadata:
        """What is left of it under one of `METADATA`."""
        if what == "all":
            return self
        if what == "none":
            colour = tuple(c for c in self.chunks if c[0] in COLOUR_CHUNKS)
            return Metadata(chunks=colour)
        exif = self.exif
        if exif is not None:
            folders = {k: dict(v) for k, v in exif.folders.items() if k != GPS}
            for tag in (GPS, *_GEO_TAGS):
                folders.get(0, {}).pop(tag, None)
            exif = exif if folders == exif.folders else replace(exif, folders=folders)
        return replace(
            self,
            exif=exif,
            xmp=_edit_xmp(self.xmp, _is_place) if self.xmp else self.xmp,
            iptc=_without_places(self.iptc) if self.iptc else self.iptc,
            chunks=tuple(c for c in self.chunks if not _may_tell_place(*c)),
        )

    def renewed(self, width: int, height: int) -> Metadata:
        """The same without what is false about a restored picture of this size."""
        exif = self.exif
        if exif is not None:
            folders = {k: dict(v) for k, v in exif.folders.items()}
            for folder in folders.values():
                for tags, size in ((_WIDTHS, width), (_HEIGHTS, height)):
                    for tag in tags:
                        if tag in folder:
                            folder[tag] = Tag(4, 1, struct.pack(exif.order + "I", size))
            if ORIENTATION in folders.get(0, {}):
                folders[0][ORIENTATION] = Tag(3, 1, struct.pack(exif.order + "H", 1))
            exif = replace(exif, folders=folders)
        return replace(self, exif=exif, xmp=_edit_xmp(self.xmp, _is_false) if self.xmp else None)


COLOUR_CHUNKS = (b"gAMA", b"cHRM", b"sRGB", b"cICP", b"mDCV", b"cLLI")
"""PNG chunks that say how the samples are meant, without which they would look otherwise."""


# --- EXIF and TIFF directories -----------------------------------------------------------------


def read_exif(block: bytes) -> Exif | None:
    """Read an EXIF block, with or without ``Exif\\0\\0`` before it; None if nothing is readable."""
    block = block.removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}.get(block[:2])
    if order is None or len(block) < 8:
        return None
    (start,) = struct.unpack_from(order + "I", block, 4)
    exif = _with_folders(block, order, read_directory(block, order, start)[0], False)
    return exif if any(exif.folders.values()) else None


def read_page(data: bytes, start: int | None = None) -> tuple[Directory, int, str, bool]:
    """The directory of a TIFF page at ``start`` (the first by default) with all its tags.

    Also where the next one is (0 after the last), the byte order, and whether it is a BigTIFF.
    """
    order = "<" if data[:2] == b"II" else ">"
    big = data[2:4] in (b"+\0", b"\0+")
    if start is None:
        start = int(struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)[0])
    directory, following = read_directory(data, order, start, big)
    return directory, following, order, big


def exif_of_page(data: bytes, directory: Directory, order: str, big: bool) -> Exif:
    """What a TIFF page says that EXIF can say too."""
    return _with_folders(data, order, directory, big)


def read_directory(data: bytes, order: str, start: int, big: bool = False) -> tuple[Directory, int]:
    """The readable fields of one directory, and the offset of the next one or 0."""
    entry, offset = (20, "Q") if big else (12, "I")
    inline = struct.calcsize(offset)
    found: Directory = {}
    try:
        (count,) = struct.unpack_from(order + ("Q" if big else "H"), data, start)
        at = start + (8 if big else 2)
        for _ in range(min(count, 4096, (len(data) - at) // entry)):
            tag, kind, number = struct.unpack_from(order + "HH" + offset, data, at)
            size = _SIZES.get(kind, 0) * number
            place = at + entry - inline
            if size > inline:
                (place,) = struct.unpack_from(order + offset, data, place)
            if 0 < size <= len(data) - place:
                found.setdefault(tag, Tag(kind, number, data[place : place + size]))
            at += entry
        (following,) = struct.unpack_from(order + offset, data, at)
    except struct.error:
        following = 0
    return found, int(following)


def numbers(tag: Tag | None, order: str) -> list[int]:
    """The values of a field of whole numbers; none for others."""
    letter = {1: "B", 3: "H", 4: "I", 13: "I"}.get(tag.kind if tag else 0)
    if tag is not None and tag.kind == 16:
        letter = "Q"
    return [] if tag is None or letter is None else list(
        struct.unpack(f"{order}{tag.count}{letter}", tag.value)
    )  # fmt: skip


def _with_folders(data: bytes, order: str, main: Directory, big: bool) -> Exif:
    folders = {0: {k: v for k, v in main.items() if k not in _LAYOUT}}
    for pointer, parent in ((EXIF, 0), (GPS, 0), (INTEROP, EXIF)):
        place = numbers(folders.get(parent, {}).pop(pointer, None), order)
        if place:
            folders[pointer] = read_directory(data, order, place[0], big)[0]
    if 700 in main or 33723 in main:  # XMP and IPTC are carried by themselves
        folders[0] = {k: v for k, v in folders[0].items() if k not in (700, 33723)}
    note = folders.get(EXIF, {}).get(MAKER_NOTE)
    at = data.find(note.value) if note and note.count > 4 and len(data) < 1 << 17 else 0
    return Exif(order, folders, max(at, 0))


def write_exif(exif: Exif, limit: int | None = None) -> bytes | None:
    """The block that `read_exif` reads, or None if it would have more than ``limit`` bytes.

    The maker's note is left where it was if there is room, as it may count from the start.
    """
    note = exif.folders.get(EXIF, {}).get(MAKER_NOTE)
    places = [exif.note_offset] if note is not None and exif.note_offset >= 8 else []
    for place in (*places, 0):
        body = b""
        if place and note is not None:
            body = bytes(place - 8) + note.value
            body += bytes(len(body) % 2)
        start = 8 + len(body)
        head = (b"II*\0" if exif.order == "<" else b"MM\0*") + struct.pack(exif.order + "I", start)
        block = head + body + write_folders(exif, start, place)
        if limit is None or len(block) <= limit:
            return block
    return None


def write_folders(
    exif: Exif, base: int, note_at: int = 0, raw: dict[int, bytes] | None = None, following: int = 0
) -> bytes:
    """All directories, the main one first, as they lie from offset ``base`` on (an even one).

    ``raw`` are entries of 12 bytes for the main directory whose values lie elsewhere already.
    """
    folders = {k: dict(v) for k, v in exif.folders.items()}
    folders.setdefault(0, {})
    children = [(EXIF, 0), (GPS, 0)] + ([(INTEROP, EXIF)] if EXIF in folders else [])
    pointers = [(child, parent) for child, parent in children if folders.get(child)]
    for child, parent in pointers:
        folders[parent][child] = Tag(4, 1, bytes(4))
    order = [0, *(child for child, _ in pointers)]
    raw = raw or {}
    sizes = [
        len(_directory(folders[k], exif.order, 0, note_at if k == EXIF else 0, {} if k else raw))
        for k in order
    ]
    starts = {k: base + sum(sizes[:i]) for i, k in enumerate(order)}
    for child, parent in pointers:
        folders[parent][child] = Tag(4, 1, struct.pack(exif.order + "I", starts[child]))
    return b"".join(
        _directory(
            folders[k], exif.order, starts[k], note_at if k == EXIF else 0,
            raw if k == 0 else {}, following if k == 0 else 0,
        )
        for k in order
    )  # fmt: skip


def _directory(
    tags: Directory, order: str, base: int, note_at: int, raw: dict[int, bytes], following: int = 0
) -> bytes:
    merged = {**{k: None for k in raw}, **tags}
    entries, values = b"", b""
    at = base + 2 + 12 * len(merged) + 4
    for key in sorted(merged):
        tag = merged[key]
        if tag is None:
            entries += raw[key]
            continue
        entries += struct.pack(order + "HHI", key, tag.kind, tag.count)
        if len(tag.value) <= 4:
            entries += tag.value.ljust(4, b"\0")
        elif key == MAKER_NOTE and note_at:
            entries += struct.pack(order + "I", note_at)
        else:
            entries += struct.pack(order + "I", at + len(values))
            values += tag.value + bytes(len(tag.value) % 2)
    return struct.pack(order + "H", len(merged)) + entries + struct.pack(order + "I", following) + (
        values
    )  # fmt: skip


def in_order(exif: Exif, order: str) -> Exif:
    """The same fields in another byte order."""
    if exif.order == order:
        return exif

    def swap(tag: Tag) -> Tag:
        word = _WORDS.get(tag.kind, 1)
        parts = [tag.value[i : i + word][::-1] for i in range(0, len(tag.value), word)]
        return replace(tag, value=b"".join(parts))

    folders = {k: {t: swap(v) for t, v in d.items()} for k, d in exif.folders.items()}
    return Exif(order, folders, exif.note_offset)


# --- XMP ---------------------------------------------------------------------------------------

_PLACES = {
    "http://ns.adobe.com/exif/1.0/": ("GPS",),
    "http://cipa.jp/exif/1.0/": ("GPS",),
    "http://ns.adobe.com/photoshop/1.0/": ("City", "State", "Country"),
    "http://iptc.org/std/Iptc4xmpCore/1.0/xmlns/": ("Location", "CountryCode"),
    "http://iptc.org/std/Iptc4xmpExt/2008-02-29/": ("Location",),
    "http://www.metadataworkinggroup.com/schemas/regions/": ("GPS",),
}
_FALSE = {
    "http://ns.adobe.com/tiff/1.0/": ("Orientation", "ImageWidth", "ImageLength"),
    "http://ns.adobe.com/exif/1.0/": ("PixelXDimension", "PixelYDimension"),
    "http://ns.adobe.com/xap/1.0/": ("Thumbnails",),
    "http://ns.adobe.com/hdr-gain-map/1.0/": ("",),
    "http://ns.apple.com/HDRGainMap/1.0/": ("",),
    "http://ns.google.com/photos/1.0/container/": ("",),
    "http://ns.google.com/photos/1.0/camera/": ("",),
    "http://purl.org/dc/terms/": ("provenance",),
}


def _is_place(space: str, name: str) -> bool:
    return name.startswith(_PLACES.get(space, ())) or "geo/wgs84_pos" in space


def _is_false(space: str, name: str) -> bool:
    return name.startswith(_FALSE.get(space, ()))


def _edit_xmp(xmp: bytes, drop: object) -> bytes | None:
    """Take properties out; unchanged if none is there, None if it is no readable XMP."""
    text = xmp.strip(b"\0 \r\n\t")
    # Entities have no use in XMP, and may grow without bounds.
    if b"<!DOCTYPE" in text or b"<!ENTITY" in text:
        return None
    try:
        root = ElementTree.fromstring(text)  # nosec B314
    except (ElementTree.ParseError, ExpatError, ValueError, LookupError):
        # Some cameras cut the packet's end, some editors leave a second one behind it.
        packet = re.search(rb"<x:xmpmeta\b.*?</x:xmpmeta>", text, re.DOTALL)
        return _edit_xmp(packet[0], drop) if packet and packet[0] != text else None
    assert callable(drop)
    changed = False
    for element in root.iter():
        for name in list(element.attrib):
            if drop(*_split(name)):
                del element.attrib[name]
                changed = True
        for child in list(element):
            if isinstance(child.tag, str) and drop(*_split(child.tag)):
                element.remove(child)
                changed = True
    if not changed:
        return xmp
    for prefix, space in re.findall(rb'xmlns:([\w.-]+)\s*=\s*["\']([^"\']+)["\']', text):
        if not re.fullmatch(rb"ns\d+", prefix):
            ElementTree.register_namespace(prefix.decode("utf-8", "ignore"), space.decode())
    body = ElementTree.tostring(root, encoding="utf-8")
    body = body.removeprefix(b"<?xml version='1.0' encoding='utf-8'?>\n")
    start = b'<?xpacket begin="\xef\xbb\xbf" id="W5M0MpCehiHzreSzNTczkc9d"?>'
    return start + body + b'<?xpacket end="w"?>'


def _split(name: str) -> tuple[str, str]:
    space, _, local = name.rpartition("}")
    return space.removeprefix("{"), local


# --- IPTC --------------------------------------------------------------------------------------


def iptc_of_photoshop(block: bytes) -> bytes | None:
    """The IPTC records among Photoshop's resources (``8BIM`` blocks), or None."""
    at = 0
    while block[at : at + 4] == b"8BIM" and at + 8 <= len(block):
        kind = int.from_bytes(block[at + 4 : at + 6], "big")
        at += 6
        at += (block[at] + 2) // 2 * 2  # a name, padded with its length byte to an even size
        size = int.from_bytes(block[at : at + 4], "big")
        body = block[at + 4 : at + 4 + size]
        if kind == 0x0404 and len(body) == size:
            return body
        at += 4 + size + size % 2
    return None


def photoshop_of_iptc(iptc: bytes) -> bytes:
    """Photoshop's resource block that holds these records."""
    return b"8BIM\x04\x04\0\0" + len(iptc).to_bytes(4, "big") + iptc + bytes(len(iptc) % 2)


def _records(iptc: bytes) -> Iterator[tuple[int, int, bytes]]:
    at = 0
    while iptc[at : at + 1] == b"\x1c" and at + 5 <= len(iptc):
        size = int.from_bytes(iptc[at + 3 : at + 5], "big")
        if size & 0x8000:  # an extended size, which no text needs
            return
        yield iptc[at + 1], iptc[at + 2], iptc[at : at + 5 + size]
        at += 5 + size


def _without_places(iptc: bytes) -> bytes | None:
    kept = [r for record, number, r in _records(iptc) if (record, number) not in
            {(2, n) for n in _IPTC_PLACES}]  # fmt: skip
    whole = b"".join(r for _, _, r in _records(iptc))
    rest = iptc[len(whole) :]
    if rest.strip(b"\0"):  # unreadable, so it may say anything
        return None
    return iptc if len(b"".join(kept)) == len(whole) else b"".join(kept) or None


def _may_tell_place(kind: bytes, body: bytes) -> bool:
    word = body.split(b"\0")[0].lower()
    return kind in (b"tEXt", b"zTXt", b"iTXt") and (
        word.startswith(b"raw profile type") or any(w in word for w in (b"gps", b"location"))
    )
