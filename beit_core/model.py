"""The BEiT encoder: patches, blocks, and the tokens after any layer.

B images, C channels, H height, W width (pixels), y patch rows, x patch columns, N tokens, n = N - 1 patches, D width.
"""

from collections.abc import Collection

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .attention import PerGrid, RelativeBias, SelfAttention, widen
from .config import BeitConfig, Grid


class Positions(PerGrid[Tensor]):
    """Learned absolute positions, resampled bicubically for other grids; antialiased as in timm where so chosen."""

    def __init__(self, config: BeitConfig) -> None:
        super().__init__()
        self.trained = config.grid
        self.antialias = config.bias_resampling == "linear"
        self.table = nn.Parameter(torch.empty(1, config.grid[0] * config.grid[1] + 1, config.width))

    def build(self, grid: Grid) -> Tensor:
        """(1, N, D) for this grid."""
        if grid == self.trained:
            return self.table.detach()
        exact = widen(self.table)
        map_1Dyx = exact[:, 1:].unflatten(1, self.trained).permute(0, 3, 1, 2)
        map_1Dyx = F.interpolate(map_1Dyx, size=grid, mode="bicubic", antialias=self.antialias)
        return torch.cat([exact[:, :1], map_1Dyx.flatten(2).transpose(1, 2)], dim=1).to(self.table.dtype)


class Block(nn.Module):
    """Attention and MLP, each after a LayerNorm and added to the stream, scaled per channel if trained so."""

    def __init__(self, config: BeitConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.width, eps=config.layer_norm_eps)
        self.attention = SelfAttention(config)
        self.norm2 = nn.LayerNorm(config.width, eps=config.layer_norm_eps)
        grow, shrink = nn.Linear(config.width, config.mlp_width), nn.Linear(config.mlp_width, config.width)
        self.mlp = nn.Sequential(grow, nn.GELU(), shrink)  # the exact GELU
        self.scale1 = nn.Parameter(torch.empty(config.width)) if config.layer_scale else None
        self.scale2 = nn.Parameter(torch.empty(config.width)) if config.layer_scale else None

    def forward(self, tokens_BND: Tensor, bias_1HNN: Tensor | None) -> Tensor:
        """(B, N, D) -> (B, N, D)."""
        mixed_BND = self.attention(self.norm1(tokens_BND), bias_1HNN)
        tokens_BND = added(tokens_BND, mixed_BND, self.scale1)
        return added(tokens_BND, self.mlp(self.norm2(tokens_BND)), self.scale2)


def added(stream_BND: Tensor, branch_BND: Tensor, scale_D: Tensor | None) -> Tensor:
    """The stream with a branch added, scaled per channel if there is a scale; in one pass over memory."""
    return stream_BND + branch_BND if scale_D is None else torch.addcmul(stream_BND, scale_D, branch_BND)


class Beit(nn.Module):
    """The encoder (BEiT paper, section 2; formulas as in unilm's `modeling_finetune`). Inference only."""

    def __init__(self, config: BeitConfig) -> None:
        super().__init__()
        self.config = config
        self.patches = nn.Conv2d(config.channels, config.width, config.patch_size, stride=config.patch_size)
        self.cls_token = nn.Parameter(torch.empty(1, 1, config.width))
        self.mask_token = nn.Parameter(torch.empty(1, 1, config.width)) if config.mask_token else None
        self.positions = Positions(config) if config.absolute_positions else None
        self.bias = RelativeBias(config)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        # Checkpoints that pool the mean normalise after pooling, not here.
        self.norm = nn.Identity() if config.mean_pooling else nn.LayerNorm(config.width, eps=config.layer_norm_eps)

    def forward(self, pixels_BCHW: Tensor, masked_Bn: Tensor | None = None) -> Tensor:
        """Normalised pixels -> tokens (B, N, D) after the last layer: transformers' `last_hidden_state`."""
        depth = self.config.depth
        return self.norm(self.hidden(pixels_BCHW, (depth,), masked_Bn)[depth])

    def hidden(
        self, pixels_BCHW: Tensor, layers: Collection[int], masked_Bn: Tensor | None = None
    ) -> dict[int, Tensor]:
        """Tokens (B, N, D) after each of these layers, 0 being the embeddings; later layers are not run."""
        if not set(layers) <= set(range(self.config.depth + 1)):
            raise ValueError(f"layers {sorted(layers)} must lie between 0 and {self.config.depth}")
        biases = self.bias.for_grid(self.grid(pixels_BCHW))
        tokens_BND = self.embed(pixels_BCHW, masked_Bn)
        found = {0: tokens_BND} if 0 in layers else {}
        for layer in range(1, max(layers, default=0) + 1):
            tokens_BND = self.blocks[layer - 1](tokens_BND, biases[layer - 1])
            if layer in layers:
                found[layer] = tokens_BND
        return found

    def embed(self, pixels_BCHW: Tensor, masked_Bn: Tensor | None = None) -> Tensor:
        """Pixels -> tokens (B, N, D) before the first layer, the mask token where `masked_Bn` is true."""
        patches_BnD: Tensor = self.patches(pixels_BCHW.to(self.patches.weight.dtype)).flatten(2).transpose(1, 2)
        if masked_Bn is not None:
            patches_BnD = self._mask(patches_BnD, masked_Bn)
        tokens_BND = torch.cat([self.cls_token.expand(len(patches_BnD), -1, -1), patches_BnD], dim=1)
        return tokens_BND if self.positions is None else tokens_BND + self.positions.for_grid(self.grid(pixels_BCHW))

    def maps(self, pixels_BCHW: Tensor, layers: tuple[int, ...]) -> list[Tensor]:
        """Backbone features: the patches after each of these layers as a map (B, D, y, x), in the order asked."""
        found = self.hidden(pixels_BCHW, layers)
        grid = self.grid(pixels_BCHW)
        return [found[layer][:, 1:].transpose(1, 2).unflatten(2, grid) for layer in layers]

    def grid(self, pixels_BCHW: Tensor) -> Grid:
        """Patches (down, across) in these pixels. Raises ValueError for pixels this model cannot take."""
        _, channels, height, width = pixels_BCHW.shape
        grid = self.config.grid_of(height, width)
        if channels != self.config.channels or min(grid) < 1:
            need = f"{self.config.channels} channels and at least {self.config.patch_size} pixels each way"
            raise ValueError(f"pixels of shape {tuple(pixels_BCHW.shape)}: the model takes {need}")
        return grid

    def _mask(self, patches_BnD: Tensor, masked_Bn: Tensor) -> Tensor:
        if self.mask_token is None:
            raise ValueError("this checkpoint has no mask token: only masked-modelling checkpoints take a mask")
        if masked_Bn.shape != patches_BnD.shape[:2]:
            raise ValueError(f"mask of shape {tuple(masked_Bn.shape)} for patches {tuple(patches_BnD.shape[:2])}")
        return torch.where(masked_Bn.bool()[..., None], self.mask_token, patches_BnD)
