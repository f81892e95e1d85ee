"""Every published BEiT, exact, on torch alone.

card = load_card("beit-base-patch16-224")
model = load_classifier(card)
pixels = card.pixels.normalize(pictures)  # uint8 RGB (B, H, W, 3), resized and cropped as card.pixels says
pooled, logits = model(pixels)
names = [card.labels[i] for i in logits.argmax(-1)]
"""

from .checkpoint import (
    ModelCard,
    load_card,
    load_classifier,
    load_dvae,
    load_embedder,
    load_encoder,
    load_masked,
    load_model,
    load_segmenter,
)
from .config import BeitConfig, CheckpointError, CheckpointMismatch
from .convert import convert
from .pixels import PixelSpec
from .presets import Preset, presets
from .segmentation import label_map

__all__ = [
    "BeitConfig",
    "CheckpointError",
    "CheckpointMismatch",
    "ModelCard",
    "PixelSpec",
    "Preset",
    "convert",
    "label_map",
    "load_card",
    "load_classifier",
    "load_dvae",
    "load_embedder",
    "load_encoder",
    "load_masked",
    "load_model",
    "load_segmenter",
    "presets",
]
