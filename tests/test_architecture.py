"""The house rules: who may import what, who may speak of what, and how long things may be.

A rule takes a file's path below the root and its text, and says what is wrong, one line each; the table at the end of
the rules shows each of them both a sin and its remedy, so that a rule that has gone blind fails here.
"""

import ast
import sys
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("beit_core", "pipeline", "jobs")
# jobs -> pipeline -> beit_core, never back.
BELOW = {"beit_core": (), "pipeline": ("beit_core",), "jobs": ("pipeline", "beit_core")}
# The only files that know a library, lazily or not.
OWNERS = {
    "ray": ("pipeline/engine/on_ray.py", "pipeline/engine/cluster.py"),
    "fsspec": ("pipeline/storage/other.py", "pipeline/storage/s3.py"),
    "s3fs": ("pipeline/storage/s3.py",),
    "aiobotocore": ("pipeline/storage/s3.py",),
    "botocore": ("pipeline/storage/s3.py", "pipeline/storage/s3_errors.py"),
    "huggingface_hub": ("pipeline/hub.py",),
    "pillow_heif": ("pipeline/decode/decode.py",),
    "PIL": (
        *("pipeline/decode/decode.py", "pipeline/decode/resize.py", "pipeline/images.py", "pipeline/masks.py"),
        *("pipeline/page/*.py", "pipeline/bench/*.py"),
    ),
}
# What the models are made of; everything else is foreign to them.
CORE_LIBRARIES = ("beit_core", "torch", "safetensors", "msgpack")
DEVICE_OWNERS = tuple(f"pipeline/engine/{name}.py" for name in ("device", "predictor", "transfer"))
DEVICE_WORDS = ("cuda", "mps", "xpu")
# Files of beit_core and pipeline that may print; jobs may always, their prints are their answer.
PRINTERS: tuple[str, ...] = ()
FILE_LINES, JOB_LINES, FUNCTION_LINES, SHORT_SHARE = 300, 80, 35, 0.9
BRANCHES = 12
FORKS = (ast.If, ast.IfExp, ast.For, ast.AsyncFor, ast.While, ast.ExceptHandler, ast.match_case)

Rule = Callable[[str, str], list[str]]


def imported(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and dotted name of everything imported: at the top, within functions, and by import_module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level < 2:
            # One dot stays in the room; `from pipeline import run` is an import of pipeline.run.
            if not node.level:
                yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.lineno, "a package above this room"
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            yield from ((node.lineno, str(arg.value)) for arg in node.args[:1] if isinstance(arg, ast.Constant))


def tops(source: str) -> list[tuple[int, str]]:
    return sorted({(line, name.partition(".")[0]) for line, name in imported(ast.parse(source))})


def may(path: str, owners: tuple[str, ...]) -> bool:
    return any(fnmatch(path, owner) for owner in owners)


def imports_point_down(path: str, source: str) -> list[str]:
    room = path.partition("/")[0]
    foreign = {*ROOMS, "tests", "a package above this room"} - {room, *BELOW[room]}
    if room != "jobs":
        foreign.add("_cli")
    return [f"line {line}: {room} imports {name}" for line, name in tops(source) if name in foreign]


def jobs_stand_alone(path: str, source: str) -> list[str]:
    if not path.startswith("jobs/"):
        return []
    others = {file.stem for file in (ROOT / "jobs").glob("*.py")} | {"embed", "label", "segment", "tokens", "jobs"}
    return [f"line {line}: imports the job {name}" for line, name in tops(source) if name in others - {"_cli"}]


def libraries_have_owners(path: str, source: str) -> list[str]:
    wrong = [(line, name) for line, name in tops(source) if name in OWNERS and not may(path, OWNERS[name])]
    return [f"line {line}: only {', '.join(OWNERS[name])} may import {name}" for line, name in wrong]


def core_is_torch_only(path: str, source: str) -> list[str]:
    if not path.startswith("beit_core/"):
        return []
    known = {*CORE_LIBRARIES, *sys.stdlib_module_names}
    return [f"line {line}: beit_core imports {name}" for line, name in tops(source) if name not in known]


def only_the_predictor_knows_devices(path: str, source: str) -> list[str]:
    if may(path, DEVICE_OWNERS):
        return []
    found, tree = [], ast.parse(source)
    # A module built on "meta" is on no device: that is how weights are loaded without being made first.
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    meta = {id(call.func) for call in calls if ast.unparse(call) == "torch.device('meta')"}
    for node in ast.walk(tree):
        if id(node) in meta:
            continue
        if isinstance(node, ast.Attribute) and (node.attr in DEVICE_WORDS or ast.unparse(node) == "torch.device"):
            found.append(f"line {node.lineno}: {ast.unparse(node)}")
        if isinstance(node, ast.Constant) and str(node.value).partition(":")[0] in DEVICE_WORDS:
            found.append(f"line {node.lineno}: {node.value!r}")
        if isinstance(node, ast.ImportFrom) and node.module == "torch":
            names = {alias.name for alias in node.names} & {"device", *DEVICE_WORDS}
            found += [f"line {node.lineno}: imports {name} from torch" for name in sorted(names)]
    return found


def nothing_is_asserted(_path: str, source: str) -> list[str]:
    """`python -O` removes assertions, so none may guard anything a user can meet."""
    nodes = ast.walk(ast.parse(source))
    return [f"line {node.lineno}: assert" for node in nodes if isinstance(node, ast.Assert)]


def is_empty(statement: ast.stmt) -> bool:
    dots = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
    return isinstance(statement, ast.Pass) or dots


def no_error_is_swallowed(_path: str, source: str) -> list[str]:
    handlers = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ExceptHandler)]
    bare = [f"line {node.lineno}: bare except" for node in handlers if node.type is None]
    empty = [f"line {node.lineno}: except and pass" for node in handlers if all(map(is_empty, node.body))]
    return bare + empty


