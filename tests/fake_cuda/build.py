"""Fetch torch's CUDA build and compile a runtime for it, into a folder: `python -m tests.fake_cuda.build OUT`.

Torch is unpacked beside the environment's and is found before it where `environment` says so; nothing is installed.
What torch's libraries want of NVIDIA's is read from them: a library of the same name answers 0 to all of it, but for
what `runtime.cpp` knows.
"""

import hashlib
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from zipfile import ZipFile

HERE = Path(__file__).parent
RUNTIME, DRIVER = "libcudart.so.13", "libcuda.so.1"  # torch opens the driver by its name
HEADERS = ("nvidia-cuda-runtime==13.0.*", "nvidia-cuda-crt==13.0.*")
VENDORS = re.compile(r"(cu|nccl|nv|__cuda)\w*$")


def build(out: Path) -> None:
    """Raises CalledProcessError for a wheel that is not to be had, and for a compiler that fails."""
    torch = version("torch").partition("+")[0]
    made_of, done = _digest(torch), out / "done"
    if done.exists() and done.read_text() == made_of:
        return
    shutil.rmtree(out, ignore_errors=True)
    _unpack(f"torch==={torch}", out / "site")  # === passes by wheels for CPUs, which are torch 2.13.0+cpu
    for package in HEADERS:
        _unpack(package, out / "headers")
    shutil.copy(HERE / "kernels.py", out / "site/fake_cuda_kernels.py")
    with (out / "site/torch/__init__.py").open("a") as file:
        file.write("\nimport warnings as _warnings\n\nwith _warnings.catch_warnings(action='ignore'):\n")
        file.write("    import fake_cuda_kernels as _kernels\n")
    _compile(out)
    done.write_text(made_of)


def environment(out: Path) -> dict[str, str]:
    """What a process needs beside the usual to find this torch and its device."""
    threads = {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}  # the same sums on every run
    return {"LD_LIBRARY_PATH": str(out / "lib"), "PYTHONPATH": f"{out / 'site'}:{HERE.parents[1]}", **threads}


def _digest(torch: str) -> str:
    sources = [(HERE / name).read_bytes() for name in ("build.py", "kernels.py", "runtime.cpp")]
    return hashlib.sha256(b"".join([torch.encode(), *sources])).hexdigest()


def _unpack(requirement: str, into: Path) -> None:
    wheels = into.parent / "wheels" / into.name
    fetch = ["download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest", str(wheels), requirement]
    subprocess.run([sys.executable, "-m", "pip", "--disable-pip-version-check", *fetch], check=True)
    for wheel in wheels.iterdir():
        with ZipFile(wheel) as packed:
            packed.extractall(into)
        wheel.unlink()


def _compile(out: Path) -> None:
    (out / "lib").mkdir()
    known = set(re.findall(r"\b(\w+)\([^;{}]*\) (?=\{)", (HERE / "runtime.cpp").read_text()))
    headers = next((out / "headers").rglob("cuda_runtime_api.h")).parent
    for library, symbols in _wanted(out / "site/torch/lib").items():
        stub, versions = out / "stub.cpp", out / "versions.map"
        stub.write_text(_answers(symbols - (known if library == RUNTIME else set())))
        versions.write_text(f"{'NVSHMEM' if 'nvshmem' in library else library} {{ global: *; }};\n")
        sources = [stub, HERE / "runtime.cpp"] if library == RUNTIME else [stub]
        flags = ["-O1", "-std=c++17", "-shared", "-fPIC", "-pthread", "-w", f"-I{headers}"]
        named = [f"-Wl,-soname,{library}", f"-Wl,--version-script={versions}", "-o", out / "lib" / library]
        subprocess.run(["g++", *flags, *sources, *named], check=True)


def _wanted(folder: Path) -> dict[str, set[str]]:
    """By library what torch's want of it."""
    found: defaultdict[str, set[str]] = defaultdict(set)
    own = {path.name for path in folder.iterdir()}
    for path in folder.glob("lib*.so*"):
        for needed in re.findall(r"NEEDED.*\[(.*)\]", _said("readelf", "-d", path)):
            if needed not in own and VENDORS.match(needed.removeprefix("lib").partition(".")[0]):
                found[needed]  # that nothing is wanted of one does not spare it
        for symbol, at in _undefined(path):
            if at.startswith("lib"):
                found[at].add(symbol)
            elif VENDORS.match(symbol):
                for library in ["libnvshmem_host.so.3"] if at else [RUNTIME, DRIVER]:
                    found[library].add(symbol)
    return found


def _undefined(path: Path) -> Iterator[tuple[str, str]]:
    """Name and version of what a library wants of others."""
    for line in _said("nm", "-D", "--undefined-only", path).splitlines():
        symbol, _, at = line.split()[-1].partition("@")
        yield symbol, at.lstrip("@")


def _answers(symbols: set[str]) -> str:
    """Functions that answer 0, or a text."""
    texts = re.compile("String|Error(Name)?$|LastError")
    lines = ['extern "C" {']
    for name in sorted(symbols):
        is_text = "Get" in name and texts.search(name)
        lines.append(f'const char* {name}() {{ return "fake"; }}' if is_text else f"long {name}() {{ return 0; }}")
    return "\n".join([*lines, "}"])


def _said(*command: object) -> str:
    return subprocess.run([*map(str, command)], capture_output=True, text=True, check=True).stdout


if __name__ == "__main__":
    build(Path(sys.argv[1]))
