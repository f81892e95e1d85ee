"""What the command line refuses: one sentence, exit 2, no traceback, nothing written."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path

import pytest

from pipeline.compact import compact
from tests.flow import DIGITS, make_tar, png, run_here
from tests.helpers import ROOT, clean_env, rows, run_job, tree_bytes
from tests.outputs import newest_report

INPUT, MODEL = f"{DIGITS}/shards", f"{DIGITS}/model"


def refused(*args: object, env: dict[str, str] | None = None) -> str:
    done = run_job("label.py", *args, env=env, timeout=60)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    return done.stderr


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ({"input": "shut"}, r"--input \S+/shut: Permission denied \(\S+/shut\)"),
        ({"input": "shut/a.png"}, r"--input \S+/shut/a.png: Permission denied \(\S+/shut/a.png\)"),
        ({"model": "shut"}, r"--model \S+/shut: \S+/shut/config.json cannot be read: Permission denied"),
        ({"model": "mute"}, r"--model (\S+/mute): \1 cannot be read: Permission denied \(\1/model.safetensors\)"),
        ({"output": "shut/out"}, r"--output \S+/shut/out: access to its _run.json is denied; .*"),
    ],
)
def test_what_one_may_not_look_into_is_named(names: dict[str, str], said: str, tmp_path: Path) -> None:
    (tmp_path / "shut").mkdir()
    shutil.copytree(MODEL, tmp_path / "mute")
    for name in ("shut", "mute/model.safetensors"):
        (tmp_path / name).chmod(0)
    places = {"input": INPUT, "output": str(tmp_path / "out"), "model": MODEL}
    places |= {flag: str(tmp_path / name) for flag, name in names.items()}
    done = as_nobody("label.py", "--local", *(f"--{flag}={value}" for flag, value in places.items()))
    assert done.returncode == 2, done.stdout + done.stderr
    assert re.search(f"label.py: {said}$", done.stderr.strip()), done.stderr


def as_nobody(job: str, *flags: object) -> subprocess.CompletedProcess[str]:
    """A job of somebody who has not root's rights, which see everything."""
    rights = "-dac_override,-dac_read_search"
    unable = ["setpriv", f"--bounding-set={rights}", f"--inh-caps={rights}"] if os.geteuid() == 0 else []
    words = [*unable, sys.executable, f"jobs/{job}", *map(str, flags)]
    return subprocess.run(words, cwd=ROOT, env=clean_env(), capture_output=True, text=True, check=False)


def test_an_output_or_copy_that_one_may_not_write_is_refused(tmp_path: Path) -> None:
    output, copy = tmp_path / "out", tmp_path / "copy"
    assert run_here(INPUT, output, limit=3) == 0
    compact(str(output), str(copy), 100)
    (tmp_path / "uris").write_text(f"{rows(output)['uri'][0]}\n")
    for folder in (output, copy):
        folder.chmod(0o500)
    before = tree_bytes(tmp_path)
    jobs = [
        ("label.py", "--input", INPUT, "--output", output, "--model", MODEL, "--local", "--limit", 4),
        ("label.py", "--input", INPUT, "--output", output, "--model", MODEL, "--local", "--overwrite"),
        ("forget.py", output, "--uris", tmp_path / "uris"),
        ("compact.py", output, copy, "--rows-per-file", 2),
    ]
    for job, *flags in jobs:
        done = as_nobody(job, *flags)
        assert done.returncode == 2, done.stdout + done.stderr
        assert re.search("Permission denied$", done.stderr.strip()), done.stderr
        assert tree_bytes(tmp_path) == before


@pytest.mark.parametrize("given", ["s3:/bucket/out", "S3://bucket/out", "s3:bucket/out"])
def test_an_output_that_was_meant_as_a_uri_is_refused(given: str) -> None:
    said = refused("--input", INPUT, "--output", given, "--model", MODEL, "--local")
    assert f"--output {given}: that is the path {ROOT / given} of this machine; did you mean s3://bucket/out?" in said
    assert not (ROOT / given.split("/")[0]).exists()


