"""Every head of every family: converted from its own kind of file, loaded, compared with an independent program.

Weights are seeded. float32 within 1e-5, float64 within 1e-10; docs/checkpoints.md says what was compared with what.
"""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import save_file
from torch import Tensor, nn

from beit_core import Choices, ModelCard, convert, load_card, load_dvae, load_embedder, load_model
from tests.beit_core import oracle
from tests.beit_core.foreign_files import as_mmseg, as_unilm
from tests.beit_core.test_conversion import full_names, published_pickles
from tests.beit_core.test_dvae import SMALL, seeded
from tests.beit_core.test_parity import answers, expected, mask_of
from tests.models import scramble

ABSOLUTE = {"use_relative_position_bias": False, "use_absolute_position_embeddings": True}
SHARED = {"use_relative_position_bias": False, "use_shared_relative_position_bias": True, "use_mean_pooling": True}
PRECISIONS = ((torch.float32, 1e-5), (torch.float64, 1e-10))
Make = Callable[..., Path]


def pixels_of(side: tuple[int, int]) -> Tensor:
    return torch.randn(2, 3, *side, generator=torch.Generator().manual_seed(1))


def written(tensors: dict[str, Tensor], path: Path, wrapper: str) -> Path:
    """A file as unilm (`model`), BEiT v2 (`module`) or timm (none) would have left it."""
    if not wrapper:
        save_file(as_unilm(tensors, index=False), path.with_suffix(".safetensors"))
        return path.with_suffix(".safetensors")
    content = as_unilm(tensors)
    if wrapper == "module":
        content["cls_pt_layers.0.norm1.weight"] = torch.ones(3)
    torch.save({wrapper: content}, path)
    return path


def converted(source: Path, folder: Path, target: Path, **choices: object) -> ModelCard:
    """The card of a source that shares its pixels with `folder`."""
    return convert(source, target, Choices(processor=folder / "preprocessor_config.json", **choices))  # type: ignore[arg-type]


def compare(
    model: nn.Module,
    theirs: dict[str, Tensor],
    ask: Callable[[dict[str, Tensor], Tensor], Tensor],
    mine: Callable[[nn.Module, Tensor], Tensor],
    side: tuple[int, int],
) -> None:
    for dtype, tolerance in PRECISIONS:
        pixels = pixels_of(side).to(dtype)
        right = ask({name: tensor.to(dtype) for name, tensor in theirs.items() if tensor.is_floating_point()}, pixels)
        torch.testing.assert_close(mine(model.to(dtype), pixels), right, rtol=tolerance, atol=tolerance)


# wrapper, configuration, what --model-config is needed for
FILES = {
    "BEiT": ("model", {}, False),
    "BEiT v2": ("module", {}, False),
    "timm": ("", {}, False),
    "DiT": ("model", ABSOLUTE, True),
    "both biases, no layer scale": (
        "model",
        {"use_shared_relative_position_bias": True, "layer_scale_init_value": 0.0},
        False,
    ),
}


@torch.inference_mode()
@pytest.mark.parametrize("name", FILES)
def test_classifiers_of_training_code(name: str, tiny_model: Make, tmp_path: Path) -> None:
    wrapper, config, open_heads = FILES[name]
    folder = tiny_model("classifier", **config)
    tensors, theirs = full_names(folder), as_unilm(full_names(folder))
    choices = {"config": folder / "config.json"} if open_heads else {}
    card = converted(written(tensors, tmp_path / "w.pth", wrapper), folder, tmp_path / "new", **choices)
    for side in ((32, 32), (48, 40)):
        compare(
            load_model(card),
            theirs,
            lambda t, pixels: oracle.classified(t, oracle.layers(t, pixels, 4, 4)[-1]),
            lambda model, pixels: model(pixels)[1],
            side,
        )


