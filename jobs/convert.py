r"""Any published BEiT, DiT or dVAE file becomes a model folder that every job reads.

    python jobs/convert.py beit_base_patch16_224_pt22k_ft22kto1k.pth models/beit-base
    python jobs/convert.py finetuned.pth models/mine --preset beit-base-patch16-224
    python jobs/convert.py model.safetensors models/mine --model-config config.json --processor preprocessor_config.json

SOURCE is a file (unilm `.pth`, timm or Hugging Face `.safetensors` and `.bin`, flax `.msgpack`, `encoder.pkl`), a
folder (Hugging Face's, or the two dVAE pickles), local or s3://, or a hub id[@REVISION]. DEST must not exist, or be
empty. Code inside pickles never runs. What neither the file nor a flag says is an error that names the flag.
"""

from __future__ import annotations

import argparse

from _cli import Parser, run_simple

import beit_core
from pipeline import model_files, storage
from pipeline.errors import ConfigError
from pipeline.log import answer


def main(flags: argparse.Namespace) -> int:
    """Convert, and print the card."""
    choices = beit_core.Choices(
        preset=flags.preset,
        processor=flags.processor,
        config=flags.model_config,
        semantics=flags.semantics,
        pool_of=flags.pool_of,
        resampling=flags.resampling,
    )
    dest = _folder(flags.dest)
    with storage.checking(f"SOURCE {flags.source}"):
        source = model_files.fetch(flags.source, "SOURCE")
    card = beit_core.convert(source, dest, choices, say=answer)
    pixels = card.pixels.size or f"shorter side {card.pixels.resize}"
    answer(f"{flags.dest}: {card.name}, a {card.head} with {card.semantics} semantics")
    answer(f"pixels {pixels}, {len(card.labels)} labels, fingerprint {card.fingerprint}")
    return 0


def _folder(dest: str) -> str:
    """The path of DEST; raises ConfigError for one that is on no disk."""
    path = storage.absolute(dest)
    if not storage.is_local(path):
        raise ConfigError(f"DEST {dest}: models are written to a disk; name a folder, and copy it there afterwards")
    return path


if __name__ == "__main__":
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", metavar="SOURCE", help="weights file, model folder or hub id")
    parser.add_argument("dest", metavar="DEST", help="folder to write, absent or empty")
    parser.add_argument("--preset", metavar="NAME", help="published checkpoint whose pixels and labels it shares")
    parser.add_argument("--processor", metavar="FILE", help="preprocessor_config.json for weights that have none")
    parser.add_argument("--model-config", metavar="FILE", help="config.json for weights whose shapes leave it open")
    parser.add_argument(
        "--semantics", choices=["original", "hf"], help="read it as in training, or as transformers does"
    )
    parser.add_argument(
        "--pool-of", choices=["mean", "cls"], help="which tokens are pooled, where the weights do not show it"
    )
    parser.add_argument(
        "--resampling", choices=["geometric", "linear"], help="position tables at other sizes: unilm's way, or timm's"
    )
    run_simple(main, parser)