def test_a_misspelt_flag_is_an_error_that_names_the_right_one(tmp_path: Path) -> None:
    assert "did you mean --output?" in refused("--input", INPUT, "--outptu", tmp_path / "o", "--model", MODEL)


def test_a_flag_that_resembles_none_is_told_where_they_are_listed(tmp_path: Path) -> None:
    said = refused("--input", INPUT, "--output", tmp_path / "o", "--model", MODEL, "--tokenizer", "x")
    assert said.strip() == "label.py: unrecognized arguments: --tokenizer; --help lists the flags"


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--log-json", "--tpo-k", "3"], "unrecognized arguments: --tpo-k; did you mean --top-k?"),
        (["--log-json", "--config", "away"], "--config away: not a readable JSON object"),
        (["--config", "{}/config.json"], "the following arguments are required"),
    ],
)
def test_what_is_wrong_with_flags_is_an_object_too(flags: list[str], said: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"log_json": true}')
    error = json.loads(refused(*(flag.format(tmp_path) for flag in flags)))
    assert error["level"] == "error"
    assert error["message"].startswith(f"label.py: {said}")


def test_an_abbreviated_flag_is_an_error(tmp_path: Path) -> None:
    assert "--out" in refused("--input", INPUT, "--out", tmp_path / "o", "--model", MODEL)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--workers", "none"], "--workers none"),
        (["--max-failed", "7"], "--max-failed 7"),
        (["--ray-address", "ray://127.0.0.1:10001"], "a Ray Client connection that breaks loses the run"),
        (["--ray-address", "127.0.0.1:6379"], "--local uses no Ray"),
        (["--limit", "0"], "--limit 0"),
        (["--top-k", "0"], "--top-k 0"),
        (["--dtype", "int8"], "invalid choice"),
        (["--keep", "label_ids"], "label_ids"),
        (["--tag", "night"], "--tag night: give KEY=VALUE"),
        (["--tag", "a=1", "b=2", "--tag", "a=3"], "a is given twice"),
        (["--gpus-per-worker", "2"], "--gpus-per-worker 2: --local uses one GPU at most"),
        (["--gpus-per-worker", "nan"], "--gpus-per-worker nan: give a number above 0"),
        (["--gpus-per-worker", "1.5"], "--gpus-per-worker 1.5: Ray gives out whole GPUs"),
        (["--limit", "99999999999999999999"], "--limit 99999999999999999999: give at most"),
    ],
)
def test_flags_that_cannot_work_are_named(flags: list[str], said: str, tmp_path: Path) -> None:
    message = refused("--input", INPUT, "--output", tmp_path / "o", "--model", MODEL, "--local", *flags)
    assert said in message
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    ("address", "said"),
    [("ray://127.0.0.1:1", "RAY_ADDRESS ray://... is refused"), ("http://127.0.0.1:1", "is a job server"),
     ("127.0.0.1:1", "nothing answers there")],
)  # fmt: skip
def test_an_address_from_the_environment_is_looked_at_first(address: str, said: str, tmp_path: Path) -> None:
    flags = ["--input", tmp_path / "nothing", "--output", tmp_path / "o", "--model", "nowhere"]
    assert said in run_job("label.py", *flags, env={"RAY_ADDRESS": address}, code=2).stderr


def test_a_ray_head_that_is_not_there(tmp_path: Path) -> None:
    said = refused("--input", INPUT, "--output", tmp_path / "o", "--model", MODEL, "--ray-address", "127.0.0.1:9")
    assert "nothing answers there" in said
    flags = ("--input", INPUT, "--output", tmp_path / "o", "--model", MODEL, "--ray-address", "head..svc:6379")
    assert "nothing answers there" in refused(*flags)


