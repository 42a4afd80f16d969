"""Colour spaces against LittleCMS and the published formulas."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from instructir_core import colour, pictures

P3 = (0.680, 0.320, 0.265, 0.690, 0.150, 0.060, 0.3127, 0.3290)
ADOBE = (0.64, 0.33, 0.21, 0.71, 0.15, 0.06, 0.3127, 0.3290)


def profile(chromaticities: Any, curve: bytes, grey: bool = False) -> bytes:
    """An ICC profile of version 2 with these primaries and one curve."""

    def s15(values: Any) -> bytes:
        return struct.pack(f">{len(values)}i", *(round(v * 65536) for v in values))

    white = (0.9642, 1.0, 0.8249)
    tags = {b"wtpt": b"XYZ \0\0\0\0" + s15(white)}
    if grey:
        tags[b"kTRC"] = curve
    else:
        matrix = colour._rgb_to_d50(chromaticities)
        for i, letter in enumerate(b"rgb"):
            tags[bytes([letter]) + b"XYZ"] = b"XYZ \0\0\0\0" + s15(matrix[:, i])
            tags[bytes([letter]) + b"TRC"] = curve
    text = b"test"
    tags[b"desc"] = b"desc\0\0\0\0" + struct.pack(">I", len(text) + 1) + text + bytes(79)
    tags[b"cprt"] = b"text\0\0\0\0none\0"
    table, body, at = struct.pack(">I", len(tags)), b"", 128 + 4 + 12 * len(tags)
    for name, tag in tags.items():
        tag += bytes(-len(tag) % 4)
        table += struct.pack(">4sII", name, at + len(body), len(tag))
        body += tag
    header = struct.pack(
        ">I4xI4s4s4s12s4s28x12s", at + len(body), 0x02100000, b"mntr",
        b"GRAY" if grey else b"RGB ", b"XYZ ", b"\x07\xe4\0\1" * 3, b"acsp", s15(white),
    )  # fmt: skip
    return header.ljust(128, b"\0") + table + body


def gamma(n: float) -> bytes:
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(n * 256)) + b"\0\0"


SRGB_PARA = b"para\0\0\0\0\0\3\0\0" + struct.pack(
    ">5i", *(round(v * 65536) for v in (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045))
)
LINEAR = b"curv\0\0\0\0" + struct.pack(">I", 0)
TABLE = b"curv\0\0\0\0" + struct.pack(">I", 1024) + (
    np.rint(np.linspace(0, 1, 1024) ** 1.8 * 65535).astype(">u2").tobytes()
)  # fmt: skip


@pytest.mark.parametrize(
    ("chromaticities", "curve"),
    [(P3, SRGB_PARA), (ADOBE, gamma(2.2)), (colour.REC709, LINEAR), (ADOBE, TABLE)],
)
def test_agrees_with_littlecms(chromaticities: Any, curve: bytes) -> None:
    icc = profile(chromaticities, curve)
    space = colour.space_of_profile(icc)
    assert space is not None
    values = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    transform = ImageCms.buildTransform(
        ImageCms.ImageCmsProfile(io.BytesIO(icc)), ImageCms.createProfile("sRGB"), "RGB", "RGB", 1
    )
    expected = np.asarray(transform.apply(Image.fromarray(values))).astype(int)
    found = np.rint(colour.for_network(np.float32(values) / 255, space) * 255).astype(int)
    assert np.abs(found - expected).max() <= 2 and np.abs(found - expected).mean() < 0.3


def test_profiles_like_srgb_change_nothing() -> None:
    builtin = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for icc in (None, b"", b"no profile", builtin, profile(colour.REC709, SRGB_PARA)):
        assert colour.space_of_profile(icc) is None


def test_grey_profile() -> None:
    space = colour.space_of_profile(profile(None, gamma(1.0), grey=True))
    assert space is not None
    shown = colour.for_network(np.full((1, 1, 3), 0.2140, np.float32), space)
    assert np.allclose(shown, 0.5, atol=1e-3)


@pytest.mark.parametrize("space", [colour.space_of_profile(profile(P3, SRGB_PARA)),
                                   colour.space_of_profile(profile(ADOBE, gamma(2.2))),
                                   colour.scene_space(P3)])  # fmt: skip
def test_back_is_exact_where_nothing_changed(space: colour.Space) -> None:
    source = np.random.default_rng(1).random((300, 20, 3), np.float32)
    source[0, :3] = [[0, 0, 1], [1, 0, 0], [0, 1, 1e-5]]
    seen = colour.for_network(source, space)
    assert seen.min() >= 0 and seen.max() <= 1
    back = colour.from_network(source, seen, space)
    assert np.abs(back - source).max() < 1e-6
    # And a change to mid grey is that grey, where nothing was clipped.
    inside = np.full((1, 1, 3), 0.5, np.float32)
    grey = colour.from_network(inside, np.full((1, 1, 3), 0.25, np.float32), space)
    assert np.allclose(colour.for_network(grey, space), 0.25, atol=1e-5)


@pytest.mark.parametrize("broken", range(200))
def test_damaged_profiles_never_raise(broken: int) -> None:
    icc = bytearray(profile(ADOBE, TABLE))
    rng = np.random.default_rng(broken)
    for at in rng.integers(128, 400, 8):
        icc[at] = rng.integers(0, 256)
    space = colour.space_of_profile(bytes(icc[: rng.integers(100, len(icc))]))
    if space is not None:
        ramp = np.linspace(0, 1, 30, dtype=np.float32).reshape(1, 10, 3)
        shown = colour.for_network(ramp, space)
        assert np.isfinite(shown).all()


def test_scene_linear_light(tmp_path: Path) -> None:
    light = np.float32([[[0.2140411, 0.2140411, 0.2140411], [4.0, 1.0, 0.0]]])
    picture = pictures.Picture(light, bits=32, scene={})
    pictures.write(tmp_path / "a.exr", picture)
    back = pictures.read(tmp_path / "a.exr")
    np.testing.assert_array_equal(back.pixels, light)
    shown = back.for_network()
    assert np.allclose(shown, [[[0.5] * 3, [1, 1, 0]]], atol=1e-4)
    # The network halves the first pixel and leaves the second: its excess comes back.
    shown = shown.copy()
    shown[0, 0] = 0.25
    after = back.restored(shown)
    assert np.allclose(after.pixels[0, 0], 0.0508761, atol=1e-4)
    assert np.allclose(after.pixels[0, 1], light[0, 1], atol=1e-5)
    pictures.write(tmp_path / "b.exr", after)
    np.testing.assert_array_equal(pictures.read(tmp_path / "b.exr").pixels, after.pixels)
    # As a PNG it is what one would see.
    assert pictures.write(tmp_path / "c.png", back)
    assert np.allclose(
        pictures.read(tmp_path / "c.png").pixels, [[[0.5] * 3, [1, 1, 0]]], atol=1e-3
    )


def test_openexr_is_carried_and_agrees_with_its_own_library(tmp_path: Path) -> None:
    openimageio = pytest.importorskip("OpenImageIO")
    spec = openimageio.ImageSpec(5, 4, 5, "half")
    spec.channelnames = ("R", "G", "B", "A", "Z")
    spec.attribute("chromaticities", "float[8]", P3)
    spec["owner"] = "me"
    spec.x, spec.y, spec.full_width, spec.full_height = 2, 1, 20, 10
    values = np.random.default_rng(0).random((4, 5, 5), np.float32)
    output = openimageio.ImageOutput.create(str(tmp_path / "a.exr"))
    assert output.open(str(tmp_path / "a.exr"), spec) and output.write_image(values)
    output.close()
    picture = pictures.read(tmp_path / "a.exr")
    assert picture.notes == ("left out the channels Z",) and picture.bits == 16
    assert picture.alpha is not None
    premultiplied = picture.pixels * picture.alpha[..., None]
    assert np.abs(premultiplied - values[..., :3]).max() < 2e-3
    pictures.write(tmp_path / "b.exr", picture)
    again = openimageio.ImageInput.open(str(tmp_path / "b.exr"))
    after = again.spec()
    assert (after.x, after.y, after.full_width) == (2, 1, 20)
    assert np.allclose(after.getattribute("chromaticities"), P3, atol=1e-6)
    assert after.getattribute("Copyright") == "me"
    assert np.abs(again.read_image(0, 0, 0, 4, "float") - values[..., :4]).max() < 2e-3


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_openexr_with_no_light_is_refused(tmp_path: Path, value: float) -> None:
    openimageio = pytest.importorskip("OpenImageIO")
    spec = openimageio.ImageSpec(2, 2, 3, "half")
    output = openimageio.ImageOutput.create(str(tmp_path / "a.exr"))
    output.open(str(tmp_path / "a.exr"), spec)
    output.write_image(np.full((2, 2, 3), value, np.float32))
    output.close()
    with pytest.raises(ValueError, match=r"infinite values or NaN.*Repair"):
        pictures.read(tmp_path / "a.exr")
