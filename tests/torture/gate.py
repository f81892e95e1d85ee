"""Images that wait: a run that has one in hand is in the middle of its work, and stays there until the test lets go."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.ray_head import descendants
from tests.torture.proof import HOOKS

WAIT = b"WAIT-IN!"


@dataclass(frozen=True)
class Gate:
    """Jobs started with `env` wait before it when they come to an image of these bytes."""

    folder: Path

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True)

    @property
    def env(self) -> dict[str, str]:
        return {"PYTHONPATH": HOOKS, "POISON": "1", "GATE": str(self.folder)}

    def open(self) -> None:
        """Let all go on."""
        (self.folder / "open").touch()

    def waiting(self, driver: int) -> set[int]:
        """Decoders below a driver that have an image in hand which waits."""
        return {int(path.name) for path in self.folder.glob("[0-9]*")} & descendants(driver)

    def others_wait(self, known: set[int], driver: int) -> Callable[[], bool]:
        """Whether a decoder waits that is not known yet."""
        return lambda: bool(self.waiting(driver) - known)
