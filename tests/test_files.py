"""Writing whole or not at all, and hashes."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
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


def test_what_fails_once_goes_on_where_it_was() -> None:
    fails: list[int] = []

    def read() -> Iterator[int]:
        last = fails.pop(0) if fails else 4
        for number in range(4):
            if number == last:
                raise ValueError(f"at {last}")
            yield number

    fails[:] = [2]
    assert list(files.tried_twice(read)) == [0, 1, 2, 3]
    fails[:] = [2, 3]
    given = files.tried_twice(read)
    assert [next(given) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="at 3"):
        next(given)
    fails[:] = [0, 1]
    with pytest.raises(ValueError, match="at 1"):
        list(files.tried_twice(read))


def test_an_error_is_one_of_memory_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="damaged"), files.room(1 << 20):
        raise ValueError("damaged")
    with pytest.raises(MemoryError), files.room(1 << 62):
        raise ValueError("damaged")

    def full(*_: int) -> None:
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(mmap, "mmap", full)
    with files.room(1):
        pass
    with pytest.raises(MemoryError), files.room(1):
        raise ValueError("damaged")
