"""Every published BEiT, exact, on torch alone.

card = load_card("beit-base-patch16-224")
model = load_classifier(card)
pixels = card.pixels.normalize(pictures)  # uint8 RGB (B, H, W, 3), NumPy or a tensor, prepared as card.pixels says
pooled, logits = model(pixels)
names = [card.labels[i] for i in logits.argmax(-1)]
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .card import ModelCard, load_card
    from .checkpoint import load_classifier, load_dvae, load_embedder, load_model, load_segmenter
    from .compiled import compile_model
    from .config import BeitConfig, DvaeConfig
    from .conversion import Choices, convert
    from .errors import CheckpointError, CheckpointMismatch, NotFinite
    from .heads import Encoder, top_k
    from .normalization import normalize
    from .packed import pack
    from .pixels import PixelSpec
    from .published import Preset, presets
    from .segmentation import label_map
    from .shapes import config_of_file
    from .weights import read_weights

__all__ = [
    "BeitConfig", "CheckpointError", "CheckpointMismatch", "Choices", "DvaeConfig", "Encoder", "ModelCard",
    "NotFinite", "PixelSpec", "Preset", "compile_model", "config_of_file", "convert", "label_map", "load_card",
    "load_classifier", "load_dvae", "load_embedder", "load_model", "load_segmenter", "normalize", "pack", "presets",
    "read_weights", "top_k",
]  # fmt: skip

# Public names and their modules. Importing this package imports none of them: a process that only decodes pictures,
# or reads a card, must not wait two seconds for torch. Modules that can do without torch reach the others through
# this table too.
_MODULES = {
    "BeitConfig": "config",
    "CheckpointError": "errors",
    "CheckpointMismatch": "errors",
    "DvaeConfig": "config",
    "ModelCard": "card",
    "NotFinite": "errors",
    "PixelSpec": "pixels",
    "Preset": "published",
    "load_card": "card",
    "presets": "published",
    # These import torch.
    "Choices": "conversion",
    "compile_model": "compiled",
    "Encoder": "heads",
    "config_of_file": "shapes",
    "convert": "conversion",
    "label_map": "segmentation",
    "load_classifier": "checkpoint",
    "load_dvae": "checkpoint",
    "load_embedder": "checkpoint",
    "load_model": "checkpoint",
    "load_segmenter": "checkpoint",
    "normalize": "normalization",
    "pack": "packed",
    "read_weights": "weights",
    "top_k": "heads",
}


def __getattr__(name: str) -> Any:
    """A public name, imported on first use."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value = getattr(import_module(f".{_MODULES[name]}", __name__), name)
    return value
