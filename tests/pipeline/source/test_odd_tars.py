"""Tars as other tools write them: names that tarfile reads otherwise than `tar` does."""

import io
import tarfile
from pathlib import Path

import pytest

from tests.flow import png, run_here
from tests.helpers import rows


def incremental(path: Path, members: list[tuple[str, bytes]]) -> None:
    """As `tar --listed-incremental` writes them: times of access and change, where POSIX has a prefix of the name."""
    whole = b""
    for number, (name, data) in enumerate(members):
        info = tarfile.TarInfo(name)
        info.size = len(data)
        header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
        header[345:357] = header[357:369] = f"{14544506440 + number:o}".encode().rjust(11, b"0")[-11:] + b"\0"
        header[148:156] = b" " * 8
        header[148:156] = f"{sum(header):06o}\0 ".encode()
        whole += bytes(header) + data + bytes(-len(data) % 512)
    path.write_bytes(whole + bytes(1024))


def test_an_incremental_tar_has_its_members_names(tmp_path: Path) -> None:
    members = [("./0.png", png(0)), ("./0.cls", b"7"), ("./" + "n" * 90 + ".png", png(1)), ("./1.png", png(2))]
    incremental(tmp_path / "a.tar", [*members, ("./1.cls", b"8")])
    assert run_here(tmp_path / "a.tar", tmp_path / "out", "brightness", keep=("cls",)) == 0
    found = {row["uri"].partition("#")[2]: row["cls"] for row in rows(tmp_path / "out").to_pylist()}
    assert found == {"./0.png": "7", "./" + "n" * 90 + ".png": None, "./1.png": "8"}


def test_names_do_not_depend_on_the_locale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tarfile.TarFile, "encoding", "iso-8859-1")  # as where LC_ALL says so
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.USTAR_FORMAT, encoding="utf-8") as tar:
        for number in range(4):
            info = tarfile.TarInfo(f"café{number}.png")
            info.size = len(png(number))
            tar.addfile(info, io.BytesIO(png(number)))
    flags = {"span_size": 2, "batch_size": 2, "task": "brightness"}
    assert run_here(tmp_path / "a.tar", tmp_path / "out", **flags) == 0
    names = [f"café{number}" for number in range(4)]
    assert rows(tmp_path / "out")["key"].to_pylist() == names
    sorted((tmp_path / "out/data").iterdir())[1].unlink()
    assert run_here(tmp_path / "a.tar", tmp_path / "out", **flags) == 0
    assert rows(tmp_path / "out")["key"].to_pylist() == names
