r"""What this machine can do, next to the reference.

python jobs/bench.py                                    # a random base-size BEiT
python jobs/bench.py --model FOLDER --against hf        # transformers on the same weights, in turns
python jobs/bench.py --feed [RATE] [--input URI ...]    # what this machine can feed to an accelerator
python jobs/bench.py --feed --ray-address HOST:PORT     # ... and the workers of a Ray cluster on it
"""

from __future__ import annotations

import argparse

from _cli import Parser, run_simple

from pipeline.bench.bench import bench
from pipeline.bench.feed import feed


def main(flags: argparse.Namespace) -> int:
    """Print a line per step."""
    if flags.feed is not None:
        print(feed(flags.input, flags.feed, ray_address=flags.ray_address))
        return 0
    for figure in bench(flags.model, against_hf=flags.against == "hf", batch=flags.batch_size):
        print(figure)
    return 0


if __name__ == "__main__":
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", metavar="MODEL", help="model folder (default: random weights of the base size)")
    parser.add_argument("--against", choices=["hf"], help="also time transformers (hf) on the same weights and pixels")
    parser.add_argument("--batch-size", type=int, default=8, metavar="N", help="images per step of the model (8)")
    help_ = "images/s this machine can feed to an accelerator; with RATE also how busy one of that speed would be"
    parser.add_argument("--feed", type=float, nargs="?", const=0.0, metavar="RATE", help=help_)
    parser.add_argument("--input", nargs="+", default=[], metavar="URI", help="images to feed (default: generated)")
    parser.add_argument("--ray-address", metavar="HOST:PORT", help="feed through this Ray cluster (this process)")
    run_simple(main, parser)
