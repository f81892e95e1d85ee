"""What is laid out for bfloat16 on CPUs: the same answers, to the bit where only the layout differs."""

import copy

import pytest
import torch
from label import Label
from torch import Tensor, nn
from torch.nn import functional as F

from beit_core import attention, load_card, load_classifier, load_segmenter, pack
from beit_core.packed import PackedLinear
from pipeline.engine.predictor import Predictor
from tests.beit_core.test_checkpoint import held_out
from tests.conftest import Bundle
from tests.helpers import DATA

bfloat16 = pytest.mark.skipif(not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="no bfloat16 products here")


@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("scores", [1, 2 * 30**2, 2**20])  # of a head alone, of two together, of all
def test_attention_by_heads_is_torchs_own(scores: int, biased: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "CACHED_SCORES", scores)
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 5, 30, 16)
    bias = torch.randn(1, 5, 30, 30) if biased else None
    torch.testing.assert_close(attention.attend_by_heads(q, k, v, bias), F.scaled_dot_product_attention(q, k, v, bias))


@bfloat16
@torch.inference_mode()
@pytest.mark.parametrize("rows", [1, 197, 640])
def test_packed_layers_answer_to_the_bit(rows: int) -> None:
    torch.manual_seed(0)
    for linear in (nn.Linear(64, 192), nn.Linear(192, 64, bias=False)):
        linear.bfloat16()
        inputs = torch.randn(2, rows, linear.in_features, dtype=torch.bfloat16)
        assert torch.equal(PackedLinear(linear)(inputs), linear(inputs))


@bfloat16
@torch.inference_mode()
def test_packed_models_tell_the_same_digits(digits: Bundle) -> None:
    card = load_card(DATA / "digits/model")
    model, (pixels, _) = load_classifier(card), held_out(digits, card.pixels)
    packed = packed_copy(model.bfloat16())
    assert sum(isinstance(module, PackedLinear) for module in packed.modules()) == 4 * card.beit.depth
    exact = load_classifier(card)(pixels)[1]
    answers = packed(pixels)[1].float()
    assert cosine(exact, answers) > 0.9995
    assert torch.equal(exact.argmax(1), answers.argmax(1))


@bfloat16
@torch.inference_mode()
def test_convolutions_with_the_channel_last_give_the_same_masks() -> None:
    segmenter = load_segmenter(load_card(DATA / "digits-seg/model")).eval()
    pixels = torch.randn(2, 3, 64, 64)
    exact, packed = segmenter(pixels), packed_copy(segmenter.bfloat16())(pixels).float()
    assert cosine(exact, packed) > 0.9995
    assert (exact.argmax(1) != packed.argmax(1)).float().mean() < 0.02


@pytest.mark.parametrize("dtype", ["float32", pytest.param("bfloat16", marks=bfloat16)])
def test_predictors_pack_what_gains_by_it(dtype: str) -> None:
    model = Predictor(Label(), load_card(DATA / "digits/model"), dtype=dtype, batch_size=1, device="cpu").model
    assert any(isinstance(module, PackedLinear) for module in model.modules()) == (dtype == "bfloat16")
    assert isinstance(model.classifier, nn.Linear)


def test_other_models_stay_as_they_are() -> None:
    model = nn.Sequential(nn.Linear(4, 4)).bfloat16()
    pack(model)
    assert isinstance(model[0], nn.Linear)
    pack(nn.Identity())


def packed_copy(module: nn.Module) -> nn.Module:
    packed = copy.deepcopy(module)
    pack(packed)
    return packed


def cosine(a: Tensor, b: Tensor) -> float:
    return float(F.cosine_similarity(a.flatten(1), b.flatten(1)).min())
