r"""A page to look at: what the runs did, and pictures of what they found.

    python jobs/report.py OUTPUT [--verify] [--truth COLUMN] [--to FILE] [--tokenizer DVAE]

Writes OUTPUT/report.html, one file that needs no network, and prints where it lies. It reads the runs' reports and a
small sample of rows, whatever the size of the output. `--verify` reads every row and puts the result on the page; exit
code 1: something is wrong, or the last run was killed, and nobody knows yet what else it would have planned.
Of a copy that jobs/compact.py has made it only says whether it is older than its output (exit 1).
"""

from __future__ import annotations

import argparse

from _cli import Parser, run_simple

from pipeline.compact import state_of_copy
from pipeline.errors import ConfigError
from pipeline.log import answer
from pipeline.output.bound import bound_of
from pipeline.output.place import Place
from pipeline.page import page
from pipeline.page.state import verified_line


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    form = argparse.RawDescriptionHelpFormatter
    parser = Parser(description=__doc__, formatter_class=form)
    parser.add_argument("output", metavar="OUTPUT", help="the --output of a job: a path or s3://bucket/prefix")
    parser.add_argument("--verify", action="store_true", help="read every row; check that each image has just one")
    parser.add_argument(
        "--truth", metavar="COLUMN", help="kept column with the true class of labels (else cls or label, where kept)"
    )
    parser.add_argument("--to", metavar="FILE", help="write the page here instead of OUTPUT/report.html")
    parser.add_argument(
        "--tokenizer", metavar="DVAE", help="the run's dVAE, with a decoder: show the images that tokens decode to"
    )
    return parser


def main(flags: argparse.Namespace) -> int:
    """Write the page; 1 if `--verify` found a fault or a run that has not ended, or for a copy that is too old."""
    if copy := state_of_copy(flags.output):
        if asked := [name for name in ("verify", "truth", "to", "tokenizer") if getattr(flags, name)]:
            raise ConfigError(f"--{asked[0]}: {flags.output} is a copy, which has no page; name the output it is of")
        answer(copy.said)
        return 0 if copy.is_current else 1
    decoder = None
    if flags.tokenizer:
        from pipeline.tokenizer import check_made_by
        from pipeline.tokenizer import decoder as decoder_of

        check_made_by(flags.tokenizer, bound_of(Place.of(flags.output)))
        decoder = decoder_of(flags.tokenizer)
    verified = None
    if flags.verify:
        from pipeline.plan.verify import verify

        page.target_of(Place.of(flags.output), flags.to)  # before every row is read
        verified = verify(Place.of(flags.output))
        answer(verified_line(verified))
    answer(f"The report is {page.write(flags.output, flags.to, verified, decoder, flags.truth)}")
    return 0 if verified is None or (verified.green and verified.has_ended) else 1


if __name__ == "__main__":
    run_simple(main, arguments())
