"""Pixels bit-equal to transformers' PIL processor, and every form of its configuration."""

import json
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.models.beit.image_processing_pil_beit import BeitImageProcessorPil

from beit_core import CheckpointError, PixelSpec
from pipeline.decode.decode import fit

IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}


def picture(height: int, width: int, mode: str) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values).convert(mode)


def prepared(image: Image.Image, spec: PixelSpec) -> torch.Tensor:
    height, width = spec.target(image.height, image.width)
    resized = np.array(image.convert("RGB").resize((width, height), spec.resample) if spec.resize else image)
    return spec.normalize(torch.from_numpy(resized)[None])


@pytest.mark.parametrize("mode", ["L", "P", "RGB"])
@pytest.mark.parametrize(
    "raw",
    [
        {},
        {"size": 32, "resample": 2, "feature_extractor_type": "BeitFeatureExtractor"},
        {"size": {"height": 20, "width": 50}, **IMAGENET},
        {"size": {"shortest_edge": 33}, "rescale_factor": 0.01},
        {"do_normalize": False, "size": {"height": 32, "width": 32}},
        {"do_rescale": False, "image_mean": 127.5, "image_std": 127.5, "size": {"height": 8, "width": 8}},
    ],
)
def test_pixels_are_the_references_to_the_last_bit(mode: str, raw: dict[str, object]) -> None:
    image = picture(60, 90, mode)
    known = {key: value for key, value in raw.items() if key != "feature_extractor_type"}
    right = BeitImageProcessorPil(**known)(image.convert("RGB"), return_tensors="pt").pixel_values
    ours = prepared(image, PixelSpec.from_hf(raw))
    assert ours.dtype == torch.float32
    assert torch.equal(ours, right)


def test_all_bytes_are_normalised_to_the_last_bit() -> None:
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, 2)
    processor = BeitImageProcessorPil(do_resize=False, **IMAGENET)
    right = processor(Image.fromarray(levels), return_tensors="pt").pixel_values
    assert torch.equal(
        PixelSpec.from_hf({"do_resize": False, **IMAGENET}).normalize(torch.from_numpy(levels)[None]), right
    )


@pytest.mark.parametrize(
    ("raw", "expected_spec"),
    [
        ({}, PixelSpec()),
        ({"size": 224, "do_center_crop": True, "crop_size": 200}, PixelSpec(crop=(200, 200))),
        ({"size": [30, 40]}, PixelSpec(resize=(30, 40))),
        ({"size": {"height": 30, "width": 40}}, PixelSpec(resize=(30, 40))),
        ({"size": {"shortest_edge": 30}, "crop_size": {"height": 9, "width": 8}}, PixelSpec(resize=30)),
        ({"do_resize": False}, PixelSpec(resize=None)),
        ({"do_rescale": False}, PixelSpec(rescale=None)),
        ({"image_processor_type": "ViTImageProcessor"}, PixelSpec(resample=2)),
        ({"do_normalize": False}, PixelSpec(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))),
    ],
)
def test_configurations_old_and_new(raw: dict[str, object], expected_spec: PixelSpec) -> None:
    assert PixelSpec.from_hf(raw) == expected_spec


@pytest.mark.parametrize(
    "spec",
    [PixelSpec(), PixelSpec(640, 2560), PixelSpec(256, None, (224, 224), 2), PixelSpec(None, rescale=None)],
)
def test_written_configurations_read_back(spec: PixelSpec) -> None:
    assert PixelSpec.from_hf(spec.to_hf()) == spec


def test_target_sizes() -> None:
    assert PixelSpec((30, 40)).target(7, 9) == (30, 40)
    assert PixelSpec(None).target(7, 9) == (7, 9)
    assert PixelSpec(256).target(333, 500) == (256, 384)
    assert PixelSpec(256).target(500, 333) == (384, 256)
    # mmsegmentation: both sides times min(2560 / longer, 640 / shorter), rounded.
    assert PixelSpec(640, 2560).target(512, 683) == (640, 854)
    assert PixelSpec(640, 2560).target(100, 1000) == (256, 2560)


