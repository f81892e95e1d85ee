"""Cards: what a folder says, whose semantics hold, and what is said when it cannot be used."""

import dataclasses
import json
import pickle
import re
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from beit_core import (
    CheckpointError,
    CheckpointMismatch,
    PixelSpec,
    load_card,
    load_classifier,
    load_dvae,
    load_embedder,
    load_model,
    load_segmenter,
    presets,
)
from beit_core.card import _meaning
from beit_core.checkpoint import PUBLISHED_NAMES, published_name
from beit_core.config import DvaeConfig, Grid, Patched
from beit_core.published import TRAINED_EPS, class_names
from tests.conftest import Bundle
from tests.helpers import DATA


@pytest.fixture
def folder(tmp_path: Path, tiny_model: Callable[..., Path]) -> Path:
    return Path(shutil.copytree(tiny_model("classifier"), tmp_path / "model"))


def edit(folder: Path, name: str = "config.json", **fields: object) -> None:
    path = folder / name
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def test_a_card_is_plain_data_that_travels(digits: Bundle) -> None:
    card = load_card(str(digits.model))
    assert pickle.loads(pickle.dumps(card)) == card
    assert card.labels == tuple("0123456789")
    assert (card.head, card.semantics, card.palette) == ("classifier", "hf", None)
    assert card.pixels == PixelSpec((32, 32), resample=2)


def test_the_fingerprint_follows_content_not_place(folder: Path, tmp_path: Path) -> None:
    card = load_card(folder)
    copy = Path(shutil.copytree(folder, tmp_path / "elsewhere"))
    assert load_card(copy).fingerprint == card.fingerprint
    assert re.fullmatch("[0-9a-f]{64}", card.fingerprint)
    edit(copy, "preprocessor_config.json", image_mean=[0.1, 0.2, 0.3])
    changed = load_card(copy).fingerprint
    assert changed != card.fingerprint
    tensors = load_file(copy / "model.safetensors")
    tensors["classifier.bias"] += 1
    save_file(tensors, copy / "model.safetensors")
    assert load_card(copy).fingerprint not in (changed, card.fingerprint)


def test_a_folder_without_a_processor_gets_the_class_defaults_at_its_own_size(folder: Path) -> None:
    before = load_card(folder)
    (folder / "preprocessor_config.json").unlink()
    assert load_card(folder).pixels == PixelSpec(resize=load_card(folder).config.image_size)
    assert (before.pixels_assumed, load_card(folder).pixels_assumed) == (False, True)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model_type": "vit"}, "is a 'vit' model; supported are beit, data2vec-vision, dall-e-dvae"),
        ({"architectures": ["BeitForDetection"]}, "architecture BeitForDetection is not one of BeitModel"),
        ({"architectures": None}, "architecture (none)"),
        ({"hidden_act": "relu"}, "hidden_act is 'relu'"),
        ({"num_attention_heads": 5}, "hidden_size 64 cannot be divided among num_attention_heads 5"),
        ({"patch_size": [8, 4]}, "patch_size is 8 x 4"),
        ({"patch_size": 64}, "holds no patch of patch_size 64"),
    ],
)
def test_configurations_that_cannot_work_say_why(folder: Path, fields: dict[str, object], message: str) -> None:
    edit(folder, **fields)
    with pytest.raises(CheckpointError, match=re.escape(message)):
        load_card(folder)


def test_folders_that_are_no_models_say_why(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nowhere does not exist"):
        load_card(tmp_path / "nowhere")
    (folder / "model.safetensors").write_bytes(b"1234567890")
    with pytest.raises(CheckpointError, match=r"model\.safetensors is not a readable safetensors file"):
        load_model(load_card(folder))
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin is"):
        load_model(load_card(folder))
    (folder / "pytorch_model.bin").unlink()
    with pytest.raises(CheckpointError, match=r"no weights in .*expected one of model\.safetensors"):
        load_card(folder)
    for content, reason in (("[]", "holds a list"), ("{", "not readable as JSON")):
        (folder / "config.json").write_text(content)
        with pytest.raises(CheckpointError, match=reason):
            load_card(folder)
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"config\.json does not exist"):
        load_card(folder)


@pytest.mark.parametrize("index", [{}, {"weight_map": {"a": "../model.safetensors"}}, {"weight_map": {"a": "no.bin"}}])
def test_an_index_names_only_its_neighbours(folder: Path, index: dict[str, object]) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="names parts that are not next to it"):
        load_card(folder)


