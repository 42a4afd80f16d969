"""One host for all the tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from host import Host, StallingHub, find_host


@pytest.fixture(scope="session")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    found = find_host()
    if found is None:
        pytest.skip("no ComfyUI host: set COMFYUI_PATH (and COMFYUI_PYTHON) to test on one")
    hub = StallingHub()
    running = Host(tmp_path_factory.mktemp("comfy"), *found, hub.address)
    yield running
    running.close()
    hub.shutdown()