def nothing_is_printed(path: str, source: str) -> list[str]:
    if path.startswith("jobs/") or may(path, PRINTERS):
        return []
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    return [f"line {node.lineno}: print" for node in calls if ast.unparse(node.func) == "print"]


def files_are_short(path: str, source: str) -> list[str]:
    is_job = path.startswith("jobs/") and not path.startswith("jobs/_")
    limit, length = JOB_LINES if is_job else FILE_LINES, len(source.splitlines())
    return [f"{length} lines, {limit} at most"] if length > limit else []


def function_lengths(source: str) -> dict[str, int]:
    nodes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    return {f"{node.name} (line {node.lineno})": (node.end_lineno or 0) - node.lineno + 1 for node in nodes}


def branches(function: ast.AST) -> int:
    """Places where a function goes one way or another: statements, expressions, loops of comprehensions, and / or."""
    nodes = list(ast.walk(function))
    loops = [1 + len(node.ifs) for node in nodes if isinstance(node, ast.comprehension)]
    words = [len(node.values) - 1 for node in nodes if isinstance(node, ast.BoolOp)]
    return sum(isinstance(node, FORKS) for node in nodes) + sum(loops) + sum(words)


def functions_have_few_branches(_path: str, source: str) -> list[str]:
    nodes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    counts = [(node.name, branches(node)) for node in nodes]
    return [f"{name}: {count} branches, {BRANCHES} at most" for name, count in counts if count > BRANCHES]


def share_of_short(lengths: list[int]) -> float:
    return sum(length <= FUNCTION_LINES for length in lengths) / len(lengths) if lengths else 1.0


RULES: tuple[Rule, ...] = (
    imports_point_down,
    jobs_stand_alone,
    libraries_have_owners,
    core_is_torch_only,
    only_the_predictor_knows_devices,
    nothing_is_asserted,
    no_error_is_swallowed,
    nothing_is_printed,
    files_are_short,
    functions_have_few_branches,
)