def test_every_wrong_tensor_is_named(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors["beit.encoder.layer.0.attention.attention.key.weight"]
    tensors["beit.encoder.layer.1.attention.attention.query.bias"] = torch.zeros(3)
    tensors["surprise"] = torch.zeros(1)
    tensors["beit.encoder.relative_position_bias.relative_position_index"] = torch.zeros(1)
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(CheckpointMismatch) as found:
        load_model(load_card(folder))
    assert "1 missing: beit.encoder.layer.0.attention.attention.key.weight" in str(found.value)
    assert "1 unexpected: surprise" in str(found.value)
    assert "beit.encoder.layer.1.attention.attention.query.bias is (3,), not (64,)" in str(found.value)


def test_every_rename_is_used_and_none_collides(tiny_model: Callable[..., Path]) -> None:
    used, seen = set(), set()
    for kind, config in (("classifier", {}), ("masked", {"use_shared_relative_position_bias": True}),
                         ("encoder", {"use_absolute_position_embeddings": True})):  # fmt: skip
        names = list(load_model(load_card(tiny_model(kind, **config))).state_dict())
        assert len({published_name(name) for name in names if "qkv" not in name}) == len(
            [n for n in names if "qkv" not in n]
        )
        seen |= set(names)
    for pattern, _ in PUBLISHED_NAMES:
        used |= {pattern for name in seen if re.match(pattern, name)}
    assert used == {pattern for pattern, _ in PUBLISHED_NAMES}


@dataclasses.dataclass(frozen=True)
class ColourConfig(Patched):
    """Of another family of models, as somebody may add one."""

    image_size: Grid = (8, 8)
    patch_size: int = 8
    colours: int = 3


def test_a_card_may_have_the_configuration_of_another_family(folder: Path) -> None:
    of_beit = load_card(folder)
    card = dataclasses.replace(of_beit, config=ColourConfig())  # type: ignore[arg-type]
    for unfit, said in [
        (lambda: card.beit, "model has no encoder"),
        (lambda: card.dvae, "not a tokenizer"),
        (lambda: load_embedder(card), "model has no embeddings"),
    ]:
        with pytest.raises(CheckpointError, match=said):
            unfit()
    assert _meaning(card)["config"] == dataclasses.asdict(ColourConfig())
    assert _meaning(card).keys() == _meaning(of_beit).keys()


def test_the_wrong_head_is_refused(folder: Path) -> None:
    card = load_card(folder)
    for load in (partial(load_model, head="masked"), load_segmenter, load_dvae):
        with pytest.raises(CheckpointError, match="model is a classifier checkpoint"):
            load(card)
    with pytest.raises(CheckpointError, match="has no embeddings"):
        load_embedder(dataclasses.replace(card, head="dvae", config=DvaeConfig()))
    with pytest.raises(ValueError, match="pool 'max' is not one of mean, cls, cls"):
        load_embedder(card, "max")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="layer 3 does not exist: choose 1 to 2"):
        load_embedder(card, layer=3)


def test_wrong_pixels_and_masks_are_refused(folder: Path) -> None:
    model = load_classifier(load_card(folder))
    with pytest.raises(ValueError, match="3 channels and at least 8 pixels"):
        model(torch.zeros(1, 1, 32, 32))
    with pytest.raises(ValueError, match="no mask token"):
        model.trunk(torch.zeros(1, 3, 32, 32), torch.zeros(1, 16, dtype=torch.bool))
    with pytest.raises(ValueError, match="must lie between 0 and 2"):
        model.trunk.hidden(torch.zeros(1, 3, 32, 32), (5,))


def test_shifted_names_of_22k_are_put_right(folder: Path) -> None:
    right = class_names("imagenet_22k")
    longer = [*right[:9205], "one too many", *right[9205:15026], "another", *right[15026:]]
    published = {str(i): name for i, name in enumerate(longer) if i not in (9205, 15027)}
    assert len(published) == 21841
    edit(folder, id2label=published)
    assert load_card(folder).labels == tuple(right)


def test_names_are_numbered_where_there_are_none(folder: Path) -> None:
    edit(folder, id2label=None, num_labels=3)
    assert load_card(folder).labels == ("LABEL_0", "LABEL_1", "LABEL_2")


