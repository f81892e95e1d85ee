"""What the page says first of an output: the worst of its last run and of a verification, and of how many images."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from report import arguments, main

from pipeline.forget import Forget, forget
from pipeline.page import page
from tests.flow import DIGITS, make_tar, png, run_here
from tests.helpers import ROOT, clean_env
from tests.outputs import edit, newest_report

STOPPING = """
import os, signal, sys, time
sys.path[:0] = ["jobs"]
from _cli import main
from dataclasses import dataclass
from tests.flow import Brightness

@dataclass(frozen=True)
class Stopping(Brightness):
    def predict(self, model, batch):
        if (stop := os.environ.get("STOP")) and os.path.exists(stop):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)
        open(os.environ["STOP"], "w").close()
        return super().predict(model, batch)

main(Stopping, "")
"""


def said(output: Path, *flags: str) -> tuple[str, str]:
    """The state's kind, and its sentence."""
    main(arguments().parse_args([str(output), *flags]))
    found = re.search(r'<p class="state (\w+)"><i[^>]*></i>(.*?)</p>', (output / "report.html").read_text())
    assert found is not None
    return found[1], found[2]


@pytest.fixture
def output(tmp_path: Path) -> Path:
    make_tar(tmp_path / "in/a.tar", [(f"{n}.png", png(n)) for n in range(8)])
    assert run_here(tmp_path / "in", tmp_path / "out", span_size=4) == 0
    return tmp_path / "out"


def test_a_verification_that_finds_harm_outweighs_a_good_run(output: Path) -> None:
    assert said(output, "--verify") == ("good", "Complete: every planned image is accounted for.")
    span = min(output.glob("data/*.parquet"))
    (output / "data/copy.parquet").write_bytes(span.read_bytes())
    assert said(output, "--verify") == ("bad", "Not complete: 4 rows twice, 1 file damaged.")
    (output / "data/copy.parquet").unlink()
    span.unlink()
    assert said(output, "--verify") == ("bad", "Not complete: 4 planned images missing.")


def test_failed_images_within_what_is_allowed_are_counted(output: Path, tmp_path: Path) -> None:
    make_tar(tmp_path / "in/b.tar", [(f"b{n}.png", png(n)[: 40 + 200 * (n > 1)]) for n in range(4)])
    assert run_here(tmp_path / "in", output, max_failed=0.5) == 0
    assert said(output) == ("warn", "Complete, 2 failed.")
    assert run_here(tmp_path / "in", output, max_failed=0.1) == 3
    assert said(output) == ("warn", "Finished, but 2 of 12 images failed, more than allowed.")


def test_failed_images_that_are_forgotten_since_are_not_too_many(output: Path, tmp_path: Path) -> None:
    make_tar(tmp_path / "in/b.tar", [("cut.png", png(1)[:40])])
    assert run_here(tmp_path / "in", output) == 3
    (tmp_path / "gone.txt").write_text(f"{tmp_path}/in/b.tar#cut.png")
    assert forget(Forget(str(output), str(tmp_path / "gone.txt"))) == 0
    assert said(output) == ("warn", "Unfinished: the same command continues it.")
    assert run_here(tmp_path / "in", output) == 0
    assert said(output) == ("good", "Complete: every planned image is accounted for.")


def test_missing_images_of_the_last_run_are_counted(output: Path) -> None:
    (output / "_SUCCESS").unlink()
    edit(newest_report(output), audit={"planned": 8, "ok": 5, "failed": 0, "missing": 3}, exit=1)
    assert said(output) == ("bad", "Not complete: 3 images missing; the same command continues it.")


def test_an_output_without_images_is_not_said_to_be_continued(output: Path) -> None:
    (output / "_SUCCESS").unlink()
    edit(newest_report(output), audit={"planned": 0, "ok": 0, "failed": 0, "missing": 0}, exit=1)
    assert said(output) == ("warn", "No image was found: look at --input and --image-column.")


def test_an_interrupted_run_is_among_the_runs(tmp_path: Path) -> None:
    make_tar(tmp_path / "in/a.tar", [(f"{n}.png", png(n)) for n in range(8)])
    flags = ["--input", tmp_path / "in", "--output", tmp_path / "out", "--model", DIGITS / "model"]
    flags += ["--local", "--span-size", 4, "--batch-size", 4, "--tag", "night=1"]
    command = [sys.executable, "-c", STOPPING, *map(str, flags)]
    env = clean_env({"PYTHONPATH": str(ROOT), "STOP": str(tmp_path / "stop")})
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 1, done.stderr
    assert "interrupted: nothing finished is lost" in done.stderr
    assert said(tmp_path / "out") == ("warn", "Unfinished: the same command continues it.")
    text = (tmp_path / "out/report.html").read_text()
    assert text.count('<td class="n">interrupted</td>') == 1


def test_the_last_lines_name_the_report(output: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_here(tmp_path / "in", output)
    assert capsys.readouterr().out.splitlines()[-1] == f"report: python jobs/report.py {output}"
    page.write(str(output))
    run_here(tmp_path / "in", output)
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == f"report: {output}/report.html, drawn again by python jobs/report.py {output}"
