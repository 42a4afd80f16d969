"""The static page that restores a dropped picture in the browser, in a real Chromium.

Needs playwright, a Chromium (CHROMIUM, or /usr/bin/chromium) and onnxruntime-web in node_modules
(npm install --no-save onnxruntime-web, or its folder in ONNXRUNTIME_WEB).
"""

from __future__ import annotations

import base64
import functools
import http.server
import io
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from instructir_core import Restorer
from instructir_core.export import export

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "browser" / "index.html"
SENTENCE = "remove the noise"
RUNTIME = Path(os.environ.get("ONNXRUNTIME_WEB", ROOT / "node_modules" / "onnxruntime-web"))
RUNTIME_FILES = ("ort.webgpu.bundle.min.mjs", "ort-wasm-simd-threaded.asyncify.wasm")
CHROMIUM = Path(os.environ.get("CHROMIUM", "/usr/bin/chromium"))

for package in ("onnx", "onnxruntime"):
    pytest.importorskip(package, reason=f"{package} is not installed: no model for the page")
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
if not CHROMIUM.is_file():
    pytest.skip(f"no Chromium at {CHROMIUM}", allow_module_level=True)
if not (RUNTIME / "dist" / RUNTIME_FILES[0]).is_file():
    pytest.skip(f"onnxruntime-web is not at {RUNTIME}", allow_module_level=True)

PROVIDERS = {
    "wasm": [],
    # WebGPU without a GPU, drawn by the processor.
    "webgpu": [
        "--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader", "--enable-features=Vulkan",
    ],
}  # fmt: skip
DROP = """([name, type, content]) => {
  const bytes = Uint8Array.from(atob(content), (c) => c.charCodeAt(0));
  const dataTransfer = new DataTransfer();
  dataTransfer.items.add(new File([bytes], name, { type }));
  document.dispatchEvent(new DragEvent("drop", { dataTransfer, bubbles: true, cancelable: true }));
}"""


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The folder as docs/export.md puts it together, served on this machine."""
    folder = tmp_path_factory.mktemp("page")
    shutil.copy(PAGE, folder)
    for name in RUNTIME_FILES:
        shutil.copy(RUNTIME / "dist" / name, folder)
    export(folder / "model.onnx", SENTENCE)
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


def png(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


@pytest.mark.parametrize("provider", PROVIDERS)
def test_dropped_picture_is_restored_offline(address: str, provider: str) -> None:
    random = np.random.default_rng(0)
    rows, columns = np.mgrid[0:37, 0:50]
    smooth = np.stack([4 * rows, 3 * columns, 2 * (rows + columns)], -1) + 40
    noisy = np.clip(smooth + random.normal(0, 25, smooth.shape), 0, 255).astype(np.uint8)
    restorer = Restorer.from_pretrained("mini", device="cpu")
    padded = np.pad(noisy, ((0, -37 % 16), (0, -50 % 16), (0, 0)), mode="reflect")
    image = torch.from_numpy(padded / np.float32(255)).permute(2, 0, 1)[None]
    with torch.inference_mode():
        wanted = restorer.network(image, restorer.encode(SENTENCE).embedding)[0]
    wanted = wanted.permute(1, 2, 0)[:37, :50].clamp(0, 1).numpy() * 255

    outside: list[str] = []
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(
            executable_path=str(CHROMIUM), args=["--no-sandbox", *PROVIDERS[provider]]
        )
        try:
            page = browser.new_page(accept_downloads=True)
            page.on("request", lambda r: r.url.startswith((address, "blob:", "data:"))
                    or outside.append(r.url))  # fmt: skip
            page.goto(address)
            status = page.locator("#status")
            playwright.expect(status).to_have_text(f"Ready ({provider}).", timeout=60_000)
            # Loaded: from here on not even the folder is asked.
            page.context.set_offline(True)
            page.evaluate(DROP, ["bad.png", "image/png", base64.b64encode(b"no picture").decode()])
            playwright.expect(status).to_contain_text("expected a picture")
            small = base64.b64encode(png(noisy[:15])).decode()
            page.evaluate(DROP, ["small.png", "image/png", small])
            playwright.expect(status).to_contain_text("expected 16 or more")
            page.evaluate(DROP, ["photo.png", "image/png", base64.b64encode(png(noisy)).decode()])
            playwright.expect(status).to_contain_text(f"({provider})", timeout=60_000)
            with page.expect_download() as started:
                page.click("#save")
            assert started.value.suggested_filename == "photo-restored.png"
            found = np.asarray(Image.open(started.value.path()).convert("RGB"), np.float32)
        finally:
            browser.close()
    assert not outside
    assert found.shape == noisy.shape
    # One level for the rounding to 8 bits.
    assert np.abs(found - wanted).max() <= 0.51
    assert np.abs(found - smooth).mean() < 0.5 * np.abs(noisy - smooth).mean()
