"""Every file of Pillow's own test corpus has its row; what Pillow opens within the pixel cap is ok; nothing stalls."""

import subprocess
import sys
import tarfile
from importlib.metadata import version
from pathlib import Path

import pytest

from pipeline.source.format import format_of
from tests.flow import run_here
from tests.helpers import ROOT, rows
from tests.torture.conftest import Tally

pytestmark = [pytest.mark.torture, pytest.mark.timeout(900)]
# A fresh process that opens one file after another as anybody would, with a memory limit and our formats.
ORACLE = """
import io, json, pathlib, resource, sys, warnings
sys.path.insert(0, sys.argv[2])
resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
from PIL import Image
from pipeline.decode.decode import formats
warnings.simplefilter("ignore")
Image.MAX_IMAGE_PIXELS = None
good = []
for path in sorted(pathlib.Path(sys.argv[1]).iterdir()):
    try:
        image = Image.open(io.BytesIO(path.read_bytes()), formats=formats())
        if image.width * image.height <= 178_956_970:
            image.load()
            good.append(path.name)
    except Exception:
        continue
print(json.dumps(good))
"""


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tests/images of the installed Pillow's source, folders made part of their names; kept below build/."""
    folder = ROOT / "build" / f"pillow-{version('pillow')}"
    if not folder.exists():
        temp = tmp_path_factory.mktemp("pillow")
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-binary", ":all:", "--no-deps",
                   "--dest", str(temp), f"pillow=={version('pillow')}"]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"the package index gives no source of Pillow: {done.stderr.strip().splitlines()[-1]}")
        making = folder.with_suffix(".new")
        making.mkdir(parents=True, exist_ok=True)
        with tarfile.open(next(temp.glob("*.tar.gz"))) as tar:
            for member in tar:
                _, inside, name = member.name.partition("/Tests/images/")
                if member.isfile() and inside:
                    (making / name.replace("/", "__")).write_bytes(tar.extractfile(member).read())  # type: ignore[union-attr]
        making.rename(folder)
    return folder


def test_every_file_has_its_row_and_what_pillow_opens_is_ok(corpus: Path, tmp_path: Path, tally: Tally) -> None:
    import json

    files = sorted(path for path in corpus.iterdir() if not format_of(str(path)))  # a tar among them is a shard
    (tmp_path / "list.txt").write_text("\n".join(map(str, files)))
    assert run_here(tmp_path / "list.txt", tmp_path / "out", max_failed=1) == 0
    table = rows(tmp_path / "out")
    found = dict(zip(table["key"].to_pylist(), table["status"].to_pylist(), strict=True))
    lost = {str(path) for path in files} - found.keys()
    tally("odd files (Pillow's corpus)", injected=len(files), lost=len(lost), duplicated=len(table) - len(found))
    assert not lost
    assert len(files) > 1000
    done = subprocess.run(
        [sys.executable, "-c", ORACLE, str(corpus), str(ROOT)], capture_output=True, text=True, check=True
    )
    good = {f"{corpus}/{name}" for name in json.loads(done.stdout.splitlines()[-1])}
    assert {uri: status for uri, status in found.items() if uri in good and status != "ok"} == {}
    assert len(good) > 600
