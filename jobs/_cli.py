"""From a dataclass's fields to flags, from errors to one sentence and an exit code."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import json
import os
import sys
import types
import typing
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NoReturn

sys.path.insert(0, str(Path(__file__).parent.parent))  # an uninstalled checkout works, also under `ray job submit`

from beit_core import CheckpointError
from pipeline.config import RunConfig
from pipeline.errors import DEVICE_FAILURES, ConfigError, DeviceFailed, PipelineError
from pipeline.log import log_as_json, say
from pipeline.task import AnyTask

FAILED = "BEIT_DEVICE_FAILURES"  # in the environment of a process that another one has become


class Parser(argparse.ArgumentParser):
    """Argparse without abbreviations, whose errors are one sentence and name the flag that was meant."""

    def error(self, message: str) -> NoReturn:
        """Exit 2."""
        wrong = message.partition("unrecognized arguments: ")[2].split(" ")[0]
        flags = [flag for action in self._actions for flag in action.option_strings]
        close = difflib.get_close_matches(wrong, flags, 1) if wrong.startswith("-") else []
        advice = f"; did you mean {close[0]}?" if close else "; --help lists the flags"
        self.exit(2, f"{self.prog}: {message}{advice}\n")


def main(task: type[AnyTask], doc: str | None) -> NoReturn:
    """Run a task's job: parse, run, exit with the code of the contract."""
    parser = _parser(task, doc or "")

    def job(flags: argparse.Namespace) -> int:
        from pipeline.run import run

        given = vars(flags)
        log_as_json(flags.log_json)
        config = RunConfig(**_pick(RunConfig, given))
        failures = int(os.environ.get(FAILED, "0"))
        if failures:
            config = dataclasses.replace(config, overwrite=False)  # what the process before has finished is kept
        try:
            return run(config, task(**_pick(task, given)))
        except DeviceFailed as error:
            if config.local and failures < DEVICE_FAILURES:
                _start_again(error, failures + 1)
            raise

    run_simple(job, parser, verbose="--verbose" in sys.argv)


def _start_again(error: DeviceFailed, failures: int) -> NoReturn:
    """The same command in a fresh process, under the same id: this one's device answers no more."""
    say(f"{error}; starting again ({failures} of {DEVICE_FAILURES})", "warning")
    os.environ[FAILED] = str(failures)
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def run_simple(
    main: Callable[[argparse.Namespace], int], parser: argparse.ArgumentParser, *, verbose: bool = False
) -> NoReturn:
    """Parse and call `main`; a known error becomes one sentence on standard error and its exit code."""
    parser.allow_abbrev = False
    flags = _parse(parser)
    try:
        code = main(flags)
    except (PipelineError, CheckpointError) as error:
        if verbose:
            raise
        say(f"{parser.prog}: {' '.join(str(error).split())}", "error")
        code = getattr(error, "exit_code", ConfigError.exit_code)
    except KeyboardInterrupt:
        say(f"{parser.prog}: interrupted before anything was begun", "error")
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    # Everything is written by now. A native thread could still abort the interpreter as it exits, and a thread that
    # waits for the storage could delay it.
    os._exit(code)


def _parse(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Flags from the command line, which override those of `--config FILE` (JSON, names without leading dashes)."""
    raw = [part for word in sys.argv[1:] for part in (word.split("=", 1) if word.startswith("--config=") else [word])]
    if "--config" in raw[:-1]:
        place = raw.index("--config")
        raw = [*_from_file(parser, raw[place + 1]), *raw[:place], *raw[place + 2 :]]
    known = {flag for action in parser._actions for flag in action.option_strings}
    for flag in (word.partition("=")[0] for word in raw if word.startswith("--")):
        if flag not in known:
            parser.error(f"unrecognized arguments: {flag}")  # before argparse reports flags that are missing
    return parser.parse_args(raw)


def _from_file(parser: argparse.ArgumentParser, name: str) -> Iterator[str]:
    try:
        flags = json.loads(Path(name).read_text())
        items = flags.items()
    except (OSError, ValueError, AttributeError) as error:
        parser.error(f"--config {name}: not a readable JSON object of flags ({error})")
    for flag, value in items:
        dashed = "--" + flag.replace("_", "-")
        if isinstance(value, bool):
            yield from [dashed] if value else [f"--no-{dashed[2:]}"] if flag == "compile" else []
        elif value is not None:
            yield dashed
            yield from map(str, value if isinstance(value, list) else [value])


def _parser(task: type[AnyTask], doc: str) -> Parser:
    parser = Parser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("--config", metavar="FILE", help="JSON file with any of these flags")
    for owner, title in ((task, f"{task.name} flags"), (RunConfig, "shared flags")):
        group = parser.add_argument_group(title)
        hints = typing.get_type_hints(owner)
        for field in dataclasses.fields(owner):
            _add(group, field, hints[field.name])
    return parser


class Form(typing.TypedDict, total=False):
    """How argparse takes a flag's value."""

    nargs: str
    metavar: str
    action: str | type[argparse.Action]
    choices: Iterable[str]
    type: Callable[[str], object]


def _add(group: argparse._ArgumentGroup, field: dataclasses.Field[object], hint: object) -> None:
    """One field as one flag; its type decides the form, its metadata the help."""
    help_: str = field.metadata["help"]
    if field.default not in (dataclasses.MISSING, None, False, ()) and "(" not in help_:
        help_ += f" ({field.default})"
    needed = field.default is dataclasses.MISSING
    flag, default = "--" + field.name.replace("_", "-"), None if needed else field.default
    group.add_argument(flag, dest=field.name, help=help_, required=needed, default=default, **_form(field, hint))


def _form(field: dataclasses.Field[object], hint: object) -> Form:
    kind = _without_none(hint)
    if typing.get_origin(kind) is tuple:
        return {"nargs": "+", "metavar": "URI" if field.name == "input" else "COLUMN"}
    if kind is bool:
        return {"action": argparse.BooleanOptionalAction if field.default is None else "store_true"}
    if choices := field.metadata.get("choices") or typing.get_args(kind):
        return {"choices": choices}
    if kind is int or kind is float:
        return {"type": kind, "metavar": field.metadata.get("metavar", "N" if kind is int else "X")}
    return {"type": str, "metavar": field.metadata.get("metavar", "TEXT")}


def _without_none(hint: object) -> object:
    """`int` of `int | None`; any other type as it is."""
    if typing.get_origin(hint) not in (types.UnionType, typing.Union):
        return hint
    return next(kind for kind in typing.get_args(hint) if kind is not types.NoneType)


def _pick(owner: type, given: dict[str, Any]) -> dict[str, Any]:
    names = [field.name for field in dataclasses.fields(owner)]
    return {name: tuple(v) if isinstance(v := given[name], list) else v for name in names}
