r"""Few large files out of many small ones, for analytics or training, in a folder of their own.

    python jobs/compact.py OUTPUT DEST --rows-per-file 1000000
    python jobs/compact.py OUTPUT DEST --rows-per-file 1000000 --images     # a data set with its pictures

The same command continues what was killed, and brings DEST up to date when OUTPUT has grown or changed: files whose
rows are what they were stay as they are. What was forgotten in OUTPUT is gone from DEST afterwards.
"""

from __future__ import annotations

import argparse

from _cli import Parser, run_simple

from pipeline.compact import compact
from pipeline.log import answer


def arguments() -> Parser:
    """The command line."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", metavar="OUTPUT", help="the --output of a job")
    parser.add_argument("dest", metavar="DEST", help="a folder or prefix: an empty one, or the same as before")
    parser.add_argument(
        "--rows-per-file", type=int, required=True, metavar="N", help="rows in a file at most; it ends at 512 MiB too"
    )
    parser.add_argument(
        "--images", action="store_true", help="add the pictures, and masks, as `datasets` shows them (off)"
    )
    return parser


def main(flags: argparse.Namespace) -> int:
    """Print what the copy holds."""
    done = compact(flags.output, flags.dest, flags.rows_per_file, images=flags.images)
    files = f"{done.files:,} file{'s' * (done.files != 1)}"
    answer(f"{done.rows:,} rows in {files}, {done.written:,} of them written now: {flags.dest}")
    if done.lost:
        answer(f"pictures that could not be read any more, and are null: {done.lost:,}")
    return 0


if __name__ == "__main__":
    run_simple(main, arguments())
