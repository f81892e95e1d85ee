"""Every format becomes the same folder, and nothing in a file is ever run."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from beit_core import CheckpointError, CheckpointMismatch, Choices, convert, load_card, load_dvae, load_model
from tests.beit_core.foreign_files import as_mmseg, as_unilm, published_pickles, save_flax
from tests.beit_core.test_dvae import SMALL, seeded
from tests.helpers import run_job

CONFIGS: dict[str, tuple[str, dict[str, object]]] = {
    "own bias": ("classifier", {}),
    "absolute positions, cls pooling": (
        "classifier",
        {"use_relative_position_bias": False, "use_absolute_position_embeddings": True, "use_mean_pooling": False,
         "num_attention_heads": 1, "layer_scale_init_value": 0.0},
    ),
    "masked": (
        "masked",
        {"use_relative_position_bias": False, "use_shared_relative_position_bias": True, "use_mean_pooling": True},
    ),
    "encoder": ("encoder", {}),
}  # fmt: skip


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def full_names(folder: Path) -> dict[str, Tensor]:
    tensors = load_file(folder / "model.safetensors")
    return {name if "beit." in name or "." not in name or name.split(".")[0] in
            ("classifier", "lm_head", "layernorm", "fpn1", "fpn2", "decode_head", "auxiliary_head")
            else f"beit.{name}": tensor for name, tensor in tensors.items()}  # fmt: skip


def save_as(origin: str, folder: Path, tensors: dict[str, Tensor], target: Path) -> Path:
    """A source of this origin; for Hugging Face's formats a folder with the configuration."""
    target.mkdir()
    if origin in ("bin", "sharded", "flax"):
        for name in ("config.json", "preprocessor_config.json"):
            (target / name).write_text((folder / name).read_text())
    on_disk = load_file(folder / "model.safetensors")
    if origin == "bin":
        index = {"encoder.relative_position_bias.relative_position_index": torch.zeros(3, 3, dtype=torch.int64)}
        torch.save({**on_disk, **index}, target / "pytorch_model.bin")
    elif origin == "sharded":
        model = getattr(transformers, json.loads((folder / "config.json").read_text())["architectures"][0])
        model.from_pretrained(folder).save_pretrained(target, max_shard_size="100KB")
        assert not (target / "model.safetensors").exists()
    elif origin == "flax":
        save_flax(on_disk, target / "flax_model.msgpack")
    elif origin == "unilm":
        torch.save({"model": as_unilm(tensors), "epoch": 3}, target / "weights.pth")
    elif origin == "beitv2":
        torch.save({"module": as_unilm(tensors)}, target / "weights.pth")
    elif origin == "timm":
        save_file(as_unilm(tensors, index=False), target / "weights.safetensors")
    files = list(target.glob("weights.*"))
    return files[0] if files else target


