"""From a folder or a file to a model: the card that travels with the weights, and the modules that read it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

from torch import Tensor, nn

from .config import BeitConfig, CheckpointError, Semantics
from .dvae import Dvae
from .foreign import infer_config, read_foreign
from .heads import Classifier, Embedder, Encoder, MaskedTokenPredictor, Pool
from .pixels import LANCZOS, PixelSpec
from .published import TRAINED_EPS, Preset, find_preset
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
DVAE = "dall-e-dvae"
CARD_FILE = "card.json"  # what a converted folder knows beyond Hugging Face's files


@dataclass(frozen=True)
class ModelCard:
    """What travels with weights: sizes, pixel statistics, label names by class id, and whose semantics they follow.

    `fingerprint` is the sha256 (hex) of the weights and of everything else here that changes answers, wherever the
    files lie. Sizes of a dVAE: `width` its narrowest group, `mlp_width` the decoder's entry, `depth` blocks a group.
    """

    path: Path
    name: str
    head: Head
    config: BeitConfig
    pixels: PixelSpec
    labels: tuple[str, ...]
    palette: tuple[Color, ...] | None
    semantics: Semantics
    fingerprint: str


def load_card(path: str | Path, semantics: Semantics | None = None) -> ModelCard:
    """Read what a model folder, or a published weights file, says about itself; its tensors are not kept.

    `original` semantics (training's) hold for converted folders and for published checkpoints, recognised by name
    and shape; `hf` (transformers' own) for every other folder. `semantics` overrides that.
    Raises CheckpointError, in one sentence, when the model cannot be used.
    """
    source = Path(path)
    if source.is_file():
        return _card_of_file(source, semantics)
    if not source.is_dir():
        raise CheckpointError(f"model {source} does not exist")
    raw = read_json(source / "config.json")
    files = find_weights(source)
    if raw.get("model_type") == DVAE:
        return _finish(source, files, dvae_card(source, raw))
    own = read_json(source / CARD_FILE) if (source / CARD_FILE).is_file() else {}
    processor = source / "preprocessor_config.json"
    pixels = PixelSpec.from_hf(read_json(processor) if processor.is_file() else {})
    card = card_from_hf(source, raw, pixels)
    preset = None if own else fitting_preset(find_preset(source), card)
    meant: Semantics = semantics or own.get("semantics") or ("original" if preset else "hf")
    if preset is not None and meant == "original":
        card = as_published(card, preset)
    palette = own.get("palette")
    if palette is not None:
        card = replace(card, palette=tuple((r, g, b) for r, g, b in palette))
    config = replace(card.config, stride=own.get("stride", card.config.stride))
    card = replace(card, name=own.get("name", card.name), config=config)
    return _finish(source, files, with_semantics(card, meant))


def card_from_hf(source: Path, raw: Mapping[str, Any], pixels: PixelSpec) -> ModelCard:
    """The card of a Hugging Face configuration as it stands, not yet fingerprinted."""
    head, architecture = _head(raw, source)
    config = BeitConfig.from_hf(raw, pooler=not architecture.endswith("Backbone"))
    labels = _labels(raw, config) if head in ("classifier", "segmenter") else ()
    return ModelCard(source, source.resolve().name, head, config, pixels, labels, None, "hf", "")


def fitting_preset(preset: Preset | None, card: ModelCard) -> Preset | None:
    """The preset, if the checkpoint has its shape."""
    return preset if preset is not None and preset.fits(card.head, card.config) else None


def as_published(card: ModelCard, preset: Preset) -> ModelCard:
    """The card with what training used where Hugging Face's files say otherwise."""
    config = replace(card.config, layer_norm_eps=TRAINED_EPS, stride=preset.stride)
    fits = len(preset.labels) == len(card.labels)
    labels = preset.labels if fits and card.labels[:1] == ("LABEL_0",) else card.labels
    palette = preset.palette if fits else None
    return replace(card, name=preset.name, config=config, pixels=preset.pixels, labels=labels, palette=palette)


def with_semantics(card: ModelCard, semantics: Semantics) -> ModelCard:
    """The card read with these semantics: transformers resamples position bias its own way."""
    resampling: Literal["bilinear", "geometric"] = "geometric" if semantics == "original" else "bilinear"
    return replace(card, semantics=semantics, config=replace(card.config, bias_resampling=resampling))


def _card_of_file(source: Path, semantics: Semantics | None) -> ModelCard:
    raw = infer_config(published_tensors(source))
    if raw["model_type"] == DVAE:
        return _finish(source, [source], dvae_card(source, raw))
    card = card_from_hf(source, raw, PixelSpec())
    preset = find_preset(source)
    if preset is None or fitting_preset(preset, card) is None:
        known = "no published name" if preset is None else f"the name of {preset.name} but not its shape"
        raise CheckpointError(f"{source} has {known}, so its pixels are unknown: convert it, naming a preset")
    return _finish(source, [source], with_semantics(as_published(card, preset), semantics or "original"))


def dvae_card(source: Path, raw: Mapping[str, Any]) -> ModelCard:
    """The card of a tokenizer, not yet fingerprinted."""
    side = int(raw["image_size"])
    config = BeitConfig(
        width=int(raw["n_hid"]),
        depth=int(raw["n_blk_per_group"]),
        heads=1,
        mlp_width=int(raw["n_init"]),
        image_size=(side, side),
        patch_size=8,
        vocab_size=int(raw["vocab_size"]),
        pooler=False,
    )
    pixels = PixelSpec((side, side), resample=LANCZOS, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    return ModelCard(source, source.resolve().name, "dvae", config, pixels, (), None, "original", "")


def _finish(source: Path, files: list[Path], card: ModelCard) -> ModelCard:
    meaning = {key: value for key, value in asdict(card).items() if key not in ("path", "name", "fingerprint")}
    return replace(card, path=source, fingerprint=digest(files, json.dumps(meaning, sort_keys=True)))


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


def published_tensors(source: Path) -> dict[str, Tensor]:
    """All tensors of a model by the names that `weights.DISK_NAMES` speaks of."""
    if source.is_file():
        return with_prefix(read_foreign(source))
    tensors: dict[str, Tensor] = {}
    for part in find_weights(source):
        tensors.update(read_tensors(part))
    return with_prefix(tensors)


def with_prefix(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names that start the encoder's with `beit.`, whatever the family calls it and if a bare one calls it nothing."""
    if any(name.startswith(("encoder.blocks.", "decoder.blocks.")) for name in tensors):
        return dict(tensors)  # a tokenizer
    for prefix in PREFIXES.values():
        if any(name.startswith(prefix) for name in tensors):
            return {name.replace(prefix, "beit.", 1): tensor for name, tensor in tensors.items()}
    return {f"beit.{name}": tensor for name, tensor in tensors.items()}


def _head(raw: Mapping[str, Any], source: Path) -> tuple[Head, str]:
    kind = raw.get("model_type", "beit")
    if kind not in PREFIXES:
        raise CheckpointError(f"{source} is a {kind!r} model; supported are {', '.join([*PREFIXES, DVAE])}")
    names = raw.get("architectures") or ["(none)"]
    for ending, head in HEADS.items():
        if names[0] in (f"Beit{ending}", f"Data2VecVision{ending}"):
            return head, names[0]
    raise CheckpointError(f"{source}/config.json: architecture {names[0]} is not one of Beit{', Beit'.join(HEADS)}")


def _labels(raw: Mapping[str, Any], config: BeitConfig) -> tuple[str, ...]:
    """Names by class id.

    The published ImageNet-22k lists lost two entries without being renumbered, so that ids have gaps: what follows
    a gap moves up, which gives every class its own name back.
    """
    names = {int(number): str(name) for number, name in (raw.get("id2label") or {}).items()}
    if not names:
        return tuple(f"LABEL_{number}" for number in range(config.classes))
    return tuple(names[number] for number in sorted(names))