# rule, path, a text that breaks it, a text that keeps it
SELF_TESTS: list[tuple[Rule, str, str, str]] = [
    (imports_point_down, "beit_core/a.py", "def f():\n    import pipeline.run", "from beit_core import b"),
    (imports_point_down, "pipeline/a.py", "from jobs import embed", "from beit_core.model import Beit"),
    (imports_point_down, "pipeline/a.py", "from _cli import main", "from . import spans"),
    (imports_point_down, "pipeline/a.py", "from ..jobs import embed", "from .spans import Span"),
    (imports_point_down, "jobs/a.py", "from tests.weed import Weed", "from pipeline import run"),
    (jobs_stand_alone, "jobs/a.py", "from embed import Embed", "from _cli import main"),
    (jobs_stand_alone, "jobs/a.py", "from jobs.embed import Embed", "import pipeline.report"),
    (libraries_have_owners, "pipeline/spans.py", "def f():\n    import ray.data", "import rayon"),
    (libraries_have_owners, "jobs/a.py", "import importlib\nimportlib.import_module('ray')", "'ray'"),
    (libraries_have_owners, "pipeline/decode/decode.py", "from s3fs import S3FileSystem", "from PIL import Image"),
    (libraries_have_owners, "pipeline/output.py", "from PIL import Image", "import pyarrow"),
    (core_is_torch_only, "beit_core/a.py", "import pyarrow", "import json, torch.nn"),
    (only_the_predictor_knows_devices, "beit_core/a.py", "x.cuda()", "y.to(x.device)"),
    (only_the_predictor_knows_devices, "jobs/a.py", "x.to('cuda:0')", "say('not cuda')"),
    (only_the_predictor_knows_devices, "pipeline/run.py", "torch.device('cpu')", "torch.device('meta')"),
    (only_the_predictor_knows_devices, "pipeline/run.py", "from torch import cuda", "from torch import Tensor"),
    (nothing_is_asserted, "pipeline/a.py", "assert x", "if not x:\n    raise ValueError(x)"),
    (no_error_is_swallowed, "pipeline/a.py", "try:\n    f()\nexcept OSError:\n    pass", "f()"),
    (
        no_error_is_swallowed,
        "pipeline/a.py",
        "try:\n    f()\nexcept:\n    g()",
        "try:\n    f()\nexcept OSError:\n    g()",
    ),
    (nothing_is_printed, "pipeline/a.py", "print('x')", "printer('x')"),
    (files_are_short, "jobs/a.py", "x = 1\n" * 81, "x = 1\n" * 80),
    (files_are_short, "pipeline/a.py", "x = 1\n" * 301, "x = 1\n" * 300),
    *(
        (functions_have_few_branches, "pipeline/a.py", f"def f():\n{many * 13}", f"def f():\n{many * 12}")
        for many in (" if a: b()\n", " a or b\n", " a if b else c\n", " [a for a in b]\n", " while a: b()\n")
    ),
]


def sources(*folders: str) -> dict[str, str]:
    files = [file for folder in folders for file in sorted((ROOT / folder).rglob("*.py"))]
    return {file.relative_to(ROOT).as_posix(): file.read_text() for file in files}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_house_rule(rule: Rule) -> None:
    wrong = [f"{path}: {said}" for path, source in sources(*ROOMS).items() for said in rule(path, source)]
    assert not wrong, "\n".join(wrong)


def test_test_files_are_short_too() -> None:
    wrong = [f"{path}: {said}" for path, source in sources("tests").items() for said in files_are_short(path, source)]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("room", ROOMS)
def test_nine_functions_in_ten_are_short(room: str) -> None:
    lengths = {
        f"{path}: {name}": n for path, text in sources(room).items() for name, n in function_lengths(text).items()
    }
    long = [f"{name}: {length} lines" for name, length in lengths.items() if length > FUNCTION_LINES]
    assert share_of_short(list(lengths.values())) >= SHORT_SHARE, "\n".join(long)


@pytest.mark.parametrize(
    ("rule", "path", "bad", "good"), SELF_TESTS, ids=[f"{i}-{case[0].__name__}" for i, case in enumerate(SELF_TESTS)]
)
def test_rule_sees_the_sin_and_not_the_remedy(rule: Rule, path: str, bad: str, good: str) -> None:
    assert rule(path, bad)
    assert not rule(path, good)


def test_long_functions_are_counted() -> None:
    text = "def short():\n    return 1\n\n\ndef long():\n" + "    f()\n" * 35
    assert function_lengths(text) == {"short (line 1)": 2, "long (line 5)": 36}
    assert share_of_short([2, 36]) == 0.5
    assert share_of_short([]) == 1


def test_every_rule_has_a_self_test() -> None:
    assert {case[0] for case in SELF_TESTS} == set(RULES)
