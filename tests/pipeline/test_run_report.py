"""`runs/<run>.json`: a real run leaves what docs/run-report.md promises, and the query there finds what is new."""

import json
import re
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import duckdb
import pytest

from pipeline.address import SUBMITTED
from pipeline.report import SCHEMA, RunReport
from tests.flow import make_tar, png, run_here
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
    interrupted = RunReport("run", "label").as_dict(None, exit=1, interrupted=True)
    rows = re.findall(r"^\| (`.*?) \|", PAGE, re.MULTILINE)
    documented = {name for row in rows for name in re.findall(r"`([^`]+)`", row)}
    assert documented == keys(report) | {"interrupted", "forgotten"}
    assert keys(forgetting) == keys(report) - {"examples[].uri", "examples[].status", "examples[].error"} | {
        *("forgotten", "examples")
    }
    assert keys(interrupted) - documented == {"examples"}  # there are none
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
