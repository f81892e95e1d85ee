"""The heads of a BEiT, for a whole picture or for its patches.

B images, C channels, H height, W width, N tokens, n patches, D width, K classes, V visual tokens.
"""

from collections.abc import Callable
from typing import Literal, Self, get_args

import torch
from torch import Tensor, nn

from .config import BeitConfig
from .model import Beit

BLOCK = 128  # classes that are looked at together for the greatest scores
Pool = Literal["mean", "cls", "cls+mean"]


def top_k(scores_BK: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Scores (B, K) float32, 0 or more -> the k greatest (B, k), descending, ties by class, and their classes (int64).

    The same on every device, where `torch.topk` leaves open which of equal scores comes first. Rows with NaN have no
    order: callers look for it. The k greatest lie in the k blocks of classes with the greatest maxima, so only these
    are looked through.
    """
    K = scores_BK.shape[1]
    blocks = -(-K // BLOCK)
    scores_Bbc = nn.functional.pad(scores_BK, (0, blocks * BLOCK - K), value=-1.0).unflatten(1, (blocks, BLOCK))
    block_Bk = _greatest(scores_Bbc.amax(2), k).sort(1).values  # in the order of their classes
    few_BN = scores_Bbc.take_along_dim(block_Bk[..., None], 1).flatten(1)
    place_Bk = _greatest(few_BN, min(k, K))
    ids_Bk = block_Bk.gather(1, place_Bk // BLOCK) * BLOCK + place_Bk % BLOCK
    return scores_BK.gather(1, ids_Bk), ids_Bk


def _greatest(values_BN: Tensor, k: int) -> Tensor:
    """Indices (B, k) of the greatest values, in order, the first of equal ones first: float bits sort as floats do."""
    N = values_BN.shape[1]
    last_N = torch.arange(N - 1, -1, -1, device=values_BN.device)
    keys_BN = values_BN.contiguous().view(torch.int32).long() << 32 | last_N
    return N - 1 - (keys_BN.topk(min(k, N), dim=1).values & 0xFFFFFFFF)


class Pooler(nn.Module):
    """The checkpoint's own pooled vector.

    Either LayerNorm of the mean of the patches, or, of tokens that are normalised already, the cls token or (with
    `pool_of`) the mean.
    """

    def __init__(self, config: BeitConfig) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.width, eps=config.layer_norm_eps) if config.mean_pooling else None
        self.of_mean = config.mean_pooling or config.pool_of == "mean"

    def forward(self, tokens_BND: Tensor) -> Tensor:
        """Final tokens (B, N, D) -> (B, D)."""
        pooled_BD = tokens_BND[:, 1:].mean(1) if self.of_mean else tokens_BND[:, 0]
        return pooled_BD if self.norm is None else self.norm(pooled_BD)


class Encoder(nn.Module):
    """A BEiT without a head of its own; `pooler` is None where the checkpoint has none."""

    def __init__(self, config: BeitConfig) -> None:
        super().__init__()
        self.trunk = Beit(config)
        self.pooler = Pooler(config) if config.pooler else None

    def forward(self, pixels_BCHW: Tensor) -> Tensor:
        """Normalised pixels -> final tokens (B, N, D)."""
        tokens_BND: Tensor = self.trunk(pixels_BCHW)
        return tokens_BND


class WideLinear(nn.Linear):
    """A linear layer that computes in float32 at least; `.to()` a narrower dtype only moves it.

    In bfloat16 logits between 2 and 4 are 0.016 apart: the best of a thousand classes would be chosen by lot.
    """

    def forward(self, inputs: Tensor) -> Tensor:
        """(..., in) of any dtype -> (..., out)."""
        return super().forward(inputs.to(self.weight.dtype))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        def moved(tensor: Tensor) -> Tensor:
            cast = fn(tensor)
            return tensor.to(cast.device) if cast.dtype in (torch.bfloat16, torch.float16) else cast

        super()._apply(moved, recurse)  # type: ignore[no-untyped-call]  # torch leaves it untyped
        return self


class Classifier(nn.Module):
    """Class logits, and the vector they come from."""

    def __init__(self, config: BeitConfig) -> None:
        super().__init__()
        self.trunk = Beit(config)
        self.pooler = Pooler(config)
        self.classifier = WideLinear(config.width, config.classes)

    def forward(self, pixels_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised pixels -> pooled (B, D), logits (B, K), at least float32."""
        pooled_BD = self.pooler(self.trunk(pixels_BCHW))
        return pooled_BD, self.classifier(pooled_BD)


class MaskedTokenPredictor(nn.Module):
    """Predicts the visual token of every patch."""

    def __init__(self, config: BeitConfig) -> None:
        super().__init__()
        self.trunk = Beit(config)
        self.norm = nn.LayerNorm(config.width, eps=config.layer_norm_eps)
        self.lm_head = nn.Linear(config.width, config.vocab_size)

    def forward(self, pixels_BCHW: Tensor, masked_Bn: Tensor | None = None) -> Tensor:
        """Normalised pixels, and bool (B, n), true for hidden patches -> logits (B, n, V) for all patches."""
        tokens_BND = self.trunk(pixels_BCHW, masked_Bn)
        return self.lm_head(self.norm(tokens_BND[:, 1:]))


class Embedder(nn.Module):
    """One vector per picture.

    `pool` None is the checkpoint's own pooled output; `mean`, `cls` and `cls+mean` (cls first) read the tokens
    themselves: the final ones, or without any norm those after `layer` (1 is the first). An earlier layer with
    `pool` None takes the mean or the cls token, whichever the checkpoint pools.
    """

    def __init__(self, trunk: Beit, pooler: Pooler | None, pool: Pool | None = None, layer: int | None = None) -> None:
        super().__init__()
        depth = trunk.config.depth
        if pool is not None and pool not in get_args(Pool):
            raise ValueError(f"pool {pool!r} is not one of {', '.join(get_args(Pool))}")
        if layer is not None and not 1 <= layer <= depth:
            raise ValueError(f"layer {layer} does not exist: choose 1 to {depth}")
        self.trunk = trunk
        self.layer = None if layer == depth else layer
        self.pooler = pooler if pool is None and self.layer is None else None
        own = trunk.config.pool_of or ("mean" if trunk.config.mean_pooling or pooler is None else "cls")
        self.pool = pool or own

    @property
    def width(self) -> int:
        """Length of the vectors."""
        return self.trunk.config.width * (2 if self.pool == "cls+mean" else 1)

    def forward(self, pixels_BCHW: Tensor) -> Tensor:
        """Normalised pixels -> (B, width)."""
        trunk, layer = self.trunk, self.layer
        tokens_BND = trunk(pixels_BCHW) if layer is None else trunk.hidden(pixels_BCHW, (layer,))[layer]
        if self.pooler is not None:
            return self.pooler(tokens_BND)
        cls_BD, mean_BD = tokens_BND[:, 0], tokens_BND[:, 1:].mean(1)
        if self.pool == "cls":
            return cls_BD
        return mean_BD if self.pool == "mean" else torch.cat([cls_BD, mean_BD], dim=1)
