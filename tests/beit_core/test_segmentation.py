"""Segmentation in both semantics, and label maps in little memory."""

import io
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from beit_core import CheckpointError, NotFinite, label_map, load_card, load_segmenter
from beit_core.config import BeitConfig, Semantics
from beit_core.segmentation import Segmenter
from tests.conftest import Bundle

Pair = tuple[Path, transformers.BeitForSemanticSegmentation]


def scenes(shards: Path) -> Iterator[tuple[Tensor, Tensor]]:
    for path in sorted(shards.glob("*.tar")):
        with tarfile.open(path) as tar:
            files = {entry.name: Image.open(io.BytesIO(tar.extractfile(entry).read())) for entry in tar}  # type: ignore[union-attr]
        for name in sorted(name for name in files if not name.endswith(".mask.png")):
            mask = files[name.replace(".png", ".mask.png")]
            yield torch.from_numpy(np.array(files[name].convert("RGB"))), torch.from_numpy(np.array(mask))


def mean_iou_and_accuracy(bundle: Bundle, semantics: Semantics) -> tuple[float, float]:
    card = load_card(bundle.model, semantics)
    model = load_segmenter(card)
    pictures, masks = zip(*scenes(bundle.shards), strict=True)
    logits = torch.cat([model(card.pixels.normalize(torch.stack(pictures[i : i + 40]))) for i in (0, 40, 80)])
    counts = torch.zeros(11, 11)
    for one, mask in zip(logits, masks, strict=True):
        found = label_map(one, *mask.shape)
        counts += torch.bincount(mask.flatten().long() * 11 + found.flatten().long(), minlength=121).view(11, 11)
    union = counts.sum(0) + counts.sum(1) - counts.diag()
    return float((counts.diag() / union).mean()), float(counts.diag().sum() / counts.sum())


@torch.inference_mode()
def test_scenes_are_segmented_as_well_as_by_the_reference(digits_seg: Bundle) -> None:
    assert mean_iou_and_accuracy(digits_seg, "hf") == pytest.approx((0.98391, 0.99797), abs=5e-6)


@torch.inference_mode()
def test_the_other_semantics_really_differ(digits_seg: Bundle) -> None:
    iou, _ = mean_iou_and_accuracy(digits_seg, "original")
    assert 0.8 < iou < 0.95


def test_feature_layers_of_the_published_models() -> None:
    base = BeitConfig(out_indices=(3, 5, 7, 11))
    assert base.feature_layers("original") == (4, 6, 8, 12)
    assert base.feature_layers("hf") == (2, 4, 6, 10)
    large = BeitConfig(depth=24, out_indices=(7, 11, 15, 23))
    assert large.feature_layers("original") == (8, 12, 16, 24)
    assert large.feature_layers("hf") == (6, 10, 14, 22)


def reference_logits(model: transformers.BeitForSemanticSegmentation, pixels: Tensor) -> Tensor:
    """transformers' own head, fed with what leaves the blocks that the indices name."""
    hidden = model.beit(pixels, output_hidden_states=True).hidden_states
    grid = pixels.shape[2] // 8, pixels.shape[3] // 8
    chosen = [hidden[index + 1] for index in model.config.out_indices]
    return model.decode_head(model.fpn(tuple(h[:, 1:].transpose(1, 2).unflatten(2, grid) for h in chosen)))


@pytest.fixture
def pair(tiny_model: Callable[..., Path]) -> tuple[Path, transformers.BeitForSemanticSegmentation]:
    folder = tiny_model("segmenter", out_indices=[0, 1, 2, 3])
    return folder, transformers.BeitForSemanticSegmentation.from_pretrained(folder).eval()


@torch.inference_mode()
def test_original_semantics_reads_the_trained_layers(pair: Pair) -> None:
    folder, reference = pair
    model = load_segmenter(load_card(folder, "original"))
    pixels = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(model(pixels), reference_logits(reference, pixels), rtol=1e-5, atol=1e-5)
    model, reference, pixels = model.double(), reference.double(), pixels.double()
    torch.testing.assert_close(model(pixels), reference_logits(reference, pixels), rtol=1e-10, atol=1e-10)


