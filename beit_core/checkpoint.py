"""From a card to a model: modules that take a checkpoint's tensors.

PUBLISHED_NAMES maps our module names to the names in Hugging Face's published files. D width.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .card import Head, ModelCard, load_card
from .config import BeitConfig
from .dvae import Dvae
from .errors import CheckpointError, CheckpointMismatch
from .heads import Classifier, Embedder, Encoder, MaskedTokenPredictor, Pool
from .names import TABLE
from .segmentation import Inference, Segmenter
from .weights import DERIVED, Weights, check_numbers, read_weights

BLOCK = r"trunk\.blocks\.(\d+)\."
LAYER = r"beit.encoder.layer.\1."
PUBLISHED_NAMES = (
    (r"trunk\.patches\.", "beit.embeddings.patch_embeddings.projection."),
    (r"trunk\.cls_token", "beit.embeddings.cls_token"),
    (r"trunk\.mask_token", "beit.embeddings.mask_token"),
    (r"trunk\.positions\.table", "beit.embeddings.position_embeddings"),
    (r"trunk\.bias\.shared", f"beit.encoder.{TABLE}"),
    (r"trunk\.bias\.tables\.(\d+)", rf"{LAYER}attention.attention.{TABLE}"),
    (rf"{BLOCK}norm1\.", rf"{LAYER}layernorm_before."),
    (rf"{BLOCK}norm2\.", rf"{LAYER}layernorm_after."),
    (rf"{BLOCK}scale([12])", rf"{LAYER}lambda_\2"),
    (rf"{BLOCK}attention\.qkv\.", rf"{LAYER}attention.attention.{{}}."),
    (rf"{BLOCK}attention\.out\.", rf"{LAYER}attention.output.dense."),
    (rf"{BLOCK}mlp\.0\.", rf"{LAYER}intermediate.dense."),
    (rf"{BLOCK}mlp\.2\.", rf"{LAYER}output.dense."),
    (r"trunk\.norm\.", "beit.layernorm."),
    (r"pooler\.norm\.", "beit.pooler.layernorm."),
    (r"norm\.", "layernorm."),
)
BUILDERS: dict[Head, Callable[[ModelCard], nn.Module]] = {
    "encoder": lambda card: Encoder(card.beit),
    "classifier": lambda card: Classifier(card.beit),
    "masked": lambda card: MaskedTokenPredictor(card.beit),
    "segmenter": lambda card: Segmenter(card.beit, card.semantics),
    "dvae": lambda card: Dvae(card.dvae),
}


def load_model(card: ModelCard, head: Head | None = None) -> Any:
    """The module that fits the card's head: frozen, float32, in evaluation mode.

    With `head` only a checkpoint of that kind will do. Raises CheckpointError, CheckpointMismatch.
    """
    if head and card.head != head:
        raise CheckpointError(f"{card.name} is a {card.head} checkpoint; this needs a {head} checkpoint")
    return fill(lambda: BUILDERS[card.head](card), read_weights(card.path), card.name)


def load_embedder(card: ModelCard, pool: Pool | None = None, layer: int | None = None) -> Embedder:
    """Any checkpoint with an encoder -> one vector per picture; see Embedder for `pool` and `layer`."""
    if not isinstance(card.config, BeitConfig):
        raise CheckpointError(f"{card.name} has no embeddings (it is a {card.head})")
    model = load_model(card)
    return Embedder(model.trunk, getattr(model, "pooler", None), pool, layer).eval()


def load_classifier(card: ModelCard) -> Classifier:
    """A checkpoint with a class head."""
    return load_model(card, "classifier")


def load_segmenter(card: ModelCard, inference: Inference | None = None) -> Segmenter:
    """A segmentation checkpoint; `inference` overrides the default of the card's semantics."""
    model: Segmenter = load_model(card, "segmenter")
    model.inference = inference or model.inference
    return model


def load_dvae(source: ModelCard | str | Path) -> Dvae:
    """The tokenizer, with its decoder if the checkpoint has one."""
    return load_model(source if isinstance(source, ModelCard) else load_card(source), "dvae")


def fill(build: Callable[[], nn.Module], weights: Weights, source: str) -> nn.Module:
    """Build a module and give it these tensors as float32, frozen, in evaluation mode.

    Raises CheckpointMismatch naming every missing, unexpected and wrongly shaped tensor, and CheckpointError for
    tensors that hold no floats or are not finite.
    """
    module = fitting(build, weights, source)
    state = {name: _assemble(name, weights.tensors) for name in module.state_dict()}
    module.load_state_dict(state, strict=True, assign=True)
    return module.requires_grad_(False).eval()


def fitting(build: Callable[[], nn.Module], weights: Weights, source: str) -> nn.Module:
    """Build a module on the meta device; check that the tensors fit it and are finite. Raises as `fill`."""
    with torch.device("meta"):
        module = build()
    faults = [
        f"{len(names)} {fault}: {', '.join(names)}"
        for fault, names in _misfits(_shapes(module), weights).items()
        if names
    ]
    if faults:
        raise CheckpointMismatch(f"{source} does not fit its configuration. {'; '.join(faults)}")
    check_numbers(weights, source)
    return module


def _shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """The shapes that a module expects, by published names."""
    shapes: dict[str, tuple[int, ...]] = {}
    for name, tensor in module.state_dict().items():
        if not DERIVED.search(name):
            parts = _parts(name)
            shapes |= {part: (len(tensor) // len(parts), *tensor.shape[1:]) for part in parts if part}
    return shapes


def _misfits(shapes: Mapping[str, tuple[int, ...]], weights: Weights) -> dict[str, list[str]]:
    """The tensors that do not fit these shapes, by the kind of fault, under their names in the file."""
    tensors = {name: tuple(tensor.shape) for name, tensor in weights.tensors.items() if not DERIVED.search(name)}
    return {
        "missing": [weights.in_file(name) for name in shapes if name not in tensors],
        "unexpected": [weights.in_file(name) for name in tensors if name not in shapes],
        "wrongly shaped": [
            f"{weights.in_file(name)} is {tensors[name]}, not {shape}"
            for name, shape in shapes.items()
            if name in tensors and tensors[name] != shape
        ],
    }


def published_name(name: str) -> str:
    """Our name of a tensor -> its published name, with `{}` in the place of query, key and value."""
    for ours, published in PUBLISHED_NAMES:
        if re.match(ours, name):
            return re.sub(f"^{ours}", published, name)
    return name


def _parts(name: str) -> list[str]:
    """Published names of the tensors that ours consists of; "" for the bias that keys do not have."""
    published = published_name(name)
    if "{}" not in published:
        return [published]
    key = published.format("key") if published.endswith("weight") else ""
    return [published.format("query"), key, published.format("value")]


def _assemble(name: str, tensors: Mapping[str, Tensor]) -> Tensor:
    if name.endswith("num_batches_tracked"):
        return torch.tensor(0)
    first, *others = _parts(name)
    parts = [tensors[first], *(tensors[part] if part else torch.zeros_like(tensors[first]) for part in others)]
    return (torch.cat(parts) if others else tensors[first]).float()
