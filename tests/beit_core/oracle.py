"""BEiT's published formulas as plain functions over tensors by unilm's and mmsegmentation's own names.

A second reading of the papers and of what unilm and timm publish about their code; nothing here comes from beit_core.
t tensors by name, B images, N tokens, D width, H heads, y x patch rows and columns.
"""

import math

import numpy as np
import torch
from scipy.interpolate import RectBivariateSpline, RegularGridInterpolator
from torch import Tensor
from torch.nn import functional as F

Tensors = dict[str, Tensor]
EPS = 1e-6


def norm(t: Tensors, name: str, x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], t[f"{name}.weight"], t[f"{name}.bias"], EPS)


def pairs(rows: int, columns: int) -> Tensor:
    """Row of the bias table for each pair of tokens, by counting."""
    count, cells = (2 * rows - 1) * (2 * columns - 1), [(y, x) for y in range(rows) for x in range(columns)]
    index = torch.full((len(cells) + 1, len(cells) + 1), count + 1)
    index[0] = count
    index[0, 0] = count + 2
    for i, (y, x) in enumerate(cells, 1):
        for j, (v, u) in enumerate(cells, 1):
            index[i, j] = (y - v + rows - 1) * (2 * columns - 1) + x - u + columns - 1
    return index


def distances(source: int, target: int) -> np.ndarray:
    """Where the rows of a table of this side lie for a larger grid: in steps that grow by a constant ratio."""
    low, high = 1.01, 1.5
    while high - low > 1e-6:
        ratio = (low + high) / 2
        reach = sum(ratio**k for k in range(source // 2))
        low, high = (low, ratio) if reach > target // 2 else (ratio, high)
    steps = np.cumsum([ratio**k for k in range(source // 2)])
    return np.concatenate([-steps[::-1], [0.0], steps])


def resized(table: Tensor, side: int, size: tuple[int, int], way: str) -> Tensor:
    """A bias table of a square grid for another one: unilm's cubic spline or timm's lines."""
    source, target = 2 * side - 1, tuple(2 * n - 1 for n in size)
    if source == target[0] == target[1]:
        return table
    at = [distances(source, n) for n in target]
    wanted = [np.clip(np.arange(n) - n // 2, a[0], a[-1]) for n, a in zip(target, at, strict=True)]
    maps = []
    for head in range(table.shape[1]):
        known = table[:-3, head].double().reshape(source, source).numpy()
        if way == "cubic":
            maps.append(RectBivariateSpline(*at, known, kx=3, ky=3, s=0)(*wanted))
        else:
            maps.append(RegularGridInterpolator(at, known)(np.stack(np.meshgrid(*wanted, indexing="ij"), -1)))
    rows = torch.from_numpy(np.stack([m.ravel() for m in maps], 1)).to(table)
    return torch.cat([rows, table[-3:]])


def layers(
    t: Tensors, pixels: Tensor, heads: int, side: int, masked: Tensor | None = None, way: str = "cubic"
) -> list[Tensor]:
    """Tokens (B, N, D): the embeddings and what leaves each block, of a model trained on side x side patches."""
    weight = t["patch_embed.proj.weight"]
    patches = F.conv2d(pixels, weight, t["patch_embed.proj.bias"], stride=weight.shape[-1])
    grid = patches.shape[2:]
    patches = patches.flatten(2).transpose(1, 2)
    if masked is not None:
        hidden = masked[..., None].to(patches)
        patches = patches * (1 - hidden) + t["mask_token"] * hidden
    x = torch.cat([t["cls_token"].expand(len(patches), -1, -1), patches], 1)
    if "pos_embed" in t:
        x = x + positions(t["pos_embed"], side, grid, antialias=way == "linear")
    index, found = pairs(*grid), [x]
    shared = t.get("rel_pos_bias.relative_position_bias_table")
    for n in range(1 + max(int(name.split(".")[1]) for name in t if name.startswith("blocks."))):
        tables = [shared, t.get(f"blocks.{n}.attn.relative_position_bias_table")]
        bias = sum(resized(table, side, grid, way)[index].permute(2, 0, 1) for table in tables if table is not None)
        mixed = attention(t, f"blocks.{n}.attn", norm(t, f"blocks.{n}.norm1", x), heads, bias)
        x = x + t.get(f"blocks.{n}.gamma_1", 1.0) * mixed
        grown = F.linear(norm(t, f"blocks.{n}.norm2", x), *(t[f"blocks.{n}.mlp.fc1.{p}"] for p in ("weight", "bias")))
        grown = 0.5 * grown * (1 + torch.erf(grown / math.sqrt(2)))
        x = x + t.get(f"blocks.{n}.gamma_2", 1.0) * F.linear(
            grown, t[f"blocks.{n}.mlp.fc2.weight"], t[f"blocks.{n}.mlp.fc2.bias"]
        )
        found.append(x)
    return found


def attention(t: Tensors, name: str, x: Tensor, heads: int, bias: Tensor | int) -> Tensor:
    B, N, D = x.shape
    qkv_bias = torch.cat([t[f"{name}.q_bias"], torch.zeros_like(t[f"{name}.q_bias"]), t[f"{name}.v_bias"]])
    q, k, v = F.linear(x, t[f"{name}.qkv.weight"], qkv_bias).reshape(B, N, 3, heads, D // heads).permute(2, 0, 3, 1, 4)
    scores = (q * (D // heads) ** -0.5) @ k.transpose(-2, -1) + bias
    mixed = (scores.softmax(-1) @ v).transpose(1, 2).reshape(B, N, D)
    return F.linear(mixed, t[f"{name}.proj.weight"], t[f"{name}.proj.bias"])


def positions(table: Tensor, side: int, grid: torch.Size, *, antialias: bool) -> Tensor:
    if tuple(grid) == (side, side):
        return table
    square = table[:, 1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
    square = F.interpolate(square, size=tuple(grid), mode="bicubic", align_corners=False, antialias=antialias)
    return torch.cat([table[:, :1], square.flatten(2).transpose(1, 2)], 1)


def pooled(t: Tensors, tokens: Tensor, of: str = "") -> Tensor:
    """`fc_norm` of the mean, or of normalised tokens the cls token or the mean."""
    if "fc_norm.weight" in t:
        return norm(t, "fc_norm", tokens[:, 1:].mean(1))
    tokens = norm(t, "norm", tokens)
    return tokens[:, 0] if of == "cls" else tokens[:, 1:].mean(1)


def classified(t: Tensors, tokens: Tensor, of: str = "") -> Tensor:
    return F.linear(pooled(t, tokens, of), t["head.weight"], t["head.bias"])


def foreseen(t: Tensors, tokens: Tensor) -> Tensor:
    return F.linear(norm(t, "norm", tokens[:, 1:]), t["lm_head.weight"], t["lm_head.bias"])


def block(t: Tensors, name: str, x: Tensor) -> Tensor:
    """Convolution, normalisation with the statistics of training, ReLU."""
    weight = t[f"{name}.conv.weight"]
    x = batch_norm(t, f"{name}.bn", F.conv2d(x, weight, padding=weight.shape[-1] // 2))
    return x.clamp_min(0)


def batch_norm(t: Tensors, name: str, x: Tensor) -> Tensor:
    mean, var = (t[f"{name}.running_{part}"][:, None, None] for part in ("mean", "var"))
    return (x - mean) / (var + 1e-5).sqrt() * t[f"{name}.weight"][:, None, None] + t[f"{name}.bias"][:, None, None]


def upsampled(x: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(x, size=like.shape[2:], mode="bilinear", align_corners=False)


def segmented(t: Tensors, found: list[Tensor], taken: tuple[int, ...], grid: tuple[int, int]) -> Tensor:
    """mmsegmentation's UPerHead on what leaves four blocks (`taken`, counted from 0)."""
    maps = [found[n + 1][:, 1:].transpose(1, 2).reshape(len(found[0]), -1, *grid) for n in taken]
    first = F.conv_transpose2d(maps[0], t["fpn1.0.weight"], t["fpn1.0.bias"], stride=2)
    first = F.gelu(batch_norm(t, "fpn1.1", first))
    first = F.conv_transpose2d(first, t["fpn1.3.weight"], t["fpn1.3.bias"], stride=2)
    second = F.conv_transpose2d(maps[1], t["fpn2.0.weight"], t["fpn2.0.bias"], stride=2)
    levels = [first, second, maps[2], F.max_pool2d(maps[3], 2)]
    scales = (1, 2, 3, 6)
    pools = [
        upsampled(block(t, f"decode_head.psp_modules.{n}.1", F.adaptive_avg_pool2d(levels[3], scale)), levels[3])
        for n, scale in enumerate(scales)
    ]
    top = block(t, "decode_head.bottleneck", torch.cat([levels[3], *pools], 1))
    sides = [block(t, f"decode_head.lateral_convs.{n}", levels[n]) for n in range(3)] + [top]
    for n in (3, 2, 1):
        sides[n - 1] = sides[n - 1] + upsampled(sides[n], sides[n - 1])
    outs = [block(t, f"decode_head.fpn_convs.{n}", sides[n]) for n in range(3)] + [top]
    joined = torch.cat([upsampled(out, outs[0]) for out in outs], 1)
    fused = block(t, "decode_head.fpn_bottleneck", joined)
    return F.conv2d(fused, t["decode_head.conv_seg.weight"], t["decode_head.conv_seg.bias"])
