"""Semantic segmentation: UPerNet on four layers of a BEiT, and the way from its logits to a label map.

B images, C channels, H height, W width (pixels of the input), D width of the encoder, K classes, h w a feature map.
Levels: maps of 4, 2, 1 and 1/2 times the patch grid. Modules carry the names of the published tensors.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .attention import widen
from .config import BeitConfig, Grid, Semantics
from .errors import CheckpointError, NotFinite
from .model import Beit

Inference = Literal["whole", "slide"]
Planes = Callable[[list[int]], Tensor]  # classes -> their logits (k, h, w)
PLANE_ELEMENTS = 2**24  # logits held at full size at any moment, unless one class alone needs more


def resize(map_BDhw: Tensor, size: Sequence[int]) -> Tensor:
    """Bilinear, corners not aligned: the only interpolation of this head."""
    return F.interpolate(map_BDhw, size=tuple(size), mode="bilinear", align_corners=False)


class ConvBlock(nn.Module):
    """Convolution without bias, BatchNorm, ReLU; keeps height and width."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, kernel, padding=kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(channels_out)

    def forward(self, map_BDhw: Tensor) -> Tensor:
        """(B, channels_in, h, w) -> (B, channels_out, h, w)."""
        return self.bn(self.conv(map_BDhw)).relu_()


class UperHead(nn.Module):
    """UPerNet (arXiv 1807.10221) with as many channels as the encoder is wide."""

    def __init__(self, config: BeitConfig) -> None:
        super().__init__()
        D = config.width
        self.psp_modules = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(scale), ConvBlock(D, D, 1)) for scale in config.pool_scales
        )
        self.bottleneck = ConvBlock(D * (1 + len(config.pool_scales)), D, 3)
        self.lateral_convs = nn.ModuleList(ConvBlock(D, D, 1) for _ in range(3))
        self.fpn_convs = nn.ModuleList(ConvBlock(D, D, 3) for _ in range(3))
        self.fpn_bottleneck = ConvBlock(4 * D, D, 3)
        self.classifier = nn.Conv2d(D, config.classes, 1)

    def forward(self, levels: list[Tensor]) -> Tensor:
        """Four maps (B, D, h, w), finest first -> logits (B, K, h, w) of the finest."""
        top = self._pool_pyramid(levels[3])
        laterals = [conv(level) for conv, level in zip(self.lateral_convs, levels[:3], strict=True)] + [top]
        for i in (2, 1, 0):
            laterals[i] = laterals[i] + resize(laterals[i + 1], laterals[i].shape[2:])
        fused = [conv(lateral) for conv, lateral in zip(self.fpn_convs, laterals[:3], strict=True)] + [top]
        finest = fused[0].shape[2:]
        joined = torch.cat([fused[0]] + [resize(level, finest) for level in fused[1:]], dim=1)
        return self.classifier(self.fpn_bottleneck(joined))

    def _pool_pyramid(self, level_BDhw: Tensor) -> Tensor:
        pooled = [resize(module(level_BDhw), level_BDhw.shape[2:]) for module in self.psp_modules]
        return self.bottleneck(torch.cat([level_BDhw, *pooled], dim=1))


class AuxiliaryHead(nn.Module):
    """The second head of training (a small FCN on level 2). Loaded with the rest and not used."""

    def __init__(self, config: BeitConfig) -> None:
        super().__init__()
        D, channels = config.width, config.auxiliary_channels
        inputs = [D] + [channels] * (config.auxiliary_convs - 1)
        self.convs = nn.Sequential(*(ConvBlock(given, channels, 3) for given in inputs[: config.auxiliary_convs]))
        self.conv_cat = ConvBlock(D + channels, channels, 3) if config.auxiliary_concat else None
        self.classifier = nn.Conv2d(channels, config.classes, 1)

    def forward(self, level_BDhw: Tensor) -> Tensor:
        """(B, D, h, w) -> logits (B, K, h, w)."""
        map_BDhw = self.convs(level_BDhw)
        if self.conv_cat is not None:
            map_BDhw = self.conv_cat(torch.cat([level_BDhw, map_BDhw], dim=1))
        return self.classifier(map_BDhw)


