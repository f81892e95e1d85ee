"""From a dataclass's fields to flags, from errors to one sentence and an exit code."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import difflib
import json
import os
import sys
import traceback
import types
import typing
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, NoReturn

if str(Path(__file__).resolve().parent.parent) not in sys.path:  # an uninstalled checkout, also under `ray job submit`
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
if sys.excepthook is sys.__excepthook__:  # Ctrl-C from here to a job's beginning ends it with 130, without a traceback
    sys.excepthook = lambda kind, *more: None if kind is KeyboardInterrupt else sys.__excepthook__(kind, *more)

from beit_core import CheckpointError
from pipeline import storage
from pipeline.command import called_by_command, program, version
from pipeline.config import RunConfig
from pipeline.errors import DEVICE_FAILURES, ConfigError, DeviceFailed, PipelineError
from pipeline.log import deliver, is_json, log_as_json, open_streams, say
from pipeline.task import AnyTask

FAILED = "BEIT_DEVICE_FAILURES"  # in the environment of a process that another one has become
# The shared flags by what one wants to do; the task's own come behind the most used ones.
MOST_USED = (
    "most used",
    ("input", "output", "model", "keep", "limit", "local", "dry_run", "retry_failed", "overwrite"),
)
GROUPS = {
    "which images": ("input_format", "image_column", "unreadable", "max_pixels", "max_failed"),
    "how they are computed": (
        *("device", "dtype", "batch_size", "workers", "gpus_per_worker"),
        *("exact", "compile", "span_size"),
    ),
}
REST = "how the run goes"
FLAG_TYPES = "make it an int, float, str or bool, a Literal, tuple[int, ...] (or float, str), or one of these | None"


class Parser(argparse.ArgumentParser):
    """Argparse without abbreviations, whose errors are one sentence and name the flag that was meant."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"prog": program(), "allow_abbrev": False, **options})
        self.add_argument("--version", action="version", version=version(), help="show the version and exit")

    def error(self, message: str) -> NoReturn:
        """Exit 2."""
        wrong = message.partition("unrecognized arguments: ")[2].split(" ")[0]
        flags = [flag.lstrip("-") for action in self._actions for flag in action.option_strings]
        close = difflib.get_close_matches(wrong.lstrip("-"), flags, 1) if wrong.startswith("-") else []
        advice = f"; did you mean --{close[0]}?" if close else "; --help lists the flags"
        said = f"{self.prog}: {message}{advice}"
        if is_json():
            say(said, "error")
        self.exit(2, None if is_json() else f"{said}\n")


def main(task: type[AnyTask], doc: str | None) -> NoReturn:
    """Run a task's job: parse, run, exit with the code of the contract."""
    parser = _parser(task, doc or "")

    def job(flags: argparse.Namespace) -> int:
        from pipeline.run import run

        given = vars(flags)
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

    run_simple(job, parser)


def _start_again(error: DeviceFailed, failures: int) -> NoReturn:
    """The same command in a fresh process, under the same id: this one's device answers no more."""
    say(f"{error}; starting again ({failures} of {DEVICE_FAILURES})", "warning")
    os.environ[FAILED] = str(failures)
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def run_simple(main: Callable[[argparse.Namespace], int], parser: argparse.ArgumentParser) -> NoReturn:
    """Parse and call `main`; a known error becomes one sentence on standard error and its exit code.

    With `--verbose` its traceback comes first.
    """
    open_streams()
    flags = _parse(parser)
    called_by_command()
    try:
        code = main(flags)
    except BrokenPipeError:  # whoever read our answer wants no more of it, as `head`
        code = PipelineError.exit_code
    except (PipelineError, CheckpointError, OSError) as error:
        if getattr(flags, "verbose", False):
            traceback.print_exc()
        say(f"{parser.prog}: {' '.join(storage.cause_and_file(error).split())}", "error")
        code = _exit_code(error)
    except KeyboardInterrupt:
        say(f"{parser.prog}: interrupted", "error")
        code = 1
    if not deliver():
        code = code or PipelineError.exit_code
    with contextlib.suppress(OSError):
        sys.stderr.flush()
    # Everything is written by now. A native thread could still abort the interpreter as it exits, and a thread that
    # waits for the storage could delay it.
    os._exit(code)


