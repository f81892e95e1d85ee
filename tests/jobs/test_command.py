"""What a run's report says of the command that was given: all of it, as a shell takes it, but no secret."""

import json
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import command
from tests.flow import DIGITS
from tests.helpers import ROOT, clean_env, run_job
from tests.outputs import newest_report


def test_a_run_keeps_its_command_as_it_was_typed(tmp_path: Path) -> None:
    output = tmp_path / "a $HOME 'b'"
    flags = ["--input", DIGITS / "shards", "--output", output, "--model", DIGITS / "model", "--local", "--limit", 2]
    flags += ["--tag", "team=a b", "token=abc123"]
    run_job("label.py", *flags, code=0)
    told = newest_report(output).read_text()
    said = json.loads(told)["command"]
    assert shlex.split(said) == [sys.executable, "jobs/label.py", *map(str, flags[:-1]), "token=***"]
    assert "abc123" not in said


@pytest.mark.parametrize(
    ("typed", "shown"),
    [
        (["https://me:hunter2@host/a.tar"], ["https://me:***@host/a.tar"]),
        (["https://hunter2@host/a.tar"], ["https://***@host/a.tar"]),
        (["--input=https://h/a?X-Amz-Signature=1f&v=2"], ["--input=https://h/a?X-Amz-Signature=***&v=2"]),
        (["https://h/a?sv=1&sig=a%2Fb#x"], ["https://h/a?sv=1&sig=***#x"]),
        (["https://h/a?AWSAccessKeyId=AK"], ["https://h/a?AWSAccessKeyId=***"]),
        (["--api-key", "hunter2", "--limit", "3"], ["--api-key", "***", "--limit", "3"]),
        (["--password=hunter2"], ["--password=***"]),
        (
            ["abfs://box@account/a", "s3://b/you@home", "s3://b/?.jpg"],
            ["abfs://box@account/a", "s3://b/you@home", "s3://b/?.jpg"],
        ),
        (["--tokenizer", "dvae", "--tag", "monkey=1"], ["--tokenizer", "dvae", "--tag", "monkey=1"]),
    ],
)
def test_secrets_are_left_out(typed: list[str], shown: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "_called", command._Called("label", by_command=True))
    monkeypatch.setattr(sys, "argv", ["label.py", *typed])
    assert shlex.split(command.given(submitted=False) or "") == ["beit", "label", *shown]


PRESSES_CTRL_C = """
import signal, sys

class Finder:
    def find_spec(name, *_):
        if name == {module!r}:
            signal.raise_signal(signal.SIGINT)

signal.signal(signal.SIGINT, signal.default_int_handler)
sys.meta_path.insert(0, Finder)
"""


@pytest.mark.parametrize("started", [("jobs/label.py",), ("-m", "jobs", "label")])
@pytest.mark.parametrize("module", ["pipeline", "numpy", "pipeline.task"])
def test_ctrl_c_while_modules_are_imported_ends_a_job_quietly(
    started: tuple[str, ...], module: str, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(PRESSES_CTRL_C.format(module=module))
    done = subprocess.run(
        [sys.executable, *started, "--help"], cwd=ROOT, env=clean_env({"PYTHONPATH": str(tmp_path)}),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")
