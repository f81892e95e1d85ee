r"""How good the answers are, compared with ground truth in a kept column, or with another model's answers.

    python jobs/evaluate.py OUTPUT --truth cls          # labels: top-1 and top-5; cls has class names or ids
    python jobs/evaluate.py OUTPUT --truth mask.png     # masks: mean IoU and pixel accuracy
    python jobs/evaluate.py NEW --against OLD           # two outputs of the same images, joined by uri

`--against` tells, for labels, how many agree, which classes change into which, and how scores have moved; for masks the
mean IoU between the two; for embeddings the cosine of an image's two vectors.
"""

from __future__ import annotations

import argparse

from _cli import Parser, run_simple

from pipeline.compare import compare
from pipeline.errors import ConfigError
from pipeline.evaluate import evaluate
from pipeline.log import answer
from pipeline.target import Target


def main(flags: argparse.Namespace) -> int:
    """Print what was found, a line each."""
    if flags.against is None:
        if flags.to is not None:
            raise ConfigError(
                f"--to {flags.to} shows what differs between two outputs: give --against OLD, or leave it out"
            )
        answer(str(evaluate(flags.output, flags.truth or "cls", flags.ignore)))
        return 0
    if flags.truth is not None or flags.ignore is not None:
        asked = "--ignore" if flags.truth is None else "--truth"
        raise ConfigError(f"{asked} is for kept truth, --against {flags.against} for another output: give one of them")
    to = flags.to and Target.of(flags.to, "--to")
    found = compare(flags.output, flags.against)
    answer("\n".join(found.lines()))
    if to:
        from pipeline.page import flips

        answer(f"pictures: {flips.write(found, flags.output, flags.against, to)}")
    return 0


if __name__ == "__main__":
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", metavar="OUTPUT", help="the --output of a job")
    parser.add_argument("--truth", metavar="COLUMN", help="the kept column that holds the truth (cls)")
    parser.add_argument("--ignore", type=int, metavar="ID", help="of masks: true class to leave out (255)")
    parser.add_argument("--against", metavar="OLD", help="another output of the same task, to compare with")
    parser.add_argument("--to", metavar="FILE", help="with --against: a page with pictures of changed labels")
    run_simple(main, parser)
