"""Pixels from bytes to what a model takes.

B images, C channels, H height, W width.
"""

from functools import lru_cache

import torch
from torch import Tensor

from .pixels import Array, PixelSpec, Triple


def normalize(spec: PixelSpec, pixels_BHWC: Tensor | Array) -> Tensor:
    """uint8 RGB (B, H, W, 3), 0-255 -> float32 (B, 3, H, W) on the same device. Raises ValueError for other pixels.

    NumPy arrays are copied to the CPU.

    Bit-equal to transformers' PIL processors: product with `rescale` rounded from float64 to float32, then
    (x - mean) / std in float32. A byte has 256 values, so all of it is a table look-up.
    """
    if not isinstance(pixels_BHWC, Tensor):
        pixels_BHWC = torch.tensor(pixels_BHWC)
    if pixels_BHWC.dtype != torch.uint8 or pixels_BHWC.ndim != 4 or pixels_BHWC.shape[3] != 3:
        shape = tuple(pixels_BHWC.shape)
        raise ValueError(f"normalize takes uint8 of shape (B, H, W, 3), not {pixels_BHWC.dtype} of shape {shape}")
    table_C256 = _table(spec.rescale, spec.mean, spec.std, str(pixels_BHWC.device))
    B, H, W, C = pixels_BHWC.shape
    out_BCHW = torch.empty(B, C, H, W, device=pixels_BHWC.device)
    for channel in range(C):
        codes = pixels_BHWC[..., channel].reshape(-1).int()
        out_BCHW[:, channel] = table_C256[channel].index_select(0, codes).view(B, H, W)
    return out_BCHW


@lru_cache(maxsize=32)
def _table(rescale: float | None, mean: Triple, std: Triple, device: str) -> Tensor:
    """Float32 (3, 256), kept where it is used: to copy it for every batch would wait for the batch before."""
    levels = torch.arange(256, dtype=torch.float64) * (1.0 if rescale is None else rescale)
    return ((levels.float() - torch.tensor(mean)[:, None]) / torch.tensor(std)[:, None]).to(device)
