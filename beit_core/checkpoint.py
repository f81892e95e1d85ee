"""From a card to a model: the modules that read a checkpoint's tensors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from torch import nn

from .card import Head, ModelCard, load_card, with_semantics
from .config import CheckpointError, Semantics
from .dvae import Dvae
from .foreign import published_tensors
from .heads import Classifier, Embedder, Encoder, MaskedTokenPredictor, Pool
from .segmentation import Inference, Segmenter
from .weights import fill

BUILDERS: dict[Head, Callable[[ModelCard], nn.Module]] = {
    "encoder": lambda card: Encoder(card.config),
    "classifier": lambda card: Classifier(card.config),
    "masked": lambda card: MaskedTokenPredictor(card.config),
    "segmenter": lambda card: Segmenter(card.config, card.semantics),
    "dvae": lambda card: Dvae(card.config),
}


def load_model(card: ModelCard) -> nn.Module:
    """The module that fits the card's head: frozen, float32, in evaluation mode."""
    return load_dvae(card) if card.head == "dvae" else _load(card, card.head, BUILDERS[card.head])


def load_embedder(card: ModelCard, pool: Pool | None = None, layer: int | None = None) -> Embedder:
    """Any checkpoint with an encoder -> one vector per picture; see Embedder for `pool` and `layer`."""
    if card.head == "dvae":
        raise CheckpointError(f"{card.name} is a tokenizer: it has no embeddings")
    model: Any = load_model(card)
    return Embedder(model.trunk, getattr(model, "pooler", None), pool, layer).eval()


def load_encoder(card: ModelCard) -> Encoder:
    """A checkpoint without a head."""
    return cast(Encoder, _load(card, "encoder", BUILDERS["encoder"]))


def load_classifier(card: ModelCard) -> Classifier:
    """A checkpoint with a class head."""
    return cast(Classifier, _load(card, "classifier", BUILDERS["classifier"]))


def load_masked(card: ModelCard) -> MaskedTokenPredictor:
    """A checkpoint of masked-image modelling."""
    return cast(MaskedTokenPredictor, _load(card, "masked", BUILDERS["masked"]))


def load_segmenter(
    card: ModelCard, semantics: Semantics | None = None, inference: Inference | None = None
) -> Segmenter:
    """A checkpoint of semantic segmentation; `semantics` overrides the card's, `inference` what goes with it."""
    card = with_semantics(card, semantics) if semantics else card
    return cast(Segmenter, _load(card, "segmenter", lambda card: Segmenter(card.config, card.semantics, inference)))


def load_dvae(source: ModelCard | str | Path) -> Dvae:
    """The tokenizer, with its decoder if the checkpoint has one."""
    card = source if isinstance(source, ModelCard) else load_card(source)
    if card.head != "dvae":
        raise CheckpointError(f"{card.name} is a {card.head} checkpoint; this needs a tokenizer (dVAE)")
    tensors = published_tensors(card.path)
    decoder = any(name.startswith("decoder.") for name in tensors)
    return cast(Dvae, fill(lambda: Dvae(card.config, decoder), tensors, card.name))


def _load(card: ModelCard, head: Head, build: Callable[[ModelCard], nn.Module]) -> nn.Module:
    if card.head != head:
        raise CheckpointError(f"{card.name} is a {card.head} checkpoint; this needs a {head} checkpoint")
    return fill(lambda: build(card), published_tensors(card.path), card.name)
