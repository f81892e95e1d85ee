"""Convert any published checkpoint to a canonical folder: Hugging Face's files, and a card.

config.json, preprocessor_config.json and model.safetensors are as transformers reads them; card.json adds the
semantics, the palette, the window's stride, accuracy and licence.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from .card import CARD_FILE, CONFIG_FILE, PROCESSOR_FILE, Known, ModelCard, describe, load_card
from .checkpoint import BUILDERS, fitting
from .config import BiasResampling, PoolOf, Semantics
from .errors import CheckpointError
from .files import own_config, reaching, read_json
from .names import for_transformers
from .published import TRAINED_EPS, find_preset, preset_named, presets
from .shapes import infer_config
from .weights import Weights, read_weights

AnyPath = str | Path
WEIGHTS_FILE = "model.safetensors"


@dataclass(frozen=True)
class Choices:
    """What the user states where the files of the weights do not say it.

    `preset` names the published checkpoint this is, or whose pixels and labels it shares; `processor` is a
    preprocessor_config.json and `config` a config.json. `semantics` None takes what the origin suggests: `original` for
    published checkpoints and for files of training code, `hf` for files of transformers. `pool_of` says which tokens
    the pooled vector is made of, `resampling` how position tables are read for other image sizes (`geometric` as
    unilm, `linear` as timm).
    """

    preset: str | None = None
    processor: AnyPath | None = None
    config: AnyPath | None = None
    semantics: Semantics | None = None
    pool_of: PoolOf | None = None
    resampling: BiasResampling | None = None


def convert(
    source: AnyPath, dest: AnyPath, choices: Choices | None = None, say: Callable[[str], None] = lambda _: None
) -> ModelCard:
    """Write `source` as a canonical folder into `dest`, which must be empty or absent; returns its card.

    `say` gets a sentence for each decision that no flag asked for. Nothing is written unless every
    tensor fits. Raises CheckpointError.
    """
    path, target, choices = Path(source), Path(dest), choices or Choices()
    with reaching(path):
        if not path.exists():
            raise CheckpointError(f"{path} does not exist")
    with reaching(target, "written"):
        _check_empty(target)
    weights = read_weights(path)
    known = _known(path, weights, choices)
    raw = _config(path, weights, known, choices)
    card = describe(path, raw, known)
    if card.head == "dvae":
        _check_no_choice(path, choices)
    fitting(lambda: BUILDERS[card.head](card), weights, str(path))
    guesses = [] if _config_file(path, choices) else _guesses(card)
    for remark in (*weights.remarks, *_remarks(card, weights, raw), *guesses):
        say(remark)
    tensors = _saved_names(weights.tensors, raw)
    with reaching(target, "written"):
        _write(Path(os.path.realpath(target)), tensors, _files(card, raw))
    return load_card(target)


def _known(path: Path, weights: Weights, choices: Choices) -> Known:
    return Known(
        preset=preset_named(choices.preset) if choices.preset else None,
        processor=read_json(Path(choices.processor)) if choices.processor else None,
        processor_file=choices.processor or PROCESSOR_FILE,
        semantics=choices.semantics,
        pool_of=choices.pool_of,
        resampling=choices.resampling,
        by_hf=weights.origin == "hf",
        names=frozenset(weights.tensors),
        config_file=choices.config or (None if path.is_dir() else path),
    )


def _config(path: Path, weights: Weights, known: Known, choices: Choices) -> dict[str, Any]:
    """The `config.json` to use: the one given, else the folder's, else one inferred from the tensors' shapes."""
    file = _config_file(path, choices)
    raw = read_json(file) if file else infer_config(weights, path, known.preset or find_preset(path), choices.pool_of)
    if weights.origin == "unilm" and not own_config(path) and choices.semantics != "hf":
        raw["layer_norm_eps"] = TRAINED_EPS  # set in unilm's and timm's code, not in a config.json
    return raw


def _config_file(path: Path, choices: Choices) -> Path | None:
    """The `config.json` to read, None where nobody gave one."""
    return Path(choices.config) if choices.config else own_config(path)


def _check_no_choice(path: Path, choices: Choices) -> None:
    """Raise CheckpointError for what means nothing to a dVAE; its shapes alone may be left open."""
    for name in ("preset", "processor", "semantics", "pool_of", "resampling"):
        if getattr(choices, name) is not None:
            flag = f"--{name.replace('_', '-')}"
            raise CheckpointError(f"{path} is a dVAE, to which {flag} means nothing: leave it out")


def _remarks(card: ModelCard, weights: Weights, raw: Mapping[str, Any]) -> list[str]:
    """The decisions that no flag asked for, a sentence each."""
    said = []
    if card.head == "encoder" and not card.beit.pooler:
        said.append(f"it has no pooler: embeddings are the {card.beit.pool_of or 'mean'} of its last tokens")
    if card.head == "dvae":
        return said
    if weights.origin == "hf" and card.semantics == "hf" and "layer_norm_eps" not in raw:
        said.append(f"LayerNorm eps is transformers' {card.beit.layer_norm_eps:g}: --model-config says otherwise")
    if card.beit.pool_of == "mean" and not card.beit.mean_pooling:
        said.append("transformers cannot read this pooling (the mean of normalised tokens) from a config.json")
    return said


def _guesses(card: ModelCard) -> list[str]:
    """What the tensors of a model without a `config.json` leave open, unless it is a published one."""
    preset = presets().get(card.name)
    if card.head == "dvae" or (preset and preset.fits(card.head, card.beit)):
        return []
    if card.head == "segmenter":
        indices = ", ".join(map(str, card.beit.out_indices))
        return [f"out_indices are {indices}, as deep as in published models: --model-config says otherwise"]
    if card.head == "classifier" and card.beit.classes_exclude_each_other:
        return ["a picture is of one class (softmax): --model-config with a problem_type says otherwise"]
    return []


def _saved_names(tensors: Mapping[str, Tensor], raw: Mapping[str, Any]) -> dict[str, Tensor]:
    """The names transformers knows this family's tensors by, in a fixed order, without derived buffers."""
    model_type = raw.get("model_type", "beit")
    kept = sorted(name for name in tensors if "relative_position_index" not in name)
    dense = torch.contiguous_format
    return {for_transformers(name, model_type): tensors[name].clone(memory_format=dense) for name in kept}


