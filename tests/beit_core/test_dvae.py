"""The tokenizer against its architecture written out a second time, as functions."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from beit_core import CheckpointError
from beit_core.config import DvaeConfig
from beit_core.dvae import Dvae

SMALL = DvaeConfig(width=16, decoder_width=8, vocab_size=40)
PUBLISHED = DvaeConfig(decoder_width=128)


def seeded(decoder: bool = True) -> Dvae:
    torch.manual_seed(0)
    model = Dvae(SMALL if decoder else replace(SMALL, decoder_width=0)).eval()
    for weight in model.parameters():
        weight.data = torch.randn_like(weight) * (0.2 if weight.ndim == 1 else (2 / weight[0].numel()) ** 0.5)
    return model


def convolve(weights: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    kernel = weights[f"{name}.weight"]
    return F.conv2d(x, kernel, weights[f"{name}.bias"], padding=(kernel.shape[-1] - 1) // 2)


def group(weights: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    for block in (f"{name}.block_1", f"{name}.block_2"):
        y = x
        for i in range(1, 5):
            y = convolve(weights, f"{block}.res_path.conv_{i}", F.relu(y))
        x = (convolve(weights, f"{block}.id_path", x) if f"{block}.id_path.weight" in weights else x) + y / 64
    return x


@torch.inference_mode()
def test_tokens_are_those_of_the_architecture() -> None:
    model, pictures = seeded(), torch.rand(2, 3, 112, 112)
    weights = model.state_dict()
    x = convolve(weights, "encoder.blocks.input", 0.8 * pictures + 0.1)
    for i in range(1, 5):
        x = group(weights, f"encoder.blocks.group_{i}", x)
        x = F.max_pool2d(x, 2) if i < 4 else x
    logits = convolve(weights, "encoder.blocks.output.conv", F.relu(x))
    torch.testing.assert_close(model.token_logits(pictures), logits, rtol=1e-6, atol=1e-6)
    tokens = model.encode(pictures)
    assert tokens.shape == (2, 14, 14)
    assert tokens.dtype == torch.int64
    assert torch.equal(tokens, logits.argmax(1))


@torch.inference_mode()
def test_pictures_are_those_of_the_architecture() -> None:
    model = seeded()
    weights, tokens = model.state_dict(), torch.randint(40, (2, 5, 7))
    x = convolve(weights, "decoder.blocks.input", F.one_hot(tokens, 40).permute(0, 3, 1, 2).float())
    for i in range(1, 5):
        x = group(weights, f"decoder.blocks.group_{i}", x)
        x = x.repeat_interleave(2, 2).repeat_interleave(2, 3) if i < 4 else x
    x = convolve(weights, "decoder.blocks.output.conv", F.relu(x))[:, :3].sigmoid()
    pictures = model.decode(tokens)
    assert pictures.shape == (2, 3, 40, 56)
    torch.testing.assert_close(pictures, ((x - 0.1) / 0.8).clamp(0, 1), rtol=1e-6, atol=1e-6)


def test_sizes_are_the_published_ones() -> None:
    with torch.device("meta"):
        model = Dvae(PUBLISHED)
    assert model.decoder is not None
    assert sum(weight.numel() for weight in model.encoder.parameters()) == 53_786_240
    assert sum(weight.numel() for weight in model.decoder.parameters()) == 43_829_766


@torch.inference_mode()
def test_narrower_types_do_not_reach_the_tokens() -> None:
    model, pictures = seeded(), torch.rand(1, 3, 48, 48)
    before = model.encode(pictures)
    torch.nn.Sequential(model).to(torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(model.encode(pictures), before)
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}


@pytest.mark.parametrize("shape", [(1, 1, 112, 112), (1, 3, 112, 111)])
def test_other_pictures_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="sides divisible by 8"):
        seeded().encode(torch.rand(shape))


def test_decoding_without_a_decoder_says_what_to_do() -> None:
    with pytest.raises(CheckpointError, match="has no decoder: convert"):
        seeded(decoder=False).decode(torch.zeros(1, 2, 2, dtype=torch.int64))


@pytest.mark.parametrize("size", [100, 4, [112, 60]])
def test_sides_that_are_no_whole_tokens_are_refused(size: object) -> None:
    with pytest.raises(CheckpointError, match=r"there: image_size is .*, but a tokenizer takes sides divisible by 8$"):
        DvaeConfig.from_hf({"image_size": size}, where="there")
    assert DvaeConfig.from_hf({"image_size": [112, 64]}).grid == (14, 8)
