"""The card that travels with weights: what a model folder or file says about itself, without reading its tensors."""

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import beit_core

from .config import DVAE, PREFIXES, BeitConfig, BiasResampling, DvaeConfig, PoolOf, Semantics
from .errors import CheckpointError
from .files import digest, find_weights, is_timms, own_config, reaching, read_json, tensor_names
from .pixels import LANCZOS, PixelSpec
from .published import TRAINED_EPS, Color, Preset, find_preset, name_of
from .schema import CARD, CONFIG, NEEDED_OF_CARD, check

Head = Literal["encoder", "classifier", "masked", "segmenter", "dvae"]
HEADS: dict[str, Head] = {
    "Model": "encoder",
    "Backbone": "encoder",
    "ForImageClassification": "classifier",
    "ForMaskedImageModeling": "masked",
    "ForSemanticSegmentation": "segmenter",
}
CONFIG_FILE, PROCESSOR_FILE = "config.json", "preprocessor_config.json"
POOLER_NORMS = ("pooler.layernorm.weight", "fc_norm.weight")  # transformers', unilm's and timm's
UNSAID = ("path", "name", "fingerprint", "pixels_assumed")  # fields that change no answer
CARD_FILE = "card.json"  # what a converted folder has beside Hugging Face's files


@dataclass(frozen=True)
class ModelCard:
    """What travels with weights: sizes, pixel statistics, label names by class id, and whose semantics they follow.

    `fingerprint` is the sha256 (hex) of the weights and of everything else here that changes answers; paths and the
    name do not. `pixels_assumed`: the folder says nothing of pixels, which are the defaults of transformers' BEiT.
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
    pixels_assumed: bool = False

    @property
    def beit(self) -> BeitConfig:
        """The encoder's configuration. Raises CheckpointError for a model that has none, such as a tokenizer."""
        if not isinstance(self.config, BeitConfig):
            raise CheckpointError(f"{self.name} has no encoder (it is a {self.head})")
        return self.config

    @property
    def dvae(self) -> DvaeConfig:
        """The tokenizer's configuration. Raises CheckpointError for everything else."""
        if not isinstance(self.config, DvaeConfig):
            raise CheckpointError(f"{self.name} is a {self.head} checkpoint, not a tokenizer")
        return self.config


def load_card(path: str | Path, semantics: Semantics | None = None) -> ModelCard:
    """Read the card of a model folder or of a published weights file; no tensors are kept.

    The semantics are `original` (as in training) for converted folders and for published checkpoints, which are
    recognised by name, shape and number of classes, and `hf` (as in transformers) for every other folder; `semantics`
    overrides that.
    Raises CheckpointError, in one sentence, when the model cannot be used.
    """
    source = Path(path)
    with reaching(source):
        if not source.exists():
            raise CheckpointError(f"model {source} does not exist")
        by_hf = source.is_dir() and not is_timms(source)
        raw = read_json(source / CONFIG_FILE) if by_hf else beit_core.config_of_file(source)
        weights, card = find_weights(source), describe(source, raw, Known(semantics=semantics))
        return replace(card, fingerprint=digest(weights, json.dumps(_meaning(card), sort_keys=True)))