def _files(card: ModelCard, raw: Mapping[str, Any]) -> dict[str, Any]:
    if card.head == "dvae":
        return {CONFIG_FILE: raw}
    config = {key: value for key, value in raw.items() if key not in ("label2id", "num_labels")}
    config["layer_norm_eps"] = card.beit.layer_norm_eps
    if card.labels:
        config["id2label"] = dict(enumerate(card.labels))
    own: dict[str, Any] = {
        "name": card.name,
        "semantics": card.semantics,
        "palette": card.palette,
        "stride": card.beit.stride,
    }
    if card.beit.pool_of:
        own["pool_of"] = card.beit.pool_of
    if card.beit.bias_resampling == "linear":
        own["resampling"] = "linear"
    preset = presets().get(card.name)
    if preset and preset.fits(card.head, card.beit):
        own |= {"license": preset.license, "accuracy": preset.accuracy}
    return {CONFIG_FILE: config, PROCESSOR_FILE: card.pixels.to_hf(), CARD_FILE: own}


def _check_empty(target: Path, draft: Path | None = None) -> None:
    """Raise CheckpointError unless it is absent, or a folder with nothing but the draft in it."""
    others = sorted(entry.name for entry in target.iterdir() if entry != draft) if target.is_dir() else []
    if others or (target.exists() and not target.is_dir()):
        such = f" (it has {others[0]})" if others else ""
        raise CheckpointError(f"{target} is not an empty folder{such}: choose another destination")


def _write(target: Path, tensors: dict[str, Tensor], files: Mapping[str, Any]) -> None:
    """Write all files under the target's name at once, or none; into a folder that is there, config.json last.

    Such a folder is not replaced: a disk may be mounted on it, and what it lies in may be another user's. Without
    config.json it is no model.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    fills = target.is_dir()
    draft = Path(tempfile.mkdtemp(dir=target if fills else target.parent, prefix=f".{target.name}."))
    try:
        save_file(tensors, draft / WEIGHTS_FILE, metadata={"format": "pt"})
        for name, content in files.items():
            (draft / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        draft.chmod(0o755)  # it and the weights are made for this user alone
        (draft / WEIGHTS_FILE).chmod(0o644)
        if fills:
            _check_empty(target, draft)  # of two conversions at once each sees the other's
            for name in (WEIGHTS_FILE, *sorted(files.keys() - {CONFIG_FILE}), CONFIG_FILE):
                (draft / name).replace(target / name)
            draft.rmdir()
        else:
            draft.replace(target)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
