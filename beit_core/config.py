"""The configuration of a model: sizes and switches."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, Self

from .errors import CheckpointError
from .schema import CONFIG, DVAE_CONFIG, check, shown

Semantics = Literal["hf", "original"]
BiasResampling = Literal["bilinear", "geometric", "linear"]
PoolOf = Literal["mean", "cls"]
Grid = tuple[int, int]
# transformers' prefix in front of the encoder's tensors, by model_type.
PREFIXES = {"beit": "beit.", "data2vec-vision": "data2vec_vision."}
DVAE = "dall-e-dvae"  # the model_type of converted tokenizers


def hf(name: str, default: Any) -> Any:
    """A field that `config.json` calls `name`; transformers has the same default."""
    return field(default=default, metadata={"hf": name})


class Patched:
    """What BEiTs and dVAEs share: pictures of a trained size, cut into square patches that become one token each."""

    image_size: Grid  # (height, width) in pixels
    patch_size: int

    @property
    def grid(self) -> Grid:
        """Patches (down, across) of a picture of the trained size."""
        return self.grid_of(*self.image_size)

    def grid_of(self, height: int, width: int) -> Grid:
        """Whole patches (down, across) in a picture; pixels beyond the last whole patch are ignored."""
        return height // self.patch_size, width // self.patch_size


@dataclass(frozen=True)
class BeitConfig(Patched):
    """Sizes and switches of one BEiT; sizes in pixels and patches are (height, width)."""

    width: int = hf("hidden_size", 768)
    depth: int = hf("num_hidden_layers", 12)
    heads: int = hf("num_attention_heads", 12)
    mlp_width: int = hf("intermediate_size", 3072)
    image_size: Grid = (224, 224)
    patch_size: int = 16
    channels: int = hf("num_channels", 3)
    layer_norm_eps: float = hf("layer_norm_eps", 1e-12)
    classes: int = 0
    problem_type: str | None = hf("problem_type", None)
    vocab_size: int = hf("vocab_size", 8192)
    mask_token: bool = hf("use_mask_token", False)
    absolute_positions: bool = hf("use_absolute_position_embeddings", False)
    relative_bias: bool = hf("use_relative_position_bias", False)
    shared_bias: bool = hf("use_shared_relative_position_bias", False)
    layer_scale: bool = True
    mean_pooling: bool = hf("use_mean_pooling", True)
    pooler: bool = True  # False where a checkpoint was saved without one
    pool_of: PoolOf | None = None  # overrides mean_pooling; config.json cannot express it
    bias_resampling: BiasResampling = "bilinear"  # for grids other than the trained one
    out_indices: tuple[int, ...] = ()  # as published; which layers they mean depends on the semantics
    pool_scales: tuple[int, ...] = (1, 2, 3, 6)
    auxiliary_channels: int = 0  # 0: no auxiliary head
    auxiliary_convs: int = hf("auxiliary_num_convs", 1)
    auxiliary_concat: bool = hf("auxiliary_concat_input", False)
    stride: int = 0  # of a sliding window, in pixels; 0: two thirds of image_size

    @property
    def classes_exclude_each_other(self) -> bool:
        """Whether a picture is of one class (softmax), not of any number of them (sigmoid); as transformers tells."""
        return self.problem_type != "multi_label_classification" and self.classes != 1

    def feature_layers(self, semantics: Semantics) -> tuple[int, ...]:
        """How many layers each segmentation feature has passed through.

        The published indices count trained blocks from 0, so index i is what leaves block i: i + 1 layers.
        transformers looks up index i - 1 in a list that starts with the embeddings: i - 1 layers.
        """
        if semantics == "hf":
            return tuple((index - 1) % (self.depth + 1) for index in self.out_indices)
        return tuple(min(index % (self.depth + 1) + 1, self.depth) for index in self.out_indices)

    def least_side(self, head: str, semantics: Semantics) -> int:
        """Pixels that a picture needs each way: a patch, for a segmenter two, none where it is padded to a window."""
        if head != "segmenter":
            return self.patch_size
        return 2 * self.patch_size if semantics == "hf" else 0

    @classmethod
    def from_hf(cls, raw: Mapping[str, Any], *, pooler: bool = True, where: str | Path = "config.json") -> Self:
        """Read the content of a Hugging Face `config.json`, with the defaults transformers gives a missing field.

        Raises CheckpointError, naming `where` and the field, for values of a wrong type or out of range and for
        switches that no published BEiT uses and this package does not have.
        """
        check(raw, CONFIG, where)
        config = cls(**_same_fields(cls, raw))
        auxiliary = raw.get("use_auxiliary_head", True)
        config = replace(
            config,
            image_size=pair(raw.get("image_size", 224)),
            patch_size=_square(raw.get("patch_size", 16), where),
            classes=len(raw["id2label"]) if raw.get("id2label") else int(raw.get("num_labels", 2)),
            layer_scale=raw.get("layer_scale_init_value", 0.1) > 0,
            pooler=pooler,
            out_indices=_out_indices(raw) or (config.depth,),
            pool_scales=tuple(raw.get("pool_scales", config.pool_scales)),
            auxiliary_channels=raw.get("auxiliary_channels", 256) if auxiliary else 0,
        )
        _check(config, raw, where)
        return config


@dataclass(frozen=True)
class DvaeConfig(Patched):
    """Sizes of one discrete VAE; its encoder's four groups are 1, 2, 4 and 8 times as wide as the first."""

    width: int = hf("hidden_size", 256)  # channels of the first group
    blocks: int = hf("num_hidden_layers", 2)  # in each group
    decoder_width: int = hf("intermediate_size", 0)  # channels of the decoder's input convolution; 0: no decoder
    vocab_size: int = hf("vocab_size", 8192)
    image_size: Grid = (112, 112)
    patch_size: int = 8

    @classmethod
    def from_hf(cls, raw: Mapping[str, Any], *, where: str | Path = "config.json") -> Self:
        """Read the `config.json` of a converted tokenizer. Raises CheckpointError for invalid values."""
        check(raw, DVAE_CONFIG, where)
        config = cls(**_same_fields(cls, raw), image_size=pair(raw.get("image_size", 112)))
        if any(side % config.patch_size for side in config.image_size):
            advice = f"a tokenizer takes sides divisible by {config.patch_size}"
            raise CheckpointError(f"{where}: image_size is {shown(raw['image_size'])}, but {advice}")
        return config


