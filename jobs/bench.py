r"""What this machine can do, next to the reference.

python jobs/bench.py                                    # decoding, the model, feeding it, a whole run
python jobs/bench.py --model FOLDER --against hf        # transformers on the same weights, in turns
python jobs/bench.py --feed [RATE] [--input URI ...]    # what this machine can feed to an accelerator
python jobs/bench.py --feed --ray-address HOST:PORT     # ... and the workers of a Ray cluster on it
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from _cli import Parser, run_simple

from pipeline.bench.bench import STEPS, Report, Wish, bench
from pipeline.bench.feed import Feed, feed
from pipeline.log import answer, warn
from pipeline.target import Target


def main(flags: argparse.Namespace) -> int:
    """Print a table, a line per step."""
    to = flags.json and Target.of(flags.json, "--json")
    found = _all(flags) if flags.feed is None else _feed(flags)
    answer(str(found))
    if to:
        to.put(json.dumps(found.to_json(), indent=1))
    return 0


def _feed(flags: argparse.Namespace) -> Feed:
    for name in ("model", "against"):
        if given := getattr(flags, name):
            warn(f"--{name} {given} plays no part in --feed, whose model costs nothing")
    return feed(flags.input, flags.feed, ray_address=flags.ray_address)


def _all(flags: argparse.Namespace) -> Report:
    wish = Wish(
        model=flags.model,
        inputs=tuple(flags.input),
        steps=tuple(flags.steps),
        against_hf=flags.against == "hf",
        batch=flags.batch_size,
        compiling=flags.compile,
        ray_address=flags.ray_address,
    )
    with tempfile.TemporaryDirectory() as work:
        return bench(wish, Path(__file__).with_name("embed.py"), Path(work))


if __name__ == "__main__":
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", metavar="MODEL", help="model folder (default: random weights of the base size)")
    parser.add_argument("--against", choices=["hf"], help="also time transformers (hf) on the same weights and pixels")
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=STEPS, help="what to measure (all of it)")
    parser.add_argument("--batch-size", type=int, default=0, metavar="N", help="images per step of the model (auto)")
    parser.add_argument("--no-compile", dest="compile", action="store_false", help="not also a compiled model (off)")
    parser.add_argument("--input", nargs="+", default=[], metavar="URI", help="images to work on (default: generated)")
    help_ = "only images/s this machine can feed to an accelerator; with RATE also how busy one of that speed would be"
    parser.add_argument("--feed", type=float, nargs="?", const=0.0, metavar="RATE", help=help_)
    parser.add_argument("--ray-address", metavar="HOST:PORT", help="feed and run through this Ray cluster (none)")
    parser.add_argument("--json", metavar="FILE", help="also write the figures there (no)")
    run_simple(main, parser)
