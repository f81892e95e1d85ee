"""Fixtures: real servers, real photographs, seeded models. Helpers that need no fixture are in tests/helpers.py."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.faults import FaultProxy, fault_proxy_server
from tests.helpers import DATA
from tests.proxied import s3_client
from tests.ray_head import RayHead, ray_head_server
from tests.weed import Weed, weed_server

if TYPE_CHECKING:
    from tests.outputs import Examples

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"


@dataclass(frozen=True)
class Bundle:
    """A bundled model with the held-out images it is to be tried on."""

    model: Path
    shards: Path


@pytest.fixture(scope="session")
def weed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Weed]:
    """A real S3 server; its keys stay out of this process's environment."""
    with weed_server(tmp_path_factory.mktemp("weed")) as server:
        yield server


@pytest.fixture
def s3_env(weed: Weed, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The server's address and keys in the environment of this test alone."""
    for name, value in weed.env.items():
        monkeypatch.setenv(name, value)
    return weed.env


@pytest.fixture(scope="session")
def fault_proxy_session(weed: Weed) -> Iterator[FaultProxy]:
    with fault_proxy_server(weed.port) as proxy:
        yield proxy


@pytest.fixture
def fault_proxy(fault_proxy_session: FaultProxy) -> FaultProxy:
    """A proxy before `weed`, without rules and with its counts at zero."""
    fault_proxy_session.reset()
    return fault_proxy_session


@pytest.fixture
def proxied(weed: Weed, fault_proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """The proxy, with this process's S3 client going through it."""
    with s3_client(fault_proxy.env(weed.env), monkeypatch):
        yield fault_proxy


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 32 real photographs, 500 x 375."""
    from tests.photos import make_photos  # here and below: seconds of imports that most tests do without

    folder = tmp_path_factory.mktemp("photos")
    make_photos(folder, 32)
    return folder


@pytest.fixture(scope="session")
def examples(tmp_path_factory: pytest.TempPathFactory) -> "Examples":
    """`examples.copy("label", folder)`: an output of real runs."""
    from tests.outputs import Examples

    return Examples(tmp_path_factory.mktemp("examples"))


@pytest.fixture(scope="session")
def digits() -> Bundle:
    return Bundle(DATA / "digits/model", DATA / "digits/shards")


@pytest.fixture(scope="session")
def digits_seg() -> Bundle:
    return Bundle(DATA / "digits-seg/model", DATA / "digits-seg/shards")


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`tiny_model("classifier", use_mean_pooling=False)`: the folder of a seeded tiny BEiT, made once per session."""
    from tests.models import save_tiny_model

    made: dict[str, Path] = {}

    def get(kind: str, **overrides: Any) -> Path:
        name = repr((kind, sorted(overrides.items())))
        if name not in made:
            made[name] = save_tiny_model(tmp_path_factory.mktemp(kind), kind, **overrides)
        return made[name]

    return get


@pytest.fixture(scope="session")
def ray_head() -> Iterator[RayHead]:
    """A Ray head on loopback with its job server."""
    with ray_head_server() as head:
        yield head
