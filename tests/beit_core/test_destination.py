"""Where a conversion may write: absent folders and empty ones, also behind links and where a disk is mounted."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from beit_core import CheckpointError, Choices, convert, load_card
from tests.helpers import DATA, ROOT, clean_env

SCENES = DATA / "digits-seg/model"
WRITTEN = ["card.json", "config.json", "model.safetensors", "preprocessor_config.json"]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_an_empty_folder_is_filled_and_stays_the_same_folder(tmp_path: Path) -> None:
    target = tmp_path / "new"
    target.mkdir(mode=0o750)
    before = target.stat()
    card = convert(SCENES, target)
    assert (target.stat().st_ino, target.stat().st_mode) == (before.st_ino, before.st_mode)
    assert (names(target), names(tmp_path)) == (WRITTEN, ["new"])
    assert {path.stat().st_mode & 0o444 for path in target.iterdir()} == {0o444}  # for all users
    assert card.fingerprint == convert(SCENES, tmp_path / "absent").fingerprint


@pytest.mark.parametrize("is_there", [True, False])
def test_a_link_leads_to_the_folder(is_there: bool, tmp_path: Path) -> None:
    disk, link = tmp_path / "disk/models/scenes", tmp_path / "scenes"
    if is_there:
        disk.mkdir(parents=True)
    link.symlink_to(disk)
    assert convert(SCENES, link).path == link
    assert (link.is_symlink(), names(disk), names(disk.parent)) == (True, WRITTEN, ["scenes"])
    with pytest.raises(CheckpointError, match=rf"{link} is not an empty folder \(it has card\.json\): choose another"):
        convert(SCENES, link)


def test_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    convert(SCENES, ".")
    assert names(tmp_path) == WRITTEN


def test_links_in_a_circle(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    with pytest.raises(CheckpointError, match=f"{tmp_path}/a cannot be written: "):
        convert(SCENES, tmp_path / "a")
    assert names(tmp_path) == ["a", "b"]


@pytest.mark.parametrize("other", [".new.abc", "config.json"])
def test_what_comes_into_the_folder_meanwhile_is_left_alone(other: str, tmp_path: Path) -> None:
    target = tmp_path / "new"
    target.mkdir()
    file = shutil.copy(SCENES / "model.safetensors", tmp_path / "scenes.safetensors")
    choices = Choices(processor=SCENES / "preprocessor_config.json")

    def meanwhile(_: str) -> None:
        (target / other).write_text("another's")

    with pytest.raises(CheckpointError, match=rf"{target} is not an empty folder \(it has {other}\)"):
        convert(file, target, choices, say=meanwhile)
    assert names(target) == [other]
    assert (target / other).read_text() == "another's"


def test_a_disk_that_is_mounted_there(tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    """In a namespace of its own, with which the mount is gone."""
    apart = ["unshare", "--map-root-user", "--mount"]
    if not shutil.which("unshare") or subprocess.run([*apart, "true"], capture_output=True, check=False).returncode:
        pytest.skip("nothing may be mounted here")
    target = tmp_path / "disk"
    target.mkdir()
    script = 'mount -t tmpfs none "$1" && "$2" jobs/convert.py "$3" "$1" && ls -A "$1"'
    command = [*apart, "sh", "-c", script, "sh", str(target), sys.executable, str(tiny_model("classifier"))]
    done = subprocess.run(command, cwd=ROOT, env=clean_env(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-4:] == WRITTEN
    assert names(target) == []


def test_a_folder_that_is_being_filled_is_no_model(tmp_path: Path) -> None:
    """Seen by Python's audit hook, which a process keeps for good."""
    target = tmp_path / "new"
    target.mkdir()
    code = (
        "import os, sys; from pathlib import Path; from beit_core import convert; _, source, target = sys.argv\n"
        "def seen(event, args):\n"
        "    if event == 'os.rename' and Path(args[1]).parent == Path(target): print(*os.listdir(target))\n"
        "sys.addaudithook(seen); convert(source, target)"
    )
    command = [sys.executable, "-c", code, str(SCENES), str(target)]
    done = subprocess.run(command, cwd=ROOT, env=clean_env(), capture_output=True, text=True, check=True)
    before = [sorted(name for name in line.split() if name in WRITTEN) for line in done.stdout.splitlines()]
    assert [len(there) for there in before] == [0, 1, 2, 3]
    assert before[-1] == [name for name in WRITTEN if name != "config.json"]  # it comes last
    (target / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"config\.json does not exist"):
        load_card(target)
