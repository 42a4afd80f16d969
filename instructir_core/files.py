"""Files that appear whole or not at all, lines that reach the disk, hashes, and safe walks."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file whole or not at all, creating its folder; OSError names the remedy.

    One already there is left unchanged on any error; else it is replaced and its mode kept.
    """
    temporary = temporary_name(path)
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


def temporary_name(path: Path) -> Path:
    """A new name beside ``path``, for what will become it; `sweep` knows whose it is."""
    return hidden_name(path, "tmp", secrets.token_hex(4))


def sweep(path: Path) -> None:
    """Remove what killed writers left half-written of ``path``. No other may be at work on it."""
    for left in path.parent.glob(f".{_mark(path)}*.tmp"):
        with suppress(OSError):
            left.unlink()


def hidden_name(path: Path, suffix: str, more: str = "") -> Path:
    """A name beside ``path`` that tells whose it is, however long that one is."""
    return path.parent / f".{_mark(path)}{more}.{suffix}"


def _mark(path: Path) -> str:
    return hashlib.sha256(os.fsencode(path.name)).hexdigest()[:8]


def append_line(path: Path, line: bytes) -> None:
    """Add a line to a file, creating it and its folder; it is on the disk on return."""
    try:
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
    except OSError as exc:
        raise OSError(
            f"{path}: could not be written ({exc.strerror or exc}); expected a file that lines can "
            "be added to. Change its permissions, free space or choose another folder."
        ) from exc


def walk(root: Path) -> Iterator[tuple[Path, list[str], list[str]]]:
    """`os.walk` through links too, but into each folder once: links may form circles."""
    seen: set[tuple[int, int]] = set()
    for parent, folders, files in os.walk(root, followlinks=True):
        with suppress(OSError):
            status = os.stat(parent)
            if (status.st_dev, status.st_ino) in seen:
                folders.clear()
                continue
            seen.add((status.st_dev, status.st_ino))
        yield Path(parent), folders, files


def brief(text: object, limit: int = 300) -> str:
    """Text of a stranger for a message: one line, printable, not long."""
    words = " ".join(str(text)[: 8 * limit].split())
    shown = "".join(c if c.isprintable() else repr(c)[1:-1] for c in words[: 2 * limit])
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"


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
