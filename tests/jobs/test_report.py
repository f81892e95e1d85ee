"""The command, as a user types it."""

from pathlib import Path

from tests.helpers import run_job
from tests.outputs import example


def test_report_says_where_the_page_is(tmp_path: Path) -> None:
    output = example(tmp_path / "out", "label")
    done = run_job("report.py", output, code=0)
    assert str(output / "report.html") in done.stdout
    assert "Labels of 361 images" in (output / "report.html").read_text()
    run_job("report.py", output, "--to", tmp_path / "page.html", code=0)
    assert (tmp_path / "page.html").exists()


def test_other_folder_is_refused_in_one_sentence(tmp_path: Path) -> None:
    done = run_job("report.py", tmp_path, code=2)
    assert "no _run.json" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_abbreviated_flag_is_refused(tmp_path: Path) -> None:
    run_job("report.py", tmp_path, "--ver", code=2)
