"""The card that travels with weights: what a model folder or file says about itself, without reading its tensors."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from .config import PREFIXES, BeitConfig, BiasResampling, CheckpointError, Semantics
from .files import digest, find_weights, read_json
from .pixels import LANCZOS, PixelSpec
from .published import TRAINED_EPS, Color, Preset, find_preset

Head = Literal["encoder", "classifier", "masked", "segmenter", "dvae"]
HEADS: dict[str, Head] = {
    "Model": "encoder",
    "Backbone": "encoder",
    "ForImageClassification": "classifier",
    "ForMaskedImageModeling": "masked",
    "ForSemanticSegmentation": "segmenter",
}
DVAE = "dall-e-dvae"
CONFIG_FILE, PROCESSOR_FILE = "config.json", "preprocessor_config.json"
CARD_FILE = "card.json"  # what a converted folder knows beyond Hugging Face's files


@dataclass(frozen=True)
class ModelCard:
    """What travels with weights: sizes, pixel statistics, label names by class id, and whose semantics they follow.

    `fingerprint` is the sha256 (hex) of the weights and of everything else here that changes answers, wherever the
    files lie. Sizes of a dVAE: `width` its narrowest group, `depth` blocks a group, `mlp_width` the decoder's entry,
    0 where there is no decoder.
    """

    path: Path
    name: str
    head: Head
    config: BeitConfig
    pixels: PixelSpec
    labels: tuple[str, ...] = ()
    palette: tuple[Color, ...] | None = None
    semantics: Semantics = "original"
    fingerprint: str = ""


def load_card(path: str | Path, semantics: Semantics | None = None) -> ModelCard:
    """Read what a model folder, or a published weights file, says about itself; its tensors are not kept.

    `original` semantics (training's) hold for converted folders and for published checkpoints, recognised by name
    and shape; `hf` (transformers' own) for every other folder. `semantics` overrides that.
    Raises CheckpointError, in one sentence, when the model cannot be used.
    """
    source = Path(path)
    if not source.exists():
        raise CheckpointError(f"model {source} does not exist")
    if source.is_dir():
        raw = read_json(source / CONFIG_FILE)
    else:
        from .foreign import infer_config, published_tensors  # here: a folder's card needs no torch

        raw = infer_config(published_tensors(source))
    weights, card = find_weights(source), describe(source, raw, semantics=semantics)
    meaning = {key: value for key, value in asdict(card).items() if key not in ("path", "name", "fingerprint")}
    return replace(card, fingerprint=digest(weights, json.dumps(meaning, sort_keys=True)))


def describe(
    source: Path,
    raw: Mapping[str, Any],
    preset: Preset | None = None,
    processor: Mapping[str, Any] | None = None,
    semantics: Semantics | None = None,
) -> ModelCard:
    """The card of a folder or file whose `config.json` is, or would be, `raw`; without a fingerprint.

    `preset` and `processor` (the content of a `preprocessor_config.json`) are what the caller knows better.
    """
    if raw.get("model_type") == DVAE:
        config = BeitConfig.from_hf(raw, pooler=False)
        spec = PixelSpec(config.image_size, resample=LANCZOS, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
        return ModelCard(source, source.resolve().name, "dvae", config, spec)
    by_hf = (source / CONFIG_FILE).is_file()
    own = {} if preset else read_json(source / CARD_FILE, absent={})
    # Without a processor file: the class's defaults at the size the model was trained for.
    unsaid = {"size": raw["image_size"]} if "image_size" in raw else {}
    pixels = PixelSpec.from_hf(processor or read_json(source / PROCESSOR_FILE, absent=unsaid))
    card = _card_from_hf(source, raw, pixels)
    named = None if own else find_preset(source)
    preset = preset or (named if named and named.fits(card.head, card.config) else None)
    if not (preset or processor or by_hf):
        known = f"the name of {named.name} but not its shape" if named else "no published name"
        raise CheckpointError(
            f"{source} has {known}, so its pixels are unknown: convert it, with --preset naming a published "
            f"checkpoint that shares them or with a {PROCESSOR_FILE} (--processor)"
        )
    if preset and not processor and card.config.image_size != (preset.image, preset.image):
        raise CheckpointError(f"{source} is not for {preset.name}'s {preset.image} pixels: give its --processor too")
    meant: Semantics = semantics or own.get("semantics") or ("original" if preset or not by_hf else "hf")
    if preset and (meant == "original" or not by_hf):
        card = _as_published(card, preset)
    if processor:
        card = replace(card, pixels=pixels)
    return with_semantics(_as_converted(card, own) if own else card, meant)


def with_semantics(card: ModelCard, semantics: Semantics) -> ModelCard:
    """The card read with these semantics: transformers resamples position bias its own way."""
    resampling: BiasResampling = "geometric" if semantics == "original" else "bilinear"
    return replace(card, semantics=semantics, config=replace(card.config, bias_resampling=resampling))


def _as_published(card: ModelCard, preset: Preset) -> ModelCard:
    """The card with what training used where Hugging Face's files say otherwise."""
    config = replace(card.config, layer_norm_eps=TRAINED_EPS, stride=preset.stride)
    fits = len(preset.labels) == len(card.labels)
    labels = preset.labels if fits and card.labels[:1] == ("LABEL_0",) else card.labels
    name, palette = preset.name if preset.fits(card.head, config) else card.name, preset.palette if fits else None
    return replace(card, name=name, config=config, pixels=preset.pixels, labels=labels, palette=palette)


def _as_converted(card: ModelCard, own: Mapping[str, Any]) -> ModelCard:
    palette = None if own["palette"] is None else tuple((r, g, b) for r, g, b in own["palette"])
    return replace(card, name=own["name"], palette=palette, config=replace(card.config, stride=own["stride"]))


def _card_from_hf(source: Path, raw: Mapping[str, Any], pixels: PixelSpec) -> ModelCard:
    kind, name = raw.get("model_type", "beit"), (raw.get("architectures") or ["(none)"])[0]
    if kind not in PREFIXES:
        raise CheckpointError(f"{source} is a {kind!r} model; supported are {', '.join([*PREFIXES, DVAE])}")
    ending = name.removeprefix("Beit").removeprefix("Data2VecVision")
    if ending not in HEADS:
        raise CheckpointError(f"{source}/config.json: architecture {name} is not one of Beit{', Beit'.join(HEADS)}")
    config, head = BeitConfig.from_hf(raw, pooler=ending != "Backbone"), HEADS[ending]
    labels = _labels(raw, config) if head in ("classifier", "segmenter") else ()
    return ModelCard(source, source.resolve().name, head, config, pixels, labels)


def _labels(raw: Mapping[str, Any], config: BeitConfig) -> tuple[str, ...]:
    """Names by class id.

    The published ImageNet-22k lists lost two entries without being renumbered, so that ids have gaps: what follows
    a gap moves up, which gives every class its own name back.
    """
    names = {int(number): str(name) for number, name in (raw.get("id2label") or {}).items()}
    names = names or {number: f"LABEL_{number}" for number in range(config.classes)}
    return tuple(names[number] for number in sorted(names))