def test_size_is_known_unless_it_varies() -> None:
    assert PixelSpec(256, crop=(224, 224)).size == (224, 224)
    assert PixelSpec((30, 40)).size == (30, 40)
    assert PixelSpec(640, 2560).size is None


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"size": {"width": 3}}, 'size is {"width": 3}, not pixels'),
        ({"size": {"shortest_edge": 8, "longest_edge": 9}}, 'size is .*"longest_edge": 9}, not pixels'),
        ({"size": {"shortest_edge": 8, "height": 9, "width": 9}}, "size is .*, not pixels"),
        ({"image_mean": [0.5]}, r"image_mean is \[0.5\], not a number .* or a list of 3"),
        ({"image_processor_type": "CLIPImageProcessor", "size": 8}, "CLIPImageProcessor.*add resample, image_mean"),
    ],
)
def test_unusable_configurations_say_why(raw: dict[str, object], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        PixelSpec.from_hf(raw)


SAME = ["vit.ViT", "deit.DeiT", "clip.CLIP", "bit.Bit", "dpt.DPT", "segformer.Segformer", "siglip.Siglip"]
OTHER = {
    "convnext.ConvNext": r" \(crop_pct\)",
    "poolformer.PoolFormer": r" \(crop_pct\)",
    "efficientnet.EfficientNet": r" \(include_top\)",
    "mobilevit.MobileViT": r" \(do_flip_channel_order\)",
    "donut.Donut": r" \(do_pad, do_thumbnail\)",
    "vilt.Vilt": r" \(do_pad, size_divisor\)",
    "levit.Levit": "",
    "perceiver.Perceiver": "",
}


@pytest.mark.parametrize("name", [*SAME, *OTHER])
def test_processors_of_other_models_are_read_right_or_refused(name: str, tmp_path: Path) -> None:
    file, kind = name.split(".")
    module = import_module(f"transformers.models.{file}.image_processing_pil_{file}")
    theirs, image = getattr(module, f"{kind}ImageProcessorPil")(), picture(300, 417, "RGB")
    theirs.save_pretrained(tmp_path)
    raw = json.loads((tmp_path / "preprocessor_config.json").read_text())
    if name in OTHER:
        message = f"is for {kind}ImageProcessor, which has steps that are not known here{OTHER[name]}: write"
        with pytest.raises(CheckpointError, match=message):
            PixelSpec.from_hf(raw)
        return
    spec = PixelSpec.from_hf(raw)
    ours = spec.normalize(fit(image, spec, (300, 417), exact=True)[None])
    assert torch.equal(ours, theirs(image, return_tensors="pt").pixel_values)


@pytest.mark.parametrize(
    ("raw", "lacking"),
    [
        ({"model_type": "beit", "image_size": 384}, "size, image_mean, image_std"),
        ({"size": 384}, "image_mean, image_std"),
        ({"size": 384, **IMAGENET, "image_std": 0.5}, ""),
        ({"do_resize": False, "do_normalize": False}, ""),
        ({"feature_extractor_type": "BeitFeatureExtractor", "size": 384}, ""),
        ({"image_processor_type": "ViTImageProcessor"}, ""),
    ],
)
def test_a_file_that_is_given_says_it_all(raw: dict[str, object], lacking: str) -> None:
    if lacking:
        with pytest.raises(CheckpointError, match=rf"^there has no {lacking}: --processor takes a preprocessor_config"):
            PixelSpec.stated(raw, "there")
    else:
        assert PixelSpec.stated(raw, "there") == PixelSpec.from_hf(raw)


def test_wrong_pixels_are_refused() -> None:
    with pytest.raises(ValueError, match=r"uint8 of shape \(B, H, W, 3\)"):
        PixelSpec().normalize(torch.zeros(1, 3, 4, 4, dtype=torch.uint8))


def test_numpy_is_taken_as_tensors_are(recwarn: pytest.WarningsRecorder) -> None:
    pictures = np.arange(2 * 4 * 5 * 3, dtype=np.uint8).reshape(2, 4, 5, 3)
    pictures.flags.writeable = False  # as Pillow's arrays are
    assert torch.equal(PixelSpec().normalize(pictures), PixelSpec().normalize(torch.tensor(pictures)))
    with pytest.raises(ValueError, match=r"uint8 of shape \(B, H, W, 3\), not torch.float32 of shape \(1, 2, 3\)"):
        PixelSpec().normalize(np.zeros((1, 2, 3), np.float32))
    assert not list(recwarn)
