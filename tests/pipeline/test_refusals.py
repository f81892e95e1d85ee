"""What makes a run hopeless is said before anything is written."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.bench.bench import Wish as BenchWish
from pipeline.bench.bench import bench
from pipeline.compact import compact, state_of_copy
from pipeline.compare import compare
from pipeline.errors import ConfigError
from pipeline.evaluate import evaluate
from pipeline.forget import Forget, forget
from pipeline.target import Target
from pipeline.tokenizer import decoder
from tests.flow import DIGITS, make_tar, png, run_here
from tests.helpers import rows, run_job
from tests.pipeline.source.test_archives import make_tar_gz, make_zip
from tests.proxied import s3_client
from tests.weed import Weed

SHARDS = DIGITS / "shards"


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "out"


def refused(match: str, source: object, output: object, **flags: object) -> None:
    with pytest.raises(ConfigError, match=match):
        run_here(source, output, **flags)
    assert not Path(str(output)).exists() or not list(Path(str(output)).glob("_run.json"))


def test_input_that_is_not_there(output: Path, tmp_path: Path) -> None:
    refused("--input .*/nowhere does not exist", tmp_path / "nowhere", output)
    refused("--input .*/nowhere does not exist", [SHARDS, tmp_path / "nowhere"], output)
    refused(r"--input .*/nowhere/a\.png does not exist", tmp_path / "nowhere/a.png", output)
    (tmp_path / "list.txt").write_text("# nothing yet\n")
    refused("--input: .*/list.txt is an empty list, only other files .1 x comment.$", tmp_path / "list.txt", output)
    refused(r"--input: no file matches .*/\*\.tar$", tmp_path / "*.tar", output)
    (tmp_path / "empty").mkdir()
    refused("--input: .*/empty holds no image and no shard; no file matches", [tmp_path / "empty", "*.jgp"], output)


def test_a_name_that_is_empty(output: Path) -> None:
    refused('^--input "": it is empty', "", output)
    refused('^--input "": it is empty', [SHARDS, ""], output)
    refused('^--output "": it is empty', SHARDS, "")


def test_an_input_that_adds_nothing_is_told(output: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_here([SHARDS, tmp_path / "*.tar"], output, limit=3) == 0
    assert f"--input: no file matches {tmp_path}/*.tar" in capsys.readouterr().err


@pytest.mark.parametrize("names", [("left.png", "right.png"), ("json", "mask.png")])
def test_a_tar_whose_samples_have_no_image_of_a_plain_name(
    names: tuple[str, str], output: Path, tmp_path: Path
) -> None:
    make_tar(tmp_path / "in/a.tar", [(f"{n}.{name}", png(n)) for n in range(3) for name in names])
    said = f"no image among the first 1,000 members of .*a.tar, which has {', '.join(names)}: --image-column names"
    refused(said, tmp_path / "in", output)
    assert run_here(tmp_path / "in", output, image_column=names[1]) == 0


def test_another_shard_may_have_the_images(output: Path, tmp_path: Path) -> None:
    make_tar(tmp_path / "in/a.tar", [("0.json", b"{}")])
    make_tar(tmp_path / "in/b.tar", [("0.png", png(1)), ("0.cls", b"3")])
    assert run_here(tmp_path / "in", output) == 0
    assert rows(output)["status"].to_pylist() == ["ok"]


def test_input_without_an_image(output: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/notes.md").write_text("x")
    refused(r"in holds no image and no shard, only other files \(1 x \.md\)", tmp_path / "in", output)


def test_a_model_that_is_not_there(output: Path, tmp_path: Path) -> None:
    refused("no such folder or file", SHARDS, output, model=tmp_path / "none")


def test_a_folder_that_is_no_model(output: Path, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    refused("config.json", SHARDS, output, model=tmp_path / "model")


def test_a_model_that_cannot_answer_names_the_job_that_can(output: Path, tiny_model: Callable[..., Path]) -> None:
    refused("use python jobs/embed.py", SHARDS, output, model=tiny_model("encoder"))
    refused("use python jobs/segment.py", SHARDS, output, model=tiny_model("segmenter"))


def test_a_checkpoint_whose_keys_do_not_fit(output: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    shutil.copytree(DIGITS / "model", tmp_path / "model")
    tensors = load_file(tmp_path / "model/model.safetensors")
    tensors["stranger.weight"] = tensors.pop("classifier.weight")
    save_file(tensors, tmp_path / "model/model.safetensors")
    refused("stranger.weight|classifier.weight", SHARDS, output, model=tmp_path / "model")


def test_pixels_that_a_model_leaves_open_are_said(
    output: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = shutil.copytree(DIGITS / "model", tmp_path / "model")
    assert run_here(SHARDS, output, model=model, limit=3) == 0
    assert "are assumed" not in capsys.readouterr().err
    (model / "preprocessor_config.json").unlink()
    assert run_here(SHARDS, tmp_path / "other", model=model, limit=3) == 0
    said = "no preprocessor_config.json, so 32 x 32 pixels, mean 0.5 0.5 0.5 and std 0.5 0.5 0.5 are assumed"
    assert said in capsys.readouterr().err


def test_an_output_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    refused("cannot be", SHARDS, tmp_path / "file/out")


def test_an_output_full_of_other_files_is_left_alone(output: Path) -> None:
    output.mkdir()
    (output / "precious.txt").write_text("x")
    refused("files that are not ours", SHARDS, output)
    refused("nothing of it is deleted", SHARDS, output, overwrite=True)
    assert (output / "precious.txt").read_text() == "x"


def test_an_output_below_its_own_input(tmp_path: Path) -> None:
    make_tar(tmp_path / "in/s.tar", [("a.png", png(1))])
    refused("read its own result", tmp_path / "in", tmp_path / "in/out")
    (tmp_path / "link").symlink_to("in")
    refused("read its own result", tmp_path / "link", tmp_path / "in/out")
    refused("read its own result", tmp_path / "in", tmp_path / "link/out")


def test_a_column_to_keep_that_would_clash_or_does_not_exist(output: Path, tmp_path: Path) -> None:
    refused("--keep scores", SHARDS, output, keep=("scores",))
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.png").write_bytes(png(1))
    refused("loose images carry no columns", tmp_path / "in", output, keep=("cls",))


def test_a_parquet_file_without_an_image_column(output: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/photo.png").write_bytes(png(1))
    pq.write_table(pa.table({"a": [1], "where": ["photo.png"]}), tmp_path / "in/t.parquet")
    refused("no image column found, name one with --image-column; its columns: a, where", tmp_path / "in", output)
    refused("--image-column a: .* has no such image column", tmp_path / "in", output, image_column="a")
    assert run_here(tmp_path / "in", output, image_column="where") == 0  # its names are relative to the file
    assert rows(output)["status"].to_pylist() == ["ok", "ok"]


def test_the_first_shard_decides_what_is_kept_of_a_mixture(output: Path, tmp_path: Path) -> None:
    make_tar(tmp_path / "in/b.tar", [("x.png", png(1)), ("x.cls", b"3")])
    pq.write_table(pa.table({"image": [png(2)], "label": [7]}), tmp_path / "in/a.parquet")
    assert run_here(tmp_path / "in", output, keep=("label",)) == 0
    assert rows(output)["label"].to_pylist() == [7, None]
    refused("--keep cls: .*a.parquet has no such column", tmp_path / "in", tmp_path / "other", keep=("cls",))


def test_an_image_column_of_images_that_have_none(output: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.png").write_bytes(png(1))
    refused("--image-column png: loose images carry no columns", tmp_path / "in", output, image_column="png")


def test_a_list_that_names_s3_without_keys(output: Path, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(1))
    (tmp_path / "list.txt").write_text("a.png\ns3://bucket/b.png\n")
    done = run_job("label.py", "--input", tmp_path / "list.txt", "--output", output, "--model", DIGITS / "model",
                   "--local", env={"AWS_EC2_METADATA_DISABLED": "true"}, code=2)  # fmt: skip
    assert "s3://bucket/b.png, which a list names, cannot be read: no S3 credentials found" in done.stderr
    assert not output.exists()


def test_a_typo_in_the_name_of_a_tar_member(output: Path) -> None:
    refused("--image-column pgn: no such member .*, which has cls, png", SHARDS, output, image_column="pgn")
    refused("--keep .cls: no such member .*, which has cls, png: give cls", SHARDS, output, keep=(".cls",))


def test_another_image_column_on_the_same_output(output: Path) -> None:
    assert run_here(SHARDS, output, limit=3) == 0
    with pytest.raises(ConfigError, match="image_column = auto, this command has png"):
        run_here(SHARDS, output, limit=3, image_column="png")


def test_an_output_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    refused("is a file: give a folder", SHARDS, tmp_path / "file")


@pytest.mark.parametrize(
    ("name", "is_a"), [("s.zip", "tar"), ("s.tar", "zip"), ("s.parquet", "tar.gz"), ("s.tgz", "parquet")]
)
def test_a_shard_under_another_kinds_name(tmp_path: Path, output: Path, name: str, is_a: str) -> None:
    made, member = tmp_path / "made", [("a.png", png(1))]
    if is_a == "parquet":
        pq.write_table(pa.table({"image": [png(1)]}), made)
    else:
        {"tar": make_tar, "zip": make_zip, "tar.gz": make_tar_gz}[is_a](made, member)
    shutil.move(made, tmp_path / name)
    refused(
        f"{name} is taken for a .*, and its content is a {is_a}'s: .* --input-format {is_a}$", tmp_path / name, output
    )
    assert run_here(tmp_path / name, output, "brightness", input_format=is_a) == 0


def test_a_damaged_shard_and_later_ones_of_another_kind_are_rows(tmp_path: Path, output: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.zip").write_bytes(b"no zip")
    make_zip(tmp_path / "in/b.zip", [("b.png", png(1))])
    make_tar(tmp_path / "in/c.zip", [("c.png", png(1))])
    assert run_here(tmp_path / "in", output, "brightness", max_failed=1.0) == 0
    assert rows(output)["status"].to_pylist() == ["decode_error", "ok", "decode_error"]


def test_addresses_that_cannot_be_right(weed: Weed, output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refused(r"--input s3:/inb/a does not exist: .*; did you mean s3://inb/a\?$", "s3:/inb/a", output)
    reason = r"the server cannot be reached .*: check the address .* and the network$"
    refused(f"--input https://127.0.0.1:9/a.tar: {reason}", "https://127.0.0.1:9/a.tar", output)
    with s3_client(weed.env | {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, monkeypatch):
        refused(r"--input s3://inb/x/: .*: check the address \(of S3: AWS_ENDPOINT_URL\)", "s3://inb/x/", output)
    with s3_client(weed.env | {"AWS_ENDPOINT_URL": "127.0.0.1:9"}, monkeypatch):
        reason = "Invalid endpoint: 127.0.0.1:9: AWS_ENDPOINT_URL begins with http:// or https://$"
        refused(f"--input s3://inb/x/: {reason}", "s3://inb/x/", output)


@pytest.mark.usefixtures("s3_env")
@pytest.mark.parametrize(
    ("source", "match"),
    [
        ("s3://no-such-bucket/x", "no such bucket|does not exist"),
        ("s3://in[bc]/*.png", "no bucket or object can have such a name$"),
        ("s3://inb/nothing-here/", "none below it$"),
        (
            "s3://inb/nothing",
            r"there is no such object, and none below it; s3://inb/nothing\* names what begins like that$",
        ),
    ],
)
def test_a_bucket_or_prefix_that_is_not_there(source: str, match: str, output: Path) -> None:
    refused(match, source, output)


def test_wrong_keys(weed: Weed, output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with s3_client(weed.env | {"AWS_SECRET_ACCESS_KEY": "wrongwrongwrong1"}, monkeypatch):
        refused("credentials", "s3://inb/x/", output)


# What begins with a look at an output; a copy of it, or a model, may lie in another bucket.
LOOKS: dict[str, Callable[[str, str], object]] = {
    "report": lambda output, _: state_of_copy(output),
    "evaluate": lambda output, _: evaluate(output, "cls"),
    "evaluate --against": lambda output, here: compare(here, output),
    "forget": lambda output, _: forget(Forget(output, None)),
    "forget --dry-run": lambda output, _: forget(Forget(output, None, dry_run=True)),
    "forget --uris": lambda output, here: forget(Forget(here, f"{output}/uris.txt")),
    "compact": lambda output, here: compact(here, output, 100),
    "bench": lambda output, here: bench(BenchWish(f"{output}/"), Path(), Path(here)),
    "report --to": lambda output, here: Target.of(f"{output}/report.html", "--to") and state_of_copy(here),
    "report --tokenizer": lambda output, _: decoder(f"{output}/"),
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("finished") / "out"
    assert run_here(SHARDS, output, limit=3) == 0
    return output


@pytest.mark.parametrize("look", LOOKS)
def test_wrong_keys_and_a_dead_endpoint_beside_the_tasks(
    look: str, weed: Weed, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = {"AWS_SECRET_ACCESS_KEY": "wrongwrongwrong1"}
    dead = {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}
    for env, said in ((wrong, "refuses the credentials .* check the AWS keys"), (dead, "check the address .* network")):
        with s3_client(weed.env | env, monkeypatch), pytest.raises(ConfigError, match=said):
            LOOKS[look]("s3://outb/looked-at", str(finished))


def test_a_published_file_behind_wrong_keys(weed: Weed, tmp_path: Path) -> None:
    env = weed.env | {"AWS_SECRET_ACCESS_KEY": "wrongwrongwrong1"}
    done = run_job("convert.py", "s3://inb/model/", tmp_path / "model", env=env, code=2, timeout=60)
    assert "convert.py: S3 refuses the credentials (SignatureDoesNotMatch): check the AWS keys" in done.stderr


def test_an_output_bucket_one_may_only_read(weed: Weed, monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        s3_client(weed.env | weed.reader_env, monkeypatch),
        pytest.raises(ConfigError, match="access denied"),
    ):
        run_here(SHARDS, "s3://inb/out")
