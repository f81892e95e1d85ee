r"""Rows of some images removed for good: no later run brings them back.

    python jobs/forget.py OUTPUT --uris FILE          # the images named in a file, a URI a line as in the column `uri`
    python jobs/forget.py OUTPUT --gone [--dry-run]   # those that are not there any more, where their folder still is

A new version of a loose image brings it back, members of shards stay forgotten. The same command continues this one.
"""

from __future__ import annotations

import argparse
import typing

from _cli import Parser, run_simple

from pipeline.errors import ConfigError
from pipeline.forget import Forget, forget
from pipeline.output.lease import IfRunning


def arguments() -> Parser:
    """The command line."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", metavar="OUTPUT", help="the --output of a job")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--uris", metavar="FILE", help="UTF-8 text, a URI a line")
    which.add_argument("--gone", action="store_true", help="images whose file, object or shard is not found")
    parser.add_argument(
        "--max-gone", type=float, metavar="X",
        help=f"share of all images above which --gone forgets none and exits 2 ({Forget.max_gone})",
    )  # fmt: skip
    parser.add_argument("--dry-run", action="store_true", help="count them, and change nothing")
    parser.add_argument(
        "--if-running", choices=typing.get_args(IfRunning), default=Forget.if_running,
        help="when a run works on the output: go on beside it, wait for it, or leave (%(default)s)",
    )  # fmt: skip
    return parser


def main(flags: argparse.Namespace) -> int:
    """Forget, and print the audit."""
    if flags.uris is not None and flags.max_gone is not None:
        raise ConfigError("--max-gone is for --gone; --uris forgets what the file names: leave out either of them")
    max_gone = Forget.max_gone if flags.max_gone is None else flags.max_gone
    return forget(Forget(flags.output, flags.uris, max_gone, flags.dry_run, flags.if_running))


if __name__ == "__main__":
    run_simple(main, arguments())