@pytest.mark.parametrize("name", CONFIGS)
def test_all_formats_convert_to_identical_weights(name: str, tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    kind, config = CONFIGS[name]
    folder = tiny_model(kind, **config)
    convert(folder, tmp_path / "canonical")
    assert {path.stat().st_mode & 0o444 for path in (tmp_path / "canonical").iterdir()} == {0o444}  # for all users
    transformers_reads(tmp_path / "canonical", folder)
    for origin in ("bin", "sharded", "flax", "unilm", "beitv2", "timm"):
        source = save_as(origin, folder, full_names(folder), tmp_path / origin)
        if source.is_dir():  # jobs read such a folder as it is
            load_model(load_card(source))
        processor = folder / "preprocessor_config.json" if source.is_file() else None
        is_open = name.startswith("absolute") and source.is_file()  # no table tells the heads, the last norm no pooling
        choices = Choices(processor=processor, config=folder / "config.json" if is_open else None)
        card = convert(source, tmp_path / f"{origin}-converted", choices)
        assert weights(tmp_path / f"{origin}-converted") == weights(tmp_path / "canonical"), origin
        assert card.semantics == ("original" if source.is_file() else "hf")
        assert card.config.layer_norm_eps == (1e-6 if source.is_file() else 1e-12)
        assert card.pixels == load_card(folder).pixels
        assert card.config.grid == load_card(folder).config.grid


@torch.inference_mode()
def transformers_reads(canonical: Path, folder: Path) -> None:
    name = json.loads((folder / "config.json").read_text())["architectures"][0]
    before, after = (getattr(transformers, name).from_pretrained(path).eval() for path in (folder, canonical))
    for one, other in zip(before.state_dict().values(), after.state_dict().values(), strict=True):
        assert torch.equal(one, other)


def test_segmentation_checkpoints_of_mmsegmentation(tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    folder = tiny_model("segmenter", num_hidden_layers=6, out_indices=[1, 2, 3, 5])
    torch.save(as_mmseg(full_names(folder)), tmp_path / "weights.pth")
    card = convert(tmp_path / "weights.pth", tmp_path / "new", Choices(processor=folder / "preprocessor_config.json"))
    assert card.config.feature_layers("original") == (2, 3, 4, 6)
    assert load_file(tmp_path / "new/model.safetensors").keys() == load_file(folder / "model.safetensors").keys()
    assert load_model(card)(torch.zeros(1, 3, 64, 64)).shape == (1, 5, 32, 32)
    transformers_reads(tmp_path / "new", folder)


def test_a_preset_gives_pixels_and_labels(tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    folder = tiny_model("classifier", num_labels=1000, image_size=224, patch_size=16)
    torch.save(as_unilm(full_names(folder)), tmp_path / "weights.pth")
    with pytest.raises(CheckpointError, match="is not for beit-base-patch16-384's 384 pixels"):
        convert(tmp_path / "weights.pth", tmp_path / "new", Choices(preset="beit-base-patch16-384"))
    card = convert(tmp_path / "weights.pth", tmp_path / "new", Choices(preset="beitv2-base-patch16-224"))
    assert card.pixels.mean == (0.485, 0.456, 0.406)
    assert card.pixels.resize == 256
    assert card.name == "weights.pth"  # it shares the pixels, it is not that checkpoint
    assert card.labels[281] == "tabby, tabby cat"
    assert load_card(tmp_path / "new") == card


def test_a_given_configuration_decides_what_shapes_leave_open(tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    folder = tiny_model("classifier", image_size=(32, 48))
    processor = tmp_path / "preprocessor_config.json"
    processor.write_text('{"size": {"height": 32, "width": 48}, "image_mean": 0.25, "image_std": 0.5}')
    torch.save(as_unilm(full_names(folder)), tmp_path / "weights.pth")
    with pytest.raises(CheckpointError, match="--model-config"):
        convert(tmp_path / "weights.pth", tmp_path / "new", Choices(processor=processor))
    card = convert(
        tmp_path / "weights.pth", tmp_path / "new", Choices(processor=processor, config=folder / "config.json")
    )
    assert card.config.image_size == (32, 48)
    assert card.pixels.mean == (0.25, 0.25, 0.25)


def test_converting_a_converted_folder_changes_nothing(tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    folder = tiny_model("classifier")
    torch.save(as_unilm(full_names(folder)), tmp_path / "weights.pth")
    first = convert(tmp_path / "weights.pth", tmp_path / "one", Choices(processor=folder / "preprocessor_config.json"))
    second = convert(tmp_path / "one", tmp_path / "two")
    assert second.fingerprint == first.fingerprint
    assert second.semantics == "original"


class Touch:
    """Runs a command when unpickled by a loader that runs what it is told."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("name", ["encoder.pkl", "weights.pth", "pytorch_model.bin"])
def test_malicious_pickles_are_refused_with_their_reason(name: str, legacy: bool, tmp_path: Path) -> None:
    trace = tmp_path / "was here"
    content = {"model": {"cls_token": torch.zeros(1)}, "args": Touch(trace)}
    torch.save(content, tmp_path / name, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(CheckpointError, match=r"refused.*asks to import (posix|nt)\.system"):
        convert(tmp_path / name, tmp_path / "new")
    (tmp_path / "config.json").write_text('{"architectures": ["BeitModel"]}')
    if name == "pytorch_model.bin":
        with pytest.raises(CheckpointError, match=r"refused.*asks to import (posix|nt)\.system"):
            load_model(load_card(tmp_path))
    assert not trace.exists()
    assert not (tmp_path / "new").exists()


def test_files_that_are_no_weights_say_so(tmp_path: Path) -> None:
    (tmp_path / "broken.pth").write_bytes(b"no pickle at all")
    (tmp_path / "broken.msgpack").write_bytes(b"\xc4")
    torch.save({"other.weight": torch.zeros(1)}, tmp_path / "other.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    torch.jit.save(torch.jit.script(nn.ReLU()), tmp_path / "script.pth")
    for name, reason in {
        "broken.pth": "not a readable weights file",
        "broken.msgpack": "not a flax weights file",
        "other.pth": "no BEiT that is known here; its first tensors are other.weight",
        "list.pth": "holds a list",
        "script.pth": "TorchScript program",
        "absent.pth": "does not exist",
    }.items():
        with pytest.raises(CheckpointError, match=reason):
            convert(tmp_path / name, tmp_path / "new")


@pytest.mark.parametrize("name", ["mute.pth", "mute.msgpack", "mute.safetensors"])
def test_files_that_cannot_be_read_say_so(name: str, tmp_path: Path) -> None:
    (tmp_path / name).symlink_to("/proc/self/mem")  # opens, and fails when it is read
    with pytest.raises(
        CheckpointError, match=rf"{name} (cannot be read|is not a readable).*(Input/output|No such dev)"
    ):
        convert(tmp_path / name, tmp_path / "new")


def test_a_place_that_takes_no_folder_says_so(tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for dest, reason in ((tmp_path / "file/new", "File exists"), (Path("/proc/x/new"), "No such file or directory")):
        with pytest.raises(CheckpointError, match=f"{dest} cannot be written: {reason}"):
            convert(tiny_model("classifier"), dest)


def test_what_cannot_be_known_must_be_said(tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    folder = tiny_model("classifier")
    tensors = as_unilm(full_names(folder))
    torch.save(tensors, tmp_path / "weights.pth")
    with pytest.raises(CheckpointError, match=r"--preset.*--processor"):
        convert(tmp_path / "weights.pth", tmp_path / "new")
    with pytest.raises(CheckpointError, match=r"/config\.json has no size, image_mean, image_std: --processor takes"):
        convert(tmp_path / "weights.pth", tmp_path / "new", Choices(processor=folder / "config.json"))
    with pytest.raises(CheckpointError, match="no preset is called 'beit'; there are beit-base"):
        convert(tmp_path / "weights.pth", tmp_path / "new", Choices(preset="beit"))
    for name in [name for name in tensors if "relative" in name]:
        del tensors[name]
    torch.save(tensors, tmp_path / "bare.pth")
    with pytest.raises(
        CheckpointError, match=r"number of attention heads is unknown: give --model-config, or --preset"
    ):
        convert(tmp_path / "bare.pth", tmp_path / "new", Choices(preset="beit-base-patch16-224"))


def test_nothing_is_written_unless_every_tensor_fits(tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    folder = tiny_model("classifier")
    tensors = as_unilm(full_names(folder))
    del tensors["blocks.1.norm2.weight"]
    tensors["head.bias"] = torch.zeros(3)
    tensors["extra"] = torch.zeros(3)
    torch.save(tensors, tmp_path / "weights.pth")
    with pytest.raises(CheckpointMismatch) as found:
        convert(tmp_path / "weights.pth", tmp_path / "new", Choices(processor=folder / "preprocessor_config.json"))
    for part in ("1 missing: blocks.1.norm2.weight", "1 unexpected: extra",
                 "head.bias is (3,), not (7,)"):  # fmt: skip
        assert part in str(found.value)
    assert [path.name for path in tmp_path.iterdir()] == ["weights.pth"]


@torch.inference_mode()
def test_the_tokenizers_pickles(tmp_path: Path) -> None:
    model, pictures = seeded(), torch.rand(1, 3, 112, 112)
    published_pickles(tmp_path, model)
    card = convert(tmp_path, tmp_path / "both")
    assert card.head == "dvae"
    assert card.config == load_card(tmp_path / "both").config
    assert card.dvae == SMALL
    assert card.pixels.size == (112, 112)
    found = load_dvae(card)
    assert torch.equal(found.encode(pictures), model.encode(pictures))
    tokens = found.encode(pictures)
    assert torch.equal(found.decode(tokens), model.decode(tokens))
    assert torch.equal(load_dvae(tmp_path / "encoder.pkl").encode(pictures), tokens)


def test_what_means_nothing_to_a_dvae_is_refused(tmp_path: Path) -> None:
    published_pickles(tmp_path, seeded())
    for choices, flag in ((Choices(semantics="hf"), "--semantics"), (Choices(pool_of="cls"), "--pool-of")):
        with pytest.raises(CheckpointError, match=f"is a dVAE, to which {flag} means nothing: leave it out$"):
            convert(tmp_path, tmp_path / "out", choices)
    assert not (tmp_path / "out").exists()
    with pytest.raises(CheckpointError, match="encoder is missing"):
        convert(tmp_path / "decoder.pkl", tmp_path / "half")


def test_the_job_converts_and_refuses_a_full_folder(tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    folder = tiny_model("classifier")
    done = run_job("convert.py", folder, tmp_path / "new", code=0)
    assert load_card(tmp_path / "new").fingerprint in done.stdout
    done = run_job("convert.py", folder, tmp_path / "new", code=2)
    assert "is not an empty folder" in done.stderr
    assert "Traceback" not in done.stderr
    run_job("convert.py", folder, f"file://{tmp_path}/there", code=0)
    assert load_card(tmp_path / "there").fingerprint == load_card(tmp_path / "new").fingerprint
    done = run_job("convert.py", folder, "s3://bucket/m", code=2)
    assert "convert.py: DEST s3://bucket/m: models are written to a disk; name a folder, and copy" in done.stderr
