"""What files leave open is asked for, what is damaged is named, and what a user chooses holds."""

import json
import re
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from beit_core import (
    CheckpointError,
    CheckpointMismatch,
    Choices,
    convert,
    load_card,
    load_embedder,
    load_model,
    presets,
)
from beit_core.card import Known, describe
from beit_core.published import find_preset
from beit_core.segmentation import Segmenter
from tests.beit_core.foreign_files import as_unilm
from tests.beit_core.test_conversion import full_names
from tests.helpers import DATA, run_job

Make = Callable[..., Path]
SCENES = DATA / "digits-seg/model"


@torch.inference_mode()
@pytest.mark.parametrize("family", ["Beit", "Data2VecVision"])
@pytest.mark.parametrize("ending", [".safetensors", ".bin"])
def test_encoders_without_a_pooler(family: str, ending: str, tmp_path: Path) -> None:
    sizes = {"image_size": 32, "patch_size": 8, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
             "intermediate_size": 64, "use_relative_position_bias": True}  # fmt: skip
    config = getattr(transformers, f"{family}Config")(**sizes)
    theirs = getattr(transformers, f"{family}Model")(config, add_pooling_layer=False).eval()
    theirs.save_pretrained(tmp_path / "theirs")
    if ending == ".bin":
        tensors = load_file(tmp_path / "theirs/model.safetensors")
        torch.save(tensors, tmp_path / "theirs/pytorch_model.bin")
        (tmp_path / "theirs/model.safetensors").unlink()
    card, said, pixels = load_card(tmp_path / "theirs"), list[str](), torch.randn(2, 3, 32, 40)
    assert not card.beit.pooler
    right = theirs(pixels).last_hidden_state
    torch.testing.assert_close(load_embedder(card)(pixels), right[:, 1:].mean(1), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(load_embedder(card, "cls")(pixels), right[:, 0], rtol=1e-5, atol=1e-5)
    assert convert(tmp_path / "theirs", tmp_path / "ours", say=said.append).beit == card.beit
    assert said == ["it has no pooler: embeddings are the mean of its last tokens"]
    chosen = convert(tmp_path / "theirs", tmp_path / "cls", Choices(pool_of="cls"))
    torch.testing.assert_close(load_embedder(chosen)(pixels), right[:, 0], rtol=1e-5, atol=1e-5)


def test_the_stride_follows_the_window() -> None:
    preset = presets()["beit-base-finetuned-ade-640-640"]
    raw = {"architectures": ["BeitForSemanticSegmentation"], "out_indices": [3, 5, 7, 11], "num_labels": 150}
    for side, stride in ((640, 426), (512, 0), (320, 0)):
        known = Known(preset=preset, processor={"size": side, "image_mean": 0.5, "image_std": 0.5})
        card = describe(Path("somewhere"), {**raw, "image_size": side}, known)
        assert card.beit.stride == stride
        with torch.device("meta"):
            starts = Segmenter(replace(card.beit, width=8, heads=1), "original")._starts(4000, side)
        assert starts[1] == side * 2 // 3
        assert all(after - before <= side for before, after in pairwise(starts))


def test_a_stride_longer_than_the_window_is_refused(tiny_model: Make, tmp_path: Path) -> None:
    convert(tiny_model("segmenter"), tmp_path / "model")
    path = tmp_path / "model/card.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "stride": 426}))
    with pytest.raises(CheckpointError, match=r"card\.json: stride is 426, longer than the window of 64: convert"):
        load_card(tmp_path / "model")


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("dit-base-224-p16-500k-62d53a.pth", "dit-base"),
        ("dit-large-224-p16-500k-d7a2fb.pth", "dit-large"),
        ("beit_base_patch16_224_pt1k_800ep.pth", "beit-base-patch16-224-pt1k-800ep"),
        ("beitv2_base_patch16_224_pt1k.pth", "beitv2-base-patch16-224-pt1k"),
        ("beitv2_large_patch16_224_pt1k_300e.pth", "beitv2-large-patch16-224-pt1k-300e"),
        ("beitv2_base_patch16_224_pt1k_300e_ft1k.pth", "beitv2-base-patch16-224-300e-ft1k"),
        ("beitv2_base_patch16_224_pt1k_ftade20k.pth", "beitv2-base-pt1k-finetuned-ade-512-512"),
        ("beitv2_large_patch16_224_pt1k_ft21ktoade20k.pth", "beitv2-large-finetuned-ade-512-512"),
    ],
)
def test_published_files_are_known(file: str, name: str) -> None:
    preset = find_preset(Path(file))
    assert preset is not None
    assert preset.name == name
    assert presets()["beitv2-base-finetuned-ade-512-512"].stride == 341