@pytest.mark.parametrize(("damaged", "code"), [(False, 0), (True, 3)])
@pytest.mark.parametrize("end", [" | true", " >&-"])
def test_a_run_whose_answer_nobody_reads_ends_as_it_would(end: str, damaged: bool, code: int, tmp_path: Path) -> None:
    make_tar(tmp_path / "a.tar", [(f"{n}.png", png(n)[: 40 if damaged else None]) for n in range(3)])
    words = [sys.executable, "jobs/label.py", "--local", "--input", tmp_path / "a.tar", "--output", tmp_path / "o"]
    line = shlex.join(map(str, [*words, "--model", MODEL])) + end + "; exit ${PIPESTATUS[0]}"
    done = subprocess.run(["bash", "-c", line], cwd=ROOT, env=clean_env(), stderr=-1, text=True, check=False)
    assert done.returncode == code, done.stderr
    assert ("more than --max-failed" in done.stderr) == damaged


def test_names_that_the_terminal_has_no_letters_for_end_no_run(tmp_path: Path) -> None:
    flags = ["--input", INPUT, "--model", MODEL, "--local", "--limit", 3, "--output", tmp_path / "ü o"]
    done = run_job("label.py", *flags, env={"PYTHONIOENCODING": "ascii"}, code=0)
    assert done.stdout.splitlines()[-1] == f"report: python jobs/report.py '{tmp_path}/\\xfc o'"


def test_a_folder_that_is_there_is_no_mistaken_uri(tmp_path: Path) -> None:
    output = tmp_path / "local:1/http:mirror/out"
    output.parent.mkdir(parents=True)
    assert run_here(INPUT, output, limit=3) == 0


def test_flags_may_come_from_a_file_and_the_command_line_wins(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    given = {"input": [INPUT], "model": MODEL, "top_k": 2, "limit": 3, "local": True, "keep": ["cls"], "tag": []}
    config.write_text(json.dumps(given), "utf-8-sig")
    run_job("label.py", "--config", config, "--output", tmp_path / "o", "--top-k", "1", code=0)
    bound = json.loads((tmp_path / "o/_run.json").read_text())
    assert (bound["settings"]["top_k"], bound["keep"], len(rows(tmp_path / "o"))) == (1, ["cls"], 3)


def test_a_flag_of_many_values_may_be_repeated(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"input": ["nowhere"], "tag": ["night=0"]}))
    shards = sorted((DIGITS / "shards").glob("*.tar"))
    flags = ["--output", tmp_path / "o", "--model", MODEL, "--local", "--limit", 200, "--config", config]
    sources = ["--input", shards[0], "--input", shards[1]]
    run_job("label.py", *flags, *sources, "--tag", "night=1", "by=me=you", "--tag", "empty=", code=0)
    assert set(rows(tmp_path / "o")["uri"].to_pylist()) & {f"{shards[1]}#{name}" for name in names_of(shards[1])}
    report = json.loads(newest_report(tmp_path / "o").read_text())
    assert report["tags"] == {"night": "1", "by": "me=you", "empty": ""}


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"retry_faild": False}, r"unrecognized arguments: --retry-faild; did you mean --retry-failed\?"),
        ({"nonsense": None}, "unrecognized arguments: --nonsense"),
        ({"limit": False}, "--limit is false: give text, a number, or a list of these"),
        ({"local": "yes"}, r'c\.json: --local is "yes": give true or false'),
        ({"tag": {"night": "1"}}, r'--tag is \{"night": "1"\}: give text'),
        ({"top_k": 1, "top-k": 2}, "top-k is given twice, spelled with _ and with -"),
        ({"gpus_per-worker": 1, "gpus-per_worker": 1}, "gpus-per_worker is given twice"),
    ],
)
def test_flags_of_a_file_are_checked_as_others(tmp_path: Path, flags: dict[str, object], said: str) -> None:
    (tmp_path / "c.json").write_text(json.dumps(flags))
    needed = ("--input", INPUT, "--output", tmp_path / "o", "--model", MODEL)
    assert re.search(said, refused("--config", tmp_path / "c.json", *needed))


