"""What is looked at before a cluster is joined."""

import shutil
from pathlib import Path

import pytest

from pipeline.engine import cluster
from pipeline.errors import ConfigError
from tests.helpers import ROOT


@pytest.mark.parametrize("name", ["pipeline", "beit_core"])
def test_a_folder_whose_code_workers_would_take_for_ours_is_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray puts the folder of a command before all others that its workers import from."""
    (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    (tmp_path / name / "__init__.py").touch()
    with pytest.raises(ConfigError, match=f"this folder has a {name} of its own .*/{name}/__init__.py"):
        cluster.connect(None, None, verbose=False)


def test_a_copy_of_the_same_code_is_fine_until_it_is_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the package was installed from a checkout, and the command is given there."""
    for name in ("pipeline", "beit_core"):
        shutil.copytree(Path(ROOT, name), tmp_path / name)
    monkeypatch.chdir(tmp_path)
    cluster.check_folder(str(ROOT))
    with (tmp_path / "pipeline/run.py").open("a") as file:
        file.write("# changed\n")
    with pytest.raises(ConfigError, match="this folder has a pipeline of its own"):
        cluster.check_folder(str(ROOT))


def test_other_folders_are_fine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pipeline").mkdir()  # no package: whatever comes later on the path counts
    (tmp_path / "link").symlink_to(ROOT)
    for folder in (tmp_path, tmp_path / "link", ROOT):
        monkeypatch.chdir(folder)
        cluster.check_folder(str(ROOT))