def test_open_pooling_is_asked_for(tiny_model: Make, tmp_path: Path) -> None:
    folder = tiny_model("encoder", use_mean_pooling=False)
    processor = folder / "preprocessor_config.json"
    save_file(as_unilm(full_names(folder), index=False), tmp_path / "w.safetensors")
    with pytest.raises(
        CheckpointError, match=r"has norm\.weight, .* --pool-of cls or --pool-of mean, or .*--model-config"
    ):
        convert(tmp_path / "w.safetensors", tmp_path / "new", Choices(processor=processor))
    card = convert(
        tmp_path / "w.safetensors", tmp_path / "new", Choices(processor=processor, config=folder / "config.json")
    )
    assert not card.beit.mean_pooling
    mean = tiny_model("encoder")
    save_file(as_unilm(full_names(mean), index=False), tmp_path / "m.safetensors")
    with pytest.raises(CheckpointError, match="--pool-of cls, but it has a norm for the mean of the patches"):
        convert(tmp_path / "m.safetensors", tmp_path / "no", Choices(processor=processor, pool_of="cls"))


@torch.inference_mode()
def test_a_bare_file_of_transformers_keeps_what_its_configuration_says(tmp_path: Path) -> None:
    shutil.copy(SCENES / "model.safetensors", tmp_path / "scenes.safetensors")
    files = {"config": SCENES / "config.json", "processor": SCENES / "preprocessor_config.json"}
    card = convert(tmp_path / "scenes.safetensors", tmp_path / "new", Choices(**files))
    right = load_card(SCENES)
    assert (card.semantics, card.config, card.pixels) == ("hf", right.config, right.pixels)
    pixels = torch.randn(1, 3, *right.beit.image_size)
    assert torch.equal(load_model(card)(pixels), load_model(right)(pixels))
    original = convert(tmp_path / "scenes.safetensors", tmp_path / "as trained", Choices(**files, semantics="original"))
    assert (original.semantics, original.beit.bias_resampling) == ("original", "geometric")
    said: list[str] = []
    convert(
        tmp_path / "scenes.safetensors", tmp_path / "unsaid", Choices(processor=files["processor"]), say=said.append
    )
    layers = "out_indices are 1, 2, 3, 5, as deep as in published models"  # which read 3, 4, 5, 6
    assert said == [
        f"{guess}: --model-config says otherwise" for guess in ("LayerNorm eps is transformers' 1e-12", layers)
    ]


@pytest.mark.parametrize("way", ["geometric", "linear"])
def test_a_resampling_without_effect_is_refused(way: Any, tmp_path: Path) -> None:
    advice = f"--resampling {way}, but hf semantics .*: leave it out, or add --semantics original"
    with pytest.raises(CheckpointError, match=f"^{SCENES}: {advice}"):
        convert(SCENES, tmp_path / "new", Choices(resampling=way))
    assert not (tmp_path / "new").exists()
    card = convert(SCENES, tmp_path / "new", Choices(resampling=way, semantics="original"))
    assert card.beit.bias_resampling == way
    with pytest.raises(CheckpointError, match=advice):
        convert(tmp_path / "new", tmp_path / "back", Choices(resampling=way, semantics="hf"))


def damaged(tiny_model: Make, tmp_path: Path, how: Callable[[dict[str, torch.Tensor]], object]) -> str:
    folder = tiny_model("classifier")
    tensors = as_unilm(full_names(folder))
    torch.save(how(tensors) or tensors, tmp_path / "w.pth")
    with pytest.raises(CheckpointError) as found:
        convert(tmp_path / "w.pth", tmp_path / "new", Choices(processor=folder / "preprocessor_config.json"))
    assert not (tmp_path / "new").exists()
    assert "\n" not in str(found.value)
    return str(found.value)


def test_numbers_that_are_none_are_refused_by_name(tiny_model: Make, tmp_path: Path) -> None:
    def narrow(tensors: dict[str, torch.Tensor]) -> None:
        tensors["blocks.1.mlp.fc1.weight"] = tensors["blocks.1.mlp.fc1.weight"].to(torch.int8)

    def broken(tensors: dict[str, torch.Tensor]) -> None:
        tensors["blocks.0.attn.qkv.weight"] = tensors["blocks.0.attn.qkv.weight"].clone()
        tensors["blocks.0.attn.qkv.weight"][70, 3] = float("nan")

    assert "blocks.1.mlp.fc1.weight holds int8 numbers, not floats" in damaged(tiny_model, tmp_path, narrow)
    assert "blocks.0.attn.qkv.weight[key] is damaged, not all" in damaged(tiny_model, tmp_path, broken)


@pytest.mark.parametrize("key", ["blocks.0.gamma_1", "cls_token", "patch_embed.proj.weight", "blocks.1.attn.proj.bias"])
def test_the_key_that_is_missing_is_named(key: str, tiny_model: Make, tmp_path: Path) -> None:
    said = damaged(tiny_model, tmp_path, lambda tensors: tensors.pop(key) is None or None)
    if key == "patch_embed.proj.weight":
        assert "patch_embeddings.projection.weight, without which it is no BEiT" in said
    else:
        assert key in said
        assert "unexpected" not in said


