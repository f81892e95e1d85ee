"""One image at a time: a pool of one child, for who waits for every answer."""

from __future__ import annotations

import queue

from pipeline.decode.decode import Decoded, DecodeSettings
from pipeline.decode.pool import DecodePool


class Decoder:
    """A supervised child that decodes; use as a context manager, or let it live as long as its process."""

    def __init__(self, settings: DecodeSettings) -> None:
        self.settings = settings
        self.pool: DecodePool | None = None
        self._answers: queue.SimpleQueue[Decoded | Exception] = queue.SimpleQueue()

    def __enter__(self) -> Decoder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the child."""
        if self.pool is not None:
            self.pool.close()
            self.pool = None

    def __call__(self, data: bytes) -> Decoded:
        """Decode one image; whatever it does to the child, an answer comes back.

        Raises PipelineError when no child can be started.
        """
        if self.pool is None:
            self.pool = DecodePool(self.settings, 1, failed=self._answers.put)
        self.pool.submit(data, None, self._answers.put)
        answer = self._answers.get()
        if isinstance(answer, Exception):
            raise answer
        return answer