class Segmenter(nn.Module):
    """One class per pixel.

    `semantics` says which layers the published indices mean (BeitConfig.feature_layers). `inference` `whole` looks
    once at the whole picture, `slide` averages the logits of overlapping windows of the trained size, as unilm's
    published results were made.
    """

    def __init__(self, config: BeitConfig, semantics: Semantics) -> None:
        super().__init__()
        if len(config.out_indices) != 4:
            raise CheckpointError(f"segmentation reads four layers, out_indices names {len(config.out_indices)}")
        D = config.width
        self.config = config
        self.semantics = semantics
        self.inference: Inference = "slide" if semantics == "original" else "whole"
        self.layers = config.feature_layers(semantics)
        self.trunk = Beit(config)
        up = [nn.ConvTranspose2d(D, D, 2, stride=2) for _ in range(3)]
        self.fpn1 = nn.Sequential(up[0], nn.BatchNorm2d(D), nn.GELU(), up[1])
        self.fpn2 = nn.Sequential(up[2])
        self.decode_head = UperHead(config)
        self.auxiliary_head = AuxiliaryHead(config) if config.auxiliary_channels else None

    def forward(self, pixels_BCHW: Tensor) -> Tensor:
        """Normalised pixels (B, 3, H, W) -> logits (B, K, h, w), four values for each patch's side."""
        return self.decode_head(self.levels(pixels_BCHW))

    def levels(self, pixels_BCHW: Tensor) -> list[Tensor]:
        """The feature pyramid: maps (B, D, h, w) of 4, 2, 1 and 1/2 times the patch grid."""
        if min(self.trunk.grid(pixels_BCHW)) < 2:
            need = f"at least {2 * self.config.patch_size} pixels each way"
            raise ValueError(f"pixels of shape {tuple(pixels_BCHW.shape)}: segmentation takes {need}")
        first, second, third, fourth = self.trunk.maps(pixels_BCHW, self.layers)
        return [self.fpn1(first), self.fpn2(second), third, F.max_pool2d(fourth, 2)]

    def segment(self, pixels_CHW: Tensor, height: int, width: int) -> Tensor:
        """Normalised pixels (3, H, W) of one picture, any size -> its label map (height, width), uint8 or int16.

        In `hf` semantics a whole picture's logits go to the output in one step and pixels beyond the last whole
        patch do not count (transformers); otherwise pixels are padded at the right and bottom with the mean colour
        to a whole window, and logits pass through the picture's own size on their way (mmsegmentation).
        """
        if self.inference == "whole" and self.semantics == "hf":
            return label_map(self(pixels_CHW[None])[0], height, width)
        size = pixels_CHW.shape[1], pixels_CHW.shape[2]
        window = self._window(size)
        down, across = (max(side, part) for side, part in zip(size, window, strict=True))
        pixels_CHW = F.pad(pixels_CHW, (0, across - size[1], 0, down - size[0]))
        starts = [(y, x) for y in self._starts(down, window[0]) for x in self._starts(across, window[1])]
        views = (pixels_CHW[None, :, y : y + window[0], x : x + window[1]] for y, x in starts)
        parts = [widen(self(view)[0]) for view in views]
        return _first_largest(
            lambda classes: _average(parts, starts, window, size, classes), len(parts[0]), height, width
        )

    def _window(self, size: Grid) -> Grid:
        if self.inference == "slide":
            return self.config.image_size
        patch = self.config.patch_size
        return -(-size[0] // patch) * patch, -(-size[1] // patch) * patch

    def _starts(self, side: int, window: int) -> list[int]:
        stride = self.config.stride or window * 2 // 3
        count = max(side - window + stride - 1, 0) // stride + 1
        return [min(i * stride, side - window) for i in range(count)]


def label_map(logits_Khw: Tensor, height: int, width: int) -> Tensor:
    """Logits of one picture -> its label map (height, width): uint8 up to 256 classes, else int16.

    The same map as resizing all K planes and taking the first largest, in the memory of a few planes. Raises
    NotFinite where one of the logits is not.
    """
    return _first_largest(lambda classes: widen(_some(logits_Khw, classes)), len(logits_Khw), height, width)


def _first_largest(planes: Planes, count: int, height: int, width: int) -> Tensor:
    """Label map from `planes`, which gives logits (k, h, w) of some of the `count` classes.

    Classes go in chunks, never rows in bands: a band would need interpolation weights of our own, and one last bit
    different from the whole plane's flips pixels where two classes are all but equal.
    """
    first, *others = _contenders(planes, count)
    best_HW = resize(planes([first])[None], (height, width))[0, 0]
    labels_HW = torch.full_like(best_HW, first, dtype=torch.uint8 if count <= 256 else torch.int16)
    step = max(1, PLANE_ELEMENTS // (height * width))
    for chunk in (others[i : i + step] for i in range(0, len(others), step)):
        for number, plane_HW in zip(chunk, resize(planes(chunk)[None], (height, width))[0], strict=True):
            labels_HW.masked_fill_(plane_HW > best_HW, number)
            torch.maximum(best_HW, plane_HW, out=best_HW)
    return labels_HW


def _contenders(planes: Planes, count: int) -> list[int]:
    """Classes that can be largest anywhere, in order; usually few, and only they need resizing.

    Between four neighbours a bilinear value lies between their least and their greatest: a class whose greatest stays
    below another's least in every cell is out, with some slack for rounding.
    """
    chunks = [list(range(first, min(first + 16, count))) for first in range(0, count, 16)]
    floors, finite, above = list[Tensor](), list[Tensor](), list[Tensor]()
    for chunk in chunks:
        least_khw = _greatest(-planes(chunk)).neg_()
        finite.append(least_khw.isfinite().all())  # one NaN or infinity would spoil all cells around it
        floors.append(least_khw.amax(0))
    floor_hw = torch.stack(floors).amax(0)
    floor_hw -= 1e-5 * floor_hw.abs().amax()
    for chunk in chunks:
        greatest_khw = _greatest(planes(chunk))
        finite.append(greatest_khw.isfinite().all())
        above.append((greatest_khw >= floor_hw).flatten(1).any(1))
    # One transfer for all that is asked: each waits for the device.
    is_finite, *contends = torch.cat([torch.stack(finite).all()[None], *above]).tolist()
    if not is_finite:
        raise NotFinite("the logits are not finite: predict in a wider dtype (bfloat16 or float32)")
    return [number for number, wins in enumerate(contends) if wins]


def _some(planes_Khw: Tensor, classes: list[int]) -> Tensor:
    """The planes of these classes, in ascending order; a view where they are neighbours.

    A list as index is copied to the device, which every time waits until that has done all else.
    """
    first, stop = classes[0], classes[-1] + 1
    return planes_Khw[first:stop] if stop - first == len(classes) else planes_Khw[classes]


def _greatest(planes_khw: Tensor) -> Tensor:
    """The greatest of each four neighbours, (k, h - 1, w - 1); sides of one value stay."""
    return F.max_pool2d(planes_khw, (min(2, planes_khw.shape[1]), min(2, planes_khw.shape[2])), stride=1)


def _average(parts: list[Tensor], starts: list[Grid], window: Grid, size: Grid, classes: list[int]) -> Tensor:
    """Logits (k, h, w) of a picture of this size from those of its windows, their mean where windows overlap."""
    down, across = (max(start[side] for start in starts) + window[side] for side in (0, 1))
    total_KHW = parts[0].new_zeros(len(classes), down, across)
    count_HW = parts[0].new_zeros(down, across)
    for part_Khw, (y, x) in zip(parts, starts, strict=True):
        place = slice(y, y + window[0]), slice(x, x + window[1])
        total_KHW[:, *place] += resize(_some(part_Khw, classes)[None], window)[0]
        count_HW[place] += 1
    return (total_KHW / count_HW)[:, : size[0], : size[1]]
