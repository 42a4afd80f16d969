"""Make the sample pictures and the sample video of `example_workflows/inputs`.

    python tests/make_samples.py PHOTOS

PHOTOS is a folder with the clean photos that `SOURCES.md` credits, by the names in `PHOTOS` below.
The face comes with scikit-image. Needs PyAV, and numpy's generators make every draw repeatable.
"""

from __future__ import annotations

import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

sys.path.insert(0, str(Path(__file__).parents[1]))
from instructir_core.training import degradations

FOLDER = Path(__file__).parents[1] / "example_workflows" / "inputs"
PHOTOS = {"windmill": "101.jpg", "van": "046.jpg", "canyon": "172.jpg"}
PAGE = """The old photograph

It lay between two pages, face
down, and nobody knew whose it
was. A woman, a dog, a garden
gate. The sun of some forgotten
August stood behind her, and the
paper had drunk most of it.

On the back, in pencil: "Keep
this one. The light was right,
for once, and the dog sat still."

So we kept it."""
Pixels = npt.NDArray[np.float32]


def photo(path: Path, width: int) -> Pixels:
    """(H, W, 3) in [0, 1], `width` pixels wide."""
    image = Image.open(path).convert("RGB")
    size = (width, round(width * image.height / image.width))
    return np.asarray(image.resize(size, Image.Resampling.LANCZOS), np.float32) / np.float32(255)


def face() -> Pixels:
    from skimage import data

    portrait = Image.fromarray(data.astronaut()).crop((90, 0, 410, 360))
    return np.asarray(portrait, np.float32) / np.float32(255)


def page() -> Pixels:
    """Printed words on yellowish paper, with the light coming from one side."""
    image = Image.new("RGB", (440, 480), (247, 241, 226))
    draw = ImageDraw.Draw(image)
    draw.multiline_text((34, 28), PAGE, (38, 34, 32), ImageFont.load_default(22), spacing=6)
    pixels = np.asarray(image, np.float32) / np.float32(255)
    light = np.linspace(1.0, 0.72, image.width, dtype=np.float32)[None, :, None]
    return pixels * light


def write(name: str, pixels: Pixels) -> None:
    image = Image.fromarray(np.rint(np.clip(pixels, 0, 1) * 255).astype(np.uint8))
    image.save(FOLDER / name, quality=92, subsampling=0)


def chord(seconds: float, rate: int = 44100) -> npt.NDArray[np.float32]:
    """(1, samples): A minor, struck once and dying away."""
    time = np.arange(round(seconds * rate)) / rate
    tones = sum(np.sin(2 * np.pi * f * time) / (1 + n) for n, f in enumerate((220, 261.63, 329.63)))
    return (0.25 * tones * np.exp(-1.5 * time) * np.minimum(1, time * 200))[None].astype(np.float32)


def video(clean: Pixels, path: Path, frames: int = 24, rate: int = 12) -> None:
    """A slow pan, 320 x 192, with fresh noise in every frame and a chord below it."""
    rng = np.random.default_rng(0)
    with av.open(str(path), "w") as file:
        pictures = file.add_stream("libx264", rate=rate, options={"crf": "23"})
        pictures.width, pictures.height, pictures.pix_fmt = 320, 192, "yuv420p"
        sound = file.add_stream("aac", rate=44100, layout="mono")
        for index in range(frames):
            window = clean[120:312, 6 * index : 6 * index + 320]
            noisy = window + rng.normal(0, 22 / 255, window.shape)
            pixels = np.rint(np.clip(noisy, 0, 1) * 255).astype(np.uint8)
            file.mux(pictures.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        file.mux(pictures.encode())
        samples = chord(frames / rate)
        for start in range(0, samples.shape[1], 1024):
            block = av.AudioFrame.from_ndarray(
                np.ascontiguousarray(samples[:, start : start + 1024]), format="fltp", layout="mono"
            )
            block.sample_rate, block.pts, block.time_base = 44100, start, Fraction(1, 44100)
            file.mux(sound.encode(block))
        file.mux(sound.encode())


def main(photos: Path) -> None:
    rng = np.random.default_rng
    write("face.jpg", degradations.camera_noise(face(), rng(1)))
    write("print.jpg", degradations.faded(photo(photos / PHOTOS["windmill"], 480), rng(2)))
    write("page.jpg", degradations.camera_noise(page(), rng(2)))
    write("night.jpg", degradations.low_light(photo(photos / PHOTOS["van"], 480), rng(1)))
    video(photo(photos / PHOTOS["canyon"], 640), FOLDER / "noisy_pan.mp4")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
