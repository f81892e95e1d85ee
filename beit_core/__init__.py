"""Every published BEiT, exact, on torch alone.

card = load_card("beit-base-patch16-224")
model = load_classifier(card)
pixels = card.pixels.normalize(pictures)  # uint8 RGB (B, H, W, 3), resized and cropped as card.pixels says
pooled, logits = model(pixels)
names = [card.labels[i] for i in logits.argmax(-1)]
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .card import ModelCard, load_card
    from .checkpoint import load_classifier, load_dvae, load_embedder, load_model, load_segmenter
    from .config import BeitConfig, CheckpointError, CheckpointMismatch
    from .conversion import convert
    from .pixels import PixelSpec
    from .published import Preset, presets
    from .segmentation import label_map

__all__ = [
    "BeitConfig", "CheckpointError", "CheckpointMismatch", "ModelCard", "PixelSpec", "Preset", "convert", "label_map",
    "load_card", "load_classifier", "load_dvae", "load_embedder", "load_model", "load_segmenter", "presets",
]  # fmt: skip
# Those that need torch come last.
_HOMES = ("config", "pixels", "published", "card", "segmentation", "checkpoint", "conversion")


def __getattr__(name: str) -> Any:
    """Public names on first use: who only decodes pictures, or reads a card, must not wait for torch."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    homes = (import_module(f".{home}", __name__) for home in _HOMES)
    globals()[name] = value = next(getattr(home, name) for home in homes if hasattr(home, name))
    return value
