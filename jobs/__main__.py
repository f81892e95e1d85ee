"""All jobs as one command: `beit label ...` where this is installed, `python -m jobs label ...` in a checkout.

A job's file is run as the main program, as `python jobs/label.py` would: Ray sends classes of the main program to its
workers by value, so they need to know nothing of the file. The installed package is called `beit_jobs`.
"""

from __future__ import annotations

import ast
import difflib
import os
import runpy
import sys
from pathlib import Path
from typing import NoReturn

if sys.excepthook is sys.__excepthook__:  # as in `_cli.py`, which is imported late
    sys.excepthook = lambda kind, *more: None if kind is KeyboardInterrupt else sys.__excepthook__(kind, *more)

HERE = Path(__file__).resolve().parent
USAGE = """usage: beit JOB [flags]                the flags of a job: beit JOB --help
       beit path/to/own_task.py [flags]
       beit --version
"""


def main() -> NoReturn:
    """Run the job that the first word names."""
    # For `from _cli import main`, also of tasks that lie elsewhere.
    sys.path[:0] = [path for path in (str(HERE), str(HERE.parent)) if path not in sys.path]
    from pipeline import command

    word = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if word == "--version":
        _end(command.version())
    if word in ("-h", "--help"):
        width = max(map(len, jobs())) + 2
        _end(USAGE + "\njobs:\n" + "\n".join(f"  {name:<{width}}{line}" for name, line in jobs().items()))
    own = word.endswith(".py")
    script = Path(word) if own else HERE / f"{word}.py"
    if not own and word not in jobs():
        close = difflib.get_close_matches(word, jobs(), 1)
        _end(f"beit: no job {word}; {f'did you mean {close[0]}?' if close else '--help lists the jobs'}", 2)
    if not script.is_file():
        _end(f"beit: {word}: no such file", 2)
    if own:
        sys.path.insert(0, str(script.resolve().parent))  # a task's own modules lie beside it
    command.called_by_beit(word)
    del sys.argv[1]
    runpy.run_path(str(script), run_name="__main__")  # it sets argv[0]
    sys.exit(0)


def jobs() -> dict[str, str]:
    """Names of the jobs, and what each is for: the first line of its docstring."""
    files = sorted(file for file in HERE.glob("*.py") if not file.name.startswith("_"))
    return {file.stem: (ast.get_docstring(ast.parse(file.read_text())) or "").partition("\n")[0] for file in files}


def _end(text: str, code: int = 0) -> NoReturn:
    print(text, file=sys.stderr if code else sys.stdout)
    sys.stdout.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
