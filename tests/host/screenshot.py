"""Take the screenshot of README and help pages: an example, run to its end, in a real browser.

    COMFYUI_PATH=... COMFYUI_PYTHON=... python tests/host/screenshot.py docs/screenshot.png \\
        web/docs/graph.jpg

Needs a Chromium (CHROMIUM names it) and playwright.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))
from host import ROOT, Host, find_host
from PIL import Image
from playwright.sync_api import sync_playwright

WORKFLOW = ROOT / "example_workflows" / "01 Restore a photo.json"


def main(out: Path, small: Path) -> None:
    found = find_host()
    assert found is not None, "set COMFYUI_PATH and COMFYUI_PYTHON"
    with tempfile.TemporaryDirectory() as base, sync_playwright() as playwright:
        host = Host(Path(base), *found)
        browser = playwright.chromium.launch(
            executable_path=os.environ.get("CHROMIUM", "/usr/bin/chromium"), args=["--no-sandbox"]
        )
        try:
            host.post("/settings", {"Comfy.TutorialCompleted": True})  # no greeting in the picture
            page = browser.new_page(viewport={"width": 1760, "height": 1000})
            page.goto(f"http://127.0.0.1:{host.port}/")
            page.wait_for_function("window.app?.graph && window.app?.canvas", timeout=120_000)
            page.locator('[data-testid="queue-button"]').wait_for(timeout=120_000)
            page.wait_for_timeout(4000)
            page.keyboard.press("Escape")
            workflow = json.loads(WORKFLOW.read_text("utf-8"))
            page.evaluate(
                "([w, name]) => window.app.loadGraphData(w, true, true, name)",
                [workflow, WORKFLOW.stem],
            )
            page.wait_for_timeout(2000)
            before = len(host.get("/history"))
            page.evaluate("() => window.app.queuePrompt(0)")
            for _ in range(240):
                history = host.get("/history")
                if len(history) > before:
                    break
                page.wait_for_timeout(500)
            last = list(host.get("/history").values())[-1]
            assert last["status"]["status_str"] == "success", last["status"]
            page.wait_for_timeout(3000)
            page.keyboard.press("Escape")
            page.keyboard.press(".")  # the editor's own key for "fit view"
            page.wait_for_timeout(2500)
            out.parent.mkdir(parents=True, exist_ok=True)
            page.screenshot(path=str(out))
            with Image.open(out) as whole:
                size = (1100, round(1100 * whole.height / whole.width))
                whole.convert("RGB").resize(size).save(small, quality=85)
        finally:
            browser.close()
            host.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