def _meaning(card: ModelCard) -> dict[str, Any]:
    """Everything about a card that changes answers, for its fingerprint.

    Outputs are bound to fingerprints, so for existing models these values must never change: a dVAE's sizes are
    written as the fields of a BeitConfig, as they were at first, and fields that were added later are left out where
    they are not set.
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
    meaning = {key: value for key, value in asdict(card).items() if key not in UNSAID}
    if isinstance(card.config, BeitConfig) and card.config.pool_of is None:
        del meaning["config"]["pool_of"]
    return meaning


@dataclass(frozen=True)
class Known:
    """What a caller knows better than a model's own files.

    `processor` is the content of a `preprocessor_config.json` that `processor_file` names, `names` are those of all
    tensors if they are known, and `by_hf` says whether transformers wrote a weights file that comes without a folder.
    """

    preset: Preset | None = None
    processor: Mapping[str, Any] | None = None
    processor_file: str | Path = PROCESSOR_FILE
    semantics: Semantics | None = None
    pool_of: PoolOf | None = None
    resampling: BiasResampling | None = None
    by_hf: bool = False
    names: Collection[str] | None = None
    config_file: str | Path | None = None


def describe(source: Path, raw: Mapping[str, Any], known: Known) -> ModelCard:
    """The card of a folder or file whose `config.json` is, or would be, `raw`; without a fingerprint."""
    where = known.config_file or (source / CONFIG_FILE if source.is_dir() else source)
    if raw.get("model_type") == DVAE:
        return _card_of_dvae(source, raw, where)
    own = {} if known.preset else _own_words(source)
    card = _card_from_hf(source, raw, where, known)
    preset = known.preset or (None if own else _preset_by_name(card, known.semantics))
    by_hf = known.by_hf or own_config(source) is not None
    _check_pixels(card, source, known, preset, by_hf=by_hf)
    meant = _semantics(known, own, trained=preset is not None or not by_hf)
    if preset:
        card = _as_published(card, preset, meant, keep_pixels=known.processor is not None)
    if own:
        card = _as_converted(card, own, source / CARD_FILE)
    card.pixels.check_least(card.beit.least_side(card.head, meant), source)
    resampling = _resampling(card, known, meant)
    if known.pool_of:
        card = replace(card, config=_pooling(card, known.pool_of))
    return replace(card, semantics=meant, config=replace(card.beit, bias_resampling=resampling))


def _semantics(known: Known, own: Mapping[str, Any], *, trained: bool) -> Semantics:
    """The caller's choice, else the converted folder's, else `original` for published weights and `hf` for others."""
    said: Semantics | None = known.semantics or own.get("semantics")
    return said or ("original" if trained else "hf")


def _check_pixels(card: ModelCard, source: Path, known: Known, preset: Preset | None, *, by_hf: bool) -> None:
    """Raise CheckpointError if the preprocessing is unknown, or known from a preset of another image size only."""
    if not (preset or known.processor or (source.is_dir() and by_hf)):
        raise CheckpointError(_pixels_unknown(source))
    if preset and known.processor is None and card.beit.image_size != (preset.image, preset.image):
        raise CheckpointError(f"{source} is not for {preset.name}'s {preset.image} pixels: give its --processor too")


def _resampling(card: ModelCard, known: Known, meant: Semantics) -> BiasResampling:
    """How position bias is resampled. Raises CheckpointError where the caller's choice has no effect."""
    if meant == "original":
        return known.resampling or ("linear" if card.beit.bias_resampling == "linear" else "geometric")
    if known.resampling:
        fault = f"--resampling {known.resampling}, but hf semantics resample as transformers does"
        raise CheckpointError(f"{card.path}: {fault}: leave it out, or add --semantics original")
    return "bilinear"


def _own_words(source: Path) -> dict[str, Any]:
    """The content of `card.json`, {} for a folder that was not converted. Raises CheckpointError."""
    path = source / CARD_FILE
    own = read_json(path, absent={})
    check(own, CARD, path)
    missing = [name for name in NEEDED_OF_CARD if own and name not in own]
    if missing:
        raise CheckpointError(f"{path} has no {missing[0]}: convert the model again")
    return own


def _pixels(source: Path, raw: Mapping[str, Any], known: Known) -> PixelSpec:
    """From `processor`, else from the folder's own file, else transformers' defaults at the trained size."""
    if known.processor is not None:
        return PixelSpec.stated(known.processor, known.processor_file)
    unsaid = {"size": raw["image_size"]} if "image_size" in raw else {}
    return PixelSpec.from_hf(read_json(source / PROCESSOR_FILE, absent=unsaid), source / PROCESSOR_FILE)


def _preset_by_name(card: ModelCard, semantics: Semantics | None) -> Preset | None:
    """The published checkpoint that the path names, if the shapes agree; an `hf` folder speaks for itself."""
    named = None if semantics == "hf" and own_config(card.path) else find_preset(card.path)
    return named if named and named.fits(card.head, card.beit) else None


def _pixels_unknown(source: Path) -> str:
    named = find_preset(source)
    known = f"the name of {named.name} but not its shape" if named else "no published name"
    return (
        f"{source} has {known}, so its pixels are unknown: convert it, with --preset naming a published "
        f"checkpoint that shares them or with a {PROCESSOR_FILE} (--processor)"
    )


