"""``python -m instructir_core``, and the command ``instructir``."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


def main() -> int:
    """Run the command line; also while it is still being loaded, Ctrl-C ends it in one line."""
    try:
        with _stopped_by_signals():
            from .cli import main as run

            return run()
    except KeyboardInterrupt:
        print("stopped; nothing half-written is left behind", file=sys.stderr)
        return 1


@contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end the run as Ctrl-C does: what is half-written is taken away."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    old: dict[int, Any] = {}
    for number in (getattr(signal, name, None) for name in ("SIGTERM", "SIGHUP")):
        # What is ignored already, as under nohup, stays so.
        if number is not None and signal.getsignal(number) == signal.SIG_DFL:
            old[number] = signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


if __name__ == "__main__":
    sys.exit(main())
