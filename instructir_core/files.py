"""Files that appear whole or not at all, lines that reach the disk, and hashes of content."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
from contextlib import suppress
from pathlib import Path


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file whole or not at all, creating its folder; OSError names the remedy.

    One already there is left unchanged on any error; else it is replaced and its mode kept.
    """
    temporary = path.parent / f".{secrets.token_hex(8)}.tmp"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "xb") as file:  # unlike tempfile's, with the user's usual mode
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            shutil.copymode(path, temporary)
        os.replace(temporary, path)
    except BaseException as exc:
        with suppress(OSError):
            temporary.unlink()
        if not isinstance(exc, OSError):
            raise
        raise OSError(
            f"{path}: could not be written in the folder {path.parent} ({exc.strerror or exc}); "
            f"expected a folder that you may write to, with {len(content)} bytes free. Change its "
            "permissions, free space or choose another."
        ) from exc


def append_line(path: Path, line: bytes) -> None:
    """Add a line to a file, creating it and its folder; it is on the disk on return."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+b") as file:
        # A killed process may have left half a line; this one must not be appended to it.
        if file.seek(0, os.SEEK_END):
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                file.write(b"\n")
        file.write(line + b"\n")
        file.flush()
        os.fsync(file.fileno())


def sha256(path: Path) -> str:
    """Hex digest of a file's content."""
    return _digest(path, hashlib.sha256())


def git_blob(path: Path) -> str:
    """The id that git gives to a file's content."""
    start = f"blob {path.stat().st_size}\0".encode()
    return _digest(path, hashlib.sha1(start, usedforsecurity=False))


def _digest(path: Path, digest: hashlib._Hash) -> str:
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
