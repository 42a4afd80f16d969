"""A real host and a real browser; skipped, with a line saying so, where either is missing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from host import Host, find_host

CHROMIUM = os.environ.get("CHROMIUM")


@pytest.fixture(scope="session")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    found = find_host()
    if found is None:
        pytest.skip("no ComfyUI host: set COMFYUI_PATH (and COMFYUI_PYTHON) to test on one")
    if CHROMIUM is None:
        pytest.skip("no browser: set CHROMIUM, as `make browser` does")
    pytest.importorskip("playwright", reason="pip install playwright")
    running = Host(tmp_path_factory.mktemp("comfy"), *found, bare=True)
    running.post("/settings", {"Comfy.TutorialCompleted": True, "Comfy.Queue.MaxHistoryItems": 64})
    yield running
    running.close()


@pytest.fixture(scope="session")
def pictures() -> Path:
    """Where the screenshots go; look at them."""
    folder = Path(os.environ.get("SCREENSHOTS", Path(__file__).parents[2] / "build/screenshots"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def browser(host: Host) -> Iterator[object]:  # after the host, which is where tests are skipped
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        running = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        yield running
        running.close()
