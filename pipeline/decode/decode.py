"""Bytes to pixels. Every Pillow format that starts no outside program; the image is recognised by its content.

Policies: EXIF orientation is applied; transparency (alpha, also of palettes) is composited over white, as browsers
do; 16- and 32-bit greys are scaled to 8 bits; CMYK, LAB and palettes are converted by Pillow; of an animation the
first frame is taken. A truncated image is an error, not a grey box.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, TiffImagePlugin, UnidentifiedImageError
from PIL.Image import Transpose

from pipeline.decode.resize import can_resize, resized
from pipeline.status import OK, Status

if TYPE_CHECKING:
    from beit_core import PixelSpec

MAX_PIXELS = 178_956_970  # Pillow's own bound for an error, about 0.5 GB as RGB
LARGEST_SIDE = (1 << 31) - 1  # the columns hold no more; a broken header may state anything
COMMON = {"JPEG", "PNG", "WEBP"}  # tried before the others
OUTSIDE = {"EPS", "WMF"}  # EPS starts Ghostscript; WMF draws only on Windows
NO_PICTURES = {"BUFR", "GRIB", "HDF5", "MPEG"}  # which Pillow recognises, and has no decoder for
HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
JXL_BEGINNINGS = (b"\xff\x0a", b"\x00\x00\x00\x0cJXL \r\n\x87\n")
RAW_BEGINNINGS = (b"FUJIFILMCCD-RAW", b"IIRO", b"IIRS", b"MMOR", b"IIU\0", b"\0MRM", b"FOVb")
REDUCED = 254  # TIFF's NewSubfileType: its lowest bit says that a picture is a preview of another
ORIENTATION = 0x0112  # of EXIF; its values are what a stored picture is turned by
TURNS: dict[object, Transpose] = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}
SIDEWAYS = {Transpose.TRANSPOSE, Transpose.ROTATE_270, Transpose.TRANSVERSE, Transpose.ROTATE_90}
BAND = 256  # rows of a deep grey that are scaled at a time
DRAFT_FACTOR = 2  # JPEG's scaled decoding keeps, both ways, at least so many times the target's longer side


@dataclass(frozen=True)
class DecodeSettings:
    """What a decoder needs to know: one view of each image is made per spec."""

    specs: tuple[PixelSpec, ...]
    max_pixels: int = MAX_PIXELS
    exact: bool = False


@dataclass(frozen=True)
class Decoded:
    """One image: a view per spec, (H, W, 3) uint8 RGB at that spec's size, or no view and why; and the time it took.

    Without a status where it is not done now.
    """

    status: Status | None
    error: str | None
    width: int | None
    height: int | None
    views: tuple[np.ndarray, ...] = ()
    seconds: float = field(default=0.0, compare=False)


@cache
def formats() -> tuple[str, ...]:
    """Pillow's readable formats that start no outside program, HEIC among them where `pillow-heif` is installed.

    Pillow tries them in this order, some of the rare ones by reading on: that takes as long as opening a JPEG.
    """
    Image.init()
    with suppress(ImportError):
        import pillow_heif

        pillow_heif.register_heif_opener()
    usable = (name for name in Image.ID if name not in OUTSIDE | NO_PICTURES)
    return tuple(sorted(usable, key=lambda name: name not in COMMON))


def extensions() -> frozenset[str]:
    """File name endings of those formats, lower case, with the dot."""
    usable = {*formats(), "MPO"}  # which the format JPEG reads
    return frozenset(ending for ending, name in Image.registered_extensions().items() if name in usable)


def endings() -> frozenset[str]:
    """The same without the dot, as members of archives are told apart."""
    return frozenset(extension.removeprefix(".") for extension in extensions())


def _reason(error: Exception, data: bytes) -> str:
    """Why Pillow failed, in words that are the same on every run and machine."""
    if not data:
        return "the file is empty"
    if isinstance(error, UnidentifiedImageError):
        if kind := _unread_kind(data):
            return f"{kind}, which Pillow does not read by itself"
        return f"not an image that Pillow knows (it begins with {data[:8].hex()})"
    if isinstance(error, MemoryError):
        return "decoding needs more memory than allowed"
    text = str(error).split("<_io")[0].split(" at 0x")[0].strip() or "no reason given"
    return f"{type(error).__name__}: {text}"[:200]


def _unread_kind(data: bytes) -> str:
    """What a photo is that Pillow knows only with a plugin, or not at all; empty for everything else."""
    if data[4:8] == b"ftyp" and data[8:12] in HEIC_BRANDS:
        return "a HEIC photo"
    if data.startswith(RAW_BEGINNINGS) or data[4:11] == b"ftypcrx":
        return "a raw photo"
    return "a JPEG XL photo" if data.startswith(JXL_BEGINNINGS) else ""


def lift_pillows_bound() -> None:
    """In a process that decodes, --max-pixels is checked instead, with a status of its own."""
    Image.MAX_IMAGE_PIXELS = None


def decode(data: bytes, specs: Sequence[PixelSpec], max_pixels: int = MAX_PIXELS, *, exact: bool = False) -> Decoded:
    """Decode an image file and resize it as the model expects, once per spec.

    What lies above Pillow's own bound is a `decode_error`, unless `lift_pillows_bound` was called.
    Without `exact`, a large JPEG is decoded at a half, quarter or eighth of its size when that leaves, both ways,
    `DRAFT_FACTOR` times the longer side asked for (mean difference 0.3 of 255, four times faster), and pictures are
    resized as `resize.py` says.
    """
    width = height = None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(data), formats=formats())
            if _is_preview(image, data):
                return Decoded("decode_error", "a raw photo, of which Pillow reads the small preview alone", None, None)
            width, height = image.size
            if width * height > max_pixels:  # before the EXIF is asked for: of a PNG that would read the pixels
                reason = f"{width} x {height} pixels are more than --max-pixels {max_pixels}"
                return Decoded("too_large", reason, *_stated(width, height))
            width, height = _upright_size(image)
            if not exact:
                _draft(image, [spec.target(height, width) for spec in specs])
            rgb = to_rgb(upright(image))
            views = tuple(fit(rgb, spec, (height, width), exact=exact) for spec in specs)
        return Decoded(OK, None, width, height, views)
    except Exception as error:  # Pillow's plugins raise OSError, ValueError, SyntaxError, struct.error, MemoryError ...
        return Decoded("decode_error", _reason(error, data), *_stated(width, height))


def _stated(width: int | None, height: int | None) -> tuple[int | None, int | None]:
    """The size that a failed image's header states, as far as the columns can hold it."""
    return (width, height) if max(width or 0, height or 0) <= LARGEST_SIDE else (None, None)


