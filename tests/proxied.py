"""This process's S3 client pointed somewhere else for a while, and small inputs for storage that fails."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.flow import png

# A run must not wait as long for a silent server as it does in earnest.
QUICK_TIMEOUT_S = 2


def forget_clients() -> None:
    """The clients of this process took their address and keys from the environment; the next ones will again."""
    from pipeline.storage import host, s3

    s3.client.cache_clear()
    host.forget()


@contextmanager
def s3_client(env: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Within the block this process talks to S3 as `env` says."""
    from pipeline.storage import s3

    with monkeypatch.context() as patch:
        for name, value in env.items():
            patch.setenv(name, value)
        patch.setattr(s3, "TIMEOUT_S", QUICK_TIMEOUT_S)
        forget_clients()
        try:
            yield
        finally:
            forget_clients()


def noise(seed: int, side: int = 32) -> bytes:
    """A PNG that does not compress: a few thousand bytes, so that a body can be cut in its middle."""
    import io

    from PIL import Image

    sink = io.BytesIO()
    Image.frombytes("RGB", (side, side), random.Random(seed).randbytes(3 * side * side)).save(sink, "PNG")
    return sink.getvalue()


def named(count: int) -> list[tuple[str, bytes]]:
    """`count` small images by name, all different."""
    return [(f"{number:04d}.png", png(number % 256, (8, 8 + number // 256))) for number in range(count)]
