"""The one command, `beit`: by its module here; the wheel that brings it is tried in tests/torture/test_wheel.py."""

import html
import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.flow import DIGITS, png
from tests.helpers import ROOT, clean_env, rows
from tests.jobs.test_recipes import README, the_one
from tests.outputs import newest_report

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
JOBS = sorted(file.stem for file in (ROOT / "jobs").glob("[!_]*.py"))


def beit(*words: object, code: int = 0, cwd: Path = ROOT, root: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """`beit WORDS`, as the installed script of a checkout calls it, from any folder."""
    start = f"import sys; sys.path.insert(0, {str(root)!r}); from jobs.__main__ import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", start, *map(str, words)],
        cwd=cwd,
        env=clean_env(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done


def test_help_has_a_line_for_every_job_and_the_version_is_the_projects() -> None:
    listed = beit("--help").stdout.partition("jobs:\n")[2].splitlines()
    assert [line.split()[0] for line in listed] == JOBS
    assert all(len(line.split()) > 3 for line in listed)
    assert beit("--version").stdout == f"beit-batch {PROJECT['project']['version']}\n"


def test_help_parts_a_long_name_from_its_line(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "jobs", tmp_path / "jobs")
    (tmp_path / "jobs/brightness.py").write_text('"""How bright images are."""\n')
    listed = beit("--help", root=tmp_path).stdout.partition("jobs:\n")[2].splitlines()
    assert ["brightness", "How", "bright", "images", "are."] in [line.split() for line in listed]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["lable"], "beit: no job lable; did you mean label?"),
        (["no/such/task.py"], "beit: no/such/task.py: no such file"),
        (["label", "--outptu", "x"], "beit label: unrecognized arguments: --outptu; did you mean --output?"),
    ],
)
def test_what_cannot_work_is_one_sentence(words: list[str], said: str) -> None:
    assert beit(*words, code=2).stderr.strip() == said


def test_a_job_runs_from_any_folder_and_names_the_next_command_as_it_is_called_itself(tmp_path: Path) -> None:
    flags = ["--local", "--limit", 3, "--input", DIGITS / "shards", "--output", "out", "--model", DIGITS / "model"]
    said = beit("label", *flags, cwd=tmp_path).stdout
    assert f"report: beit report {tmp_path}/out" in said
    assert len(rows(tmp_path / "out")) == 3
    beit("report", "out", cwd=tmp_path)
    assert (tmp_path / "out/report.html").exists()
    told = json.loads(newest_report(tmp_path / "out").read_text())
    assert (told["exit"], told["command"]) == (0, shlex.join(["beit", "label", *map(str, flags)]))
    text = html.unescape((tmp_path / "out/report.html").read_text())
    assert f'data-copy="{told["command"]}"' in text
    assert f'data-copy="beit report {tmp_path}/out --verify"' in text


@pytest.mark.parametrize("root", ["_cli", "beit_jobs._cli"])
def test_a_task_of_ones_own_with_a_module_beside_it(root: str, tmp_path: Path) -> None:
    """`from _cli import main` is found by `beit`; `beit_jobs._cli` too by a `python own.py` where it is installed."""
    own = tmp_path / "own"
    (own / "in").mkdir(parents=True)
    (own / "in/a.png").write_bytes(png(255))
    (own / "beside.py").write_text('NAME = "brightness"\n')
    text = the_one(README, "python", "class Brightness").replace('= "brightness"', "= beside.NAME")
    (own / "mine.py").write_text(f"import beside\n{text.replace('from _cli', f'from {root}')}")
    if root != "_cli":
        (own / "beit_jobs").symlink_to(ROOT / "jobs")  # as the wheel would have put it on the path
    flags = ["--local", "--input", own / "in", "--output", tmp_path / "out", "--model", DIGITS / "model"]
    beit("own/mine.py", *flags, cwd=tmp_path)
    assert rows(tmp_path / "out")["brightness"].to_pylist() == [1.0]


def test_a_plain_field_is_a_flag_and_one_of_a_shared_name_is_refused(tmp_path: Path) -> None:
    text = the_one(README, "python", "class Brightness")
    own = tmp_path / "own.py"
    own.write_text(text.replace('"brightness"\n', '"brightness"\n    gain: float = 2.0\n', 1))
    assert re.search(r"--gain X +\(2\.0\)\n", beit(own, "--help").stdout)
    own.write_text(text.replace('"brightness"\n', '"brightness"\n    output: str = "x"\n', 1))
    said = "task brightness: its field output is a flag of all tasks: call it otherwise"
    assert said in beit(own, "--help", code=2).stderr


def test_all_packages_are_installed_and_jobs_under_another_name() -> None:
    folders = {file.parent for room in ("beit_core", "pipeline") for file in (ROOT / room).rglob("*.py")}
    names = {".".join(folder.relative_to(ROOT).parts) for folder in folders}
    setup = PROJECT["tool"]["setuptools"]
    assert set(setup["packages"]) == names | {"beit_jobs"}
    assert setup["package-dir"] == {"beit_jobs": "jobs"}
    assert PROJECT["project"]["scripts"] == {"beit": "beit_jobs.__main__:main"}
