"""The command, as a user types it."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from report import arguments, main

from pipeline.errors import ConfigError
from tests.helpers import ROOT, clean_env, run_job
from tests.models import save_dvae
from tests.outputs import IMAGES, SPAN, Examples


def test_report_says_where_the_page_is(examples: Examples, tmp_path: Path) -> None:
    output = examples.copy("label", tmp_path / "out")
    done = run_job("report.py", output, code=0)
    assert str(output / "report.html") in done.stdout
    assert f"Labels of {IMAGES} images" in (output / "report.html").read_text()


def test_other_folder_is_refused_in_one_sentence(tmp_path: Path) -> None:
    done = run_job("report.py", tmp_path, code=2)
    assert "no _run.json" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_page_goes_where_to_says(examples: Examples, tmp_path: Path) -> None:
    output = examples.copy("label", tmp_path / "out")
    assert main(arguments().parse_args([str(output), "--to", str(tmp_path / "page.html")])) == 0
    assert (tmp_path / "page.html").exists()
    assert not (output / "report.html").exists()


@pytest.mark.parametrize(
    "words", [["report.py", "{}"], ["report.py", "{}", "--verify"], ["evaluate.py", "{}", "--against", "{}"]]
)
def test_a_page_that_cannot_be_written_is_refused_at_first(
    words: list[str], examples: Examples, tmp_path: Path
) -> None:
    output = examples.copy("label", tmp_path / "out")
    (tmp_path / "file").write_text("x")
    job, *flags = [word.format(output) for word in words]
    done = run_job(job, *flags, "--to", tmp_path / "file/page.html", code=2)
    said = f"{job}: --to {tmp_path}/file/page.html cannot be written, name a file elsewhere: Not a directory\n"
    assert done.stderr.endswith(said)
    assert (done.stdout, done.stderr.count("\n")) == ("", 1)


def test_a_page_takes_the_place_of_nothing_but_a_file(examples: Examples, tmp_path: Path) -> None:
    output = examples.copy("label", tmp_path / "out")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link.html").symlink_to("page.html")
    bound = (output / "_run.json").read_bytes()
    for to in (tmp_path / "pipe", output / "_run.json", output / "data/a.parquet"):
        assert (
            f"--to {to} cannot be written, name a file elsewhere: it is "
            in run_job("report.py", output, "--to", to, code=2).stderr
        )
    run_job("report.py", output, "--to", tmp_path / "link.html", code=0)
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    assert (output / "_run.json").read_bytes() == bound
    assert (tmp_path / "link.html").is_symlink()
    assert (tmp_path / "page.html").is_file()


def test_who_reads_an_answer_may_stop(examples: Examples, tmp_path: Path) -> None:
    """As `head` does; Python writes to a pipe when the job ends."""
    output = examples.copy("label", tmp_path / "out")
    command = [sys.executable, "jobs/report.py", str(output), "--verify"]
    with subprocess.Popen(command, cwd=ROOT, env=clean_env(), stdout=-1, stderr=-1) as job:
        assert job.stdout is not None
        assert job.stderr is not None
        job.stdout.close()
        assert job.stderr.read() == b""


def test_a_page_of_what_differs_needs_two_outputs(tmp_path: Path) -> None:
    done = run_job("evaluate.py", tmp_path / "out", "--to", tmp_path / "page.html", code=2)
    assert f"--to {tmp_path}/page.html shows what differs between two outputs: give --against OLD" in done.stderr


def test_an_output_that_takes_no_page(examples: Examples, tmp_path: Path) -> None:
    output = examples.copy("label", tmp_path / "out")
    (output / "report.html").mkdir()
    assert (
        "report.html cannot be written, give --to FILE: Is a directory" in run_job("report.py", output, code=2).stderr
    )


def test_verify_that_finds_harm_exits_1(examples: Examples, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = examples.copy("label", tmp_path)
    span = min(output.glob("data/*.parquet"))
    (output / "data/copy.parquet").write_bytes(span.read_bytes())
    assert main(arguments().parse_args([str(output), "--verify"])) == 1
    assert f"{SPAN} rows twice" in capsys.readouterr().out
    assert f"{SPAN} rows twice" in (output / "report.html").read_text()


def test_a_tokenizer_draws_nothing_where_there_are_no_tokens(examples: Examples, tmp_path: Path) -> None:
    output = examples.copy("label", tmp_path / "out")
    flags = arguments().parse_args([str(output), "--tokenizer", str(save_dvae(tmp_path / "dvae", decoder=True))])
    with pytest.raises(ConfigError, match=r"--tokenizer .*: this output, of label, has no visual tokens .*: leave the"):
        main(flags)
    assert not (output / "report.html").exists()


def test_abbreviated_flag_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        arguments().parse_args(["out", "--ver"])
    assert "--ver" in capsys.readouterr().err
