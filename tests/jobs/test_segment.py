"""Masks through the job: as right as the reference's, at the size of the photograph, and refusals with advice."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from segment import Segment
from transformers import BeitForSemanticSegmentation, BeitImageProcessorPil

from pipeline.config import RunConfig
from pipeline.errors import ConfigError
from pipeline.masks import default_palette, read_mask
from pipeline.run import run
from tests.conftest import Bundle
from tests.helpers import rows, run_job
from tests.photos import originals

Rows = list[dict[str, Any]]
SIZES = [(61, 83), (200, 37), (333, 500), (64, 64), (7, 9), (480, 641), (1, 300), (768, 1023)]  # height, width


ORIGINAL = Segment(semantics="original")
PIXELS = sum(height * width for height, width in SIZES)


def here(output: Path, images: Path, model: Path, task: Segment | None = None, **flags: Any) -> Rows:
    """Run the job in this process."""
    config = RunConfig(input=(str(images),), output=str(output), model=str(model), local=True, **flags)
    assert run(config, task or Segment()) == 0
    found: Rows = rows(output).to_pylist()
    return found


@pytest.fixture(scope="module")
def odd_photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real photographs in odd sizes, without loss."""
    folder = tmp_path_factory.mktemp("odd")
    for i, (height, width) in enumerate(SIZES):
        originals()[i].resize((width, height), Image.Resampling.BICUBIC).save(folder / f"{i}.png")
    return folder


def confusion(table: Rows) -> np.ndarray:
    counts = np.zeros((11, 11), np.int64)
    for row in table:
        truth = np.asarray(Image.open(io.BytesIO(row["mask.png"])))
        np.add.at(counts, (truth.ravel(), read_mask(row).ravel()), 1)
    return counts


def scores(table: Rows) -> tuple[float, float]:
    """mIoU and pixel accuracy."""
    counts = confusion(table)
    right = np.diag(counts)
    return float((right / (counts.sum(0) + counts.sum(1) - right)).mean()), float(right.sum() / counts.sum())


def test_digit_scenes_as_the_reference_and_worse_with_other_semantics(digits_seg: Bundle, tmp_path: Path) -> None:
    flags = ("--input", digits_seg.shards, "--model", digits_seg.model, "--keep", "mask.png", "--dtype", "float32")
    run_job("segment.py", "--local", "--output", tmp_path / "hf", *flags, code=0)
    table: Rows = rows(tmp_path / "hf").to_pylist()
    assert len(table) == 120
    miou, accuracy = scores(table)
    assert (round(miou, 4), round(accuracy, 4)) == (0.9839, 0.9980)
    assert json.loads((tmp_path / "hf/_run.json").read_text())["settings"] == {"semantics": "hf", "inference": "whole"}
    assert list(table[0])[6:] == ["mask", "classes", "mask.png"]

    images, model = digits_seg.shards / "scenes-00000.tar", digits_seg.model
    miou, accuracy = scores(here(tmp_path / "original", images, model, ORIGINAL, keep=("mask.png",)))
    assert miou < 0.92
    bound = json.loads((tmp_path / "original/_run.json").read_text())
    assert bound["settings"] == {"semantics": "original", "inference": "slide"}
    with pytest.raises(ConfigError, match="semantics"):
        here(tmp_path / "original", images, model, keep=("mask.png",))


def test_classes_are_the_masks_own(digits_seg: Bundle, tmp_path: Path) -> None:
    labels = ["background", *(f"digit {i}" for i in range(10))]
    for row in here(tmp_path, digits_seg.shards, digits_seg.model, limit=10):
        ids, counts = np.unique(read_mask(row), return_counts=True)
        expected = sorted(zip(-counts / counts.sum(), ids, strict=True))
        assert [(c["id"], c["label"]) for c in row["classes"]] == [(i, labels[i]) for _, i in expected]
        assert [c["fraction"] for c in row["classes"]] == pytest.approx([-part for part, _ in expected])
        image = Image.open(io.BytesIO(row["mask"]))
        assert (image.mode, image.size) == ("P", (row["width"], row["height"]))
        assert image.getpalette()[:33] == [part for color in default_palette(labels) for part in color]


def reference(model: BeitForSemanticSegmentation, processor: Any, photo: Path) -> tuple[np.ndarray, np.ndarray]:
    """transformers' mask, and the lead of its best class over the next, for every pixel."""
    image = Image.open(photo).convert("RGB")
    size = (image.height, image.width)
    with torch.inference_mode():
        outputs = model(**processor(images=[image], return_tensors="pt"))
    (mask,) = processor.post_process_semantic_segmentation(outputs, target_sizes=[size])
    full = torch.nn.functional.interpolate(outputs.logits, size=size, mode="bilinear", align_corners=False)[0]
    best, second = full.topk(2, dim=0).values
    return mask.numpy(), (best - second).numpy()