def _pooling(card: ModelCard, pool_of: PoolOf) -> BeitConfig:
    """The configuration with pooling as chosen. Raises CheckpointError where the tensors say otherwise."""
    config = card.beit
    has_pooler = card.head == "classifier" or (card.head == "encoder" and config.pooler)
    if has_pooler and config.mean_pooling and pool_of == "cls":
        raise CheckpointError(f"{card.path}: --pool-of cls, but it has a norm for the mean of the patches")
    unsaid = "cls" if has_pooler and not config.mean_pooling else "mean"
    return replace(config, pool_of=None if pool_of == unsaid else pool_of)


def _as_published(card: ModelCard, preset: Preset, meant: Semantics, *, keep_pixels: bool) -> ModelCard:
    """The card completed from its preset; under `original` semantics with the settings of training."""
    config = card.beit
    if meant == "original":
        config = replace(config, layer_norm_eps=TRAINED_EPS, stride=preset.stride_at(config.image_size))
    is_it = preset.fits(card.head, config)
    unnamed, palette = card.labels[:1] == ("LABEL_0",), preset.palette
    # Asked in this order: the list of names may not be here where nobody needs it.
    fits = (unnamed or palette is not None) and len(preset.labels) == len(card.labels)
    return replace(
        card,
        name=preset.name if is_it else card.name,
        config=config,
        pixels=card.pixels if keep_pixels else preset.pixels,
        pixels_assumed=False,
        labels=preset.labels if fits and unnamed else card.labels,
        palette=palette if fits else None,
    )


def _as_converted(card: ModelCard, own: Mapping[str, Any], where: Path) -> ModelCard:
    palette = None if own["palette"] is None else tuple((r, g, b) for r, g, b in own["palette"])
    if own["stride"] > min(card.beit.image_size):
        window = min(card.beit.image_size)
        raise CheckpointError(f"{where}: stride is {own['stride']}, longer than the window of {window}: convert again")
    resampling: BiasResampling = own.get("resampling") or card.beit.bias_resampling
    config = replace(card.beit, stride=own["stride"], pool_of=own.get("pool_of"), bias_resampling=resampling)
    return replace(card, name=own["name"], palette=palette, config=config)


def _card_of_dvae(source: Path, raw: Mapping[str, Any], where: str | Path) -> ModelCard:
    config = DvaeConfig.from_hf(raw, where=where)
    pixels = PixelSpec(config.image_size, resample=LANCZOS, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    return ModelCard(source, name_of(source), "dvae", config, pixels)


def _card_from_hf(source: Path, raw: Mapping[str, Any], where: str | Path, known: Known) -> ModelCard:
    check(raw, CONFIG, where)
    kind, name = raw.get("model_type", "beit"), (raw.get("architectures") or ["(none)"])[0]
    if kind not in PREFIXES:
        raise CheckpointError(f"{source} is a {kind!r} model; supported are {', '.join([*PREFIXES, DVAE])}")
    ending = name.removeprefix("Beit").removeprefix("Data2VecVision")
    if ending not in HEADS:
        raise CheckpointError(f"{where}: architecture {name} is not one of Beit{', Beit'.join(HEADS)}")
    config, head = BeitConfig.from_hf(raw, pooler=ending != "Backbone", where=where), HEADS[ending]
    if ending == "Model" and config.mean_pooling:
        config = replace(config, pooler=_has_pooler(source, known.names))
    labels = _labels(raw, config) if head in ("classifier", "segmenter") else ()
    assumed = known.processor is None and source.is_dir() and not (source / PROCESSOR_FILE).exists()
    pixels = _pixels(source, raw, known)
    return ModelCard(source, name_of(source), head, config, pixels, labels, pixels_assumed=assumed)


def _has_pooler(source: Path, names: Collection[str] | None) -> bool:
    """Whether an encoder was saved with its pooler: transformers may leave it out, and `config.json` does not say."""
    found = names or tensor_names(source) or beit_core.read_weights(source).tensors
    return any(name.endswith(POOLER_NORMS) for name in found)


def _labels(raw: Mapping[str, Any], config: BeitConfig) -> tuple[str, ...]:
    """Names by class id.

    The published ImageNet-22k lists lost two entries without being renumbered, so that ids have gaps: what follows
    a gap moves up, which gives every class its own name back.
    """
    names = {int(number): str(name) for number, name in (raw.get("id2label") or {}).items()}
    names = names or {number: f"LABEL_{number}" for number in range(config.classes)}
    return tuple(names[number] for number in sorted(names))
