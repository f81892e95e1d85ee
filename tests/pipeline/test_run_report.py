"""`runs/<run>.json`: a real run leaves what docs/run-report.md promises, and the query there finds what is new."""

import html
import json
import re
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import duckdb
import pytest

from pipeline.address import SUBMITTED
from pipeline.errors import ConfigError, StorageError
from pipeline.output.place import Place
from pipeline.page import page
from pipeline.plan.verify import verify
from pipeline.report import SCHEMA, RunReport
from pipeline.task import Batch, Columns
from tests.flow import TASKS, Brightness, make_tar, png, run_here
from tests.helpers import ROOT, clean_env, run_job
from tests.outputs import newest_report

PAGE = (ROOT / "docs/run-report.md").read_text()
NESTED = ("images", "audit", "examples")  # others have keys that depend on the data


def keys(report: Mapping[str, object]) -> set[str]:
    found: set[str] = set()
    for name, value in report.items():
        inner = value[0] if isinstance(value, list) and value else value
        if name in NESTED and isinstance(inner, dict):
            dot = "[]." if isinstance(value, list) else "."
            found |= {f"{name}{dot}{key}" for key in inner}
        else:
            found.add(name)
    return found


@pytest.fixture
def output(tmp_path: Path) -> Path:
    members = [("a.png", png(1)), ("b.png", png(2)[:40])]
    assert run_here(make_tar(tmp_path / "in/a.tar", members), tmp_path / "out", "brightness", max_failed=0.5) == 0
    return tmp_path / "out"


def test_every_key_is_documented_and_every_documented_key_is_there(output: Path) -> None:
    report = json.loads(newest_report(output).read_text())
    (output / "uris").write_text(f"{output.parent}/in/a.tar#a.png\n")
    run_job("forget.py", output, "--uris", output / "uris", code=0)
    forgetting = json.loads(newest_report(output).read_text())
    ended = RunReport("run", "label").as_dict(None, exit=1, interrupted=True, error="the disk is full")
    rows = re.findall(r"^\| (`.*?) \|", PAGE, re.MULTILINE)
    documented = {name for row in rows for name in re.findall(r"`([^`]+)`", row)}
    assert documented == keys(report) | {"interrupted", "error", "forgotten"}
    assert keys(forgetting) == keys(report) - {"examples[].uri", "examples[].status", "examples[].error"} | {
        *("forgotten", "examples")
    }
    assert keys(ended) - documented == {"examples"}  # there are none
    bound = json.loads((output / "_run.json").read_text())["model"]
    for one in (report, forgetting):
        assert (one["model"], one["model_fingerprint"], one["model_revision"]) == ("model", bound["fingerprint"], None)
    assert report["schema"] == SCHEMA
    assert f"`schema` is {SCHEMA}." in PAGE


def test_a_run_says_where_it_ran_and_who_started_it(monkeypatch: pytest.MonkeyPatch) -> None:
    told = {"metadata": {"job_submission_id": "raysubmit_1", "job_name": "raysubmit_1"}}
    monkeypatch.setenv(SUBMITTED, json.dumps(told))
    for name, value in {"DAG_ID": "nightly", "TRY_NUMBER": "2", "DAG_EMAIL": "me@example.org"}.items():
        monkeypatch.setenv(f"AIRFLOW_CTX_{name}", value)
    report = RunReport("run", "label", {"night": "1"}).as_dict(None)
    assert (report["ray_submission_id"], report["host"]) == ("raysubmit_1", socket.gethostname())
    assert report["airflow"] == {"dag_id": "nightly", "try_number": "2"}
    assert re.fullmatch(r"\d+\.\d+.*", str(report["version"]))
    monkeypatch.setenv(SUBMITTED, "no JSON")
    assert RunReport("run", "label").as_dict(None)["ray_submission_id"] is None


@dataclass(frozen=True)
class LosingDisk(Brightness):
    """Before the first span is written there is a file in place of the folder for data of FOLDER/out."""

    name: ClassVar[str] = "losing"
    folder: str = ""

    def predict(self, model: Any, batch: Batch) -> Columns:
        once, data = Path(self.folder, "once"), Path(self.folder, "out/data")
        if not once.exists():
            once.touch()
            data.write_bytes(b"")
        return super().predict(model, batch)


def test_a_run_that_ends_with_an_error_leaves_a_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TASKS, "losing", LosingDisk)
    output, flags = tmp_path / "out", {"task": "losing", "folder": str(tmp_path), "span_size": 4}
    make_tar(tmp_path / "in/a.tar", [(f"{n}.png", png(n)) for n in range(12)])
    with pytest.raises(StorageError, match=f"{output}") as caught:
        run_here(tmp_path / "in", output, **flags)
    report = json.loads(newest_report(output).read_text())
    assert (report["exit"], report["error"], "audit" in report) == (1, str(caught.value), False)
    (output / "data").unlink()
    assert not verify(Place(str(output))).has_ended
    page.write(str(output))
    text = html.unescape((output / "report.html").read_text())
    assert f"Unfinished: the same command continues it. The last run ended with this error: {caught.value}" in text
    assert run_here(tmp_path / "in", output, **flags) == 0
    with pytest.raises(ConfigError):
        run_here(tmp_path / "in", output, **(flags | {"span_size": 5}))
    assert len(list(output.glob("runs/*.json"))) == 2


def test_an_interrupted_run_leaves_standard_output_to_its_caller(tmp_path: Path) -> None:
    make_tar(tmp_path / "in/a.tar", [(f"{n}.png", png(n)) for n in range(8)])
    code = f"""
import os, signal
from tests.flow import TASKS, Brightness, run_here

class Stopping(Brightness):
    def predict(self, model, batch):
        os.kill(os.getpid(), signal.SIGTERM)
        signal.pause()

TASKS["brightness"] = Stopping
print("exit", run_here({str(tmp_path / "in")!r}, {str(tmp_path / "out")!r}, "brightness"))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=clean_env({"PYTHONPATH": f"{ROOT}:{ROOT / 'jobs'}"}),
        capture_output=True, text=True, timeout=240, check=True,
    )  # fmt: skip
    assert done.stdout == "exit 1\n"


def test_what_is_new_since_a_run_is_one_query(output: Path) -> None:
    first = newest_report(output).stem
    (query,) = re.findall(r"```sql\n(.*?)```", PAGE, re.DOTALL)
    asked = query.replace("OUTPUT", str(output)).replace("RUN", first)
    assert duckdb.sql(asked).fetchall() == []
    more = make_tar(output.parent / "in/b.tar", [("c.png", png(3))])
    assert run_here(more.parent, output, "brightness", max_failed=0.5) == 0
    assert duckdb.sql(asked).fetchall() == [(f"{more}#c.png",)]
    (output / "uris").write_text(f"{output.parent}/in/a.tar#a.png\n")
    run_job("forget.py", output, "--uris", output / "uris", code=0)
    assert sorted(duckdb.sql(asked).fetchall()) == [(f"{output.parent}/in/a.tar#b.png",), (f"{more}#c.png",)]


def test_every_status_has_an_example_however_many_rows_another_one_has(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    members = [(f"{n}.png", png(n)[:40]) for n in range(6)] + [("large.png", png(1, (99, 99)))]
    source = make_tar(tmp_path / "in/a.tar", members)
    assert run_here(source, tmp_path / "out", "brightness", max_failed=1, max_pixels=100) == 0
    said = capsys.readouterr().out
    assert "decode_error: 6, such as" in said
    assert "too_large: 1, such as" in said
    assert len(json.loads(newest_report(tmp_path / "out").read_text())["examples"]) == 6
