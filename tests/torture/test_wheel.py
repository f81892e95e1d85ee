"""The wheel in an environment of its own: built by `build`, installed with its dependencies, far from the checkout."""

import subprocess
import venv
import zipfile
from pathlib import Path

import pytest

from tests.flow import DIGITS, png
from tests.helpers import ROOT, clean_env, rows
from tests.jobs.test_recipes import README, the_one
from tests.ray_head import RayHead

pytestmark = [pytest.mark.torture, pytest.mark.timeout(1800)]
FLAGS = ["--input", DIGITS / "shards", "--model", DIGITS / "model", "--keep", "cls", "--dtype", "float32"]


def call(*command: object, cwd: Path, env: dict[str, str] | None = None) -> str:
    """What a command prints, both streams; fails where it does."""
    words = [str(word) for word in command]
    env = clean_env({"PYTHONDONTWRITEBYTECODE": "", **(env or {})})  # where it is set, building warns of it
    done = subprocess.run(words, cwd=cwd, env=env, capture_output=True, text=True, timeout=1500, check=False)
    assert done.returncode == 0, f"{words}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The wheel, made of the files that git knows, and what building it said."""
    folder = tmp_path_factory.mktemp("built")
    names = subprocess.check_output(["git", "ls-files", "-z"], cwd=ROOT, text=True).split("\0")
    for name in filter(None, names):
        if not name.startswith("tests/"):
            (folder / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / "tree" / name).write_bytes((ROOT / name).read_bytes())
    venv.create(folder / "tools", with_pip=True)
    call(folder / "tools/bin/python", "-m", "pip", "install", "-q", "build", cwd=folder)
    said = call(folder / "tools/bin/python", "-m", "build", folder / "tree", "--outdir", folder / "dist", cwd=folder)
    (wheel,) = (folder / "dist").glob("*.whl")
    return wheel, said


@pytest.fixture(scope="module")
def beit(built: tuple[Path, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The command in a fresh environment that has the wheel and what it depends on, in the versions of this project."""
    folder = tmp_path_factory.mktemp("fresh")
    venv.create(folder / "env", with_pip=True)
    pip = [folder / "env/bin/python", "-m", "pip", "install", "-q", "--no-compile", "-c", ROOT / "constraints.txt"]
    call(*pip, built[0], cwd=folder)
    return folder / "env/bin/beit"


def test_building_is_clean_and_installs_no_top_level_jobs(built: tuple[Path, str]) -> None:
    wheel, said = built
    assert [line for line in said.splitlines() if "warn" in line.lower() or "deprecat" in line.lower()] == []
    names = {name.partition("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert names == {"beit_core", "beit_jobs", "pipeline", wheel.name.partition("-py3")[0] + ".dist-info"}


def test_it_labels_and_draws_in_one_process_and_on_a_head_started_apart(
    beit: Path, ray_head: RayHead, tmp_path: Path
) -> None:
    call(beit, "label", *FLAGS, "--output", "one", "--local", cwd=tmp_path)
    call(beit, "label", *FLAGS, "--output", tmp_path / "ray", "--ray-address", ray_head.address, "--device", "cpu",
         "--workers", 1, cwd=tmp_path, env=ray_head.env)  # fmt: skip
    assert rows(tmp_path / "one").equals(rows(tmp_path / "ray"))
    assert "357 of 360" in call(beit, "evaluate", "one", "--truth", "cls", cwd=tmp_path)
    call(beit, "report", "one", "--verify", cwd=tmp_path)
    assert (tmp_path / "one/report.html").exists()


def test_a_task_of_ones_own_is_sent_to_a_head_started_apart(beit: Path, ray_head: RayHead, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.png").write_bytes(png(255))
    task = the_one(README, "python", "class Brightness").replace("from _cli", "from beit_jobs._cli")
    (tmp_path / "mine.py").write_text(task)
    flags = ["--input", tmp_path / "in", "--model", DIGITS / "model", "--ray-address", ray_head.address]
    ways = {"by_beit": [beit, "mine.py"], "by_python": [beit.parent / "python", "mine.py"]}
    for name, way in ways.items():
        call(
            *way, *flags, "--output", tmp_path / name, "--device", "cpu", "--workers", 1, cwd=tmp_path, env=ray_head.env
        )
        assert rows(tmp_path / name)["brightness"].to_pylist() == [1.0]
