"""The dVAE of a run on visual tokens: the model itself, or the one whose tokens a masked-modelling model predicts."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

import beit_core
from beit_core import ModelCard
from beit_core.block_masks import block_masks
from pipeline import model_files, storage
from pipeline.command import job
from pipeline.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

    from beit_core.dvae import Dvae
    from pipeline.output.bound import Bound

INT16 = 1 << 15  # different tokens that the column's type can hold
AT_ONCE = 16  # images; each takes about 50 MB within the tokenizer, whose maps are as large as the image


class Shape(NamedTuple):
    """The grid of an image's tokens, and how many different tokens there are."""

    rows: int
    columns: int
    vocabulary: int

    def __str__(self) -> str:
        return f"{self.rows} x {self.columns} tokens out of {self.vocabulary}"


def find(card: ModelCard, tokenizer: str | None) -> ModelCard:
    """The card of the dVAE that goes with this model; raises ConfigError if none is given or it does not fit."""
    if card.head == "dvae":
        if tokenizer:
            raise ConfigError(f"--tokenizer {tokenizer}: --model {card.name} is a tokenizer itself, leave the flag out")
        return card
    if not tokenizer:
        raise ConfigError(
            f"--model {card.name} predicts the tokens of a dVAE, which has to be given: name its folder with "
            f"--tokenizer ({job('convert')} makes one of DALL-E's encoder.pkl)"
        )
    dvae = _read(tokenizer)
    if shape(dvae) != shape(card):
        raise ConfigError(f"--tokenizer {tokenizer} gives {shape(dvae)}, --model {card.name} predicts {shape(card)}")
    return dvae


def shape(card: ModelCard) -> Shape:
    """How many tokens an image has and how many there are; raises ConfigError where no column can hold them."""
    if card.pixels.size is None:
        raise ConfigError(f"{card.name} keeps the aspect ratio of images, so their numbers of tokens would differ")
    config = card.dvae if card.head == "dvae" else card.beit
    if config.vocab_size > INT16:
        raise ConfigError(f"{card.name} has {config.vocab_size} tokens, the output's int16 holds {INT16}")
    return Shape(*config.grid_of(*card.pixels.size), config.vocab_size)


def masks(card: ModelCard, share: float, seed: int, uris: Sequence[str]) -> np.ndarray:
    """Which patches of these images to hide: bool (B, n), from the seed and each uri alone."""
    grid = shape(card)
    return np.array(block_masks((grid.rows, grid.columns), share, seed, uris), bool)


def encode(dvae: Dvae, pictures: Tensor) -> Tensor:
    """The tokens (B, n) of pictures with values in [0, 1], row by row as a model's patches are."""
    import torch

    return torch.cat([dvae.encode(some).flatten(1) for some in pictures.split(AT_ONCE)])


def decoder(tokenizer: str) -> Callable[[np.ndarray], np.ndarray]:
    """From tokens (B, n) of square grids to the pictures (B, H, W, 3) uint8 that this dVAE makes of them.

    Raises ConfigError for a folder that is no dVAE or has no decoder.
    """
    with storage.checking(f"--tokenizer {tokenizer}"):
        dvae = beit_core.load_dvae(_read(tokenizer))
    if dvae.decoder is None:
        raise ConfigError(f"--tokenizer {tokenizer} has no decoder: convert decoder.pkl together with encoder.pkl")

    def pictures(tokens: np.ndarray) -> np.ndarray:
        import torch

        side = math.isqrt(tokens.shape[1])
        if side * side != tokens.shape[1]:
            raise ConfigError(f"--tokenizer {tokenizer}: {tokens.shape[1]} tokens of an image are no square to decode")
        grids = torch.from_numpy(tokens.astype(np.int64)).reshape(-1, side, side)
        with torch.inference_mode():
            parts = [dvae.decode(some) for some in grids.split(AT_ONCE)]
        pixels: np.ndarray = (torch.cat(parts) * 255).round().byte().permute(0, 2, 3, 1).numpy()
        return pixels

    return pictures


def check_made_by(tokenizer: str, bound: Bound) -> None:
    """Raise ConfigError unless an output holds visual tokens, and this dVAE is the one that made them.

    Another one's pictures of them would look like pictures, and mean nothing.
    """
    made_by = bound.model.fingerprint if bound.model.head == "dvae" else bound.settings.get("tokenizer")
    if made_by is None:
        said = f"this output, of {bound.task}, has no visual tokens to draw"
        raise ConfigError(f"--tokenizer {tokenizer}: {said}: leave the flag out")
    with storage.checking(f"--tokenizer {tokenizer}"):
        given = _read(tokenizer).fingerprint
    if given != made_by:
        raise ConfigError(
            f"--tokenizer {tokenizer} is not the dVAE that made these tokens: its fingerprint is {given[:12]}..., "
            f"theirs {str(made_by)[:12]}...: give the one that the run had"
        )


@cache
def _read(tokenizer: str) -> ModelCard:
    card = model_files.read(tokenizer, "--tokenizer")
    if card.head != "dvae":
        raise ConfigError(f"--tokenizer {tokenizer} is no dVAE but a {card.head}")
    return card
