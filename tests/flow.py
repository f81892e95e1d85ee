"""Run a task in this process, as `--local` does: seconds faster than a job of its own for tests of the flow."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import torch
from embed import Embed
from label import Label
from segment import Segment
from tokens import Tokens

from beit_core import ModelCard
from pipeline import run
from pipeline.config import RunConfig
from pipeline.errors import PipelineError
from pipeline.task import Batch, Columns, Task
from tests.helpers import DATA

DIGITS = DATA / "digits"


@dataclass(frozen=True)
class Brightness(Task):
    """A task that costs nothing, and that nothing here has heard of."""

    name: ClassVar[str] = "brightness"

    def columns(self, card: ModelCard) -> dict[str, pa.DataType]:  # noqa: ARG002 - the same for all
        return {"brightness": pa.float32()}

    def load(self, card: ModelCard) -> torch.nn.Module:  # noqa: ARG002 - as above
        return torch.nn.Identity()

    def predict(self, model: Any, batch: Batch) -> Columns:
        return {"brightness": model(batch.pixels).mean((1, 2, 3))}


TASKS: dict[str, type[Task]] = {kind.name: kind for kind in (Label, Embed, Segment, Tokens, Brightness)}


def run_here(
    source: object, output: object, task: str = "label", model: object = DIGITS / "model", **flags: Any
) -> int:
    """The exit code of `python jobs/TASK.py --local ...`; flags of the task and shared ones by their field names."""
    threads = torch.get_num_threads()
    names = set(TASKS[task].__dataclass_fields__)
    mine = {name: value for name, value in flags.items() if name in names}
    shared = {name: value for name, value in flags.items() if name not in names}
    sources = tuple(map(str, source)) if isinstance(source, list | tuple) else (str(source),)
    shared.setdefault("dtype", "float32")  # else answers depend on what this CPU computes natively
    config = RunConfig(sources, str(output), str(model), local=True, **shared)
    try:
        return run.run(config, TASKS[task](**mine))
    except PipelineError as error:
        if error.exit_code == 3:
            return 3
        raise
    finally:
        torch.set_num_threads(threads)


def make_tar(path: Path, members: list[tuple[str, bytes]]) -> Path:
    """A tar of these members, the same bytes every time."""
    import io
    import tarfile

    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def png(value: int, size: tuple[int, int] = (8, 8)) -> bytes:
    """A small grey PNG."""
    import io

    from PIL import Image

    sink = io.BytesIO()
    Image.new("L", size, value).save(sink, "PNG")
    return sink.getvalue()


def png_header(width: int, height: int) -> bytes:
    """The beginning of a grey PNG of any size, without a pixel."""
    import struct
    import zlib

    parts = [b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0), b"IDAT"]
    chunks = [struct.pack(">I", len(part) - 4) + part + struct.pack(">I", zlib.crc32(part)) for part in parts]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)
