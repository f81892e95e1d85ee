"""From a folder to a model: the card that travels with the weights, and the modules that read it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, cast

from torch import Tensor, nn

from .config import BeitConfig, CheckpointError, Semantics
from .heads import Classifier, Embedder, Encoder, MaskedTokenPredictor, Pool
from .pixels import PixelSpec
from .segmentation import Inference, Segmenter
from .weights import digest, fill, find_weights, read_json, read_tensors

Head = Literal["encoder", "classifier", "masked", "segmenter", "dvae"]
Color = tuple[int, int, int]
HEADS: dict[str, Head] = {
    "Model": "encoder",
    "Backbone": "encoder",
    "ForImageClassification": "classifier",
    "ForMaskedImageModeling": "masked",
    "ForSemanticSegmentation": "segmenter",
}
# transformers' prefix in front of the encoder's tensors, by model_type.
PREFIXES = {"beit": "beit.", "data2vec-vision": "data2vec_vision."}


@dataclass(frozen=True)
class ModelCard:
    """What travels with weights: sizes, pixel statistics, label names by class id, and whose semantics they follow."""

    path: Path
    name: str
    head: Head
    config: BeitConfig
    pixels: PixelSpec
    labels: tuple[str, ...]
    palette: tuple[Color, ...] | None
    semantics: Semantics
    fingerprint: str


def load_card(path: str | Path) -> ModelCard:
    """Read what a model folder says about itself; its tensors are hashed, not kept.

    Raises CheckpointError when the folder cannot be used, in one sentence.
    """
    folder = Path(path)
    if not folder.exists():
        raise CheckpointError(f"model {folder} does not exist")
    raw = read_json(folder / "config.json")
    processor = folder / "preprocessor_config.json"
    pixels = PixelSpec.from_hf(read_json(processor) if processor.is_file() else {})
    head, architecture = _head(raw, folder)
    config = BeitConfig.from_hf(raw, pooler=not architecture.endswith("Backbone"))
    labels = _labels(raw, config) if head in ("classifier", "segmenter") else ()
    meaning = json.dumps([head, asdict(config), asdict(pixels), labels, None, "hf"])
    fingerprint = digest(find_weights(folder), meaning)
    return ModelCard(folder, folder.resolve().name, head, config, pixels, labels, None, "hf", fingerprint)


def load_model(card: ModelCard) -> nn.Module:
    """The module that fits the card's head."""
    loaders: dict[Head, Callable[[ModelCard], nn.Module]] = {
        "encoder": load_encoder,
        "classifier": load_classifier,
        "masked": load_masked,
        "segmenter": load_segmenter,
    }
    return loaders[card.head](card)


def load_embedder(card: ModelCard, pool: Pool | None = None, layer: int | None = None) -> Embedder:
    """Any checkpoint with an encoder -> one vector per picture; see Embedder for `pool` and `layer`."""
    if card.head == "dvae":
        raise CheckpointError(f"{card.name} is a tokenizer: it has no embeddings")
    model: Any = load_model(card)
    return Embedder(model.trunk, getattr(model, "pooler", None), pool, layer).eval()


def load_encoder(card: ModelCard) -> Encoder:
    """A checkpoint without a head."""
    return cast(Encoder, _load(card, "encoder", Encoder))


def load_classifier(card: ModelCard) -> Classifier:
    """A checkpoint with a class head."""
    return cast(Classifier, _load(card, "classifier", Classifier))


def load_masked(card: ModelCard) -> MaskedTokenPredictor:
    """A checkpoint of masked-image modelling."""
    return cast(MaskedTokenPredictor, _load(card, "masked", MaskedTokenPredictor))


def load_segmenter(
    card: ModelCard, semantics: Semantics | None = None, inference: Inference | None = None
) -> Segmenter:
    """A checkpoint of semantic segmentation; `semantics` overrides the card's."""
    return cast(
        Segmenter, _load(card, "segmenter", lambda config: Segmenter(config, semantics or card.semantics, inference))
    )


def _load(card: ModelCard, head: Head, build: Callable[[BeitConfig], nn.Module]) -> nn.Module:
    if card.head != head:
        raise CheckpointError(f"{card.name} is a {card.head} checkpoint; this needs a {head} checkpoint")
    return fill(lambda: build(card.config), published_tensors(card.path), card.name)


def published_tensors(folder: Path) -> dict[str, Tensor]:
    """All tensors of a model folder by the names that `weights.DISK_NAMES` speaks of."""
    tensors: dict[str, Tensor] = {}
    for part in find_weights(folder):
        tensors.update(read_tensors(part))
    return _with_prefix(tensors, read_json(folder / "config.json").get("model_type", "beit"))


def _with_prefix(tensors: Mapping[str, Tensor], model_type: str) -> dict[str, Tensor]:
    prefix = PREFIXES[model_type]
    if not any(name.startswith(prefix) for name in tensors):
        return {f"beit.{name}": tensor for name, tensor in tensors.items()}  # a bare encoder
    return {name.replace(prefix, "beit.", 1): tensor for name, tensor in tensors.items()}


def _head(raw: Mapping[str, Any], folder: Path) -> tuple[Head, str]:
    kind = raw.get("model_type", "beit")
    if kind not in PREFIXES:
        raise CheckpointError(f"{folder} is a {kind!r} model; supported are {', '.join(PREFIXES)}")
    names = raw.get("architectures") or ["(none)"]
    for ending, head in HEADS.items():
        if names[0] in (f"Beit{ending}", f"Data2VecVision{ending}"):
            return head, names[0]
    raise CheckpointError(f"{folder}/config.json: architecture {names[0]} is not one of Beit{', Beit'.join(HEADS)}")


def _labels(raw: Mapping[str, Any], config: BeitConfig) -> tuple[str, ...]:
    """Names by class id.

    The published ImageNet-22k lists lost two entries without being renumbered, so that ids have gaps: what follows
    a gap moves up, which gives every class its own name back.
    """
    names = {int(number): str(name) for number, name in (raw.get("id2label") or {}).items()}
    if not names:
        return tuple(f"LABEL_{number}" for number in range(config.classes))
    return tuple(names[number] for number in sorted(names))