def test_switches_of_a_file_are_as_on_the_command_line(tmp_path: Path) -> None:
    """On, off, and off for one that is neither unless it is given; `verbose` shows where an error comes from."""
    (tmp_path / "c.json").write_text('{"compile": false, "overwrite": false, "verbose": true, "limit": null}')
    flags = ["--input", INPUT, "--output", tmp_path / "o", "--model", "nowhere"]
    said = run_job("label.py", "--config", tmp_path / "c.json", *flags, code=2).stderr
    assert "Traceback (most recent call last)" in said
    assert "label.py: --model nowhere: no such folder" in said.splitlines()[-1]


@pytest.mark.parametrize(
    ("job", "flags", "said"),
    [
        ("evaluate.py", ["--against", "old", "--truth", "cls"], "--truth is for kept truth, --against old for"),
        ("evaluate.py", ["--against", "old", "--ignore", "0"], "--ignore is for kept truth"),
        ("evaluate.py", ["--against", ""], '--against "": it is empty, as of a variable that is not set'),
        ("report.py", ["--to", ""], '--to "": it is empty'),
        ("forget.py", ["--uris", "list.txt", "--max-gone", "0.5"], "--max-gone is for --gone"),
    ],
)
def test_flags_that_mean_nothing_are_refused(job: str, flags: list[str], said: str, tmp_path: Path) -> None:
    assert said in run_job(job, tmp_path, *flags, code=2).stderr


def test_a_second_file_of_flags_is_refused(tmp_path: Path) -> None:
    for name in ("a.json", "b.json"):
        (tmp_path / name).write_text("{}")
    said = refused("--config", tmp_path / "a.json", f"--config={tmp_path}/b.json")
    assert "label.py: --config is given twice: put all flags into one file" in said


def names_of(shard: Path) -> list[str]:
    with tarfile.open(shard) as tar:
        return tar.getnames()


@pytest.mark.parametrize("job", ["embed.py", "label.py", "segment.py", "tokens.py"])
def test_help_is_grouped_and_tells_every_default(job: str) -> None:
    text = re.sub(r"\n {10,}", " ", run_job(job, "--help", env={"COLUMNS": "400"}, code=0).stdout)
    groups = re.findall(r"^(\w.*):$", text.partition("options:")[2], re.MULTILINE)
    task = f"{job[:-3]} flags"
    assert groups == ["most used", task, "which images", "how they are computed", "how the run goes"]
    flags = [line for line in text.splitlines() if re.match(r"  --", line) and "show the version" not in line]
    assert len(flags) > 25
    assert [line for line in flags if not line.endswith(")")] == []
    assert text.index("--input ") < text.index("--keep") < text.index("--dtype") < text.index("--log-json")


@pytest.mark.parametrize("job", ["label.py", "report.py", "bench.py"])
def test_every_job_tells_its_version(job: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert run_job(job, "--version", code=0).stdout == f"{project['name']} {project['version']}\n"


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_standard_output_that_is_full_is_said_and_the_work_is_done(tmp_path: Path, unbuffered: str) -> None:
    def on_full_disk(*words: object) -> str:
        """What is said on standard error."""
        with open("/dev/full", "w") as full:
            done = subprocess.run(
                [sys.executable, *map(str, words)], cwd=ROOT, env=clean_env({"PYTHONUNBUFFERED": unbuffered}),
                stdout=full, stderr=subprocess.PIPE, text=True, check=False,
            )  # fmt: skip
        assert done.returncode == 1, done.stderr
        return re.sub(r"^\S+Z ", "", done.stderr.splitlines()[-1])

    why = "standard output cannot be written (No space left on device)"
    lost = f"{why}: what was to be said there is lost, the work is not"
    make_tar(tmp_path / "a.tar", [("0.png", png(0))])
    flags = ("--local", "--input", tmp_path / "a.tar", "--output", tmp_path / "out", "--model", MODEL)
    assert on_full_disk("jobs/label.py", *flags) == lost
    assert rows(tmp_path / "out")["status"].to_pylist() == ["ok"]
    assert json.loads(newest_report(tmp_path / "out").read_text())["exit"] == 0
    assert (tmp_path / "out/_SUCCESS").exists()
    assert on_full_disk("jobs/report.py", tmp_path / "out") == lost
    assert (tmp_path / "out/report.html").exists()