def test_flipped_bits_and_cut_files(tiny_model: Make, tmp_path: Path) -> None:
    folder = tiny_model("classifier")
    choices = Choices(processor=folder / "preprocessor_config.json")
    path = tmp_path / "w.pth"
    torch.save({"model": as_unilm(full_names(folder))}, path)
    whole = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        largest = max(archive.infolist(), key=lambda entry: entry.file_size)
    middle = whole.index(largest.filename.encode()) + len(largest.filename) + largest.file_size // 2
    path.write_bytes(whole[:middle] + bytes([whole[middle] ^ 0x10]) + whole[middle + 1 :])
    with pytest.raises(CheckpointError, match=f"is damaged: {largest.filename} in it does not have its checksum"):
        convert(path, tmp_path / "new", choices)
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="it was cut off, fetch it again"):
        convert(path, tmp_path / "new", choices)
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"model": as_unilm(full_names(folder))}, path)
    finally:
        torch.serialization.set_crc32_options(True)
    assert convert(path, tmp_path / "new", choices).head == "classifier"  # saved without checksums


def test_averaged_weights_alone_are_used_and_said(tiny_model: Make, tmp_path: Path) -> None:
    folder = tiny_model("classifier")
    processor = folder / "preprocessor_config.json"
    tensors = as_unilm(full_names(folder))
    torch.save({"model_ema": tensors, "epoch": 3}, tmp_path / "ema.pth")
    done = run_job("convert.py", tmp_path / "ema.pth", tmp_path / "new", "--processor", processor, code=0)
    assert "ema.pth holds averaged weights alone (model_ema): they are used" in done.stdout
    torch.save({"model": tensors, "model_ema": {}}, tmp_path / "both.pth")
    done = run_job("convert.py", tmp_path / "both.pth", tmp_path / "both", "--processor", processor, code=0)
    assert "model_ema" not in done.stdout
    assert load_card(tmp_path / "both").fingerprint == load_card(tmp_path / "new").fingerprint


def test_other_models_are_not_called_tokenizers(tiny_model: Make, tmp_path: Path) -> None:
    tensors = as_unilm(full_names(tiny_model("classifier")))
    within = {f"encoder.{name}": tensor for name, tensor in tensors.items()}
    torch.save(within, tmp_path / "within.pth")
    with pytest.raises(CheckpointError, match=r"no BEiT that is known here; its first tensors are encoder\."):
        convert(tmp_path / "within.pth", tmp_path / "new")
    torch.save({**within, "quantize.embedding.weight": torch.zeros(4, 4)}, tmp_path / "vqkd.pth")
    with pytest.raises(CheckpointError, match=r"is BEiT v2's VQ-KD tokenizer; .* only DALL-E's dVAE"):
        convert(tmp_path / "vqkd.pth", tmp_path / "new")


def test_a_key_bias_that_is_not_zero_is_refused(tiny_model: Make, tmp_path: Path) -> None:
    def biased(tensors: dict[str, torch.Tensor]) -> None:
        tensors["blocks.0.attn.k_bias"] = torch.ones(64)

    assert "blocks.0.attn.k_bias is not zero" in damaged(tiny_model, tmp_path, biased)


def test_names_of_transformers_5_in_memory(tiny_model: Make, tmp_path: Path) -> None:
    for kind in ("classifier", "masked", "segmenter", "encoder"):
        folder = tiny_model(kind)
        name = json.loads((folder / "config.json").read_text())["architectures"][0]
        model = getattr(transformers, name).from_pretrained(folder)
        target = tmp_path / kind
        target.mkdir()
        shutil.copy(folder / "config.json", target)
        torch.save(model.state_dict(), target / "pytorch_model.bin")
        if kind == "masked":  # loading exchanges its two norms, see test_parity
            load_model(load_card(target))
            continue
        ours = load_model(load_card(target)).state_dict()
        for key, right in load_model(load_card(folder)).state_dict().items():
            assert torch.equal(ours[key], right), key


def test_a_mismatch_is_still_one(tiny_model: Make, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_model("encoder"), tmp_path / "copy"))
    tensors = load_file(folder / "model.safetensors")
    del tensors["encoder.layer.1.output.dense.weight"]
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(CheckpointMismatch, match=r"1 missing: encoder\.layer\.1\.output\.dense\.weight"):
        load_model(load_card(folder))


@torch.inference_mode()
@pytest.mark.parametrize("bare", [r"beit\.", r"beit\.embeddings\.", r"beit\.(?!embeddings)", r"beit\.pooler"])
@pytest.mark.parametrize("model", [DATA / "digits/model", SCENES], ids=["labels", "masks"])
def test_a_trunk_whose_tensors_lack_their_prefix(model: Path, bare: str, tmp_path: Path) -> None:
    """As transformers reads them: of all, or of some as in a backbone."""
    folder = shutil.copytree(model, tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    stripped = {name.removeprefix("beit.") if re.match(bare, name) else name: t for name, t in tensors.items()}
    save_file(stripped, folder / "model.safetensors", metadata={"format": "pt"})
    found, wanted = (load_model(load_card(path)).state_dict() for path in (folder, model))
    assert all(torch.equal(found[name], tensor) for name, tensor in wanted.items())
