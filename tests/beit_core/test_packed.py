"""What is laid out for bfloat16 on CPUs: the same answers, to the bit where only the layout differs."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from beit_core import attention, load_card, load_classifier, load_segmenter, pack
from beit_core.packed import PackedLinear
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
def test_packed_models_give_the_same_answers() -> None:
    classifier = load_classifier(load_card(DATA / "digits/model")).eval().bfloat16()
    pixels = torch.randn(3, 3, *classifier.trunk.config.image_size)
    packed = packed_copy(classifier)
    assert sum(isinstance(module, PackedLinear) for module in packed.modules()) == 4 * classifier.trunk.config.depth
    for theirs, ours in zip(classifier(pixels), packed(pixels), strict=True):
        assert torch.equal(theirs, ours)


@bfloat16
@torch.inference_mode()
def test_convolutions_with_the_channel_last_give_the_same_masks() -> None:
    segmenter = load_segmenter(load_card(DATA / "digits-seg/model")).eval()
    pixels = torch.randn(2, 3, 64, 64)
    exact, packed = segmenter(pixels), packed_copy(segmenter.bfloat16())(pixels).float()
    assert cosine(exact, packed) > 0.9995
    assert (exact.argmax(1) != packed.argmax(1)).float().mean() < 0.02


def test_other_modules_are_left_alone() -> None:
    classifier = load_classifier(load_card(DATA / "digits/model"))
    pack(classifier)
    assert not any(isinstance(module, PackedLinear) for module in classifier.modules())
    pack(nn.Identity())


def packed_copy(module: nn.Module) -> nn.Module:
    packed = copy.deepcopy(module)
    pack(packed)
    return packed


def cosine(a: Tensor, b: Tensor) -> float:
    return float(F.cosine_similarity(a.flatten(1), b.flatten(1)).min())
