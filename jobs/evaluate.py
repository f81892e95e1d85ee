r"""How good the answers are, compared with ground truth in a kept column.

python jobs/evaluate.py OUTPUT --truth cls          # labels: top-1 and top-5; cls has class names or ids
python jobs/evaluate.py OUTPUT --truth mask.png     # masks: mean IoU and pixel accuracy
"""

from __future__ import annotations

import argparse

from _cli import Parser, run_simple

from pipeline.evaluate import evaluate


def main(flags: argparse.Namespace) -> int:
    """Print one line."""
    print(evaluate(flags.output, flags.truth, flags.ignore))
    return 0


if __name__ == "__main__":
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", metavar="OUTPUT", help="the --output of a label or segment job")
    parser.add_argument("--truth", metavar="COLUMN", default="cls", help="the kept column that holds the truth (cls)")
    parser.add_argument("--ignore", type=int, default=255, metavar="ID", help="true class to leave out (255)")
    run_simple(main, parser)
