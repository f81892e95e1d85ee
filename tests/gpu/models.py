"""Seeded models of every head in the Hugging Face layout, saved without the reference implementation."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from beit_core import BeitConfig, PixelSpec
from beit_core.heads import Classifier, Encoder, MaskedTokenPredictor
from beit_core.segmentation import Segmenter
from pipeline.bench.made import fill, save_model

BASE: dict[str, Any] = {"image_size": 224, "use_relative_position_bias": True, "use_mean_pooling": True}
SMALL: dict[str, Any] = {
    **BASE, "image_size": 32, "patch_size": 8, "hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4,
    "intermediate_size": 128, "auxiliary_channels": 32, "vocab_size": 128,
}  # fmt: skip
HEADS: dict[str, tuple[str, dict[str, Any]]] = {
    "encoder": ("BeitModel", {}),
    "classifier": ("BeitForImageClassification", {"id2label": {str(n): f"class {n}" for n in range(1000)}}),
    "masked": ("BeitForMaskedImageModeling", {"use_mask_token": True, "use_mean_pooling": False}),
    "segmenter": ("BeitForSemanticSegmentation", {"id2label": {str(n): f"class {n}" for n in range(150)}}),
}


def save_seeded(folder: Path, head: str, *, small: bool) -> Path:
    """A folder with a model of this head: base size, or one that a CPU computes in a moment."""
    architecture, needs = HEADS[head]
    raw = {"model_type": "beit", "architectures": [architecture], **(SMALL if small else BASE), **needs}
    if head == "segmenter":
        raw |= {"image_size": 64 if small else 320, "out_indices": [1, 2, 3, 4] if small else [3, 5, 7, 11]}
    config = BeitConfig.from_hf(raw)
    torch.manual_seed(0)
    module = build(head, config).eval()
    save_model(folder, module, raw, PixelSpec(resize=config.image_size))
    return folder


def build(head: str, config: BeitConfig) -> nn.Module:
    """The module, with weights that all have a say."""
    module: nn.Module = {
        "encoder": lambda: Encoder(config),
        "classifier": lambda: Classifier(config),
        "masked": lambda: MaskedTokenPredictor(config),
        "segmenter": lambda: Segmenter(config, "hf"),
    }[head]()
    fill(module)
    return module