def slid(model: transformers.BeitForSemanticSegmentation, pixels: Tensor, height: int, width: int) -> Tensor:
    """mmsegmentation's sliding window of 64 at a stride of 42, written out; pixels at least a window large."""
    rows, columns = pixels.shape[2:]
    total, count = torch.zeros(1, 5, rows, columns), torch.zeros(1, 1, rows, columns)
    for i in range(max(rows - 64 + 41, 0) // 42 + 1):
        for j in range(max(columns - 64 + 41, 0) // 42 + 1):
            bottom, right = min(i * 42 + 64, rows), min(j * 42 + 64, columns)
            top, left = bottom - 64, right - 64
            logits = reference_logits(model, pixels[:, :, top:bottom, left:right])
            total[:, :, top:bottom, left:right] += F.interpolate(logits, (64, 64), mode="bilinear")
            count[:, :, top:bottom, left:right] += 1
    return F.interpolate(total / count, (height, width), mode="bilinear").softmax(1).argmax(1)[0]


@torch.inference_mode()
@pytest.mark.parametrize("size", [(64, 64), (64, 65), (64, 150), (107, 90)])
def test_sliding_windows_are_those_of_training(pair: Pair, size: tuple[int, int]) -> None:
    folder, reference = pair
    pixels = torch.randn(3, *size)
    ours = load_segmenter(load_card(folder, "original")).segment(pixels, 91, 203)
    assert (ours == slid(reference, pixels[None], 91, 203)).float().mean() > 0.9999


@torch.inference_mode()
@pytest.mark.parametrize("inference", ["slide", "whole"])
def test_pictures_shorter_than_a_window_are_padded(pair: Pair, inference: str) -> None:
    model = load_segmenter(load_card(pair[0], "original"), inference)
    pixels = torch.randn(3, 30, 150)
    padded = F.pad(pixels, (0, 0 if inference == "slide" else 2, 0, 34 if inference == "slide" else 2))
    found = model.segment(pixels, 30, 150)
    assert found.shape == (30, 150)
    assert torch.equal(found, model.segment(padded, *padded.shape[1:])[:30, :150])


@torch.inference_mode()
def test_a_whole_picture_is_what_the_processor_makes_of_it(pair: Pair) -> None:
    folder, reference = pair
    pixels = torch.randn(3, 75, 90)
    logits = reference(pixels[None]).logits
    right = F.interpolate(logits, (120, 77), mode="bilinear", align_corners=False)[0].argmax(0)
    assert torch.equal(load_segmenter(load_card(folder)).segment(pixels, 120, 77).long(), right)


@torch.inference_mode()
def test_the_auxiliary_head_is_loaded(pair: Pair) -> None:
    folder, reference = pair
    model, pixels = load_segmenter(load_card(folder)), torch.randn(1, 3, 64, 64)
    levels = model.levels(pixels)
    torch.testing.assert_close(model.auxiliary_head(levels[2]), reference.auxiliary_head(levels), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", [(1, 1), (7, 300), (333, 501), (640, 480)])
def test_label_maps_are_the_references(size: tuple[int, int]) -> None:
    logits = torch.randn(150, 40, 53)
    logits[3] = logits[70]  # the first of equals wins
    found = label_map(logits, *size)
    right = F.interpolate(logits[None], size, mode="bilinear", align_corners=False)[0].argmax(0)
    assert found.dtype == torch.uint8
    assert torch.equal(found.long(), right)


def test_label_maps_skip_classes_that_cannot_win() -> None:
    logits = torch.randn(150, 40, 40)
    logits[20:] -= 20
    right = F.interpolate(logits[None], (200, 300), mode="bilinear", align_corners=False)[0].argmax(0)
    assert torch.equal(label_map(logits, 200, 300).long(), right)


def test_label_maps_of_many_classes_are_wider() -> None:
    logits = torch.zeros(300, 1, 1)
    logits[299] = 1
    assert label_map(logits, 2, 3).dtype == torch.int16
    assert label_map(logits, 2, 3).unique().tolist() == [299]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("where", [(0, 0, 0), (1, 2, 2), (2, 3, 0)])
def test_logits_that_are_not_finite_are_refused(value: float, where: tuple[int, int, int]) -> None:
    logits = torch.zeros(3, 4, 4)
    logits[where] = value
    with pytest.raises(NotFinite, match="not finite"):
        label_map(logits, 8, 8)


MEASURE = """
import resource, torch
from beit_core import label_map
torch.set_num_threads(1)
logits = torch.randn(150, 160, 160)
logits[40:] -= 20
label_map(logits, 64, 64)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
label_map(logits, 3000, 4000)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.torture
def test_twelve_megapixels_take_less_than_700_megabytes() -> None:
    done = subprocess.run([sys.executable, "-c", MEASURE], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 700


def test_segmentation_needs_four_layers() -> None:
    with pytest.raises(CheckpointError, match="reads four layers, out_indices names 1"):
        Segmenter(BeitConfig(out_indices=(3,)), "hf")


@torch.inference_mode()
def test_too_small_pictures_are_refused(pair: Pair) -> None:
    with pytest.raises(ValueError, match="at least 16 pixels"):
        load_segmenter(load_card(pair[0]))(torch.zeros(1, 3, 8, 64))
