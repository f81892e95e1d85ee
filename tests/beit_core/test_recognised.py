"""Which folders and files are taken for published checkpoints, and which are somebody's own under such a name."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from beit_core import CheckpointError, PixelSpec, load_card, presets
from beit_core.card import Known, describe
from beit_core.published import COUNTS, class_names, find_preset
from tests.beit_core.test_checkpoint import edit, published_folder
from tests.models import preprocessor

LABELS, SCENES = "beit-base-patch16-224", "beit-base-finetuned-ade-640-640"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def masked_folder(path: Path, vocabulary: int) -> Path:
    path.mkdir(parents=True)
    config = {"architectures": ["BeitForMaskedImageModeling"], "image_size": 224, "vocab_size": vocabulary}
    (path / "config.json").write_text(json.dumps(config))
    (path / "preprocessor_config.json").write_text(json.dumps(preprocessor(224)))
    save_file({"x": torch.zeros(1)}, path / "model.safetensors")
    return path


@pytest.mark.parametrize(("name", "classes"), [(LABELS, 10), (SCENES, 20)])
@pytest.mark.parametrize("place", ["{}", "models--microsoft--{}/snapshots/" + COMMIT])
def test_other_classes_make_it_somebodys_own(place: str, name: str, classes: int, tmp_path: Path) -> None:
    folder = published_folder(tmp_path / place.format(name), name)
    own = preprocessor(presets()[name].image) | {"resample": 2, "image_mean": [0.1, 0.2, 0.3]}
    (folder / "preprocessor_config.json").write_text(json.dumps(own))
    edit(folder, num_labels=classes)
    card = load_card(folder)
    assert (card.semantics, card.beit.layer_norm_eps, card.beit.bias_resampling) == ("hf", 1e-12, "bilinear")
    side = presets()[name].image
    assert card.pixels == PixelSpec((side, side), resample=2, mean=(0.1, 0.2, 0.3))
    assert (len(card.labels), card.palette, card.beit.stride) == (classes, None, 0)


def test_another_vocabulary_too(tmp_path: Path) -> None:
    name = "beit-base-patch16-224-pt22k"
    assert load_card(masked_folder(tmp_path / "theirs" / name, 8192)).semantics == "original"
    assert load_card(masked_folder(tmp_path / "mine" / name, 16384)).semantics == "hf"


def test_in_the_hubs_cache_the_owner_counts(tmp_path: Path) -> None:
    for owner, semantics in (("someuser", "hf"), ("not-microsoft", "hf"), ("microsoft", "original")):
        card = load_card(published_folder(tmp_path / f"models--{owner}--{LABELS}/snapshots/{COMMIT}", LABELS))
        assert card.semantics == semantics
        assert (card.pixels.crop is None) == (semantics == "hf")
        assert card.name == (LABELS if owner == "microsoft" else f"{owner}/{LABELS}")


def test_files_of_timm_in_the_hubs_cache(tmp_path: Path) -> None:
    file = "blobs/0123456789abcdef"
    found = find_preset(tmp_path / "models--timm--beit_base_patch16_224.in22k_ft_in22k_in1k" / file)
    assert found is not None
    assert found.name == LABELS
    assert find_preset(tmp_path / "models--someuser--beit_base_patch16_224.in22k_ft_in22k_in1k" / file) is None


def test_the_shifted_names_of_22k_are_as_many_as_published(tmp_path: Path) -> None:
    """Two of 21,843 ids have no name, so the last one is 21,842 and there are 21,841."""
    folder = published_folder(tmp_path / "beit-base-patch16-224-pt22k-ft22k", "beit-base-patch16-224-pt22k-ft22k")
    edit(folder, id2label={str(number): f"n{number}" for number in range(21843) if number not in (9205, 15027)})
    card = load_card(folder)
    assert (card.semantics, card.name) == ("original", "beit-base-patch16-224-pt22k-ft22k")


@pytest.mark.parametrize(("kind", "least"), [("classifier", 8), ("masked", 8), ("segmenter", 16)])
def test_pictures_that_hold_no_patch(kind: str, least: int, tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_model(kind), tmp_path / "model")
    for size in (least - 1, {"height": 64, "width": least - 1}):
        edit(folder, "preprocessor_config.json", size=size)
        with pytest.raises(CheckpointError, match=rf"pixels, but the model takes at least {least} each way: correct"):
            load_card(folder)
    if kind == "segmenter":
        assert load_card(folder, "original").pixels.size == (64, least - 1)
    for size in (least, {"height": 64, "width": least}, {"shortest_edge": 1}):
        edit(folder, "preprocessor_config.json", size=size)
        assert load_card(folder).pixels.resize is not None


@pytest.mark.parametrize("name", [name for name in COUNTS if name])
def test_the_counts_are_those_of_the_lists(name: str) -> None:
    assert COUNTS[name] == len(class_names(name))


def test_a_file_of_training_code_with_other_classes_has_unknown_pixels() -> None:
    file = Path("beit_base_patch16_224_pt22k_ft22kto1k.pth")
    raw = {"architectures": ["BeitForImageClassification"], "use_relative_position_bias": True}
    assert describe(file, {**raw, "num_labels": 1000}, Known()).name == LABELS
    with pytest.raises(CheckpointError, match=f"has the name of {LABELS} but not its shape, .*--preset.*--processor"):
        describe(file, {**raw, "num_labels": 10}, Known())
    sharing = describe(file, {**raw, "num_labels": 10}, Known(preset=presets()[LABELS]))
    assert (sharing.name, sharing.semantics, sharing.pixels) == (file.name, "original", presets()[LABELS].pixels)
