"""Jobs in processes of their own that begin with everything imported, so that many can be killed in little time."""

import multiprocessing
import os
import runpy
import sys
import tempfile
from functools import cache
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path

from tests.helpers import ROOT, clean_env

IMPORTED = [
    "torch",
    "pipeline.run",
    "pipeline.engine.predictor",
    "pipeline.storage.s3",
    "beit_core.checkpoint",
    "pyarrow.dataset",
]


@cache
def nursery() -> ForkServerContext:
    """A clean process without threads, from which jobs are forked."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(IMPORTED)
    return context


class Victim:
    """`python jobs/SCRIPT ARGS` in a session of its own, with as much of `subprocess.Popen` as tests of kills use."""

    def __init__(self, *args: object, env: dict[str, str] | None = None, script: str = "label.py") -> None:
        number, name = tempfile.mkstemp(prefix="said-")
        os.close(number)
        self.args, self.said = [f"jobs/{script}", *map(str, args)], Path(name)
        self.process: BaseProcess = nursery().Process(target=live, args=(self.args, clean_env(env), self.said))
        self.process.start()

    @property
    def pid(self) -> int:
        return self.process.pid or 0

    def poll(self) -> int | None:
        """The exit code once there is one."""
        return self.process.exitcode

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()

    def communicate(self) -> tuple[str, None]:
        """What it said until its end."""
        self.process.join()
        said = self.said.read_text()
        self.said.unlink()
        return said, None


def live(args: list[str], env: dict[str, str], said: Path) -> None:
    """The job itself, in the child."""
    os.setsid()
    os.chdir(ROOT)
    os.environ.clear()
    os.environ.update(env)
    with said.open("wb") as file:
        for number in (1, 2):
            os.dup2(file.fileno(), number)
    if hooks := env.get("PYTHONPATH"):
        runpy.run_path(f"{hooks}/sitecustomize.py")
    sys.argv = args
    sys.path.insert(0, str(ROOT / "jobs"))
    runpy.run_path(args[0], run_name="__main__")
