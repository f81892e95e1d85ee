r"""Few large files out of many small ones, for analytics, in a folder of their own.

python jobs/compact.py OUTPUT DEST --rows-per-file 1000000
"""

from __future__ import annotations

import argparse

from _cli import Parser, run_simple

from pipeline.compact import compact


def main(flags: argparse.Namespace) -> int:
    """Print what was written."""
    rows, files = compact(flags.output, flags.dest, flags.rows_per_file)
    print(f"{rows:,} rows in {files:,} files: {flags.dest}")
    return 0


if __name__ == "__main__":
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", metavar="OUTPUT", help="the --output of a job")
    parser.add_argument("dest", metavar="DEST", help="an empty folder or prefix")
    parser.add_argument(
        "--rows-per-file", type=int, required=True, metavar="N", help="rows in each file; the last one may have fewer"
    )
    run_simple(main, parser)
