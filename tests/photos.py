"""Photo-sized JPEG crops of the real photographs that scikit-image and scikit-learn ship.

usage: python -m tests.photos OUT N [--tars K]     (a folder of JPEGs, or K WebDataset tars with .jpg and .cls members)
"""

import argparse
import io
import tarfile
from collections.abc import Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path

import numpy as np
import skimage.data
import sklearn.datasets
from PIL import Image

SHIPPED = ("astronaut", "coffee", "chelsea", "rocket", "retina", "hubble_deep_field", "immunohistochemistry")


@cache
def originals() -> tuple[Image.Image, ...]:
    arrays = [*sklearn.datasets.load_sample_images().images, *(getattr(skimage.data, name)() for name in SHIPPED)]
    return tuple(Image.fromarray(np.asarray(array)).convert("RGB") for array in arrays)


def crop(photo: Image.Image, rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """A random part of a photograph with the sides' ratio asked for, mirrored half of the time."""
    w = int(rng.uniform(0.4, 1) * photo.width)
    h = max(1, min(photo.height, w * height // width))
    x, y = int(rng.integers(0, photo.width - w + 1)), int(rng.integers(0, photo.height - h + 1))
    part = photo.crop((x, y, x + w, y + h)).resize((width, height), Image.Resampling.BICUBIC)
    return part.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else part


def jpegs(n: int, width: int, height: int) -> Iterator[tuple[str, int, bytes]]:
    """Key, number of the photograph it was cut from, and file content; the same for the same arguments."""
    rng = np.random.default_rng(0)
    for i in range(n):
        source = i % len(originals())
        content = io.BytesIO()
        crop(originals()[source], rng, width, height).save(content, "JPEG", quality=90)
        yield f"{i:06d}", source, content.getvalue()


def add_member(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))


def make_photos(out: Path, n: int, tars: int = 0, width: int = 500, height: int = 375) -> None:
    """Write n JPEGs into the folder `out`, or the same into `tars` WebDataset shards there."""
    out.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        shards = [stack.enter_context(tarfile.open(out / f"shard-{i:05d}.tar", "w")) for i in range(tars)]
        for i, (key, source, content) in enumerate(jpegs(n, width, height)):
            if not shards:
                (out / f"{key}.jpg").write_bytes(content)
                continue
            add_member(shards[i * tars // n], f"{key}.jpg", content)
            add_member(shards[i * tars // n], f"{key}.cls", str(source).encode())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("n", type=int)
    parser.add_argument("--tars", type=int, default=0)
    parser.add_argument("--width", type=int, default=500)
    parser.add_argument("--height", type=int, default=375)
    flags = parser.parse_args()
    make_photos(**vars(flags))
    print(f"{flags.n} crops of {len(originals())} photographs in {flags.out}")
