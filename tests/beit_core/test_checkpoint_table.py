"""docs/checkpoints.md says what the presets say."""

from beit_core import Preset, presets
from tests.helpers import ROOT

HEADING = "| checkpoint | head | classes | image | published | licence |\n|---|---|---|---|---|---|\n"
KINDS = {"classifier": "classes", "masked": "visual tokens", "segmenter": "class per pixel"}


def row(preset: Preset) -> str:
    names = {"top1": "top-1", "top5": "top-5", "miou": "mIoU"}
    published = ", ".join(f"{names[name]} {value:g}" for name, value in preset.accuracy.items()) or "-"
    classes = f"{len(preset.labels):,}" if preset.labels else "-"
    return f"| {preset.name} | {KINDS[preset.head]} | {classes} | {preset.image} | {published} | {preset.license} |\n"


def table() -> str:
    return HEADING + "".join(row(preset) for preset in presets().values())


def test_the_table_of_checkpoints_is_that_of_the_presets() -> None:
    assert table() in (ROOT / "docs/checkpoints.md").read_text()
