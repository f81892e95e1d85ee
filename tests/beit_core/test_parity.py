"""Every head against transformers: the same weights, the same pixels."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor, nn

from beit_core import load_card, load_embedder, load_model
from tests.models import preprocessor

ABSOLUTE = {"use_relative_position_bias": False, "use_absolute_position_embeddings": True}
SHARED = {"use_relative_position_bias": False, "use_shared_relative_position_bias": True}
# kind, configuration, height and width of the pixels
SHAPES: dict[str, tuple[str, dict[str, object], tuple[int, int]]] = {
    "native": ("classifier", {}, (32, 32)),
    "larger": ("classifier", {}, (48, 48)),
    "smaller": ("classifier", {}, (16, 16)),
    "rectangle": ("classifier", {}, (32, 56)),
    "rectangle of as many patches": ("classifier", {}, (16, 64)),
    "not divisible": ("classifier", {}, (37, 45)),
    "no layer scale": ("classifier", {"layer_scale_init_value": 0.0}, (32, 32)),
    "absolute positions, cls pooling": ("classifier", {**ABSOLUTE, "use_mean_pooling": False}, (32, 32)),
    "absolute positions, larger": ("classifier", ABSOLUTE, (40, 56)),
    "shared bias": ("classifier", SHARED, (32, 32)),
    "shared and own bias": ("classifier", {"use_shared_relative_position_bias": True}, (40, 32)),
    "cls pooling": ("classifier", {"use_mean_pooling": False}, (32, 32)),
    "trained on rectangles": ("classifier", {"image_size": (32, 48)}, (32, 48)),
    "trained on rectangles, other size": ("classifier", {"image_size": (48, 32)}, (40, 40)),
    "one head, four layers, eps": (
        "classifier",
        {"num_attention_heads": 1, "num_hidden_layers": 4, "layer_norm_eps": 1e-6},
        (32, 32),
    ),
    "patches of 16": ("classifier", {"patch_size": 16, "image_size": 64}, (64, 64)),
    "encoder": ("encoder", {}, (32, 32)),
    "encoder, cls pooling": ("encoder", {"use_mean_pooling": False}, (40, 32)),
    "masked": ("masked", {**SHARED, "use_mean_pooling": True}, (32, 32)),
    "masked, absolute positions": ("masked", {**ABSOLUTE, "use_mean_pooling": True}, (32, 48)),
    "masked, two norms": ("masked", {"use_mean_pooling": False}, (32, 32)),
    "segmenter": ("segmenter", {}, (64, 64)),
    "segmenter, rectangle": ("segmenter", {"use_auxiliary_head": False}, (48, 88)),
}


@pytest.fixture(params=SHAPES)
def shape(request: pytest.FixtureRequest) -> tuple[str, dict[str, object], tuple[int, int]]:
    return SHAPES[request.param]


def reference(folder: Path) -> nn.Module:
    name = json.loads((folder / "config.json").read_text())["architectures"][0]
    model = getattr(transformers, name).from_pretrained(folder).eval()
    if "beit.layernorm.weight" in (tensors := load_file(folder / "model.safetensors")) and name.endswith("Modeling"):
        # transformers 5 gives each of a masked model's two norms the other's weights when it loads them.
        for norm, prefix in ((model.layernorm, "layernorm"), (model.beit.layernorm, "beit.layernorm")):
            norm.load_state_dict({part: tensors[f"{prefix}.{part}"] for part in ("weight", "bias")})
    return model


def mask_of(pixels: Tensor) -> Tensor:
    count = (pixels.shape[2] // 8) * (pixels.shape[3] // 8)
    return torch.rand(len(pixels), count, generator=torch.Generator().manual_seed(3)) < 0.4


def answers(model: nn.Module, pixels: Tensor, kind: str) -> list[Tensor]:
    if kind == "masked":
        return [model(pixels, mask_of(pixels)), model(pixels)]
    out = model(pixels)
    return list(out) if isinstance(out, tuple) else [out]


def expected(model: nn.Module, pixels: Tensor, kind: str) -> list[Tensor]:
    if kind == "encoder":
        return [model(pixels).last_hidden_state]
    if kind == "classifier":
        return [model.beit(pixels).pooler_output, model(pixels).logits]
    if kind == "masked":
        return [model(pixels, bool_masked_pos=mask_of(pixels)).logits, model(pixels).logits]
    return [model(pixels).logits]


def saved(tiny_model: Callable[..., Path], kind: str, config: dict[str, object]) -> Path:
    folder = tiny_model(kind, **config)
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor(32)))
    return folder


@torch.inference_mode()
def test_answers_are_the_references(
    shape: tuple[str, dict[str, object], tuple[int, int]], tiny_model: Callable[..., Path]
) -> None:
    kind, config, size = shape
    folder = saved(tiny_model, kind, config)
    pixels = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))
    ours, theirs = load_model(load_card(folder)), reference(folder)
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-10)):
        ours, theirs, pixels = ours.to(dtype), theirs.to(dtype), pixels.to(dtype)
        for mine, right in zip(answers(ours, pixels, kind), expected(theirs, pixels, kind), strict=True):
            torch.testing.assert_close(mine, right, rtol=tolerance, atol=tolerance)


@torch.inference_mode()
@pytest.mark.parametrize("config", [{}, {"use_mean_pooling": False}], ids=["mean pooling", "cls pooling"])
def test_embeddings_are_the_references_hidden_states(
    tiny_model: Callable[..., Path], config: dict[str, object]
) -> None:
    folder = saved(tiny_model, "encoder", config)
    card, pixels = load_card(folder), torch.randn(2, 3, 32, 40)
    right = reference(folder)(pixels, output_hidden_states=True)
    cases = {
        (None, None): right.pooler_output,
        ("mean", None): right.last_hidden_state[:, 1:].mean(1),
        ("cls", 2): right.last_hidden_state[:, 0],
        ("mean", 1): right.hidden_states[1][:, 1:].mean(1),
        ("cls+mean", 1): torch.cat([right.hidden_states[1][:, 0], right.hidden_states[1][:, 1:].mean(1)], 1),
        (None, 1): right.hidden_states[1][:, 1:].mean(1) if not config else right.hidden_states[1][:, 0],
    }
    for (pool, layer), vectors in cases.items():
        embedder = load_embedder(card, pool, layer)
        torch.testing.assert_close(embedder(pixels), vectors, rtol=1e-5, atol=1e-5)
        assert embedder.width == vectors.shape[1]


@torch.inference_mode()
@pytest.mark.parametrize("kind", ["masked", "segmenter"])
def test_embeddings_of_other_heads_are_the_mean_of_their_patches(tiny_model: Callable[..., Path], kind: str) -> None:
    folder = saved(tiny_model, kind, {})
    pixels = torch.randn(2, 3, 64, 64)
    right = reference(folder).beit(pixels).last_hidden_state[:, 1:].mean(1)
    torch.testing.assert_close(load_embedder(load_card(folder))(pixels), right, rtol=1e-5, atol=1e-5)


@torch.inference_mode()
def test_backbone_maps_are_the_references(tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    folder = saved(tiny_model, "encoder", {})
    config = transformers.BeitConfig.from_pretrained(folder, out_indices=[1, 2])
    backbone = transformers.BeitBackbone(config).eval()
    backbone.save_pretrained(tmp_path)
    pixels = torch.randn(1, 3, 32, 48)
    maps = load_model(load_card(tmp_path)).trunk.maps(pixels, (1, 2))
    for mine, right in zip(maps, backbone(pixels).feature_maps, strict=True):
        torch.testing.assert_close(mine, right, rtol=1e-5, atol=1e-5)


@torch.inference_mode()
def test_data2vec_vision_runs_on_the_same_core(tmp_path: Path) -> None:
    config = transformers.Data2VecVisionConfig(
        image_size=32, patch_size=8, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        use_relative_position_bias=True, num_labels=3,
    )  # fmt: skip
    model = transformers.Data2VecVisionForImageClassification(config).eval()
    model.save_pretrained(tmp_path)
    pixels = torch.randn(2, 3, 32, 32)
    _, logits = load_model(load_card(tmp_path))(pixels)
    torch.testing.assert_close(logits, model(pixels).logits, rtol=1e-5, atol=1e-5)


@torch.inference_mode()
def test_a_masked_patch_does_not_leak(tiny_model: Callable[..., Path]) -> None:
    model = load_model(load_card(saved(tiny_model, "masked", {})))
    pixels = torch.randn(1, 3, 32, 32)
    masked = torch.zeros(1, 16, dtype=torch.bool)
    masked[0, 5] = True
    other = pixels.clone()
    other[:, :, 8:16, 8:16] = float("nan")  # patch 5
    assert torch.equal(model(pixels, masked), model(other, masked))