def published_folder(path: Path, name: str) -> Path:
    """A folder shaped like a published checkpoint; its weights are never read, only hashed."""
    preset = presets()[name]
    path.mkdir(parents=True)
    kind = {"classifier": "ImageClassification", "segmenter": "SemanticSegmentation"}[preset.head]
    config = {"architectures": [f"BeitFor{kind}"], "image_size": preset.image, "layer_norm_eps": 1e-12,
              "num_labels": len(preset.labels), "segmentation_indices": [3, 5, 7, 11]}  # fmt: skip
    (path / "config.json").write_text(json.dumps(config))
    (path / "preprocessor_config.json").write_text('{"size": 640, "resample": 2}')
    save_file({"x": torch.zeros(1)}, path / "model.safetensors")
    return path


@pytest.mark.parametrize("place", ["{}", "microsoft/{}", "models--microsoft--{}/snapshots/abc"])
def test_published_folders_are_recognised_and_read_as_trained(place: str, tmp_path: Path) -> None:
    name = "beit-base-finetuned-ade-640-640"
    card = load_card(published_folder(tmp_path / place.format(name), name))
    assert (card.name, card.semantics) == (name, "original")
    assert card.config.layer_norm_eps == TRAINED_EPS
    assert card.config.feature_layers(card.semantics) == (4, 6, 8, 12)
    assert (card.config.stride, card.config.bias_resampling) == (426, "geometric")
    assert (card.pixels.resize, card.pixels.longest) == (640, 2560)
    assert card.pixels.mean == pytest.approx((0.485, 0.456, 0.406), abs=1e-4)
    assert (card.labels[0], card.palette[0]) == ("wall", (120, 120, 120))  # type: ignore[index]
    as_hf = load_card(card.path, "hf")
    assert (as_hf.semantics, as_hf.pixels, as_hf.config.layer_norm_eps) == (
        "hf",
        PixelSpec((640, 640), resample=2),
        1e-12,
    )
    assert as_hf.fingerprint != card.fingerprint


def test_a_folder_of_that_name_but_another_shape_is_somebody_elses(tmp_path: Path) -> None:
    folder = published_folder(tmp_path / "beit-base-patch16-224", "beit-base-patch16-224")
    edit(folder, image_size=256)
    assert load_card(folder).semantics == "hf"


def test_bare_files_are_known_by_their_published_name(tmp_path: Path, tiny_model: Callable[..., Path]) -> None:
    weights = tiny_model("classifier") / "model.safetensors"
    with pytest.raises(CheckpointError, match="has no published name, so its pixels are unknown"):
        load_card(weights)
    shutil.copy(weights, tmp_path / "beit_base_patch16_224_pt22k_ft22kto1k.safetensors")
    with pytest.raises(CheckpointError, match="has the name of beit-base-patch16-224 but not its shape"):
        load_card(tmp_path / "beit_base_patch16_224_pt22k_ft22kto1k.safetensors")


def test_presets_are_complete() -> None:
    hub = [name for name in presets() if name.startswith("beit-") and not name.endswith(("ft1k", "800ep"))]
    assert len(hub) == 11
    assert presets()["beit-large-patch16-512"].accuracy == {"top1": 88.6, "top5": 98.658}
    assert {len(preset.labels) for preset in presets().values()} == {0, 16, 150, 1000, 21841}
    assert presets()["beitv2-base-patch16-224"].pixels.mean == (0.485, 0.456, 0.406)


@torch.inference_mode()
def test_held_out_digits_in_both_precisions(digits: Bundle) -> None:
    card = load_card(DATA / "digits/model")
    model, (pixels, truth) = load_classifier(card), held_out(digits, card.pixels)
    _, logits = model(pixels)
    assert int((logits.argmax(1) == truth).sum()) == 357
    _, narrow = model.bfloat16()(pixels)
    assert narrow.dtype == torch.float32  # two logits are seldom the same
    cosine = torch.nn.functional.cosine_similarity(narrow, logits)
    assert cosine.min() >= 0.9995
    assert torch.equal(narrow.argmax(1), logits.argmax(1))


def held_out(digits: Bundle, spec: PixelSpec) -> tuple[torch.Tensor, torch.Tensor]:
    import io
    import tarfile

    import numpy as np
    from PIL import Image

    pictures, truth = [], []
    for path in sorted(digits.shards.glob("*.tar")):
        with tarfile.open(path) as tar:
            for entry in tar:
                content = tar.extractfile(entry).read()  # type: ignore[union-attr]
                if entry.name.endswith(".cls"):
                    truth.append(int(content))
                else:
                    picture = Image.open(io.BytesIO(content)).convert("RGB").resize((32, 32), spec.resample)
                    pictures.append(torch.from_numpy(np.array(picture)))
    return spec.normalize(torch.stack(pictures)), torch.tensor(truth)
