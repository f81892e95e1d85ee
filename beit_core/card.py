"""The card that travels with weights: what a model folder or file says about itself, without reading its tensors."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import beit_core

from .config import DVAE, PREFIXES, BeitConfig, BiasResampling, CheckpointError, DvaeConfig, Semantics
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
CONFIG_FILE, PROCESSOR_FILE = "config.json", "preprocessor_config.json"
CARD_FILE = "card.json"  # what a converted folder knows beyond Hugging Face's files


@dataclass(frozen=True)
class ModelCard:
    """What travels with weights: sizes, pixel statistics, label names by class id, and whose semantics they follow.

    `fingerprint` is the sha256 (hex) of the weights and of everything else here that changes answers, wherever the
    files lie.
    """

    path: Path
    name: str
    head: Head
    config: BeitConfig | DvaeConfig  # a DvaeConfig exactly where the head is "dvae"
    pixels: PixelSpec
    labels: tuple[str, ...] = ()
    palette: tuple[Color, ...] | None = None
    semantics: Semantics = "original"
    fingerprint: str = ""

    @property
    def beit(self) -> BeitConfig:
        """The encoder's configuration. Raises CheckpointError for a tokenizer, which has none."""
        if isinstance(self.config, DvaeConfig):
            raise CheckpointError(f"{self.name} is a tokenizer: it has no encoder")
        return self.config

    @property
    def dvae(self) -> DvaeConfig:
        """The tokenizer's configuration. Raises CheckpointError for everything else."""
        if isinstance(self.config, BeitConfig):
            raise CheckpointError(f"{self.name} is a {self.head} checkpoint, not a tokenizer")
        return self.config


def load_card(path: str | Path, semantics: Semantics | None = None) -> ModelCard:
    """Read what a model folder, or a published weights file, says about itself; its tensors are not kept.

    `original` semantics (training's) hold for converted folders and for published checkpoints, recognised by name
    and shape; `hf` (transformers' own) for every other folder. `semantics` overrides that.
    Raises CheckpointError, in one sentence, when the model cannot be used.
    """
    source = Path(path)
    if not source.exists():
        raise CheckpointError(f"model {source} does not exist")
    raw = read_json(source / CONFIG_FILE) if source.is_dir() else beit_core.config_of_file(source)
    weights, card = find_weights(source), describe(source, raw, semantics=semantics)
    return replace(card, fingerprint=digest(weights, json.dumps(_meaning(card), sort_keys=True)))


def _meaning(card: ModelCard) -> dict[str, Any]:
    """Everything about a card that changes answers, for its fingerprint.

    Outputs are bound to fingerprints, so for a model of today these bytes must not change with this code: a dVAE's
    sizes are spelt as the fields of a BeitConfig, where they were once kept.
    """
    if isinstance(card.config, DvaeConfig):
        sizes = card.config
        spelt = BeitConfig(
            width=sizes.width,
            depth=sizes.blocks,
            heads=1,
            mlp_width=sizes.decoder_width,
            vocab_size=sizes.vocab_size,
            image_size=sizes.image_size,
            patch_size=sizes.patch_size,
            classes=2,
            pooler=False,
            out_indices=(sizes.blocks,),
            auxiliary_channels=256,
        )
        card = replace(card, config=spelt)
    return {key: value for key, value in asdict(card).items() if key not in ("path", "name", "fingerprint")}


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
        return _card_of_dvae(source, raw)
    own = {} if preset else read_json(source / CARD_FILE, absent={})
    card = _card_from_hf(source, raw, _pixels(source, raw, processor))
    if not own:
        preset = preset or _preset_by_name(card)
    has_config = (source / CONFIG_FILE).is_file()
    if not (preset or processor or has_config):
        raise CheckpointError(_pixels_unknown(source))
    if preset and not processor and card.beit.image_size != (preset.image, preset.image):
        raise CheckpointError(f"{source} is not for {preset.name}'s {preset.image} pixels: give its --processor too")
    meant: Semantics = semantics or own.get("semantics") or ("original" if preset or not has_config else "hf")
    if preset and (meant == "original" or not has_config):
        card = _as_published(card, preset, keep_pixels=processor is not None)
    return with_semantics(_as_converted(card, own) if own else card, meant)


def with_semantics(card: ModelCard, semantics: Semantics) -> ModelCard:
    """The card read with these semantics: transformers resamples position bias its own way."""
    resampling: BiasResampling = "geometric" if semantics == "original" else "bilinear"
    return replace(card, semantics=semantics, config=replace(card.beit, bias_resampling=resampling))


def _pixels(source: Path, raw: Mapping[str, Any], processor: Mapping[str, Any] | None) -> PixelSpec:
    """As `processor` or the folder's own file says; without both, the class's defaults at the trained size."""
    unsaid = {"size": raw["image_size"]} if "image_size" in raw else {}
    return PixelSpec.from_hf(processor or read_json(source / PROCESSOR_FILE, absent=unsaid))


def _preset_by_name(card: ModelCard) -> Preset | None:
    """The published checkpoint that a card's path speaks of, if it has that one's shape too."""
    named = find_preset(card.path)
    return named if named and named.fits(card.head, card.beit) else None


def _pixels_unknown(source: Path) -> str:
    named = find_preset(source)
    known = f"the name of {named.name} but not its shape" if named else "no published name"
    return (
        f"{source} has {known}, so its pixels are unknown: convert it, with --preset naming a published "
        f"checkpoint that shares them or with a {PROCESSOR_FILE} (--processor)"
    )


def _as_published(card: ModelCard, preset: Preset, *, keep_pixels: bool) -> ModelCard:
    """The card with what training used where Hugging Face's files say otherwise."""
    config = replace(card.beit, layer_norm_eps=TRAINED_EPS, stride=preset.stride)
    is_it = preset.fits(card.head, config)
    fits = len(preset.labels) == len(card.labels)
    return replace(
        card,
        name=preset.name if is_it else card.name,
        config=config,
        pixels=card.pixels if keep_pixels else preset.pixels,
        labels=preset.labels if fits and card.labels[:1] == ("LABEL_0",) else card.labels,
        palette=preset.palette if fits else None,
    )


def _as_converted(card: ModelCard, own: Mapping[str, Any]) -> ModelCard:
    palette = None if own["palette"] is None else tuple((r, g, b) for r, g, b in own["palette"])
    return replace(card, name=own["name"], palette=palette, config=replace(card.beit, stride=own["stride"]))


def _card_of_dvae(source: Path, raw: Mapping[str, Any]) -> ModelCard:
    config = DvaeConfig.from_hf(raw)
    pixels = PixelSpec(config.image_size, resample=LANCZOS, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    return ModelCard(source, source.resolve().name, "dvae", config, pixels)


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
