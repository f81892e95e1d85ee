"""From decoded picture to model input: the preprocessing that belongs to the weights.

B images, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import beit_core

from .config import pair
from .errors import CheckpointError
from .schema import PROCESSOR, check

if TYPE_CHECKING:
    from torch import Tensor

Triple = tuple[float, float, float]
LANCZOS, BILINEAR, BICUBIC = 1, 2, 3  # Pillow's numbers, which preprocessor_config.json uses too
OURS = ("Beit", "ViT", "Data2VecVision")  # classes whose steps are those of PixelSpec; they pass other fields by
# Fields of other classes that add a step or change one, and classes that do so without a field of their own.
STEPS = (
    "crop_pct", "do_align_long_axis", "do_crop_margin", "do_flip_channel_order", "do_pad", "do_thumbnail",
    "ensure_multiple_of", "include_top", "keep_aspect_ratio", "rescale_offset", "size_divisor",
)  # fmt: skip
OTHERS = ("ConvNext", "Levit", "Perceiver")


class Array(Protocol):
    """What a NumPy array is, seen from here."""

    def __array__(self) -> Any: ...


@dataclass(frozen=True)
class PixelSpec:
    """How a picture becomes pixels: resize, centre crop, rescale, normalise, in this order.

    resize    (height, width): squash to it; int: shorter side, ratio kept; None: leave as it is
    longest   cap on the longer side of a ratio-keeping resize (rounds as mmsegmentation does)
    crop      (height, width) cut from the centre, zeros where the picture is smaller; None: no crop
    resample  Pillow's filter number
    rescale   factor on 0-255 values, None for none
    """

    resize: tuple[int, int] | int | None = (224, 224)
    longest: int | None = None
    crop: tuple[int, int] | None = None
    resample: int = BICUBIC
    rescale: float | None = 1 / 255
    mean: Triple = (0.5, 0.5, 0.5)
    std: Triple = (0.5, 0.5, 0.5)

    @property
    def size(self) -> tuple[int, int] | None:
        """(height, width) that every picture ends up with; None where it depends on the picture."""
        return self.crop or (self.resize if isinstance(self.resize, tuple) else None)

    def target(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) to resize a picture of this height and width to, before the crop."""
        if self.resize is None:
            return height, width
        if isinstance(self.resize, tuple):
            return self.resize
        short, long = sorted((height, width))
        if self.longest is None:
            # transformers and torchvision truncate the longer side.
            cut = int(self.resize * long / short)
            return (self.resize, cut) if height <= width else (cut, self.resize)
        factor = min(self.longest / long, self.resize / short)
        return max(1, int(height * factor + 0.5)), max(1, int(width * factor + 0.5))

    def check_least(self, side: int, where: str | Path) -> None:
        """Raise CheckpointError, naming `where`, if every picture ends up with fewer pixels than `side` in a row."""
        if self.size and min(self.size) < side:
            height, width = self.size
            fault = f"pictures become {height} x {width} pixels, but the model takes at least {side} each way"
            raise CheckpointError(f"{where}: {fault}: correct the size in its preprocessor_config.json")

    def normalize(self, pixels_BHWC: Tensor | Array) -> Tensor:
        """uint8 RGB (B, H, W, 3), 0-255, a tensor or a NumPy array -> float32 (B, 3, H, W) on the same device."""
        return beit_core.normalize(self, pixels_BHWC)

    @classmethod
    def from_hf(cls, raw: Mapping[str, Any], where: str | Path = "preprocessor_config.json") -> PixelSpec:
        """Read a `preprocessor_config.json`, old or new style; {} gives the defaults of transformers' BEiT class.

        Raises CheckpointError, naming `where` and the field, for values of a wrong type or out of range, and for a
        processor class with unknown defaults that leaves some fields out, or with steps that are not those of above.
        """
        check(raw, PROCESSOR, where)
        kind, normalise = _known_kind(raw, where), raw.get("do_normalize", True)
        return cls(
            resize=_size(raw.get("size", 224)) if raw.get("do_resize", True) else None,
            longest=raw.get("longest_edge"),
            crop=pair(_size(raw.get("crop_size") or 224)) if raw.get("do_center_crop") else None,
            resample=int(raw.get("resample", BILINEAR if kind.startswith("ViT") else BICUBIC)),
            rescale=float(raw.get("rescale_factor", 1 / 255)) if raw.get("do_rescale", True) else None,
            mean=_triple(raw.get("image_mean", 0.5)) if normalise else (0.0, 0.0, 0.0),
            std=_triple(raw.get("image_std", 0.5)) if normalise else (1.0, 1.0, 1.0),
        )

    @classmethod
    def stated(cls, raw: Mapping[str, Any], where: str | Path) -> PixelSpec:
        """Read a file that a user gives, as `from_hf`, with no default but those of the class that it names.

        Raises CheckpointError, as there, and for a file that names no class and lacks the size or the statistics.
        """
        spec = cls.from_hf(raw, where)
        needed = {"size": "do_resize", "image_mean": "do_normalize", "image_std": "do_normalize"}
        lacking = [name for name, switch in needed.items() if name not in raw and raw.get(switch, True)]
        if lacking and not (raw.get("image_processor_type") or raw.get("feature_extractor_type")):
            advice = "--processor takes a preprocessor_config.json, so name that file, or add what it lacks"
            raise CheckpointError(f"{where} has no {', '.join(lacking)}: {advice}")
        return spec

    def to_hf(self) -> dict[str, Any]:
        """The `preprocessor_config.json` that `from_hf` reads as this."""
        size = {"shortest_edge": self.resize} if isinstance(self.resize, int) else _hw(self.resize or (224, 224))
        return {
            "image_processor_type": "BeitImageProcessor",
            "do_resize": self.resize is not None,
            "size": size,
            "longest_edge": self.longest,
            "resample": self.resample,
            "do_center_crop": self.crop is not None,
            "crop_size": _hw(self.crop or (224, 224)),
            "do_rescale": self.rescale is not None,
            "rescale_factor": 1 / 255 if self.rescale is None else self.rescale,
            "do_normalize": True,
            "image_mean": list(self.mean),
            "image_std": list(self.std),
        }