def _same_fields(cls: type[BeitConfig | DvaeConfig], raw: Mapping[str, Any]) -> dict[str, Any]:
    """The fields whose values are copied from `config.json` unchanged."""
    theirs = {entry.name: entry.metadata.get("hf", "") for entry in fields(cls)}
    return {ours: raw[name] for ours, name in theirs.items() if name in raw}


def _check(config: BeitConfig, raw: Mapping[str, Any], where: str | Path) -> None:
    """Raise CheckpointError for fields that contradict each other and for activations other than GELU."""
    # Other heads may carry transformers' default out_indices.
    segments = "SemanticSegmentation" in str(raw.get("architectures"))
    wrong = [index for index in config.out_indices if segments and not -config.depth - 1 <= index <= config.depth]
    if raw.get("hidden_act", "gelu") != "gelu":
        raise CheckpointError(f"{where}: hidden_act is {raw['hidden_act']!r}; only 'gelu' is supported")
    if config.width % config.heads:
        fault = f"hidden_size {config.width} cannot be divided among num_attention_heads {config.heads}"
        raise CheckpointError(f"{where}: {fault}")
    if min(config.grid) < 1:
        fault = f"image_size {config.image_size} holds no patch of patch_size {config.patch_size}"
        raise CheckpointError(f"{where}: {fault}")
    if wrong:
        fault = f"out_indices name layer {wrong[0]}, num_hidden_layers is {config.depth}"
        raise CheckpointError(f"{where}: {fault}")


def pair(value: Any) -> Grid:
    """(height, width) of a pair, or of one number that is both."""
    height, width = value if isinstance(value, (list, tuple)) else (value, value)
    return int(height), int(width)


def _square(value: Any, where: str | Path) -> int:
    height, width = pair(value)
    if height != width:
        raise CheckpointError(f"{where}: patch_size is {height} x {width}; only square patches are supported")
    return height


def _out_indices(raw: Mapping[str, Any]) -> tuple[int, ...]:
    stages = raw.get("out_features") or ()
    named = [0 if name == "stem" else int(name.removeprefix("stage")) for name in stages]
    indices = tuple(raw.get("out_indices") or raw.get("segmentation_indices") or named)
    # transformers' data2vec-vision goes through the layers and picks those that are named.
    return tuple(sorted(indices)) if raw.get("model_type") == "data2vec-vision" else indices
