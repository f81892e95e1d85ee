"""The card that travels with weights: what a model folder or file says about itself, without reading its tensors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from .config import PREFIXES, BeitConfig, CheckpointError, Semantics
from .files import digest, find_weights, read_json
from .pixels import LANCZOS, PixelSpec
from .published import TRAINED_EPS, Preset, find_preset

Head = Literal["encoder", "classifier", "masked", "segmenter", "dvae"]
Color = tuple[int, int, int]
HEADS: dict[str, Head] = {
    "Model": "encoder",
    "Backbone": "encoder",
    "ForImageClassification": "classifier",
    "ForMaskedImageModeling": "masked",
    "ForSemanticSegmentation": "segmenter",
}
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
    # Without a processor file: the class's defaults at the size the model was trained for.
    unsaid = {"size": raw["image_size"]} if "image_size" in raw else {}
    pixels = PixelSpec.from_hf(read_json(processor) if processor.is_file() else unsaid)
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
    from .foreign import infer_config, published_tensors  # here: a folder's card needs no torch

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
