"""Whether two checkouts write the same files: the four tasks on bundled and made data, `data/` compared byte for byte.

    git worktree add ../before HEAD~20
    .venv/bin/python -m tests.same_bytes ../before      # exits 1 and names the first files that differ

Both run on this machine with this interpreter, because answers differ in their last bits between processors and
library versions. Every run reads the same source paths: they are part of the rows.
"""

import argparse
import io
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tests.helpers import DATA, ROOT, clean_env, tree_bytes

Command = tuple[str, ...]


def make_sources(folder: Path) -> dict[str, Command]:
    """Models and sources below `folder`, and the command lines (without --output) by the name of their output."""
    from tests.models import save_dvae, save_tiny_model
    from tests.photos import make_photos

    digits, scenes = DATA / "digits", DATA / "digits-seg"
    photos = folder / "photos"
    photos.mkdir()
    make_photos(photos, 24)
    (photos / "broken.jpg").write_bytes(b"no picture")
    make_parquet(digits / "shards/digits-00000.tar", folder / "digits.parquet")
    dvae = save_dvae(folder / "dvae")
    masked = save_tiny_model(folder / "masked", "masked", image_size=112)
    tars = f"{digits}/shards"
    label = ("label.py", "--model", f"{digits}/model")
    return {
        "label-tar": (*label, "--input", tars, "--keep", "cls"),
        "label-parquet": (*label, "--input", f"{folder}/digits.parquet", "--keep", "cls", "--with-embedding"),
        "label-limit": (*label, "--input", tars, "--limit", "130", "--span-size", "32"),
        "embed-photos": ("embed.py", "--model", f"{digits}/model", "--input", str(photos), "--max-failed", "1"),
        "embed-exact": ("embed.py", "--model", f"{digits}/model", "--input", tars, "--exact", "--pool", "cls+mean"),
        "segment-hf": ("segment.py", "--model", f"{scenes}/model", "--input", f"{scenes}/shards", "--keep", "mask.png"),
        "segment-original": ("segment.py", "--model", f"{scenes}/model", "--input", f"{scenes}/shards",
                             "--limit", "20", "--semantics", "original"),
        "tokens-dvae": ("tokens.py", "--model", str(dvae), "--input", str(photos), "--max-failed", "1"),
        "tokens-masked": ("tokens.py", "--model", str(masked), "--tokenizer", str(dvae), "--input", tars,
                          "--limit", "64"),
    }  # fmt: skip


def make_parquet(tar: Path, parquet: Path) -> None:
    """The samples of a tar as rows of a Parquet file in Hugging Face's form."""
    samples: dict[str, dict[str, bytes]] = {}
    with tarfile.open(tar) as archive:
        for member in archive:
            key, _, ending = member.name.partition(".")
            content = archive.extractfile(member)
            samples.setdefault(key, {})[ending] = content.read() if content else b""
    rows = [
        {"image": {"bytes": parts["png"], "path": None}, "key": key, "cls": parts["cls"].decode()}
        for key, parts in samples.items()
    ]
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), sink, row_group_size=50)
    parquet.write_bytes(sink.getvalue())


def written(checkout: Path, command: Command, output: Path) -> dict[str, bytes]:
    """The files that a checkout's job writes to `data/`."""
    script, *flags = command
    words = [sys.executable, f"jobs/{script}", *flags, "--dtype", "float32", "--output", str(output), "--local"]
    env = clean_env({"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")})
    done = subprocess.run(words, cwd=checkout, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{checkout}: {' '.join(words)}\n{done.stdout}{done.stderr}")
    return tree_bytes(output / "data")


def main() -> int:
    """Compare this checkout with another; 0 when all files are the same."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("other", type=Path, help="the checkout to compare this one with")
    parser.add_argument("--only", default="", help="only outputs whose name contains this")
    flags = parser.parse_args()
    status = 0
    with tempfile.TemporaryDirectory() as folder:
        for name, command in make_sources(Path(folder)).items():
            if flags.only not in name:
                continue
            ours, theirs = (
                written(checkout.resolve(), command, Path(folder, who, name))
                for who, checkout in (("ours", ROOT), ("theirs", flags.other))
            )
            different = sorted(file for file in ours | theirs if ours.get(file) != theirs.get(file))
            verdict = f"{len(different)} differ, such as {different[0]}" if different else "the same bytes"
            print(f"{name:<18} {len(ours):>3} and {len(theirs):>3} files: {verdict}", flush=True)
            status |= bool(different) or not ours
    return status


if __name__ == "__main__":
    sys.exit(main())
