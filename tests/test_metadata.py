"""What is carried beside the pixels, read back by Pillow itself, and what would be false."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms, PngImagePlugin, TiffImagePlugin

from instructir_core import metadata, pictures

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
XMP = b"""<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF
 xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about=""
 xmlns:tiff="http://ns.adobe.com/tiff/1.0/" xmlns:exif="http://ns.adobe.com/exif/1.0/"
 xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmlns:own="http://example.org/own/"
 xmlns:hdrgm="http://ns.adobe.com/hdr-gain-map/1.0/" hdrgm:Version="1.0"
 tiff:Orientation="6" exif:GPSLatitude="48,8.5N" own:secret="kept">
 <xmp:Thumbnails><rdf:Alt><rdf:li>AAAA</rdf:li></rdf:Alt></xmp:Thumbnails>
 </rdf:Description></rdf:RDF></x:xmpmeta>"""
IPTC = b"\x1c\x02\x50\x00\x04Jane" + b"\x1c\x02\x5a\x00\x06Madrid"
NOTE = b"Nikon\0\2\x10\0\0" + bytes(range(64))


INNER: dict[int, Any] = {
    0x9003: "2020:01:02 03:04:05", 0x829A: 0.01, 0xA002: 24, 0xA003: 16, 0x927C: NOTE,
}  # fmt: skip
PLACE: dict[int, Any] = {1: "N", 2: (48.0, 8.0, 30.0)}


def pixels(height: int = 16, width: int = 24) -> Any:
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 10, y * 15, 255 - x * 5 - y * 5], axis=2).astype(np.uint8)


def exif(orientation: int = 1, place: bool = True) -> Image.Exif:
    found = Image.Exif()
    found[0x010F], found[0x0132], found[0x0112] = "Maker", "2020:01:02 03:04:05", orientation
    found[0x0100] = 99
    found.get_ifd(0x8769).update(INNER)
    if place:
        found.get_ifd(0x8825).update(PLACE)
    return found


def source(path: Path, orientation: int = 1) -> Path:
    """A picture with everything that its format holds."""
    options: dict[str, Any] = {"exif": exif(orientation)}
    if path.suffix == ".png":
        text = PngImagePlugin.PngInfo()
        text.add_text("prompt", '{"seed": 1}')
        text.add_itxt("workflow", "Grüße 图")
        text.add_itxt("XML:com.adobe.xmp", XMP.decode())
        options |= {"pnginfo": text, "dpi": (300, 300)}
    elif path.suffix == ".jpg":
        options |= {"dpi": (300, 300), "xmp": XMP, "comment": b"hello", "quality": 95}
    elif path.suffix == ".webp":
        options |= {"xmp": XMP, "lossless": True}
    elif path.suffix == ".avif":
        options |= {"xmp": XMP}
    elif path.suffix == ".tif":
        tags: Any = TiffImagePlugin.ImageFileDirectory_v2()
        main = exif(orientation)
        del main[0x0100]  # its width
        tags.update({k: v for k, v in main.items() if k not in (0x8769, 0x8825)})
        tags.update({700: XMP, 33723: IPTC})
        tags[0x8769], tags[0x8825] = dict(INNER), dict(PLACE)
        options = {"dpi": (300, 300), "tiffinfo": tags}
    Image.fromarray(pixels()).save(path, icc_profile=SRGB, **options)
    if path.suffix == ".jpg":
        data = path.read_bytes()
        body = b"Photoshop 3.0\x008BIM\x04\x04\0\0" + struct.pack(">I", len(IPTC)) + IPTC + b"\0"
        segment = b"\xff\xed" + struct.pack(">H", len(body) + 2) + body
        path.write_bytes(data[:2] + segment + data[2:])
    return path


def copy(path: Path, target: Path, what: str = "all") -> list[str]:
    picture = pictures.read(path)
    from dataclasses import replace

    return pictures.write(target, replace(picture, metadata=picture.metadata.keep(what)))


def opened(path: Path) -> Image.Image:
    with Image.open(path) as image:
        image.load()
        return image


ALL = [".png", ".jpg", ".webp", ".tif", ".avif"]


@pytest.mark.parametrize("suffix", ALL)
def test_everything_is_carried(tmp_path: Path, suffix: str) -> None:
    made = source(tmp_path / f"a{suffix}")
    assert copy(made, tmp_path / f"b{suffix}") == []
    after = opened(tmp_path / f"b{suffix}")
    found = after.getexif()
    assert (found[0x010F], found[0x0132]) == ("Maker", "2020:01:02 03:04:05")
    assert found.get_ifd(0x8825)[2] == (48.0, 8.0, 30.0)
    inner = found.get_ifd(0x8769)
    assert inner[0x9003] == "2020:01:02 03:04:05" and float(inner[0x829A]) == 0.01
    assert inner[0x927C] == NOTE and (inner[0xA002], inner[0xA003]) == (24, 16)
    assert after.info["icc_profile"] == SRGB
    assert b'own:secret="kept"' in pictures.read(tmp_path / f"b{suffix}").metadata.xmp  # type: ignore[operator]
    if suffix in (".png", ".jpg", ".tif"):
        assert [round(n) for n in after.info["dpi"]] == [300, 300]
    if suffix == ".png":
        assert after.info["prompt"] == '{"seed": 1}' and after.info["workflow"] == "Grüße 图"
    if suffix == ".jpg":
        assert after.info["comment"] == b"hello" and after.info["photoshop"][0x0404] == IPTC
    if suffix == ".tif":
        assert bytes(after.tag_v2[33723]) == IPTC  # type: ignore[attr-defined]


@pytest.mark.parametrize("target", [*ALL, ".jxl", ".heic", ".bmp"])
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif"])
def test_from_one_format_to_another(tmp_path: Path, suffix: str, target: str) -> None:
    if target == ".heic":
        pytest.importorskip("pillow_heif")
    made, other = source(tmp_path / f"a{suffix}"), tmp_path / f"b{target}"
    lost = copy(made, other)
    if target == ".bmp":
        assert "EXIF" in lost and "the colour profile" in lost
        return
    found = pictures.read(other).metadata
    assert found.exif is not None and found.xmp is not None and found.has_location
    block = metadata.write_exif(found.exif)
    assert block is not None
    again = Image.Exif()
    again.load(b"Exif\0\0" + block)
    assert again[0x010F] == "Maker" and again.get_ifd(0x8769)[0x927C] == NOTE
    assert ("the PNG text" in lost) == (suffix == ".png" != target)


@pytest.mark.parametrize("suffix", ALL)
def test_what_would_be_false_is_dropped_or_renewed(tmp_path: Path, suffix: str) -> None:
    made, other = source(tmp_path / f"a{suffix}", orientation=6), tmp_path / f"b{suffix}"
    copy(made, other)
    after = opened(other)
    assert after.size == (16, 24)  # turned
    found = after.getexif()
    assert found.get(0x0112, 1) == 1
    inner = found.get_ifd(0x8769)
    assert (inner[0xA002], inner[0xA003]) == (16, 24)
    xmp = pictures.read(other).metadata.xmp
    assert xmp is not None
    for word in (b"Orientation", b"Thumbnails", b"hdrgm:Version"):
        assert word not in xmp


def test_thumbnail_and_index_of_a_jpeg_are_dropped(tmp_path: Path) -> None:
    block = exif().tobytes()
    tiff = block.removeprefix(b"Exif\0\0")
    order = "<" if tiff[:2] == b"II" else ">"
    (start,) = struct.unpack_from(order + "I", tiff, 4)
    (count,) = struct.unpack_from(order + "H", tiff, start)
    link = start + 2 + 12 * count
    thumb = b"\xff\xd8" + b"THUMBNAIL" * 9 + b"\xff\xd9"
    folder = struct.pack(order + "H", 2) + struct.pack(order + "HHII", 513, 4, 1, len(tiff) + 30)
    folder += struct.pack(order + "HHII", 514, 4, 1, len(thumb)) + bytes(4)
    tiff = tiff[:link] + struct.pack(order + "I", len(tiff)) + tiff[link + 4 :] + folder + thumb
    buffer = io.BytesIO()
    Image.fromarray(pixels()).save(buffer, "JPEG", exif=b"Exif\0\0" + tiff)
    data = buffer.getvalue()
    index = b"\xff\xe2\x00\x0aMPF\0II*\0" + b"\xff\xeb\x00\x0aJPclaims"
    (tmp_path / "a.jpg").write_bytes(data[:2] + index + data[2:])
    copy(tmp_path / "a.jpg", tmp_path / "b.jpg")
    after = (tmp_path / "b.jpg").read_bytes()
    assert b"2020:01:02" in after
    assert not any(w in after for w in (b"THUMBNAIL", b"MPF\0", b"claims"))


@pytest.mark.parametrize("suffix", ALL)
def test_no_location_and_none(tmp_path: Path, suffix: str) -> None:
    made = source(tmp_path / f"a{suffix}")
    assert pictures.read(made).metadata.has_location
    for what in ("no-location", "none"):
        other = tmp_path / f"{what}{suffix}"
        copy(made, other, what)
        after, raw = opened(other), other.read_bytes()
        assert not after.getexif().get_ifd(0x8825)
        assert b"GPSLatitude" not in raw and b"Madrid" not in raw
        assert after.info["icc_profile"] == SRGB  # the look is no secret
        assert (after.getexif().get(0x010F) == "Maker") == (what == "no-location")
        assert (b"own:secret" in raw) == (what == "no-location")
    assert not pictures.read(tmp_path / f"no-location{suffix}").metadata.has_location


def test_the_makers_note_stays_where_it_was(tmp_path: Path) -> None:
    """Makers count offsets from the start of the block."""
    made = source(tmp_path / "a.jpg")
    before = opened(made).info["exif"].removeprefix(b"Exif\0\0")
    copy(made, tmp_path / "b.jpg")
    after = opened(tmp_path / "b.jpg").info["exif"].removeprefix(b"Exif\0\0")
    assert before.index(NOTE) == after.index(NOTE)


def test_a_block_of_pointers_alone_is_carried(tmp_path: Path) -> None:
    """Surveillance cameras write a comment and a place, and nothing in the main directory."""
    bare = Image.Exif()
    bare.get_ifd(0x8769).update({0x9003: "2020:01:02 03:04:05"})
    bare.get_ifd(0x8825).update(PLACE)
    Image.fromarray(pixels()).save(tmp_path / "a.jpg", exif=bare)
    copy(tmp_path / "a.jpg", tmp_path / "b.jpg")
    after = opened(tmp_path / "b.jpg").getexif()
    assert after.get_ifd(0x8769)[0x9003] == "2020:01:02 03:04:05"
    assert after.get_ifd(0x8825)[1] == "N"


def test_heic_is_of_the_profile_that_devices_decode(tmp_path: Path) -> None:
    pytest.importorskip("pillow_heif")
    copy(source(tmp_path / "a.jpg"), tmp_path / "b.heic")
    assert (tmp_path / "b.heic").read_bytes()[4:12] == b"ftypheic"


def test_too_large_for_a_jpeg_is_said(tmp_path: Path) -> None:
    text = XMP.replace(b"kept", b"k" * 70000).decode()
    info = PngImagePlugin.PngInfo()
    info.add_itxt("XML:com.adobe.xmp", text)
    Image.fromarray(pixels()).save(tmp_path / "a.png", pnginfo=info)
    assert copy(tmp_path / "a.png", tmp_path / "b.jpg") == ["XMP"]
    assert copy(tmp_path / "a.png", tmp_path / "b.png") == []
    assert b"k" * 70000 in (tmp_path / "b.png").read_bytes()


def test_hostile_xmp_is_left_out() -> None:
    bomb = b'<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><x>&b;</x>'
    for xmp in (bomb, b"<x", b"", b"\xff\xfe<", b"<a" * 10000):
        assert metadata.Metadata(xmp=xmp).renewed(1, 1).xmp is None


def test_xmp_is_carried_whose_packet_ends_badly() -> None:
    start = b'<?xpacket begin="" id="W5M0MpCehiHzreSzNTczkc9d"?>'
    for whole in (start + XMP + b'<?xpacket end="w"', start + XMP + b'<?xpacket end="r"?>' + XMP):
        kept = metadata.Metadata(xmp=whole).renewed(1, 1).keep("no-location").xmp
        assert kept is not None and b"kept" in kept
        assert b"Orientation" not in kept and b"GPSLatitude" not in kept


def test_damaged_exif_never_raises() -> None:
    block = exif().tobytes().removeprefix(b"Exif\0\0")
    rng = np.random.default_rng(0)
    for _ in range(3000):
        wrong = bytearray(block)
        for at in rng.integers(0, len(wrong), rng.integers(1, 6)):
            wrong[at] = rng.integers(0, 256)
        found = metadata.read_exif(bytes(wrong[: rng.integers(0, len(wrong) + 1)]))
        if found is not None:
            kept = metadata.Metadata(exif=found).renewed(5, 6).keep("no-location")
            assert kept.exif is not None
            written = metadata.write_exif(kept.exif)
            assert written is not None and len(written) < 4 * len(block)


def chunk(name: bytes, body: bytes, wrong: int = 0) -> bytes:
    crc = zlib.crc32(name + body) ^ wrong
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", crc)


def with_chunks(*more: bytes) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels()).save(buffer, "PNG")
    data = buffer.getvalue()
    return data[:33] + b"".join(more) + data[33:]


def test_large_profiles_and_texts_of_a_png_are_read_and_carried(tmp_path: Path) -> None:
    profile = SRGB + np.random.default_rng(0).bytes(3 << 20)
    text = b"workflow\0" + b"x" * (3 << 20)
    packed = b"more\0\0" + zlib.compress(b"y" * (80 << 20))
    data = with_chunks(chunk(b"iCCP", b"p\0\0" + zlib.compress(profile)), chunk(b"tEXt", text),
                       chunk(b"zTXt", packed))  # fmt: skip
    (tmp_path / "a.png").write_bytes(data)
    picture = pictures.read(tmp_path / "a.png")
    assert picture.icc == profile and not picture.notes
    pictures.write(tmp_path / "b.png", picture)
    after = (tmp_path / "b.png").read_bytes()
    assert chunk(b"tEXt", text) in after and chunk(b"zTXt", packed) in after


@pytest.mark.parametrize("name", [b"eXIf", b"pHYs", b"tEXt", b"iCCP", b"gAMA", b"zzZz"])
@pytest.mark.parametrize("depth", [8, 16])
def test_a_damaged_chunk_beside_the_pixels_is_left_out(
    tmp_path: Path, name: bytes, depth: int
) -> None:
    data = with_chunks(chunk(name, b"\0" * 9, wrong=1))
    if depth == 16:
        imagecodecs = pytest.importorskip("imagecodecs")
        deep = imagecodecs.png_encode(pixels().astype(np.uint16) * 257)
        data = deep[:33] + chunk(name, b"\0" * 9, wrong=1) + deep[33:]
    (tmp_path / "a.png").write_bytes(data)
    picture = pictures.read(tmp_path / "a.png")
    np.testing.assert_array_equal(np.rint(picture.pixels * 255), pixels())
    assert name.decode() in picture.notes[0]


def test_damaged_pixels_of_a_png_are_refused(tmp_path: Path) -> None:
    data = with_chunks()
    for name in (b"IHDR", b"IDAT"):
        wrong = bytearray(data)
        at = data.index(name)
        wrong[at + 4 + int.from_bytes(data[at - 4 : at], "big")] ^= 1  # of its checksum
        (tmp_path / "a.png").write_bytes(wrong)
        with pytest.raises(ValueError, match=r"wrong checksum.*expected a complete file"):
            pictures.read(tmp_path / "a.png")


def test_one_row_of_8000_is_cut_off(tmp_path: Path) -> None:
    header = struct.pack(">IIBBBBB", 40, 8000, 8, 2, 0, 0, 0)
    rows = chunk(b"IDAT", zlib.compress(bytes(121)))
    whole = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + rows + chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(whole)
    with pytest.raises(ValueError, match="121 of 968000 bytes of pixels"):
        pictures.read(tmp_path / "a.png")


@pytest.mark.parametrize("interlace", [False, True])
@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA"])
def test_whole_pngs_of_every_kind_are_whole(tmp_path: Path, mode: str, interlace: bool) -> None:
    if interlace:
        pytest.importorskip("imagecodecs")
    for height in range(1, 10):
        for width in range(1, 10):
            Image.new(mode, (width, height)).save(tmp_path / "a.png")
            assert pictures.read(tmp_path / "a.png").pixels.shape[:2] == (height, width)
