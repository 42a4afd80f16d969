"""Writing whole or not at all, and hashes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from instructir_core import files


def test_nothing_half_written(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_bytes(b"")
    with pytest.raises(OSError, match="could not be written"):
        files.write_atomically(blocked / "x.safetensors", b"123")
    with pytest.raises(OSError, match="could not be written"):  # a folder stands at the target
        files.write_atomically(tmp_path, b"123")
    assert {p.name for p in tmp_path.iterdir()} == {"file"}


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="needs a folder we may not write")
def test_read_only_folder(tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(OSError, match="could not be written"):
        files.write_atomically(tmp_path / "locked" / "x", b"1")


def test_half_a_line_is_closed_before_the_next(tmp_path: Path) -> None:
    path = tmp_path / "new" / "lines"
    files.append_line(path, b"one")
    with open(path, "ab") as file:
        file.write(b"ha")  # a killed process
    files.append_line(path, b"two")
    assert path.read_bytes() == b"one\nha\ntwo\n"


def test_hashes(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"hello\n")  # as `git hash-object` and `sha256sum` print
    assert files.git_blob(tmp_path / "x") == "ce013625030ba8dba906f756967f9e9ca394464a"
    assert files.sha256(tmp_path / "x") == (
        "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03"
    )
