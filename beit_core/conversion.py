"""Any published checkpoint -> the folder that everything here reads: Hugging Face's files, and a card.

config.json, preprocessor_config.json and model.safetensors are as transformers reads them; card.json adds the
semantics, the palette, the window's stride, accuracy and licence.
"""

import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from .card import CARD_FILE, CONFIG_FILE, PROCESSOR_FILE, ModelCard, describe, load_card
from .checkpoint import BUILDERS, fitting
from .config import DVAE, PREFIXES, CheckpointError
from .files import read_json
from .foreign import infer_config, published_tensors
from .published import TRAINED_EPS, preset_named, presets

AnyPath = str | Path


def convert(
    source: AnyPath, dest: AnyPath, preset: str | None = None, processor: AnyPath | None = None, config: AnyPath = ""
) -> ModelCard:
    """Write `source` as a canonical folder into `dest`, which must be empty or absent; returns its card.

    `preset` names the published checkpoint this is, or whose pixels and labels it shares; `processor` is a
    preprocessor_config.json and `config` a config.json for weights that come without. Nothing is written unless
    every tensor fits. Raises CheckpointError.
    """
    path, target = Path(source), Path(dest)
    if not path.exists():
        raise CheckpointError(f"{path} does not exist")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise CheckpointError(f"{target} is not an empty folder: choose another destination")
    tensors = published_tensors(path)
    given = Path(config) if config else path / CONFIG_FILE
    raw = read_json(given) if given.is_file() or config else infer_config(tensors)
    if (
        raw.get("model_type") != DVAE and not (path / CONFIG_FILE).is_file()
    ):  # written by those who trained it, not by transformers
        raw["layer_norm_eps"] = TRAINED_EPS
    named, pixels = preset_named(preset) if preset else None, read_json(Path(processor)) if processor else None
    card = describe(path, raw, named, pixels)
    fitting(lambda: BUILDERS[card.head](card), tensors, str(path))
    _write(target, _saved_names(tensors, raw), _files(card, raw))
    return load_card(target)


def _saved_names(tensors: Mapping[str, Tensor], raw: Mapping[str, Any]) -> dict[str, Tensor]:
    """The names transformers knows this family's tensors by, in a fixed order; buffers that follow from sizes go."""
    prefix = PREFIXES.get(raw.get("model_type", "beit"), "beit.")
    kept = sorted(name for name in tensors if "relative_position_index" not in name)
    dense = torch.contiguous_format
    return {name.replace("beit.", prefix, 1): tensors[name].clone(memory_format=dense) for name in kept}


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
    preset = presets().get(card.name)
    if preset and preset.fits(card.head, card.beit):
        own |= {"license": preset.license, "accuracy": preset.accuracy}
    return {CONFIG_FILE: config, PROCESSOR_FILE: card.pixels.to_hf(), CARD_FILE: own}


def _write(target: Path, tensors: dict[str, Tensor], files: Mapping[str, Any]) -> None:
    """All files under the target's name at once, or none."""
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    try:
        save_file(tensors, draft / "model.safetensors", metadata={"format": "pt"})
        for name, content in files.items():
            (draft / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        draft.chmod(0o755)
        draft.replace(target)  # an empty folder of that name gives way
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
