"""Screenshots of the report for all four tasks: `PYTHONPATH=jobs python -m tests.screenshots OUTDIR`."""

import sys
from pathlib import Path

from pipeline.page import page
from tests.browser import DESK, PHONE, browser
from tests.outputs import TASKS, Examples

LOOKS = {"light": (DESK, False), "dark": (DESK, True), "phone": (PHONE, False), "phone-dark": (PHONE, True)}


def take(folder: Path) -> list[Path]:
    """A report per task, and of each a picture per look."""
    folder.mkdir(parents=True, exist_ok=True)
    taken: list[Path] = []
    examples = Examples(folder / "made")
    with browser() as tab:
        for task in TASKS:
            report = page.write(str(examples.copy(task, folder / task)))
            for look, (width, dark) in LOOKS.items():
                tab.open(Path(report).resolve().as_uri(), width, dark)
                taken.append(folder / f"{task}-{look}.png")
                tab.screenshot(taken[-1])
    return taken


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    print(*take(Path(sys.argv[1])), sep="\n")  # noqa: T201
