"""``python -m instructir_core``, and the command ``instructir``."""

import sys


def main() -> int:
    """Run the command line; also while it is still being loaded, Ctrl-C ends it in one line."""
    try:
        from .cli import main as run

        return run()
    except KeyboardInterrupt:
        print("stopped; nothing half-written is left behind", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