def _is_preview(image: Image.Image, data: bytes) -> bool:
    """Whether the first picture of a TIFF is a preview of another, as in DNG, NEF and ARW; CR2 has a mark instead."""
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return False
    reduced = image.tag_v2.get(REDUCED)
    return data[8:10] == b"CR" or (isinstance(reduced, int) and bool(reduced & 1))


def _upright_size(image: Image.Image) -> tuple[int, int]:
    """Of an opened image; a TIFF's is upright from the start, before its pixels are."""
    width, height = image.size
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return width, height
    return (height, width) if _turn(image) in SIDEWAYS else (width, height)


def _turn(image: Image.Image) -> Transpose | None:
    """What makes the stored picture upright; None where it is."""
    try:
        return TURNS.get(image.getexif().get(ORIENTATION))
    except Exception:  # broken EXIF beside good pixels, in any of its parsers' ways: shown as stored, as viewers do
        return None


def open_upright(data: bytes) -> Image.Image:
    """An image file's bytes as an upright RGB picture of its own size; raises what Pillow raises."""
    return to_rgb(upright(Image.open(io.BytesIO(data), formats=formats())))


def upright(image: Image.Image) -> Image.Image:
    """The picture as its EXIF says that it is to be looked at.

    Pillow's `exif_transpose` writes the EXIF anew besides, and fails where a camera wrote what it cannot write.
    """
    image.load()  # which turns a TIFF
    turn = _turn(image)
    return image if turn is None else image.transpose(turn)


def _draft(image: Image.Image, targets: list[tuple[int, int]]) -> None:
    """Ask libjpeg for a smaller picture; Pillow ignores it for other formats."""
    side = DRAFT_FACTOR * max(max(target) for target in targets)
    if image.format == "JPEG":
        image.draft("RGB", (side, side))


def to_rgb(image: Image.Image) -> Image.Image:
    """Any mode as 8-bit RGB by the policies on top of this file."""
    image.load()
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I") or image.mode == "F":
        return _scale_grey(image).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        flat = Image.new("RGB", image.size, "white")
        flat.paste(rgba, mask=rgba.getchannel("A"))
        return flat
    return image.convert("RGB")


def _scale_grey(image: Image.Image) -> Image.Image:
    """16-bit greys from 0..65535 to 0..255; 32-bit and float greys likewise if they exceed 8 bits, else as they are.

    The grey that a PNG calls transparent becomes white.
    """
    values, clear = np.asarray(image), image.info.get("transparency")
    bands = [slice(top, top + BAND) for top in range(0, len(values), BAND)]  # 8 bytes a pixel are too many for a whole

    def finite(band: slice) -> np.ndarray:
        return np.nan_to_num(values[band].astype(np.float64), nan=0.0, posinf=65535.0, neginf=0.0)

    is_deep = image.mode.startswith("I;16") or any(finite(band).max(initial=0) > 255 for band in bands)
    grey = np.empty(values.shape, np.uint8)
    for band in bands:
        scaled = finite(band) / 257.0 if is_deep else finite(band)
        grey[band] = np.where(values[band] == clear, 255, np.clip(np.rint(scaled), 0, 255))
    return Image.fromarray(grey)


def fit(rgb: Image.Image, spec: PixelSpec, full_size: tuple[int, int], *, exact: bool) -> np.ndarray:
    """Resize and centre-crop as the card says, to (H, W, 3) uint8.

    `full_size` is (height, width) before any scaled decoding. With `exact` every filter is Pillow's.
    """
    before, size = (rgb.height, rgb.width), spec.target(*full_size)
    if before == size:
        pixels = np.asarray(rgb)
    elif exact or not can_resize(before, size, spec.resample):
        pixels = np.asarray(rgb.resize((size[1], size[0]), Image.Resampling(spec.resample)))
    else:
        pixels = resized(rgb, size, spec.resample)
    return pixels if spec.crop is None else centre(pixels, spec.crop)


def centre(pixels: np.ndarray, crop: tuple[int, int]) -> np.ndarray:
    """(H, W, 3) -> (*crop, 3) around the same centre, black where there is no picture."""
    top, above = _margins(pixels.shape[0], crop[0])
    left, before = _margins(pixels.shape[1], crop[1])
    inside = pixels[top : top + crop[0], left : left + crop[1]]
    if inside.shape[:2] == crop:
        return inside
    framed = np.zeros((*crop, 3), np.uint8)
    framed[above : above + inside.shape[0], before : before + inside.shape[1]] = inside
    return framed


def _margins(side: int, crop: int) -> tuple[int, int]:
    """How much is cut off the picture before the crop begins, and how much of the crop is empty before the picture."""
    start = (side - crop) // 2
    return max(0, start), max(0, -start)