@torch.inference_mode()
@pytest.mark.parametrize("name", ["BEiT", "BEiT v2", "DiT"])
def test_masked_models_of_training_code(name: str, tiny_model: Make, tmp_path: Path) -> None:
    wrapper, _, open_heads = FILES[name]
    folder = tiny_model("masked", **(ABSOLUTE | {"use_mean_pooling": True} if open_heads else SHARED))
    choices = {"config": folder / "config.json"} if open_heads else {}
    source = written(full_names(folder), tmp_path / "w.pth", wrapper)
    card = converted(source, folder, tmp_path / "new", **choices)
    compare(
        load_model(card),
        as_unilm(full_names(folder)),
        lambda t, pixels: oracle.foreseen(t, oracle.layers(t, pixels, 4, 4, mask_of(pixels))[-1]),
        lambda model, pixels: model(pixels, mask_of(pixels)),
        (32, 32),
    )


@torch.inference_mode()
def test_segmenters_of_mmsegmentation(tiny_model: Make, tmp_path: Path) -> None:
    folder = tiny_model("segmenter", num_hidden_layers=6, out_indices=[1, 2, 3, 5])
    torch.save(as_mmseg(full_names(folder)), tmp_path / "weights.pth")
    card = converted(tmp_path / "weights.pth", folder, tmp_path / "new")
    theirs = as_unilm(full_names(folder))
    for side in ((64, 64), (48, 88)):
        grid = (side[0] // 8, side[1] // 8)

        def ask(t: dict[str, Tensor], pixels: Tensor, grid: tuple[int, int] = grid) -> Tensor:
            return oracle.segmented(t, oracle.layers(t, pixels, 4, 8), (1, 2, 3, 5), grid)

        compare(load_model(card), theirs, ask, lambda model, pixels: model(pixels), side)


@torch.inference_mode()
@pytest.mark.parametrize("pool_of", ["cls", "mean"])
@pytest.mark.parametrize("has_head", [True, False])
def test_files_whose_pooling_is_open(has_head: bool, pool_of: str, tiny_model: Make, tmp_path: Path) -> None:
    folder = tiny_model("classifier", use_mean_pooling=False)
    tensors = {name: t for name, t in full_names(folder).items() if has_head or not name.startswith("classifier")}
    source = written(tensors, tmp_path / "w.pth", "")
    card = converted(source, folder, tmp_path / "new", pool_of=pool_of)
    compare(
        load_embedder(card),
        as_unilm(tensors),
        lambda t, pixels: oracle.pooled(t, oracle.layers(t, pixels, 4, 4)[-1], pool_of),
        lambda model, pixels: model(pixels),
        (32, 32),
    )
    if has_head:
        compare(
            load_model(card),
            as_unilm(tensors),
            lambda t, pixels: oracle.classified(t, oracle.layers(t, pixels, 4, 4)[-1], pool_of),
            lambda model, pixels: model(pixels)[1],
            (32, 32),
        )


@torch.inference_mode()
@pytest.mark.parametrize("config", [{}, ABSOLUTE], ids=["bias tables", "absolute positions"])
def test_timms_linear_resampling(config: dict[str, object], tiny_model: Make, tmp_path: Path) -> None:
    folder = tiny_model("classifier", **config)
    choices = {"config": folder / "config.json", "resampling": "linear"}
    source = written(full_names(folder), tmp_path / "w.pth", "")
    card = converted(source, folder, tmp_path / "new", **choices)
    assert load_card(tmp_path / "new").beit.bias_resampling == "linear"
    for side in ((64, 64), (40, 56)):
        compare(
            load_model(card),
            as_unilm(full_names(folder)),
            lambda t, pixels: oracle.classified(t, oracle.layers(t, pixels, 4, 4, way="linear")[-1]),
            lambda model, pixels: model(pixels)[1],
            side,
        )


TRANSFORMERS = {
    "BEiT encoder": ("encoder", "BeitModel", {}),
    "BEiT classes": ("classifier", "BeitForImageClassification", {}),
    "BEiT visual tokens": ("masked", "BeitForMaskedImageModeling", {**SHARED, "use_mask_token": True}),
    "BEiT classes per pixel": ("segmenter", "BeitForSemanticSegmentation", {}),
    "data2vec-vision encoder": ("encoder", "Data2VecVisionModel", {}),
    "data2vec-vision classes": ("classifier", "Data2VecVisionForImageClassification", {}),
    "data2vec-vision classes per pixel": (
        "segmenter", "Data2VecVisionForSemanticSegmentation", {"out_indices": [3, 1, 4, 2]},
    ),
}  # fmt: skip
SIZES: dict[str, object] = {
    "image_size": 64, "patch_size": 8, "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2,
    "intermediate_size": 64, "use_relative_position_bias": True, "num_labels": 3, "out_indices": [1, 2, 3, 4],
    "auxiliary_channels": 16, "vocab_size": 40,
}  # fmt: skip


@torch.inference_mode()
@pytest.mark.parametrize("name", TRANSFORMERS)
def test_folders_of_transformers(name: str, tmp_path: Path) -> None:
    kind, class_name, config = TRANSFORMERS[name]
    Config = transformers.BeitConfig if class_name.startswith("Beit") else transformers.Data2VecVisionConfig
    torch.manual_seed(0)
    theirs = getattr(transformers, class_name)(Config(**{**SIZES, **config})).eval()
    scramble(theirs, 0)
    theirs.save_pretrained(tmp_path / "theirs")
    card = convert(tmp_path / "theirs", tmp_path / "ours")
    assert card.semantics == "hf"
    again, told = getattr(transformers, class_name).from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not told["missing_keys"]
    assert not told["unexpected_keys"]
    theirs.beit = theirs.data2vec_vision if hasattr(theirs, "data2vec_vision") else getattr(theirs, "beit", None)
    for dtype, tolerance in PRECISIONS:
        ours, theirs = load_model(card).to(dtype), theirs.to(dtype)
        # transformers' own Data2VecVision head knows the trained size alone.
        for side in ((64, 64),) if name == "data2vec-vision classes per pixel" else ((64, 64), (48, 72)):
            pixels = pixels_of(side).to(dtype)
            for mine, right in zip(answers(ours, pixels, kind), expected(theirs, pixels, kind), strict=True):
                torch.testing.assert_close(mine, right, rtol=tolerance, atol=tolerance)
    if kind != "masked":  # transformers 5 gives a masked model's norms each other's weights
        pixels = pixels_of((64, 64))
        for mine, right in zip(
            expected_of(again, pixels, kind), expected_of(theirs.float(), pixels, kind), strict=True
        ):
            assert torch.equal(mine, right)


def expected_of(model: nn.Module, pixels: Tensor, kind: str) -> list[Tensor]:
    out = model.eval()(pixels)
    return [out.last_hidden_state if kind == "encoder" else out.logits]


@torch.inference_mode()
def test_the_tokenizers_own_package(tmp_path: Path) -> None:
    """Where `dall_e` is installed; nothing installs it."""
    dall_e = pytest.importorskip("dall_e")
    model = seeded()
    theirs = dall_e.Encoder(
        n_hid=SMALL.width, n_blk_per_group=2, vocab_size=40, requires_grad=False, use_mixed_precision=False
    )
    names = dict(theirs.named_parameters())
    for name, weight in model.encoder.state_dict().items():
        names[name.removesuffix("eight").removesuffix("ias")].data.copy_(weight)
    published_pickles(tmp_path, model)
    pictures = torch.rand(2, 3, 112, 112)
    convert(tmp_path, tmp_path / "new")
    ours = load_dvae(tmp_path / "new")
    torch.testing.assert_close(ours.token_logits(pictures), theirs(dall_e.map_pixels(pictures)), rtol=1e-5, atol=1e-5)
