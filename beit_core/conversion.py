"""Any published checkpoint -> the folder that everything here reads: Hugging Face's files, and a card.

config.json, preprocessor_config.json and model.safetensors are as transformers reads them; card.json adds the
semantics, the palette, the window's stride, accuracy and licence.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from .card import (
    CARD_FILE,
    DVAE,
    ModelCard,
    as_published,
    card_from_hf,
    dvae_card,
    fitting_preset,
    load_card,
    with_semantics,
)
from .checkpoint import BUILDERS
from .config import CheckpointError
from .dvae import Dvae
from .files import find_weights, read_json
from .flax import unpack
from .foreign import from_flax, infer_config, read_foreign, with_prefix
from .pixels import PixelSpec
from .published import TRAINED_EPS, Preset, find_preset, preset_named
from .weights import check, read_tensors

FLAX_FILE = "flax_model.msgpack"
PICKLES = ("encoder.pkl", "decoder.pkl")


@dataclass(frozen=True)
class Found:
    """A source, read: its tensors under published names, and what it says about itself."""

    path: Path
    tensors: dict[str, Tensor]
    config: dict[str, Any]
    processor: dict[str, Any] | None
    by_hf: bool  # a Hugging Face folder: its own files say how it was trained


def convert(
    source: str | Path,
    dest: str | Path,
    preset: str | None = None,
    processor: str | Path | None = None,
    config: str | Path | None = None,
) -> ModelCard:
    """Write `source` as a canonical folder into `dest`, which must be empty or absent; returns its card.

    `preset` names the published checkpoint this is, or whose pixels and labels it shares; `processor` is a
    preprocessor_config.json and `config` a config.json for weights that come without. Nothing is written unless
    every tensor fits. Raises CheckpointError.
    """
    target = Path(dest)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise CheckpointError(f"{target} is not an empty folder: choose another destination")
    found = _find(Path(source), Path(config) if config else None)
    if found.config.get("model_type") == DVAE:
        card, files = dvae_card(found.path, found.config), {"config.json": found.config}
    else:
        card, files = _describe(found, preset, read_json(Path(processor)) if processor else None)
    _verify(card, found)
    _write(target, found.tensors, files)
    return load_card(target)


def _find(source: Path, config: Path | None) -> Found:
    if source.is_file():
        tensors = with_prefix(read_foreign(source))
        raw = read_json(config) if config else infer_config(tensors)
        return Found(source, _bare(tensors, raw), raw, None, False)
    if any((source / name).is_file() for name in PICKLES):
        halves = [read_foreign(source / name) for name in PICKLES if (source / name).is_file()]
        tensors = {name: tensor for half in halves for name, tensor in half.items()}
        return Found(source, tensors, infer_config(tensors), None, False)
    if not source.is_dir():
        raise CheckpointError(f"{source} does not exist")
    raw = read_json(config or source / "config.json")
    processor = source / "preprocessor_config.json"
    return Found(source, _folder_tensors(source), raw, read_json(processor) if processor.is_file() else None, True)


def _folder_tensors(folder: Path) -> dict[str, Tensor]:
    try:
        parts = find_weights(folder)
    except CheckpointError:
        if not (folder / FLAX_FILE).is_file():
            raise
        return dict(from_flax(unpack((folder / FLAX_FILE).read_bytes())))
    return {name: tensor for part in parts for name, tensor in read_tensors(part).items()}


def _bare(tensors: dict[str, Tensor], raw: dict[str, Any]) -> dict[str, Tensor]:
    """transformers saves an encoder without a head under names without a prefix."""
    if raw.get("architectures", [""])[0] not in ("BeitModel", "BeitBackbone"):
        return tensors
    return {name.removeprefix("beit."): tensor for name, tensor in tensors.items()}


def _describe(found: Found, name: str | None, processor: dict[str, Any] | None) -> tuple[ModelCard, dict[str, Any]]:
    """The card to be, and the files that say it. A Hugging Face folder that is no preset keeps what it says."""
    if (found.path / CARD_FILE).is_file() and name is None and processor is None:
        card = load_card(found.path)  # converted before: it stays what it is
        return card, _files(found, card, None) | {CARD_FILE: read_json(found.path / CARD_FILE)}
    card = card_from_hf(found.path, found.config, PixelSpec.from_hf(processor or found.processor or {}))
    preset = preset_named(name) if name else fitting_preset(find_preset(found.path), card)
    if preset is None and not found.by_hf and processor is None:
        raise CheckpointError(
            f"{found.path} does not say which pixels it was trained on: name a preset (--preset), or give a "
            "preprocessor_config.json (--processor)"
        )
    given = card.pixels
    if preset is not None:
        card = as_published(card, preset)
    if processor is not None:
        card = replace(card, pixels=given)
    if not found.by_hf:
        card = replace(card, config=replace(card.config, layer_norm_eps=TRAINED_EPS))
    card = with_semantics(card, "original" if preset or not found.by_hf else "hf")
    return card, _files(found, card, preset)


def _files(found: Found, card: ModelCard, preset: Preset | None) -> dict[str, Any]:
    config = {key: value for key, value in found.config.items() if key not in ("label2id", "num_labels")}
    config["layer_norm_eps"] = card.config.layer_norm_eps
    if card.labels:
        config["id2label"] = {str(number): label for number, label in enumerate(card.labels)}
    own: dict[str, Any] = {
        "name": card.name,
        "semantics": card.semantics,
        "palette": card.palette,
        "stride": card.config.stride,
    }
    if preset is not None:
        own |= {"license": preset.license, "accuracy": preset.accuracy}
    return {"config.json": config, "preprocessor_config.json": card.pixels.to_hf(), CARD_FILE: own}


def _verify(card: ModelCard, found: Found) -> None:
    with torch.device("meta"):
        if card.head == "dvae":
            module: torch.nn.Module = Dvae(card.config, any(name.startswith("decoder.") for name in found.tensors))
        else:
            module = BUILDERS[card.head](card)
    check(module.state_dict(), with_prefix(found.tensors), str(found.path))


def _write(target: Path, tensors: dict[str, Tensor], files: dict[str, Any]) -> None:
    """All files under the target's name at once, or none."""
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    try:
        kept = {name: tensors[name].clone() for name in sorted(tensors) if "relative_position_index" not in name}
        contiguous = {name: tensor.contiguous() for name, tensor in kept.items()}
        save_file(contiguous, draft / "model.safetensors", metadata={"format": "pt"})
        for name, content in files.items():
            (draft / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        draft.chmod(0o755)
        draft.replace(target)  # an empty folder of that name gives way
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
