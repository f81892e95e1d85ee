"""What is known about published checkpoints beyond their tensors: pixels, label names, accuracy, licence.

Names and colours come from lists shipped next to this file: ImageNet from timm (Apache-2.0), ADE20K from
mmsegmentation (Apache-2.0).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from .config import BeitConfig, CheckpointError
from .pixels import PixelSpec, Triple

HERE = Path(__file__).parent
STATISTICS: dict[str, tuple[Triple, Triple]] = {
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    # As mmsegmentation writes them, on 0-255.
    "ade20k": (
        (123.675 / 255, 116.28 / 255, 103.53 / 255),
        (58.395 / 255, 57.12 / 255, 57.375 / 255),
    ),
}
TRAINED_EPS = 1e-6  # published Hugging Face configurations say 1e-12
WIDTHS = {"base": (768, 12), "large": (1024, 24)}


@dataclass(frozen=True)
class Preset:
    """One published checkpoint, with the pixels and the sliding stride its published accuracy was measured with."""

    name: str
    head: str
    size: str
    image: int
    pixels: PixelSpec
    labels: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...] | None
    stride: int
    license: str
    files: tuple[str, ...]  # names, without endings, under which it is published elsewhere
    accuracy: dict[str, float]  # top1, top5, miou in per cent, as published

    def fits(self, head: str, config: BeitConfig) -> bool:
        """Whether a checkpoint of this shape can be this one."""
        known = (self.head, WIDTHS[self.size], (self.image, self.image))
        return known == (head, (config.width, config.depth), config.image_size)


@cache
def presets() -> dict[str, Preset]:
    """All known checkpoints by name."""
    return {name: _preset(name, **entry) for name, entry in json.loads((HERE / "presets.json").read_text()).items()}


def find_preset(path: Path) -> Preset | None:
    """The preset a path speaks of: a preset's own name, a published file's, or the folder of a hub's cache."""
    path = path.resolve()
    cached = [part.rpartition("--")[2] for part in path.parts[-3:] if part.startswith("models--")]
    names = {path.name, path.name.removesuffix(path.suffix), *cached}
    return next((preset for preset in presets().values() if names & {preset.name, *preset.files}), None)


def preset_named(name: str) -> Preset:
    """Raises CheckpointError for a name nobody published."""
    if name not in presets():
        raise CheckpointError(f"no preset is called {name!r}; there are {', '.join(presets())}")
    return presets()[name]


def _preset(name: str, *, resize: Any, resample: int, stats: str, **entry: Any) -> Preset:
    crop = (entry["crop"], entry["crop"]) if "crop" in entry else None
    mean, std = STATISTICS[stats]
    size = tuple(resize) if isinstance(resize, list) else resize
    labels, palette = _names(entry.get("labels"))
    return Preset(
        name=name,
        head=entry["head"],
        size=entry["size"],
        image=entry["image"],
        pixels=PixelSpec(size, entry.get("longest"), crop, resample, mean=mean, std=std),
        labels=labels,
        palette=palette,
        stride=entry.get("stride", 0),
        license=entry["license"],
        files=tuple(entry["files"]),
        accuracy={key: entry[key] for key in ("top1", "top5", "miou") if key in entry},
    )


@cache
def _names(kind: str | None) -> tuple[tuple[str, ...], tuple[tuple[int, int, int], ...] | None]:
    if kind is None:
        return (), None
    if kind == "ade20k":
        table = json.loads((HERE / "ade20k.json").read_text())
        return tuple(table["labels"]), tuple((r, g, b) for r, g, b in table["palette"])
    return tuple((HERE / f"{kind}.txt").read_text().splitlines()), None
