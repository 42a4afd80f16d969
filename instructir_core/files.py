"""Files that appear whole or not at all, lines that reach the disk, hashes, safe walks; and memory
that ends while a file is read or written."""

from __future__ import annotations

import hashlib
import mmap
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


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


_NO_MEMORY = (
    "out of memory", "allocate memory", "not enough memory", "ALLOC_FAILED", "bad_alloc",
    "codec configuration error",  # Pillow's, where zlib gets none
    "could not create a primitive", "could not execute a primitive", "could not create an engine",
    "could not create a memory", "could not create a stream",  # all five oneDNN's
)  # fmt: skip


def lacks_memory(error: BaseException) -> bool:
    """Whether an error says that memory ended, for which the libraries share no type."""
    text = str(error)
    told = isinstance(error, RuntimeError | OSError) and any(sign in text for sign in _NO_MEMORY)
    return told or isinstance(error, MemoryError)


@contextmanager
def memory_told(path: str | os.PathLike[str]) -> Iterator[None]:
    """Within, memory that ends is an OSError with a remedy; no file is called damaged for it."""
    try:
        yield
    except Exception as exc:
        error: BaseException | None = exc
        while error is not None and not lacks_memory(error):  # or what a reader made of it
            error = error.__cause__ if isinstance(error, ValueError) else None
        if error is None:
            raise
        raise OSError(
            f"{path}: found too little free memory for it; expected enough. Close other programs, "
            "or use a smaller picture or model."
        ) from exc


ROOM = 64
"""Bytes for a pixel, with which every decoder gets along."""


@contextmanager
def room(size: int) -> Iterator[None]:
    """Within, an error is a MemoryError where there is no room for so many bytes.

    Some decoders do not tell memory that lacks from damage.
    """
    try:
        yield
    except Exception as exc:
        try:
            mmap.mmap(-1, size).close()
        except (OSError, OverflowError):
            raise MemoryError from exc
        raise


def tried_twice(read: Callable[[], Iterator[T]]) -> Iterator[T]:
    """What ``read`` gives; after a ValueError it reads again, and goes on where it was.

    For memory may have lacked for a moment, which some decoders call damage. Damage stays.
    """
    given = 0
    try:
        for found in read():
            yield found
            given += 1
        return
    except ValueError:
        pass
    yield from islice(read(), given, None)


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
