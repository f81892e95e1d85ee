"""What is read off tensors where no configuration says it, and what is said of the rest."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from beit_core import CheckpointError, CheckpointMismatch, Choices, convert, load_card, presets
from tests.beit_core.foreign_files import as_unilm
from tests.beit_core.test_conversion import full_names
from tests.models import save_dvae

Make = Callable[..., Path]
ONE = torch.ones(())
CHANGES: dict[str, Callable[[Tensor], Tensor | None]] = {
    "absent": lambda _: None,
    "one number": lambda _: ONE,
    "flat": lambda tensor: tensor.flatten(),
    "deeper": lambda tensor: tensor[None],
}
READ_OFF = {
    "encoder": ("embeddings.cls_token", "embeddings.patch_embeddings.projection.weight",
                "encoder.layer.0.attention.attention.relative_position_bias.relative_position_bias_table",
                "encoder.layer.0.intermediate.dense.weight"),
    "masked": ("lm_head.weight",),
    "classifier": ("classifier.weight",),
    "segmenter": ("decode_head.classifier.weight", "auxiliary_head.classifier.weight"),
    "dvae": ("encoder.blocks.input.weight", "encoder.blocks.output.conv.weight", "decoder.blocks.input.weight"),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("kind", READ_OFF)
def test_tensors_that_no_size_can_be_read_off(kind: str, change: str, tiny_model: Make, tmp_path: Path) -> None:
    """In a file, and in a folder that has no config.json."""
    folder = save_dvae(tmp_path / "dvae", decoder=True) if kind == "dvae" else tiny_model(kind)
    right, target = load_file(folder / "model.safetensors"), tmp_path / "bare/model.safetensors"
    target.parent.mkdir()
    choices = Choices() if kind == "dvae" else Choices(processor=folder / "preprocessor_config.json")
    for name in READ_OFF[kind]:
        changed = CHANGES[change](right[name])
        tensors = {**right, name: changed} if changed is not None else {n: t for n, t in right.items() if n != name}
        save_file(tensors, target)
        for source in (target, target.parent):
            with pytest.raises(CheckpointError) as found:
                convert(source, tmp_path / "new", choices)
            assert str(source) in str(found.value)
            assert changed is None or name in str(found.value)


def test_a_folder_of_another_architecture(tmp_path: Path) -> None:
    save_file({"vit.embeddings.cls_token": torch.zeros(1, 1, 8)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="holds no BEiT that is known here; its first tensors are vit"):
        convert(tmp_path, tmp_path / "new")
    save_file({"cls_token": torch.zeros(1, 1, 8), "blocks.0.attn.qkv.weight": torch.zeros(24, 8)},
              tmp_path / "model.safetensors")  # fmt: skip
    with pytest.raises(CheckpointMismatch, match=r"has no .*projection\.weight, without which it is no BEiT"):
        convert(tmp_path, tmp_path / "new")


def converted(source: Path, dest: Path, choices: Choices) -> list[str]:
    """What is said, but for LayerNorm's eps."""
    said = list[str]()
    convert(source, dest, choices, say=said.append)
    return [remark for remark in said if "LayerNorm" not in remark]


def test_what_is_guessed_is_said(tiny_model: Make, tmp_path: Path) -> None:
    guesses = {
        "segmenter": "out_indices are 0, 1, 2, 3, as deep as in published models: --model-config says otherwise",
        "classifier": "a picture is of one class (softmax): --model-config with a problem_type says otherwise",
    }
    for kind, guess in guesses.items():
        folder = tiny_model(kind)  # whose out_indices are 1 to 4
        weights, processor = folder / "model.safetensors", folder / "preprocessor_config.json"
        assert converted(weights, tmp_path / f"{kind} bare", Choices(processor=processor)) == [guess]
        given = Choices(processor=processor, config=folder / "config.json")
        assert converted(weights, tmp_path / f"{kind} given", given) == []
        assert converted(folder, tmp_path / f"{kind} folder", Choices()) == []


def test_a_given_preset_counts_in_either_semantics(tiny_model: Make, tmp_path: Path) -> None:
    """Of a folder, as of its weights alone."""
    name = "beit-base-patch16-224"
    folder = tiny_model("classifier", image_size=224, patch_size=112, num_labels=1000)
    for source in (folder, folder / "model.safetensors"):
        for semantics in ("hf", "original"):
            choices = Choices(preset=name, semantics=semantics, config=folder / "config.json")
            card = convert(source, tmp_path / f"{semantics} {source.name}", choices)
            assert (card.semantics, card.pixels, card.labels) == (
                semantics,
                presets()[name].pixels,
                presets()[name].labels,
            )
            assert card.beit.layer_norm_eps == (1e-12 if semantics == "hf" else 1e-6)


def test_folders_of_timm_are_read_as_their_weights_are(tiny_model: Make, tmp_path: Path) -> None:
    """Its config.json has other fields than transformers'."""
    folder, timm = tiny_model("classifier"), tmp_path / "timm"
    timm.mkdir()
    save_file(as_unilm(full_names(folder), index=False), timm / "model.safetensors")
    config = {"architecture": "beit_base_patch16_224", "num_classes": 7, "num_features": 64, "pretrained_cfg": {}}
    (timm / "config.json").write_text(json.dumps(config))
    for read in (load_card, lambda source: convert(source, tmp_path / "no")):
        with pytest.raises(CheckpointError, match=r"timm has no published name, so its pixels are unknown: .*--preset"):
            read(timm)
    choices = Choices(processor=folder / "preprocessor_config.json")
    ours, theirs = (
        convert(source, tmp_path / f"new {source.name}", choices) for source in (timm / "model.safetensors", timm)
    )
    assert (ours.semantics, ours.config, ours.pixels, ours.labels) == (
        theirs.semantics, theirs.config, theirs.pixels, theirs.labels)  # fmt: skip
    assert ours.beit.layer_norm_eps == 1e-6
