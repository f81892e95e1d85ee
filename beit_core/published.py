"""What is known about published checkpoints beyond their tensors: pixels, label names, accuracy, licence.

Names and colours come from lists shipped next to this file: ImageNet from timm (Apache-2.0), ADE20K with its pixel
statistics from mmsegmentation (Apache-2.0).
"""

import json
import lzma
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from .config import BeitConfig, Grid
from .errors import CheckpointError
from .pixels import PixelSpec

HERE = Path(__file__).parent
TRAINED_EPS = 1e-6  # published Hugging Face configurations say 1e-12
WIDTHS = {"base": (768, 12), "large": (1024, 24)}
# Classes by list of names; counted here, as the lists are not everywhere. Without one: the visual tokens of a dVAE.
COUNTS = {"imagenet_1k": 1000, "imagenet_22k": 21841, "ade20k": 150, "rvl_cdip": 16, "": 8192}
OWNERS = ("microsoft", "timm")  # whose repositories on the hub the published checkpoints are
Color = tuple[int, int, int]


@dataclass(frozen=True)
class Preset:
    """One published checkpoint, with the pixels and the sliding stride its published accuracy was measured with."""

    name: str
    head: str
    size: str
    image: int
    pixels: PixelSpec
    license: str
    files: tuple[str, ...]  # names, without endings, under which it is published elsewhere
    classes: str = ""  # which list of names
    stride: int = 0
    accuracy: Mapping[str, float] = field(default_factory=dict)  # top1, top5, miou in per cent, as published

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """Names by class id."""
        return tuple(class_names(self.classes)) if self.classes else ()

    @property
    def width(self) -> int:
        """Width of the encoder."""
        return WIDTHS[self.size][0]

    @property
    def heads(self) -> int:
        """Attention heads; every published encoder's are 64 wide."""
        return self.width // 64

    def stride_at(self, image: Grid) -> int:
        """The sliding stride for this image size; 0 (two thirds of it) for any other size than the published one."""
        return self.stride if image == (self.image, self.image) else 0

    @property
    def palette(self) -> tuple[Color, ...] | None:
        """Colours by class id, if its training data has some."""
        path = HERE / f"{self.classes}_palette.json"
        return tuple((r, g, b) for r, g, b in json.loads(path.read_text())) if path.is_file() else None

    def fits(self, head: str, config: BeitConfig) -> bool:
        """Whether a checkpoint of this shape, with so many classes or visual tokens, can be this one."""
        known = (self.head, COUNTS[self.classes], WIDTHS[self.size], (self.image, self.image))
        count = config.vocab_size if head == "masked" else config.classes
        return known == (head, count, (config.width, config.depth), config.image_size)


@cache
def class_names(dataset: str) -> list[str]:
    """The names of a dataset's classes by id; long lists are kept compressed.

    Raises CheckpointError where a list is left out, as ImageNet's 22,000 names are of what a submitted job uploads.
    """
    packed, plain = HERE / f"{dataset}.txt.xz", HERE / f"{dataset}.txt"
    if packed.is_file():
        return lzma.decompress(packed.read_bytes()).decode().splitlines()
    if plain.is_file():
        return plain.read_text().splitlines()
    raise CheckpointError(f"the names of {dataset} are not in this upload: convert the file first, its folder has them")


def presets() -> dict[str, Preset]:
    """All known checkpoints by name."""
    return {name: _preset(name, **entry) for name, entry in json.loads((HERE / "presets.json").read_text()).items()}


def find_preset(path: Path) -> Preset | None:
    """The preset that a path is named after: as here, as a published file, or as a folder of the hub's cache.

    There only the repositories of those who published count: a name is anybody's to take.
    """
    path = path.resolve()
    theirs = tuple(f"models--{owner}--" for owner in OWNERS)
    cached = [part.split("--", 2)[2] for part in path.parts[-3:] if part.startswith(theirs)]
    names = {path.name, path.name.removesuffix(path.suffix), *cached}
    return next((preset for preset in presets().values() if names & {preset.name, *preset.files}), None)


def name_of(path: Path) -> str:
    """What a model without a name of its own is called: after its folder or file, in the hub's cache by its id."""
    for part in path.absolute().parts[-4:]:
        if part.startswith("models--"):
            return part.removeprefix("models--").replace("--", "/", 1)
    return path.resolve().name


def preset_named(name: str) -> Preset:
    """The preset of this name. Raises CheckpointError for an unknown one."""
    if name not in presets():
        raise CheckpointError(f"no preset is called {name!r}; there are {', '.join(presets())}")
    return presets()[name]


def _preset(name: str, pixels: Mapping[str, Any], **entry: Any) -> Preset:
    sizes: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in pixels.items()}
    return Preset(name=name, pixels=PixelSpec(**sizes), **entry)
