"""What continues an output otherwise than it was begun, without being refused, is said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pipeline.log import warn
from pipeline.output.bound import Bound
from pipeline.source.format import FORMATS
from pipeline.source.item import Wanted
from pipeline.source.kinds import Shard, Source
from pipeline.source.passed import COMPRESSED
from pipeline.spec import Device

ENDINGS_NAMED = 4


def warn_of_device(bound: Bound, here: Device) -> None:
    """Say so where another kind of device than before will answer."""
    before, now = bound.cpu_class, here.cpu_class
    if before is not None and before != now:
        warn(f"the output was begun on {_kind(before)}, here is {_kind(now)}; last bits may differ")


def _kind(cpu_class: str) -> str:
    return f"a CPU with {cpu_class}" if cpu_class else "an accelerator"


def warn_of_versions(then: Mapping[str, str], now: Mapping[str, str]) -> None:
    """Say so where libraries are not those of the run that began the output."""
    changed = [f"{name} {then[name]} -> {now[name]}" for name in now if name in then and then[name] != now[name]]
    if changed:
        warn(f"the output was begun with other versions ({', '.join(changed)}); last bits may differ")


def warn_of_endings(bound: Bound, wanted: Wanted, first: Sequence[Source]) -> None:
    """Say so where other files of archives, of which `first` has some, would be images by now.

    They are not, as positions in archives are counted in images.
    """
    before, now = set(bound.image_endings), wanted.endings
    formats = [FORMATS[source.format] for source in first if isinstance(source, Shard)]
    if wanted.image_column or not any(format_.names_repeat for format_ in formats):
        return
    for endings, are in ((now - before, "passed by"), (before - now, "images")):
        if endings:
            known = sorted(endings, key=lambda ending: (f".{ending}" not in COMPRESSED.split(), ending))
            named = ", ".join(f".{ending}" for ending in known[:ENDINGS_NAMED])
            more = f" and {len(endings) - ENDINGS_NAMED} more kinds" if len(endings) > ENDINGS_NAMED else ""
            warn(f"in archives {named}{more} are {are}, as when the output was begun; a new --output changes that")