def test_masks_of_photographs_are_transformers_masks(
    tiny_model: Callable[..., Path], odd_photos: Path, tmp_path: Path
) -> None:
    folder = tiny_model("segmenter")
    table = here(tmp_path, odd_photos, folder, exact=True, dtype="float32")
    model = BeitForSemanticSegmentation.from_pretrained(folder).eval()
    processor = BeitImageProcessorPil.from_pretrained(folder)
    different, seen = 0, set()
    for row, (height, width) in zip(table, SIZES, strict=True):
        mask = read_mask(row)
        assert (row["status"], mask.shape) == ("ok", (height, width))
        expected, lead = reference(model, processor, Path(row["uri"]))
        wrong = mask != expected
        assert (lead[wrong] < 1e-4).all()
        different += int(wrong.sum())
        seen |= set(mask.ravel().tolist())
    assert different <= 1e-4 * PIXELS
    assert len(seen) > 2


def test_masks_do_not_depend_on_the_batch(tiny_model: Callable[..., Path], odd_photos: Path, tmp_path: Path) -> None:
    one, five = (here(tmp_path / str(size), odd_photos, tiny_model("segmenter"), batch_size=size) for size in (1, 5))
    assert sum(int((read_mask(a) != read_mask(b)).sum()) for a, b in zip(one, five, strict=True)) <= 1e-4 * PIXELS


@pytest.mark.parametrize(("semantics", "inference"), [("original", "slide"), ("original", "whole"), ("hf", "slide")])
def test_every_way_gives_a_mask_of_the_photographs_size(
    semantics: Any, inference: Any, tiny_model: Callable[..., Path], odd_photos: Path, tmp_path: Path
) -> None:
    model = ratio_keeping(tiny_model("segmenter"), tmp_path / "model")
    table = here(tmp_path / "out", odd_photos, model, Segment(semantics=semantics, inference=inference))
    assert [row["status"] for row in table] == ["ok"] * len(SIZES)
    assert [read_mask(row).shape for row in table] == SIZES


def ratio_keeping(source: Path, folder: Path) -> Path:
    """The model with the preprocessing of training: shorter side 64, at most 2560 long."""
    folder.mkdir()
    for file in source.iterdir():
        (folder / file.name).symlink_to(file)
    spec = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").unlink()
    spec |= {"size": {"shortest_edge": 64}, "longest_edge": 2560}
    (folder / "preprocessor_config.json").write_text(json.dumps(spec))
    return folder


def test_broken_images_among_photographs_are_rows(
    tiny_model: Callable[..., Path], odd_photos: Path, tmp_path: Path
) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for photo in odd_photos.iterdir():
        (photos / photo.name).write_bytes(photo.read_bytes())
    (photos / "broken.png").write_bytes((odd_photos / "2.png").read_bytes()[:5000])
    model = tiny_model("segmenter")
    table = here(tmp_path / "out", photos, model, max_failed=0.5, max_pixels=500_000)
    by_name = {Path(row["uri"]).name: row for row in table}
    assert (by_name["broken.png"]["status"], by_name["7.png"]["status"]) == ("decode_error", "too_large")
    assert by_name["broken.png"]["mask"] is None
    assert by_name["7.png"]["classes"] is None
    whole = here(tmp_path / "whole", odd_photos, model)
    assert all(row["mask"] == by_name[Path(row["uri"]).name]["mask"] for row in whole[:7])


def test_logits_that_are_not_finite_make_failed_rows(
    tiny_model: Callable[..., Path], odd_photos: Path, tmp_path: Path
) -> None:
    folder = ratio_keeping(tiny_model("segmenter"), tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    weights["decode_head.classifier.weight"][2] = 3e38  # finite, which their sum is not
    (folder / "model.safetensors").unlink()
    save_file(weights, folder / "model.safetensors")
    for inference in ("whole", "slide"):
        (row,) = here(tmp_path / inference, odd_photos / "2.png", folder, Segment(inference=inference), max_failed=1)
        assert (row["status"], row["mask"], row["classes"]) == ("predict_error", None, None)
        assert "not finite" in row["error"]


@pytest.mark.parametrize(("kind", "job"), [("classifier", "label"), ("masked", "tokens"), ("encoder", "embed")])
def test_other_checkpoints_are_sent_to_their_job(
    kind: str, job: str, tiny_model: Callable[..., Path], odd_photos: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=f"use python jobs/{job}.py"):
        here(tmp_path / "out", odd_photos, tiny_model(kind))
    assert not (tmp_path / "out").exists()
