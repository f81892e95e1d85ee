"""Processes that only decode images, or read a card, do not wait for torch."""

import ast
import subprocess
import sys

import pytest

import beit_core
from tests.helpers import DATA, ROOT, clean_env

WITHOUT_TORCH = {
    "a card": f"import beit_core; beit_core.load_card({str(DATA / 'digits/model')!r})",
    "decoding": "import pipeline.decode.child, pipeline.bench.cost, beit_core; beit_core.PixelSpec().target(3, 4)",
    "the flow on Ray": "import pipeline.engine.on_ray",
    "presets": "import beit_core; beit_core.presets()",
}


@pytest.mark.parametrize("what", WITHOUT_TORCH)
def test_torch_is_not_imported_for(what: str) -> None:
    code = f"{WITHOUT_TORCH[what]}; import sys; sys.exit('torch' in sys.modules)"
    env = clean_env({"PYTHONPATH": str(ROOT)})
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_compiler_is_not_imported_for_a_model() -> None:
    """It takes as long as torch itself."""
    load = f"import beit_core; beit_core.load_classifier(beit_core.load_card({str(DATA / 'digits/model')!r}))"
    code = f"{load}; import pipeline.engine.predictor, sys; sys.exit('torch._dynamo' in sys.modules)"
    env = clean_env({"PYTHONPATH": str(ROOT)})
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_public_name_is_in_the_module_that_the_table_names() -> None:
    for name in beit_core.__all__:
        assert getattr(beit_core, name).__module__ == f"beit_core.{beit_core._MODULES[name]}"
    assert set(beit_core.__all__) == set(beit_core._MODULES)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = beit_core.nothing


def test_no_function_of_the_core_imports() -> None:
    """The table is the one mechanism that keeps torch away."""
    for path in (ROOT / "beit_core").glob("*.py"):
        functions = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)]
        inner = [n.lineno for f in functions for n in ast.walk(f) if isinstance(n, ast.Import | ast.ImportFrom)]
        assert not inner, f"{path.name}: lines {inner}"
