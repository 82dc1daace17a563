"""The `agents` command, and `python -m agents`: all that runs before Ctrl-C is heeded."""

from __future__ import annotations

import sys


def main() -> int:
    """Run the command line and return its exit code."""
    try:
        from agents import cli

        return cli.main()
    except KeyboardInterrupt:
        print("agents: stopped", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
