"""More house rules, about files together: how much of the code is untyped, which folder needs which, what maps say."""

import ast
import re
from collections import defaultdict
from graphlib import CycleError, TopologicalSorter
from pathlib import PurePosixPath

import pytest

from tests.test_architecture import ROOMS, imported, sources

ANY_SHARE = 0.08


def mentions_any(source: str) -> list[bool]:
    """Per function whether `Any` is in its signature or its body."""
    nodes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    return [any(isinstance(n, ast.Name) and n.id == "Any" for n in ast.walk(node)) for node in nodes]


def arrows(texts: dict[str, str], package: str) -> dict[str, set[str]]:
    """Which of what lies directly in a package, files and folders, imports which, from paths and texts of files."""
    depth, prefix = len(PurePosixPath(package).parts), package.replace("/", ".") + "."
    below = {
        path: PurePosixPath(path).parts[depth].removesuffix(".py") for path in texts if path.startswith(f"{package}/")
    }
    found: dict[str, set[str]] = defaultdict(set)
    for path, one in below.items():
        names = [name for _, name in imported(ast.parse(texts[path])) if name.startswith(prefix)]
        needed = {name.removeprefix(prefix).partition(".")[0] for name in names}
        found[one] |= needed & set(below.values()) - {one, "__init__"}
    return dict(found)


def circle(graph: dict[str, set[str]]) -> list[str]:
    """What needs one another in a circle, the first one repeated at the end; nothing where there is no circle."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def unmapped(package: str, texts: dict[str, str]) -> set[str]:
    """What lies in a package and its docstring does not name (`x.py`, `folder/`), and files named but not there."""
    depth = len(PurePosixPath(package).parts)
    inside = [PurePosixPath(path).parts[depth:] for path in texts if path.startswith(f"{package}/")]
    there = {parts[0] if len(parts) == 1 else f"{parts[0]}/" for parts in inside} - {"__init__.py"}
    doc = ast.get_docstring(ast.parse(texts[f"{package}/__init__.py"])) or ""
    named = set(re.findall(r"\w+(?:\.py\b|/)", doc))
    return (there - named) | {name for name in named - there if name.endswith(".py")}


def test_functions_that_mention_any_are_few() -> None:
    found = [one for text in sources(*ROOMS).values() for one in mentions_any(text)]
    assert sum(found) / len(found) <= ANY_SHARE, f"{sum(found)} of {len(found)}"


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("def f(a: int) -> int: ...", [False]),
        ("def f(a: Any): ...", [True]),
        ("def f(a):\n b: dict[str, Any] = a", [True]),
    ],
)
def test_any_is_seen_in_signatures_and_bodies(source: str, found: list[bool]) -> None:
    assert mentions_any(source) == found


PACKAGES = sorted({path.rpartition("/")[0] for path in sources("pipeline")})


@pytest.mark.parametrize("package", PACKAGES)
def test_files_and_folders_form_no_circle(package: str) -> None:
    assert circle(arrows(sources("pipeline"), package)) == []


def test_a_circle_is_seen() -> None:
    there = {"p/a/x.py": "from p.b import y", "p/b/y.py": "def f():\n    import p.c", "p/c.py": "from p import top"}
    assert arrows(there, "p") == {"a": {"b"}, "b": {"c"}, "c": set()}
    assert circle(arrows(there, "p")) == []
    back = there | {"p/c.py": "if TYPE_CHECKING:\n    from p.a.x import X"}
    assert set(circle(arrows(back, "p"))) == {"a", "b", "c"}
    inside = {"p/a/x.py": "from p.a.y import f", "p/a/y.py": "from p.a import x"}
    assert set(circle(arrows(inside, "p/a"))) == {"x", "y"}


@pytest.mark.parametrize("package", PACKAGES)
def test_every_package_maps_what_lies_in_it(package: str) -> None:
    assert unmapped(package, sources("pipeline")) == set()


def test_a_map_with_gaps_or_old_names_is_seen() -> None:
    there = {"p/__init__.py": '"""`a.py` this, q/ that."""', "p/a.py": "", "p/q/__init__.py": "", "p/q/b.py": ""}
    assert unmapped("p", there) == set()
    assert unmapped("p", there | {"p/c.py": ""}) == {"c.py"}
    assert unmapped("p", {"p/__init__.py": '"""gone.py"""', "p/r/x.py": ""}) == {"gone.py", "r/"}