def _exit_code(error: Exception) -> int:
    if isinstance(error, CheckpointError):
        return ConfigError.exit_code
    return error.exit_code if isinstance(error, PipelineError) else PipelineError.exit_code


def _parse(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Flags from the command line, which override those of `--config FILE` (JSON, names without leading dashes)."""
    raw = [part for word in sys.argv[1:] for part in (word.split("=", 1) if word.startswith("--config=") else [word])]
    log_as_json("--log-json" in raw)  # before anything can be wrong with the flags
    if raw.count("--config") > 1:
        parser.error("--config is given twice: put all flags into one file")
    if "--config" in raw[:-1]:
        place = raw.index("--config")
        name, raw = raw[place + 1], [*raw[:place], *raw[place + 2 :]]
        raw = [*_from_file(parser, name, {word.partition("=")[0] for word in raw}), *raw]
        log_as_json("--log-json" in raw)
    _check_known(parser, (word.partition("=")[0] for word in raw if word.startswith("--")))
    flags = parser.parse_args(raw)
    for action in parser._actions:
        value = getattr(flags, action.dest, None)
        if "" in (value if isinstance(value, list | tuple) else [value]):
            (flag,) = action.option_strings[:1] or [str(action.metavar)]
            parser.error(f'{flag} "": it is empty, as of a variable that is not set: give a value, or leave it out')
    return flags


def _check_known(parser: argparse.ArgumentParser, flags: Iterable[str]) -> None:
    """Exit 2 for a flag that there is not, before argparse reports flags that are missing."""
    for flag in flags:
        if flag not in parser._option_string_actions:
            parser.error(f"unrecognized arguments: {flag}")


def _from_file(parser: argparse.ArgumentParser, name: str, given: set[str]) -> Iterator[str]:
    """The flags of a file, but for those that are given on the command line."""
    try:
        flags = json.loads(Path(name).read_text("utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        parser.error(f"--config {name}: not a readable JSON object of flags ({error})")
    if not isinstance(flags, dict):
        parser.error(f"--config {name}: not a readable JSON object of flags, but a {type(flags).__name__}")
    if "config" in flags:
        parser.error(f"--config {name}: it names another such file, {flags['config']}: put all flags into one")
    dashed = {"--" + flag.replace("_", "-"): value for flag, value in flags.items()}
    if len(dashed) < len(flags):
        spelled = Counter(flag.replace("_", "-") for flag in flags)
        twice = sorted(flag for flag in flags if spelled[flag.replace("_", "-")] > 1)
        parser.error(f"--config {name}: {twice[0]} is given twice, spelled with _ and with -: leave one of them")
    _check_known(parser, dashed)
    for flag, value in dashed.items():
        if flag not in given and value not in (None, []):
            try:
                yield from _words(parser._option_string_actions[flag], flag, value)
            except ValueError as error:
                parser.error(f"--config {name}: {flag} is {json.dumps(value)}: give {error}")


def _words(action: argparse.Action, flag: str, value: object) -> list[str]:
    """The flag with a value of JSON, as on the command line; raises ValueError that says what it takes."""
    if action.nargs == 0:
        if not isinstance(value, bool):
            raise ValueError("true or false")
        off = [no for no in action.option_strings if no.startswith("--no-") and no != flag]
        return [flag] if value else off
    values = value if isinstance(value, list) else [value]
    if any(isinstance(one, list | dict | bool) or one is None for one in values):
        raise ValueError("text, a number, or a list of these")
    return [flag, *(one if isinstance(one, str) else json.dumps(one) for one in values)]


def _parser(task: type[AnyTask], doc: str) -> Parser:
    usage = "%(prog)s --input URI [URI ...] --output URI --model MODEL [flags]"
    form = argparse.RawDescriptionHelpFormatter
    parser = Parser(usage=usage, description=doc, formatter_class=form)
    parser.add_argument("--config", metavar="FILE", help="JSON file with any of these flags (none)")
    own = {field.name: (field, task) for field in dataclasses.fields(task)}
    shared = {field.name: (field, RunConfig) for field in dataclasses.fields(RunConfig)}
    for name in own:
        if wrong := _unfit(name, typing.get_type_hints(task)[name], shared.keys()):
            parser.error(f"task {task.name}: its field {name} {wrong}")
    _add_group(parser, MOST_USED[0], [shared[name] for name in MOST_USED[1]])
    _add_group(parser, f"{task.name} flags", own.values())
    for title, names in GROUPS.items():
        _add_group(parser, title, [shared[name] for name in names])
    named = {*MOST_USED[1], *(name for names in GROUPS.values() for name in names)}
    _add_group(parser, REST, [flag for name, flag in shared.items() if name not in named])
    return parser


def _add_group(
    parser: Parser, title: str, flags: Iterable[tuple[dataclasses.Field[object], type[AnyTask] | type[RunConfig]]]
) -> None:
    group = parser.add_argument_group(title)
    for field, owner in flags:
        _add(group, field, typing.get_type_hints(owner)[field.name])


class Form(typing.TypedDict, total=False):
    """How argparse takes a flag's value."""

    nargs: str
    metavar: str
    action: str | type[argparse.Action]
    choices: Iterable[str]
    type: Callable[[str], object]


def _add(group: argparse._ArgumentGroup, field: dataclasses.Field[object], hint: object) -> None:
    """One field as one flag; its type decides the form, its metadata the help. `_pick` fills the default in."""
    help_: str = field.metadata.get("help", "")
    needed = field.default is dataclasses.MISSING
    if not help_.endswith(")"):
        help_ = f"{help_} ({'required' if needed else _said(field.default)})".lstrip()
    flag, form = "--" + field.name.replace("_", "-"), _form(field, hint)
    group.add_argument(flag, dest=field.name, help=help_.replace("%", "%%"), required=needed, default=None, **form)


def _said(default: object) -> str:
    if isinstance(default, bool):
        return "on" if default else "off"
    if isinstance(default, tuple):
        return " ".join(map(str, default)) or "none"
    return f"{default:,}" if isinstance(default, int) else str(default)


def _form(field: dataclasses.Field[object], hint: object) -> Form:
    kind = _without_none(hint)
    if typing.get_origin(kind) is tuple:
        metavar, one = field.metadata.get("metavar", "COLUMN"), typing.get_args(kind)[0]
        return {"nargs": "+", "action": "extend", "metavar": metavar, "type": one}
    if kind is bool:
        return {"action": "store_true" if field.default is False else argparse.BooleanOptionalAction}
    if choices := field.metadata.get("choices") or typing.get_args(kind):
        return {"choices": choices, "type": type(next(iter(choices)))}
    if kind is int or kind is float:
        return {"type": kind, "metavar": field.metadata.get("metavar", "N" if kind is int else "X")}
    return {"type": str, "metavar": field.metadata.get("metavar", "TEXT")}


def _unfit(name: str, hint: object, shared: Collection[str]) -> str:
    """Why a field cannot be a flag, if so: its name is taken, or words of a command line cannot be turned into it."""
    if name in {*shared, "config", "version", "help"}:
        return "is a flag of all tasks: call it otherwise"
    kind = _without_none(hint)
    one = typing.get_args(kind)[0] if typing.get_origin(kind) is tuple else kind
    can = one in (int, float, str) or kind is bool or typing.get_origin(kind) is Literal
    return "" if can else f"cannot be a flag: {FLAG_TYPES}"


def _without_none(hint: object) -> object:
    """`int` of `int | None`; any other type as it is."""
    if typing.get_origin(hint) not in (types.UnionType, typing.Union):
        return hint
    return next(kind for kind in typing.get_args(hint) if kind is not types.NoneType)


def _pick(owner: type, given: dict[str, Any]) -> dict[str, Any]:
    """The flags of this dataclass; those that were not given come as its defaults."""
    defaults = {field.name: field.default for field in dataclasses.fields(owner)}
    values = {name: default if given[name] is None else given[name] for name, default in defaults.items()}
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
