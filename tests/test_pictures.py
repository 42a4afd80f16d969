"""Tests of reading and writing pictures, against Pillow, imagecodecs and tifffile themselves."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import warnings
import zlib
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms, ImageOps

from instructir_core import deep, pictures

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
ALL_STEPS = np.arange(65536, dtype=np.uint16).reshape(256, 256)


def noise(*shape: int, dtype: Any = np.uint8, seed: int = 0) -> Any:
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


def smooth(height: int = 16, width: int = 24) -> Any:
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 10, y * 15, 255 - x * 5 - y * 5], axis=2).astype(np.uint8)


def steps(values: Any, peak: int) -> Any:
    return np.rint(np.asarray(values, np.float64) * peak).astype(np.int64)


def png(width: int, height: int, depth: int, kind: int, rows: bytes, trns: bytes = b"") -> bytes:
    def chunk(name: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        )

    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + (chunk(b"tRNS", trns) if trns else b"")
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def encoded(array: Any, suffix: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, pictures.FORMATS[suffix], **options)
    return buffer.getvalue()


def deep_file(path: Path, samples: Any, **options: Any) -> None:
    if path.suffix == ".png":
        path.write_bytes(imagecodecs.png_encode(samples))
        return
    channels = samples.shape[2] if samples.ndim == 3 else 1
    settings: dict[str, Any] = {
        "photometric": "rgb" if channels > 2 else "minisblack",
        "planarconfig": "contig" if channels > 1 else None,
        "extrasamples": (2,) if channels in (2, 4) else None,
        "metadata": None,
    }
    tifffile.imwrite(path, samples, **(settings | options))


def deep_pixels(path: Path) -> Any:
    if path.suffix == ".png":
        return imagecodecs.png_decode(path.read_bytes())
    return tifffile.imread(path)


# Reading and writing at 8 bits


@pytest.mark.parametrize("suffix", [".png", ".tif", ".tiff", ".bmp", ".webp", ".PNG"])
def test_rgb_survives_and_agrees_with_pillow(tmp_path: Path, suffix: str) -> None:
    values = noise(7, 5, 3)
    source, copy = tmp_path / f"in{suffix}", tmp_path / f"out{suffix}"
    options = {"lossless": True} if suffix == ".webp" else {}
    source.write_bytes(encoded(values, suffix.lower(), **options))
    picture = pictures.read(source)
    assert picture.pixels.dtype == np.float32 and picture.pixels.flags.c_contiguous
    assert (picture.alpha, picture.grey, picture.bits, picture.icc) == (None, False, 8, None)
    np.testing.assert_array_equal(picture.pixels, values.astype(np.float32) / np.float32(255))
    pictures.write(copy, picture)
    with Image.open(copy) as reread:
        assert reread.format == pictures.FORMATS[suffix.lower()] and reread.mode == "RGB"
        np.testing.assert_array_equal(np.asarray(reread), values)


@pytest.mark.parametrize("suffix", [".jpg", ".jpeg"])
def test_jpeg_reads_like_pillow_and_writes_at_95_without_subsampling(
    tmp_path: Path, suffix: str
) -> None:
    source, copy = tmp_path / f"in{suffix}", tmp_path / f"out{suffix}"
    source.write_bytes(encoded(smooth(), ".jpg", quality=80))
    picture = pictures.read(source)
    with Image.open(source) as reference:
        expected = np.asarray(reference)
    np.testing.assert_array_equal(steps(picture.pixels, 255), expected)
    pictures.write(copy, picture)
    assert copy.read_bytes() == encoded(expected, ".jpg", quality=95, subsampling=0)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".jpg", ".bmp"])
def test_grey_stays_one_channel(tmp_path: Path, suffix: str) -> None:
    source, copy = tmp_path / f"in{suffix}", tmp_path / f"out{suffix}"
    values = smooth()[..., 0]
    source.write_bytes(encoded(values, suffix))
    picture = pictures.read(source)
    with Image.open(source) as reference:
        expected = np.asarray(reference)
    assert picture.grey and picture.pixels.shape == (16, 24, 3)
    for channel in range(3):
        np.testing.assert_array_equal(steps(picture.pixels[..., channel], 255), expected)
    pictures.write(copy, picture)
    with Image.open(copy) as reread:
        assert reread.mode == "L"
        assert np.abs(np.asarray(reread).astype(int) - expected).max() <= (suffix == ".jpg")


def test_coloured_result_of_a_grey_picture_is_written_as_luminance(tmp_path: Path) -> None:
    pixels = np.broadcast_to(np.float32([1, 0.5, 0]), (2, 2, 3)).copy()
    for suffix, expected in ((".png", 151), (".webp", [151] * 3)):  # 255 (0.299 + 0.5 * 0.587)
        pictures.write(tmp_path / f"a{suffix}", pictures.Picture(pixels, grey=True))
        with Image.open(tmp_path / f"a{suffix}") as reread:
            assert np.asarray(reread)[0, 0].tolist() == expected


@pytest.mark.parametrize("channels", [2, 4])
@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp"])
def test_alpha_is_kept_straight(tmp_path: Path, suffix: str, channels: int) -> None:
    if suffix == ".webp" and channels == 2:
        pytest.skip("WebP has no grey")
    values = noise(9, 6, channels)
    values[:3, ..., -1] = 0  # the colours under full transparency count too
    source, copy = tmp_path / f"in{suffix}", tmp_path / f"out{suffix}"
    options = {"lossless": True, "exact": True} if suffix == ".webp" else {}
    source.write_bytes(encoded(values, suffix, **options))
    picture = pictures.read(source)
    assert picture.grey == (channels == 2) and picture.alpha is not None
    assert picture.alpha.dtype == np.float32 and picture.alpha.shape == (9, 6)
    np.testing.assert_array_equal(steps(picture.alpha, 255), values[..., -1])
    pictures.write(copy, picture)
    with Image.open(copy) as reread:
        assert reread.mode == ("LA" if channels == 2 else "RGBA")
        np.testing.assert_array_equal(np.asarray(reread), values)


@pytest.mark.parametrize("suffix", [".jpg", ".bmp"])
def test_alpha_goes_over_white_where_the_format_has_none(tmp_path: Path, suffix: str) -> None:
    pixels = np.zeros((8, 8, 3), np.float32)
    pixels[..., 0] = 1
    alpha = np.full((8, 8), 0.4, np.float32)
    pictures.write(tmp_path / f"a{suffix}", pictures.Picture(pixels, alpha))
    with Image.open(tmp_path / f"a{suffix}") as reread:
        assert reread.mode == "RGB"
        assert np.abs(np.asarray(reread).astype(int) - [255, 153, 153]).max() <= 2


def test_palette_with_and_without_transparency(tmp_path: Path) -> None:
    indices = Image.fromarray(noise(4, 4) % 3)
    palette = Image.new("P", (4, 4))
    palette.putpalette([255, 0, 0, 0, 255, 0, 10, 20, 30])
    palette.paste(indices)
    palette.save(tmp_path / "plain.png")
    palette.save(tmp_path / "clear.png", transparency=bytes([0, 128, 255]))
    plain, clear = pictures.read(tmp_path / "plain.png"), pictures.read(tmp_path / "clear.png")
    table = np.array([[255, 0, 0, 0], [0, 255, 0, 128], [10, 20, 30, 255]])
    expected = table[np.asarray(indices)]
    assert plain.alpha is None and not plain.grey and clear.alpha is not None
    np.testing.assert_array_equal(steps(plain.pixels, 255), expected[..., :3])
    np.testing.assert_array_equal(steps(clear.pixels, 255), expected[..., :3])
    np.testing.assert_array_equal(steps(clear.alpha, 255), expected[..., 3])


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp"])
def test_one_bit_pictures_are_grey(tmp_path: Path, suffix: str) -> None:
    values = noise(5, 11) > 127
    Image.fromarray(values).save(tmp_path / f"a{suffix}")
    picture = pictures.read(tmp_path / f"a{suffix}")
    assert picture.grey and picture.bits == 8
    np.testing.assert_array_equal(picture.pixels, np.repeat(values[..., None], 3, axis=2))


@pytest.mark.parametrize(("depth", "rows"), [(1, b"\0\x40"), (2, b"\0\x10"), (4, b"\0\x01")])
def test_transparent_grey_of_few_bits(tmp_path: Path, depth: int, rows: bytes) -> None:
    data = png(2, 1, depth, 0, rows, trns=b"\0\1")  # samples 0 and 1, of which 1 is transparent
    (tmp_path / "a.png").write_bytes(data)
    picture = pictures.read(tmp_path / "a.png")
    assert picture.grey and picture.alpha is not None
    assert picture.alpha.tolist() == [[1, 0]]
    np.testing.assert_array_equal(
        steps(picture.pixels[..., 0], 255), imagecodecs.png_decode(data)[..., 0]
    )


def test_transparent_colour_of_an_rgb_png(tmp_path: Path) -> None:
    values = smooth()
    Image.fromarray(values).save(tmp_path / "a.png", transparency=tuple(values[3, 4].tolist()))
    picture = pictures.read(tmp_path / "a.png")
    assert picture.alpha is not None and picture.alpha[3, 4] == 0 and picture.alpha.sum() == 383


def lut_profile() -> bytes:
    """A CMYK profile of two grid points: paper white, full cyan alone mid grey, else black."""
    clut = np.full((2, 2, 2, 2, 3), (0, 128, 128), np.uint8)
    clut[0, 0, 0, 0, 0], clut[1, 0, 0, 0, 0] = 255, 128
    ramp = bytes(range(256))
    identity = struct.pack(">9i", *(np.eye(3, dtype=int).ravel() * 65536).tolist())
    tag = b"mft1\0\0\0\0\4\3\2\0" + identity + ramp * 4 + clut.tobytes() + ramp * 3
    white = struct.pack(">3i", 0xF6D6, 0x10000, 0xD32D)
    header = struct.pack(
        ">4x4xI4s4s4s12x4s28x12s", 0x02100000, b"prtr", b"CMYK", b"Lab ", b"acsp", white
    )
    body = header.ljust(128, b"\0") + struct.pack(">I4sII", 1, b"A2B0", 144, len(tag)) + tag
    return struct.pack(">I", len(body)) + body[4:]


@pytest.mark.parametrize("suffix", [".jpg", ".tif"])
def test_cmyk_goes_through_its_profile_and_drops_it(tmp_path: Path, suffix: str) -> None:
    cyan = Image.new("CMYK", (16, 16), (255, 0, 0, 0))
    file = tmp_path / f"a{suffix}"
    cyan.save(file, icc_profile=lut_profile())
    picture = pictures.read(file)
    assert picture.icc is None and not picture.grey and picture.alpha is None
    assert np.abs(picture.pixels - 0.47).max() < 0.03  # L* 50 is sRGB 119
    for options in ({}, {"icc_profile": b"no profile"}):
        cyan.save(file, **options)
        picture = pictures.read(file)
        assert picture.icc is None
        assert np.abs(picture.pixels - [0, 1, 1]).max() < 0.03


def test_animation_gives_its_first_frame(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    for name in ("a.webp", "a.png", "a.tif"):
        options = {"lossless": True} if name == "a.webp" else {}
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], **options)
        assert pictures.read(tmp_path / name).pixels[0, 0].tolist() == [1, 0, 0]


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif", ".bmp"])
@pytest.mark.parametrize("shape", [(1, 1), (1, 3), (3, 1)])
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("grey", [False, True])
@pytest.mark.parametrize("clear", [False, True])
def test_tiny_pictures(
    tmp_path: Path, suffix: str, shape: tuple[int, int], bits: int, grey: bool, clear: bool
) -> None:
    holds_alpha = suffix in (".png", ".webp", ".tif")
    alpha = np.full(shape, 0.6, np.float32) if clear and holds_alpha else None
    picture = pictures.Picture(np.full((*shape, 3), 0.2, np.float32), alpha, grey, bits)
    pictures.write(tmp_path / f"a{suffix}", picture)
    back = pictures.read(tmp_path / f"a{suffix}")
    assert back.pixels.shape == (*shape, 3) and np.abs(back.pixels - 0.2).max() < 0.01
    assert back.grey == (grey and suffix != ".webp")
    assert back.bits == (bits if suffix in (".png", ".tif") else 8)
    assert (back.alpha is None) == (alpha is None)
    if back.alpha is not None:
        assert back.alpha.shape == shape and np.abs(back.alpha - 0.6).max() < 0.01


def test_values_are_clipped_and_rounded_to_nearest(tmp_path: Path) -> None:
    pixels = np.float32([[[-0.5, 1.5, 100.4 / 255], [100.6 / 255, 1, 0]]])
    pictures.write(tmp_path / "a.png", pictures.Picture(pixels))
    with Image.open(tmp_path / "a.png") as reread:
        assert np.asarray(reread).tolist() == [[[0, 255, 100], [101, 255, 0]]]


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif", ".bmp"])
@pytest.mark.parametrize("bits", [8, 16])
def test_pixels_may_lie_in_memory_in_any_order(tmp_path: Path, suffix: str, bits: int) -> None:
    planes = noise(3, 6, 5).astype(np.float32) / np.float32(255)  # as a network gives them
    view = pictures.Picture(planes.transpose(1, 2, 0)[::-1], bits=bits)
    pictures.write(tmp_path / f"a{suffix}", view)
    pictures.write(tmp_path / f"b{suffix}", pictures.Picture(view.pixels.copy("C"), bits=bits))
    assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()


# 16 bits


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_every_16_bit_step_survives(tmp_path: Path, suffix: str, channels: int) -> None:
    layers = [ALL_STEPS, ALL_STEPS.T, ALL_STEPS[::-1], ALL_STEPS[:, ::-1]][:channels]
    values = np.stack(layers, axis=2) if channels > 1 else ALL_STEPS
    source, copy = tmp_path / f"in{suffix}", tmp_path / f"out{suffix}"
    deep_file(source, values)
    picture = pictures.read(source)
    assert picture.bits == 16 and picture.grey == (channels < 3)
    assert picture.pixels.dtype == np.float32 and picture.pixels.max() == 1
    pictures.write(copy, picture)
    written = deep_pixels(copy)
    assert written.dtype == np.uint16
    np.testing.assert_array_equal(written, values)
    again = pictures.read(copy)
    np.testing.assert_array_equal(again.pixels, picture.pixels)
    assert (again.alpha is None) == (channels in (1, 3))
    if again.alpha is not None:
        np.testing.assert_array_equal(steps(again.alpha, 65535), values[..., -1])


@pytest.mark.parametrize("compression", [None, "zlib", "lzw"])
@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_kinds_of_16_bit_tiff(
    tmp_path: Path, compression: str | None, planar: str, order: str
) -> None:
    values = noise(33, 17, 3, dtype=np.uint16)
    stored = np.ascontiguousarray(np.moveaxis(values, 2, 0)) if planar == "separate" else values
    deep_file(
        tmp_path / "a.tif",
        stored,
        photometric="rgb",
        planarconfig=planar,
        extrasamples=None,
        compression=compression,
        predictor=compression is not None,
        byteorder=order,
    )
    picture = pictures.read(tmp_path / "a.tif")
    np.testing.assert_array_equal(steps(picture.pixels, 65535), values)


def test_16_bit_tiff_with_white_as_zero(tmp_path: Path) -> None:
    deep_file(tmp_path / "a.tif", ALL_STEPS, photometric="miniswhite")
    picture = pictures.read(tmp_path / "a.tif")
    np.testing.assert_array_equal(
        steps(picture.pixels[..., 1], 65535), 65535 - ALL_STEPS.astype(int)
    )


def test_16_bit_tiff_with_premultiplied_or_unnamed_extra_sample(tmp_path: Path) -> None:
    values = np.array([[[10000, 20000, 30000, 40000], [0, 0, 0, 0]]], np.uint16)
    deep_file(tmp_path / "a.tif", values, extrasamples=(1,))
    picture = pictures.read(tmp_path / "a.tif")
    np.testing.assert_allclose(picture.pixels, [[[0.25, 0.5, 0.75], [0, 0, 0]]], rtol=1e-6)
    np.testing.assert_array_equal(steps(picture.alpha, 65535), values[..., 3])
    deep_file(tmp_path / "a.tif", values, extrasamples=(0,))
    picture = pictures.read(tmp_path / "a.tif")
    assert picture.alpha is None
    np.testing.assert_array_equal(steps(picture.pixels, 65535), values[..., :3])


def test_transparent_value_of_16_bit_png(tmp_path: Path) -> None:
    rows = b"\0" + struct.pack(">2H", 0x1234, 0x1235)
    (tmp_path / "a.png").write_bytes(png(2, 1, 16, 0, rows, trns=b"\x12\x34"))
    picture = pictures.read(tmp_path / "a.png")
    assert picture.alpha is not None and picture.alpha.tolist() == [[0, 1]]
    assert steps(picture.pixels[0, :, 0], 65535).tolist() == [0x1234, 0x1235]


def test_16_bit_picture_falls_to_8_where_the_format_has_no_more(tmp_path: Path) -> None:
    pixels = noise(4, 4, 3).astype(np.float32) / np.float32(255)
    for suffix in (".bmp", ".webp"):
        pictures.write(tmp_path / f"a{suffix}", pictures.Picture(pixels, bits=16))
        back = pictures.read(tmp_path / f"a{suffix}")
        assert back.bits == 8
        np.testing.assert_array_equal(back.pixels, pixels)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_missing_package_is_named_with_its_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    file = tmp_path / f"a{suffix}"
    deep_file(file, ALL_STEPS)
    picture = pictures.read(file)
    before = file.read_bytes()
    monkeypatch.setitem(sys.modules, "OpenImageIO", None)
    with pytest.raises(ValueError, match=r"OpenImageIO.*pip install OpenImageIO"):
        pictures.read(file)
    with pytest.raises(ValueError, match=r"OpenImageIO.*pip install OpenImageIO"):
        pictures.write(file, picture)
    assert file.read_bytes() == before


@pytest.mark.parametrize("suffix", [".jxl", ".exr"])
def test_an_openimageio_without_the_format_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    oiio = pytest.importorskip("OpenImageIO")
    pictures.write(tmp_path / f"a{suffix}", DEEP)
    monkeypatch.setattr(oiio, "get_string_attribute", lambda _: "tiff,png")
    for action in (pictures.read, lambda path: pictures.write(path, DEEP)):
        with pytest.raises(ValueError, match=r"which has no .*expected 3\.2\.1 or newer"):
            action(tmp_path / f"a{suffix}")


def test_packages_for_16_bits_are_imported_when_needed() -> None:
    code = (
        "import sys, instructir_core.pictures; "
        "print([m for m in ('OpenImageIO', 'pillow_heif') if m in sys.modules])"
    )
    root = Path(pictures.__file__).parents[1]
    result = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert result.stdout.strip() == "[]", result.stderr


# Orientation and ICC profiles


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif"])
def test_orientation_is_applied_like_pillow_does_and_not_carried(
    tmp_path: Path, suffix: str, orientation: int
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    file, copy = tmp_path / f"a{suffix}", tmp_path / f"b{suffix}"
    options = {"lossless": True} if suffix == ".webp" else {}
    file.write_bytes(encoded(smooth(), suffix, exif=exif, **options))
    picture = pictures.read(file)
    with Image.open(file) as reference:
        expected = np.asarray(ImageOps.exif_transpose(reference))
    assert picture.pixels.shape[:2] == ((16, 24) if orientation < 5 else (24, 16))
    np.testing.assert_array_equal(steps(picture.pixels, 255), expected)
    pictures.write(copy, picture)
    with Image.open(copy) as reread:
        assert reread.getexif().get(0x0112, 1) == 1
        assert reread.size == picture.pixels.shape[1::-1]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_orientation_at_16_bits(tmp_path: Path, suffix: str, orientation: int) -> None:
    values = np.ascontiguousarray(smooth()[..., [0, 1, 2, 0]]).astype(np.uint16) * 257
    file = tmp_path / f"a{suffix}"
    exif = Image.Exif()
    exif[0x0112] = orientation
    if suffix == ".tif":
        deep_file(file, values, extratags=[(274, 3, 1, orientation, True)])
    else:
        body = b"eXIf" + exif.tobytes().removeprefix(b"Exif\0\0")
        chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
        data = imagecodecs.png_encode(values)
        file.write_bytes(data[:33] + chunk + data[33:])
    shallow = Image.open(io.BytesIO(encoded(smooth()[..., [0, 1, 2, 0]], ".png", exif=exif)))
    expected = np.asarray(ImageOps.exif_transpose(shallow)).astype(int) * 257
    picture = pictures.read(file)
    np.testing.assert_array_equal(steps(picture.pixels, 65535), expected[..., :3])
    np.testing.assert_array_equal(steps(picture.alpha, 65535), expected[..., 3])


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_nonsense_orientation_is_ignored(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    (tmp_path / "a.png").write_bytes(encoded(smooth(), ".png", exif=exif))
    np.testing.assert_array_equal(steps(pictures.read(tmp_path / "a.png").pixels, 255), smooth())


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif"])
def test_icc_profile_is_carried(tmp_path: Path, suffix: str, bits: int) -> None:
    source, copy = tmp_path / f"in{suffix}", tmp_path / f"out{suffix}"
    if bits == 8 or suffix not in (".png", ".tif"):
        source.write_bytes(encoded(smooth(), suffix, icc_profile=SRGB))
    elif suffix == ".tif":
        deep_file(source, smooth().astype(np.uint16) * 257, iccprofile=SRGB)
    else:
        data = imagecodecs.png_encode(smooth().astype(np.uint16) * 257)
        profile = encoded(smooth(), ".png", icc_profile=SRGB)
        start = profile.index(b"iCCP") - 4
        end = start + 12 + int.from_bytes(profile[start : start + 4], "big")
        source.write_bytes(data[:33] + profile[start:end] + data[33:])
    picture = pictures.read(source)
    assert picture.icc == SRGB
    pictures.write(copy, picture)
    with Image.open(copy) as reread:
        reread.load()
        assert reread.info["icc_profile"] == SRGB
    again = pictures.read(copy)
    assert again.icc == SRGB and again.bits == picture.bits
    if suffix == ".png" and bits == 16:
        assert imagecodecs.png_decode(copy.read_bytes()).dtype == np.uint16


# Broken input


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none.png.*expected.*Check the path"):
        pictures.read(tmp_path / "none.png")
    with pytest.raises(OSError, match=r"could not be opened.*Check the path"):
        pictures.read(tmp_path)


def test_text_named_png_and_empty_file(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    file.write_text("hello, world")
    with pytest.raises(
        ValueError, match=r"a.png: found content starting with b'hello, w'.*expected"
    ):
        pictures.read(file)
    file.write_bytes(b"")
    with pytest.raises(ValueError, match=r"a.png: found an empty file; expected"):
        pictures.read(file)


def test_gif_is_not_read(tmp_path: Path) -> None:
    Image.new("P", (4, 4)).save(tmp_path / "a.gif")
    with pytest.raises(ValueError, match=r"found a GIF; expected a PNG, JPEG.*Convert"):
        pictures.read(tmp_path / "a.gif")


@pytest.mark.parametrize("cut", [6, 20, 0.5, 0.9])
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif", ".bmp"])
def test_truncated_file(tmp_path: Path, suffix: str, cut: float) -> None:
    data = encoded(noise(64, 64, 3), suffix)
    file = tmp_path / f"a{suffix}"
    file.write_bytes(data[: cut if isinstance(cut, int) else int(len(data) * cut)])
    with pytest.raises(ValueError, match=r"a\.\w+: found .*; expected a complete"):
        pictures.read(file)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_truncated_16_bit_file(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"a{suffix}"
    deep_file(file, noise(64, 64, 3, dtype=np.uint16))
    file.write_bytes(file.read_bytes()[:-200])
    with pytest.raises(ValueError, match=r"damaged or cut-off.*expected a complete file"):
        pictures.read(file)


def test_header_that_promises_too_many_pixels(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    for depth in (8, 16):
        file.write_bytes(png(30000, 30000, depth, 2, b"\0"))
        with pytest.raises(ValueError, match=r"30000 x 30000 pixels; expected 1 to .*smaller"):
            pictures.read(file)
    deep_file(tmp_path / "a.tif", ALL_STEPS)
    with tifffile.TiffFile(tmp_path / "a.tif", mode="r+b") as tiff:
        tiff.pages[0].tags[256].overwrite(2**31)
    with pytest.raises(ValueError, match=r"2147483648 x 256 pixels"):
        pictures.read(tmp_path / "a.tif")


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_pillow_limit_is_lifted_for_the_call_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    file = tmp_path / f"a{suffix}"
    file.write_bytes(encoded(smooth(), suffix))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert pictures.read(file).pixels.shape == (16, 24, 3)
    assert Image.MAX_IMAGE_PIXELS == 100
    monkeypatch.setattr(pictures, "MAX_PIXELS", 16 * 24 - 1)
    with pytest.raises(ValueError, match=r"24 x 16 pixels"):
        pictures.read(file)
    assert Image.MAX_IMAGE_PIXELS == 100


def test_limit_admits_200_megapixels() -> None:
    pictures._check_size(16384, 12288)
    for size in ((0, 5), (5, 0), (16385, 16384)):
        with pytest.raises(ValueError, match=r"found a header"):
            pictures._check_size(*size)


def test_floating_point_and_integer_tiff_are_refused(tmp_path: Path) -> None:
    for dtype in (np.float32, np.int16, np.uint32):
        tifffile.imwrite(tmp_path / "a.tif", np.zeros((4, 4, 3), dtype), photometric="rgb")
        with pytest.raises(ValueError, match=r"found a TIFF of .*; expected unsigned.*Convert"):
            pictures.read(tmp_path / "a.tif")
    Image.new("LAB", (4, 4)).save(tmp_path / "a.tif")
    with pytest.raises(ValueError, match=r"photometric 8; expected.*Convert"):
        pictures.read(tmp_path / "a.tif")


# Broken output

FLAT = pictures.Picture(np.full((4, 6, 3), 0.5, np.float32))
DEEP = pictures.Picture(FLAT.pixels, bits=16)


@pytest.mark.parametrize("name", ["a.gif", "a", "a.png.bak"])
def test_unknown_suffix_lists_the_known(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError) as caught:
        pictures.write(tmp_path / name, FLAT)
    assert all(suffix in str(caught.value) for suffix in pictures.READABLE)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", ["pixels", "alpha"])
def test_non_finite_values_are_refused(tmp_path: Path, value: float, where: str) -> None:
    pixels, alpha = np.zeros((4, 4, 3), np.float32), np.ones((4, 4), np.float32)
    (pixels if where == "pixels" else alpha)[1, 2] = value
    file = tmp_path / "a.png"
    file.write_bytes(b"before")
    with pytest.raises(ValueError, match=r"a.png: found NaN or infinity"):
        pictures.write(file, pictures.Picture(pixels, alpha))
    assert [(f.name, f.read_bytes()) for f in tmp_path.iterdir()] == [("a.png", b"before")]


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (pictures.Picture(np.zeros((4, 4), np.float32)), r"shape \(4, 4\)"),
        (pictures.Picture(np.zeros((4, 4, 4), np.float32)), r"shape \(4, 4, 4\)"),
        (pictures.Picture(np.zeros((0, 4, 3), np.float32)), r"shape \(0, 4, 3\)"),
        (pictures.Picture(np.zeros((4, 4, 3), np.uint8)), "type uint8"),  # type: ignore[arg-type]
        (pictures.Picture(FLAT.pixels, np.zeros((6, 4), np.float32)), r"alpha of shape \(6, 4\)"),
        (pictures.Picture(FLAT.pixels, bits=12), "bits=12; expected 8, 16 or 32"),
    ],
)
def test_malformed_picture(tmp_path: Path, picture: pictures.Picture, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pictures.write(tmp_path / "a.png", picture)
    assert not list(tmp_path.iterdir())


def test_picture_beyond_the_format(tmp_path: Path) -> None:
    wide = pictures.Picture(np.zeros((1, 16384, 3), np.float32))
    with pytest.raises(ValueError, match=r"16384 x 1 pixels.*WEBP.*Write PNG or TIFF"):
        pictures.write(tmp_path / "a.webp", wide)
    assert not list(tmp_path.iterdir())


class Midway(RuntimeError):
    pass


def fail_midway(*args: Any, **kwargs: Any) -> None:
    for argument in args:
        if hasattr(argument, "write"):
            argument.write(b"half a file")
    raise Midway("encoder broke")


@pytest.mark.parametrize(
    ("name", "picture", "owner", "function"),
    [
        ("a.png", FLAT, Image.Image, "save"),
        ("a.jpg", FLAT, Image.Image, "save"),
        ("a.png", DEEP, deep, "_spec"),
        ("a.tif", DEEP, deep, "_spec"),
    ],
)
def test_failing_encoder_leaves_the_old_file(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    picture: pictures.Picture,
    owner: Any,
    function: str,
) -> None:
    (tmp_path / name).write_bytes(b"before")
    monkeypatch.setattr(owner, function, fail_midway)
    with pytest.raises(ValueError, match=r"could not be encoded.*encoder broke"):
        pictures.write(tmp_path / name, picture)
    assert [(f.name, f.read_bytes()) for f in tmp_path.iterdir()] == [(name, b"before")]


@pytest.mark.parametrize("function", ["fsync", "replace"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_failing_disk_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str, error: BaseException
) -> None:
    (tmp_path / "a.png").write_bytes(b"before")
    seen: list[int] = []

    def fail(*args: Any) -> None:
        seen.extend(f.stat().st_size for f in tmp_path.glob(".*.tmp"))
        raise error

    monkeypatch.setattr(os, function, fail)
    with pytest.raises(type(error)) as caught:
        pictures.write(tmp_path / "a.png", FLAT)
    assert len(seen) == 1 and seen[0] > 50  # the temporary was beside the target, and flushed
    assert isinstance(error, KeyboardInterrupt) or "No space left" in str(caught.value)
    assert [(f.name, f.read_bytes()) for f in tmp_path.iterdir()] == [("a.png", b"before")]


def test_missing_folder_is_named_and_not_made(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"found no folder .*none; expected.*Create it"):
        pictures.write(tmp_path / "none" / "a.png", FLAT)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError, match=r"found no folder .*file; expected.*Create it"):
        pictures.write(tmp_path / "file" / "a.png", FLAT)
    assert [f.name for f in tmp_path.iterdir()] == ["file"]


def test_denied_folder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*args: Any, **kwargs: Any) -> None:
        raise PermissionError(13, "Permission denied", args[0])

    monkeypatch.setattr("builtins.open", denied)
    with pytest.raises(OSError) as caught:
        pictures.write(tmp_path / "a.png", FLAT)
    for part in (f"in the folder {tmp_path}", "Permission denied", "Change its permissions"):
        assert part in str(caught.value)


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="permissions do not bind root"
)
def test_read_only_folder(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(OSError, match=r"in the folder .*Change its permissions"):
            pictures.write(tmp_path / "a.png", FLAT)
        assert not list(tmp_path.iterdir())
    finally:
        tmp_path.chmod(0o700)


def test_target_that_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "a.png").mkdir()
    with pytest.raises(OSError, match=r"a.png: could not be written"):
        pictures.write(tmp_path / "a.png", FLAT)
    assert [f.name for f in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.skipif(os.name == "nt", reason="modes and links of POSIX")
def test_mode_and_link_of_the_target_are_kept(tmp_path: Path) -> None:
    mask = os.umask(0o027)
    try:
        pictures.write(tmp_path / "new.png", FLAT)
    finally:
        os.umask(mask)
    assert (tmp_path / "new.png").stat().st_mode & 0o777 == 0o640
    (tmp_path / "new.png").chmod(0o604)
    (tmp_path / "link.png").symlink_to("new.png")
    pictures.write(tmp_path / "link.png", DEEP)
    assert (tmp_path / "link.png").is_symlink()
    assert (tmp_path / "new.png").stat().st_mode & 0o777 == 0o604
    assert pictures.read(tmp_path / "new.png").bits == 16
