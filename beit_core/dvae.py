"""The tokenizer BEiT was trained with: the discrete VAE of DALL-E (arXiv 2102.12092, appendix A), encoder and decoder.

B images, H W pixels, h = H / 8 and w = W / 8 tokens down and across, V visual tokens.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from itertools import pairwise
from typing import Self, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .config import DvaeConfig
from .errors import CheckpointError

GROUPS = 4
HALVE, DOUBLE = nn.MaxPool2d(2), nn.Upsample(scale_factor=2)
MARGIN = 0.1  # pixels are squeezed into [0.1, 0.9], away from the ends of the decoder's sigmoid


class Block(nn.Module):
    """Four convolutions in a bottleneck, added to the input with a small gain."""

    def __init__(self, channels_in: int, channels_out: int, kernels: tuple[int, int, int, int], gain: float) -> None:
        super().__init__()
        self.gain = gain
        self.id_path = nn.Conv2d(channels_in, channels_out, 1) if channels_in != channels_out else nn.Identity()
        widths = [channels_in, *[channels_out // 4] * 3, channels_out]
        layers: dict[str, nn.Module] = {}
        for i, kernel in enumerate(kernels):
            layers[f"relu_{i + 1}"] = nn.ReLU()
            layers[f"conv_{i + 1}"] = nn.Conv2d(widths[i], widths[i + 1], kernel, padding=kernel // 2)
        self.res_path = nn.Sequential(OrderedDict(layers))

    def forward(self, map_BDhw: Tensor) -> Tensor:
        """(B, channels_in, h, w) -> (B, channels_out, h, w)."""
        return self.id_path(map_BDhw) + self.gain * self.res_path(map_BDhw)


class Coder(nn.Module):
    """Either half of the tokenizer: an input convolution, four groups of blocks, an output convolution."""

    def __init__(self, ends: tuple[nn.Conv2d, nn.Conv2d], widths: list[int], blocks: int, widest_last: bool) -> None:
        super().__init__()
        kernels, gain = (3, 3, 3, 1) if widest_last else (1, 3, 3, 3), 1 / (GROUPS * blocks) ** 2
        self.blocks = nn.ModuleDict({"input": ends[0], "output": nn.ModuleDict({"conv": ends[1]})})
        for i in range(GROUPS):
            steps = pairwise([widths[i], *[widths[i + 1]] * blocks])
            named = {f"block_{n}": Block(*step, kernels, gain) for n, step in enumerate(steps, 1)}
            self.blocks[f"group_{i + 1}"] = nn.Sequential(OrderedDict(named))

    @property
    def entry(self) -> nn.Conv2d:
        """The input convolution."""
        return cast(nn.Conv2d, self.blocks["input"])

    def forward(self, map_BDhw: Tensor, between: Callable[[Tensor], Tensor]) -> Tensor:
        """Output of the input convolution -> output of the output convolution; `between` changes the resolution."""
        for i in range(GROUPS):
            map_BDhw = self.blocks[f"group_{i + 1}"](between(map_BDhw) if i else map_BDhw)
        return self.blocks["output"].get_submodule("conv")(map_BDhw.relu())


class Dvae(nn.Module):
    """Picture to visual tokens and back, always in float32: near-ties make tokens depend on the precision.

    `.to(dtype)` moves to another device only; on CUDA the kernels may not use TF32. Tokens of different devices may
    still differ at near-ties.
    """

    def __init__(self, config: DvaeConfig) -> None:
        super().__init__()
        n, first, V, blocks = config.width, config.decoder_width, config.vocab_size, config.blocks
        ends = nn.Conv2d(3, n, 7, padding=3), nn.Conv2d(8 * n, V, 1)
        self.encoder = Coder(ends, [n, n, 2 * n, 4 * n, 8 * n], blocks, widest_last=True)
        self.decoder = None
        if first:
            ends = nn.Conv2d(V, first, 1), nn.Conv2d(n, 6, 1)
            self.decoder = Coder(ends, [first, 8 * n, 4 * n, 2 * n, n], blocks, widest_last=False)

    def encode(self, pictures_B3HW: Tensor) -> Tensor:
        """RGB in [0, 1], sides divisible by 8 (BEiT used 112 x 112) -> tokens (B, h, w), int64 in 0 .. V - 1."""
        return self.token_logits(pictures_B3HW).argmax(1)

    def token_logits(self, pictures_B3HW: Tensor) -> Tensor:
        """RGB in [0, 1] -> logits (B, V, h, w). Raises ValueError for other pictures."""
        _, channels, height, width = pictures_B3HW.shape
        if channels != 3 or height % 8 or width % 8 or not pictures_B3HW.is_floating_point():
            shape = tuple(pictures_B3HW.shape)
            raise ValueError(f"the tokenizer takes floats (B, 3, H, W), sides divisible by 8, not {shape}")
        with _float32(pictures_B3HW.device.type):
            squeezed = (1 - 2 * MARGIN) * pictures_B3HW.float() + MARGIN
            return self.encoder(self.encoder.entry(squeezed), HALVE)

    def decode(self, tokens_Bhw: Tensor) -> Tensor:
        """Tokens (B, h, w), integers in 0 .. V - 1 -> RGB (B, 3, 8 h, 8 w) in [0, 1]."""
        if self.decoder is None:
            raise CheckpointError("this tokenizer folder has no decoder: convert decoder.pkl together with encoder.pkl")
        with _float32(tokens_Bhw.device.type):
            entry = self.decoder.entry
            # A 1 x 1 convolution of one-hot vectors picks columns of its weight.
            picked_BhwD = F.embedding(tokens_Bhw.long(), entry.weight[:, :, 0, 0].T) + cast(Tensor, entry.bias)
            out_B6HW = self.decoder(picked_BhwD.permute(0, 3, 1, 2), DOUBLE)
        # Three channels are means; the other three are scales of the distribution, used in training only.
        means_B3HW = out_B6HW[:, :3].sigmoid()
        return ((means_B3HW - MARGIN) / (1 - 2 * MARGIN)).clamp(0, 1)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(lambda tensor: tensor.to(fn(tensor).device), recurse)  # type: ignore[no-untyped-call]
        return self


@contextmanager
def _float32(device_type: str) -> Iterator[None]:
    cudnn = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
    has_autocast = torch.amp.is_autocast_available(device_type)
    with torch.autocast(device_type, enabled=False) if has_autocast else nullcontext(), cudnn:
        yield
