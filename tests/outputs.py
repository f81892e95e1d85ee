"""Small outputs of real runs of all four tasks on some of the bundled images: something to report on."""

import json
import shutil
import tarfile
from pathlib import Path
from typing import Any

from tests.flow import make_tar, png, run_here
from tests.helpers import DATA
from tests.models import save_dvae, save_masked

TASKS = ("label", "embed", "segment", "tokens")
BUNDLES = {"label": "digits", "embed": "digits", "segment": "digits-seg", "tokens": "digits-seg"}
PER_SHARD, SPAN = 30, 16
IMAGES = 2 * PER_SHARD + 1  # the last one is cut off


class Examples:
    """An output per task, made when first asked for: two shards of 30 images in two runs, a cut image in the second."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.made: dict[str, Path] = {}

    def copy(self, task: str, to: Path) -> Path:
        """A copy that a test may change; its images stay where they are."""
        if task not in self.made:
            self.made[task] = self._make(task)
        return shutil.copytree(self.made[task], to, dirs_exist_ok=True)

    def _make(self, task: str) -> Path:
        source, output = self.folder / task / "in", self.folder / task / "out"
        model, flags = model_of(task, self.folder)
        first, second = sorted((DATA / BUNDLES[task] / "shards").glob("*.tar"))[:2]
        make_tar(source / first.name, beginning(first))
        assert run_here(source, output, task, model, span_size=SPAN, **flags) == 0
        make_tar(source / second.name, beginning(second))
        (source / "cut.png").write_bytes(png(20)[:45])
        for name in ("notes.txt", "more.txt"):
            (source / name).write_text("no image")
        assert run_here(source, output, task, model, max_failed=0.1, **flags) == 0
        return output


def model_of(task: str, folder: Path) -> tuple[Path, dict[str, Any]]:
    """A model for the task and the flags that go with it; what is not bundled is made in the folder."""
    if task != "tokens":
        return DATA / BUNDLES[task] / "model", {}
    if not (folder / "masked").exists():
        save_masked(folder / "masked")
        save_dvae(folder / "dvae", side=64)
    return folder / "masked", {"tokenizer": str(folder / "dvae")}


def beginning(shard: Path) -> list[tuple[str, bytes]]:
    """The members of a tar's first images."""
    found: list[tuple[str, bytes]] = []
    keys: dict[str, None] = {}
    with tarfile.open(shard) as tar:
        for member in tar:
            keys[member.name.partition(".")[0]] = None
            if len(keys) > PER_SHARD:
                break
            file = tar.extractfile(member)
            found.append((member.name, file.read() if file else b""))
    return found


def edit(path: Path, **more: Any) -> None:
    """Put other values into a JSON file, as nobody's run would."""
    path.write_text(json.dumps(json.loads(path.read_text()) | more))


def newest_report(output: Path) -> Path:
    """The report of the last run."""
    return max((output / "runs").glob("*.json"))
