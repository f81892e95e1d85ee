"""Self-attention with BEiT's relative position bias, for any grid of patches.

B images, N tokens (cls first, then patches row by row), D width, H heads, h width of a head, R rows of a bias table.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Generic, Self, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .config import BeitConfig, BiasResampling, Grid

Built = TypeVar("Built")
Attend = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]  # queries, keys, values, what is added to the scores
CACHED_SCORES = 2**20  # of one group of heads: 4 MiB, fastest for 197, 577 and 1,601 tokens
CACHED_ELEMENTS = 2**24  # a module keeps several grids up to this size, and always the latest


class PerGrid(nn.Module, Generic[Built]):
    """A parameter that is resampled for other grids; results are cached."""

    def __init__(self) -> None:
        super().__init__()
        self._built: dict[Grid, Built] = {}

    def build(self, grid: Grid) -> Built:
        """Resample for `grid`; the subclass says how."""
        raise NotImplementedError

    def for_grid(self, grid: Grid) -> Built:
        """`build` for this grid, computed once while it stays in the cache."""
        if grid not in self._built:
            keep = CACHED_ELEMENTS // (grid[0] * grid[1] + 1) ** 2
            for old in list(self._built)[: max(0, len(self._built) + 1 - max(1, keep))]:
                del self._built[old]
            with torch.no_grad():
                self._built[grid] = self.build(grid)
        return self._built[grid]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        self._built.clear()  # .to() changes device or dtype of what these were made from
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]  # torch leaves it untyped
        return self


class RelativeBias(PerGrid[list[Tensor | None]]):
    """All bias tables of a model: one for each layer, one that the layers share, both, or none."""

    def __init__(self, config: BeitConfig) -> None:
        super().__init__()
        self.config = config
        rows = table_rows(config.grid)
        own = config.depth if config.relative_bias else 0
        self.tables = nn.ParameterList(torch.empty(rows, config.heads) for _ in range(own))
        self.shared = nn.Parameter(torch.empty(rows, config.heads)) if config.shared_bias else None

    def build(self, grid: Grid) -> list[Tensor | None]:
        """The bias to add to each layer's attention scores, (1, H, N, N) or None, queries in rows."""
        tables = [*self.tables] if self.shared is None else [self.shared, *self.tables]
        if not tables:
            return [None] * self.config.depth
        index_NN = relative_position_index(grid).to(tables[0].device)
        biases = [self.expand(table, grid, index_NN) for table in tables]
        shared = None if self.shared is None else biases.pop(0)
        if not biases:
            return [shared] * self.config.depth
        return [bias if shared is None else bias.add_(shared) for bias in biases]

    def expand(self, table_RH: Tensor, grid: Grid, index_NN: Tensor) -> Tensor:
        """One table -> its bias (1, H, N, N) for this grid, of which `index_NN` is the `relative_position_index`."""
        rows_RH = resample_table(widen(table_RH), self.config.grid, grid, self.config.bias_resampling)
        bias_HNN = rows_RH.to(table_RH.dtype)[index_NN].permute(2, 0, 1)
        # Attention kernels copy a mask whose rows are not aligned, on every call: keep it aligned, hand out a view.
        H, N, _ = bias_HNN.shape
        aligned = bias_HNN.new_zeros(1, H, N, -(-N // 16) * 16)
        aligned[0, :, :, :N] = bias_HNN
        return aligned[..., :N]


def widen(tensor: Tensor) -> Tensor:
    """At least float32: what is cached must not be rounded by a narrower dtype."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def table_rows(grid: Grid) -> int:
    """Rows of a bias table: every offset between two patches, and three for the cls token."""
    return (2 * grid[0] - 1) * (2 * grid[1] - 1) + 3


def relative_position_index(grid: Grid) -> Tensor:
    """Row of the bias table for each (query, key) pair: int64 (N, N); BEiT paper, equation 4, with cls rows last."""
    rows, columns = grid
    y = torch.arange(rows).repeat_interleave(columns)
    x = torch.arange(columns).repeat(rows)
    down = y[:, None] - y[None, :] + rows - 1
    across = x[:, None] - x[None, :] + columns - 1
    index_NN = torch.empty(rows * columns + 1, rows * columns + 1, dtype=torch.int64)
    index_NN[1:, 1:] = down * (2 * columns - 1) + across
    index_NN[0, :] = table_rows(grid) - 3  # cls looks at a patch
    index_NN[:, 0] = table_rows(grid) - 2  # a patch looks at cls
    index_NN[0, 0] = table_rows(grid) - 1
    return index_NN


def resample_table(table_RH: Tensor, source: Grid, target: Grid, method: BiasResampling) -> Tensor:
    """A bias table trained on one grid, resampled for another: (rows of source, H) -> (rows of target, H).

    `bilinear` is what transformers does, and reads the table of a non-square model with height and width
    exchanged, as transformers does even at the trained size. `geometric` is what unilm does: distances grow
    geometrically from the centre, interpolated by a cubic spline. `linear` is timm's default: the same distances,
    joined by lines.
    """
    if method != "bilinear" and source == target:
        return table_RH
    height, width = (2 * side - 1 for side in source)
    size = 2 * target[0] - 1, 2 * target[1] - 1
    if method == "bilinear":
        map_1Hyx = table_RH[:-3].view(1, width, height, -1).permute(0, 3, 1, 2)
        map_Hyx = F.interpolate(map_1Hyx, size=size, mode="bilinear", align_corners=False)[0]
    else:
        degree = 3 if method == "geometric" else 1
        down = spline_matrix(height, size[0], degree).to(table_RH)
        across = spline_matrix(width, size[1], degree).to(table_RH)
        map_Hyx = torch.einsum("ab,cd,bdh->hac", down, across, table_RH[:-3].view(height, width, -1))
    return torch.cat([map_Hyx.flatten(1).T, table_RH[-3:]])


@lru_cache(maxsize=16)
def spline_matrix(source: int, target: int, degree: int = 3) -> Tensor:
    """float64 (target, source): spline through `source` offsets at geometric distances, read at unit steps.

    Of degree 3, or 1 for lines. A cubic spline has the knots of FITPACK's interpolation (none at the second and the
    second last point); beyond the outermost point it keeps that point's value. Fewer than four points are joined by
    lines.
    """
    if source == 1:
        return torch.ones(target, 1, dtype=torch.float64)
    points = _geometric_offsets(source, target)
    wanted = torch.arange(target, dtype=torch.float64) - target // 2
    wanted = wanted.clamp(points[0].item(), points[-1].item())
    degree = degree if source >= 4 else 1
    inner = points[2:-2] if degree == 3 else points[1:-1]
    knots = torch.cat([points[:1].repeat(degree + 1), inner, points[-1:].repeat(degree + 1)])
    through = _spline_basis(knots, points, degree)
    return torch.linalg.solve(through, _spline_basis(knots, wanted, degree), left=False)


def _geometric_offsets(source: int, target: int) -> Tensor:
    """Offsets 0, ±1, ±(1 + q), ±(1 + q + q²), ..., with q such that the outermost reaches the target's edge."""
    steps = source // 2
    low, high = 1.01, 1.5
    while high - low > 1e-6:
        q = (low + high) / 2
        low, high = (low, q) if (1 - q**steps) / (1 - q) > target // 2 else (q, high)
    ahead = torch.tensor([sum(q**k for k in range(n + 1)) for n in range(steps)], dtype=torch.float64)
    return torch.cat([-ahead.flip(0), torch.zeros(1, dtype=torch.float64), ahead])


def _spline_basis(knots: Tensor, at: Tensor, degree: int) -> Tensor:
    """B-spline basis (points, functions) by Cox and de Boor's recursion."""
    left, right = knots[:-1], knots[1:]
    last = right == knots[-1]
    inside = (at[:, None] >= left) & ((at[:, None] < right) | (last & (at[:, None] == right)))
    basis = (inside & (right > left)).double()
    for d in range(1, degree + 1):
        rise = (at[:, None] - knots[: -d - 1]) / (knots[d:-1] - knots[: -d - 1])
        fall = (knots[d + 1 :] - at[:, None]) / (knots[d + 1 :] - knots[1:-d])
        # Coinciding knots give 0/0, which counts as 0.
        basis = torch.nan_to_num(rise, 0, 0, 0) * basis[:, :-1] + torch.nan_to_num(fall, 0, 0, 0) * basis[:, 1:]
    return basis


class SelfAttention(nn.Module):
    """Multi-head attention with a bias on the scores; the key projection has no bias of its own."""

    def __init__(self, config: BeitConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.qkv = nn.Linear(config.width, 3 * config.width)  # the key's third of this bias is zero
        self.out = nn.Linear(config.width, config.width)
        self.attend: Attend = F.scaled_dot_product_attention

    def forward(self, tokens_BND: Tensor, bias_1HNN: Tensor | None) -> Tensor:
        """(B, N, D) and a bias that broadcasts over the batch -> (B, N, D)."""
        B, N, D = tokens_BND.shape
        q_BHNh, k_BHNh, v_BHNh = self.qkv(tokens_BND).view(B, N, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed_BHNh = self.attend(q_BHNh, k_BHNh, v_BHNh, bias_1HNN)
        return self.out(mixed_BHNh.transpose(1, 2).reshape(B, N, D))


def attend_by_heads(q_BHNh: Tensor, k_BHNh: Tensor, v_BHNh: Tensor, bias_1HNN: Tensor | None = None) -> Tensor:
    """softmax(q k^T / sqrt(h) + bias) v, (B, H, N, h): a few heads at a time, so that their scores stay in the cache.

    Products are those of the inputs' dtype, the softmax is float32. Half the time of torch's own in bfloat16 on CPUs
    without AMX. Not for compiled graphs, which would hold a copy of the loop for every image.
    """
    B, H, N, h = q_BHNh.shape
    mixed_BNHh = q_BHNh.new_empty(B, N, H, h)
    bias_HNN = q_BHNh.new_zeros(H, 1, 1) if bias_1HNN is None else bias_1HNN[0]
    group = max(1, CACHED_SCORES // N**2)
    for first in range(0, H, group):
        heads = slice(first, first + group)
        bias_gNN = bias_HNN[heads].float()
        for image in range(B):
            scores_gNN = q_BHNh[image, heads] @ k_BHNh[image, heads].transpose(-2, -1)
            scores_gNN = torch.add(bias_gNN, scores_gNN, alpha=h**-0.5).softmax(-1)
            mixed_BNHh[image, :, heads] = (scores_gNN.to(v_BHNh.dtype) @ v_BHNh[image, heads]).transpose(0, 1)
    return mixed_BNHh.transpose(1, 2)
