"""What a bench works on where none is given: JPEGs with the detail of photographs, a model of the base size."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from beit_core import PixelSpec

if TYPE_CHECKING:
    from torch import Tensor, nn

IMAGES, TARS = 2048, 16
PICTURE = (500, 375)  # width and height of a typical ImageNet file
BASE: Mapping[str, object] = {
    "model_type": "beit", "architectures": ["BeitModel"], "image_size": 224, "use_relative_position_bias": True,
    "use_mean_pooling": True,
}  # fmt: skip


def photo() -> bytes:
    """A seeded JPEG with the detail of a photograph, neither flat nor noise."""
    coarse = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
    picture = Image.fromarray(coarse).resize(PICTURE, Image.Resampling.BICUBIC)
    sink = io.BytesIO()
    picture.effect_spread(3).save(sink, "JPEG", quality=90)
    return sink.getvalue()


def make_tars(folder: Path, images: int = IMAGES) -> str:
    """TARS tars with so many such JPEGs in all; returns the folder."""
    folder.mkdir(parents=True)
    data = photo()
    for number in range(TARS):
        with tarfile.open(folder / f"{number:02d}.tar", "w") as tar:
            for image in range(images // TARS):
                info = tarfile.TarInfo(f"{image:05d}.jpg")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return str(folder)


def make_model(folder: Path) -> str:
    """A BEiT of the base size with seeded random weights, in the Hugging Face layout; returns the folder."""
    import torch

    import beit_core

    torch.manual_seed(0)
    module = beit_core.Encoder(beit_core.BeitConfig.from_hf(BASE))
    fill(module)
    save_model(folder, module, BASE, PixelSpec())
    return str(folder)


def fill(module: nn.Module) -> None:
    """Random weights that all have a say, in place: what a module is built with is whatever the memory held."""
    import torch

    with torch.no_grad():
        for name, weight in module.named_parameters():
            if weight.dim() < 2:
                weight.copy_(0.1 * torch.randn_like(weight) + (not name.endswith("bias")))
            else:
                weight.copy_(torch.randn_like(weight) * weight[0].numel() ** -0.5)


def save_model(folder: Path, module: nn.Module, config: Mapping[str, object], pixels: PixelSpec) -> None:
    """A folder with a module's weights under their published names, and what they are."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    save_file(dict(_published(module)), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "preprocessor_config.json").write_text(json.dumps(pixels.to_hf()))


def _published(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The module's tensors by their published names; query, key and value are apart there."""
    from beit_core.checkpoint import published_name

    for name, tensor in module.state_dict().items():
        if name.endswith(("relative_position_index", "num_batches_tracked")):
            continue
        published = published_name(name)
        if "{}" not in published:
            yield published, tensor.contiguous()
            continue
        parts = dict(zip(("query", "key", "value"), tensor.chunk(3), strict=True))
        if published.endswith("bias"):
            del parts["key"]  # it has none
        yield from ((published.format(part), value.contiguous()) for part, value in parts.items())