def _hw(size: tuple[int, int]) -> dict[str, int]:
    return {"height": size[0], "width": size[1]}


def _size(value: Any) -> tuple[int, int] | int:
    if isinstance(value, Mapping):
        if value.get("shortest_edge") is not None:
            return int(value["shortest_edge"])
        return int(value["height"]), int(value["width"])
    return pair(value)


def _triple(value: Any) -> Triple:
    first, second, third = [value] * 3 if isinstance(value, (int, float)) else value
    return float(first), float(second), float(third)


def _known_kind(raw: Mapping[str, Any], where: str | Path) -> str:
    """The processor's class, if its defaults are known or not needed."""
    kind = str(raw.get("image_processor_type") or raw.get("feature_extractor_type") or "BeitImageProcessor")
    if kind.startswith(OURS):
        return kind
    unsaid = [name for name in ("size", "resample", "image_mean", "image_std") if name not in raw]
    if unsaid:
        raise CheckpointError(f"{where} is for {kind}, whose defaults are not known: add {', '.join(unsaid)}")
    _check_steps(raw, kind, where)
    return kind


def _check_steps(raw: Mapping[str, Any], kind: str, where: str | Path) -> None:
    """Raise CheckpointError for a class that makes pixels in other steps than a PixelSpec's."""
    # A number of 1, such as a size_divisor's, changes nothing.
    steps = [name for name in STEPS if raw.get(name) and (raw[name] is True or raw[name] != 1)]
    if steps or kind.startswith(OTHERS):
        named = f" ({', '.join(steps)})" if steps else ""
        advice = "write what they amount to as the file of a BeitImageProcessor"
        raise CheckpointError(f"{where} is for {kind}, which has steps that are not known here{named}: {advice}")
