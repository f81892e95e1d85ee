"""Run a task in this process, as `--local` does: seconds faster than a job of its own for tests of the flow."""

from pathlib import Path
from typing import Any

import torch
from embed import Embed
from label import Label

from pipeline import run
from pipeline.config import RunConfig
from pipeline.errors import PipelineError
from pipeline.task import Task
from tests.helpers import DATA

DIGITS = DATA / "digits"
TASKS: dict[str, type[Task]] = {"label": Label, "embed": Embed}


def run_here(
    source: object, output: object, task: str = "label", model: object = DIGITS / "model", **flags: Any
) -> int:
    """The exit code of `python jobs/TASK.py --local ...`; flags of the task and shared ones by their field names."""
    threads = torch.get_num_threads()
    names = set(TASKS[task].__dataclass_fields__)
    mine = {name: value for name, value in flags.items() if name in names}
    shared = {name: value for name, value in flags.items() if name not in names}
    sources = tuple(map(str, source)) if isinstance(source, list | tuple) else (str(source),)
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
