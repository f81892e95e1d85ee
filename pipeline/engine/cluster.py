"""Joining a Ray cluster, or starting one on this machine, and what holds on all of its nodes."""

from __future__ import annotations

import itertools
import logging
import os
import secrets
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from pipeline import storage
from pipeline.address import SUBMITTED
from pipeline.engine.watch import Door
from pipeline.errors import ConfigError, PipelineError

NO_PROGRESS_S = 24 * 3600  # Ray gives up a run without progress; waiting for capacity overnight is no failure
# Of the calls that a pool's actors run at a time, how many are taken when it grows. Ray's own 1.75 waits for calls that
# queue at an actor, which ours never have: such a pool stayed as small as it began.
GROWS_AT = 0.9
PATIENT_STARTS = 20  # deaths of starting actors in a row that Ray forgives (a flaky download of weights)


def import_ray(*, verbose: bool) -> Any:
    """Ray, with its noise kept off the screen; its settings are read when it is imported."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if not verbose:
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
        os.environ.setdefault("RAY_LOG_TO_DRIVER_EVENT_LEVEL", "FATAL")
    import ray
    import ray.util.metrics
    import ray.util.scheduling_strategies

    if not verbose:
        # Such as advice to programmers of pipelines, where a run has fewer spans than workers.
        warnings.filterwarnings("ignore", category=UserWarning, module=r"ray\.data\.")
        _hush_loggers()
    return ray


def _hush_loggers() -> None:
    for name in ("ray", "ray.data", "ray._private.worker", "ray.train"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def _hush_errors(ray: Any) -> None:
    """Ray tells of every worker that dies on standard output, which is our answer's; there is no setting for it."""
    worker = ray._private.worker
    if hasattr(worker, "print_to_stdstream"):
        worker.print_to_stdstream = lambda *_, **__: None


@contextmanager
def _no_stderr() -> Iterator[None]:
    """Ray's native code writes to file descriptor 2 at any log level; real errors are raised as exceptions."""
    sys.stderr.flush()
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def connect(ray: Any, address: str | None, *, verbose: bool) -> None:
    """Join the cluster at this address, or start one on this machine; raises ConfigError or PipelineError."""
    root = str(Path(__file__).parents[2])
    if SUBMITTED not in os.environ:
        check_folder(root)
    options: dict[str, Any] = {"log_to_driver": verbose, "logging_level": logging.CRITICAL}
    if verbose:
        options["logging_level"] = logging.INFO
    if address is None:
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
        options |= {"address": "local", "include_dashboard": False}
    else:
        options["address"] = address
        if SUBMITTED not in os.environ:  # `ray job submit` has shipped the code already
            options["runtime_env"] = {"py_modules": [str(Path(root, name)) for name in ("beit_core", "pipeline")]}
    _init(ray, address, options, verbose=verbose)
    # The first use of ray.data imports it, and sets up its loggers: now, while Ray starts processes of its own.
    context = ray.data.DataContext.get_current()
    if not verbose:
        _hush_loggers()
        _hush_errors(ray)
    context.enable_progress_bars = verbose
    context.print_on_execution_start = verbose
    context.enable_auto_log_stats = verbose
    context.execution_no_progress_timeout_s = NO_PROGRESS_S
    context.max_consecutive_actor_init_deaths = PATIENT_STARTS
    context.autoscaling_config.actor_pool_util_upscaling_threshold = GROWS_AT
    context.target_max_block_size = 1  # what is yielded leaves at once, in a block of its own


def check_folder(root: str) -> None:
    """Raise ConfigError where Ray's workers would take other code of this folder for ours: they look there first."""
    for name in ("beit_core", "pipeline"):
        found = PathFinder.find_spec(name, [os.getcwd()])
        origin = found.origin if found is not None else None
        if origin is not None and not _is_same_code(Path(origin).parent, Path(root, name)):
            raise ConfigError(
                f"this folder has a {name} of its own ({origin}), which Ray's workers would take for that of {root}: "
                "give the command in another folder, or --local"
            )


def _is_same_code(here: Path, there: Path) -> bool:
    """Whether two packages are one, or copies of each other: installed from the checkout that one is in, say."""
    return here.samefile(there) or _code(here) == _code(there)


def _code(package: Path) -> dict[Path, bytes]:
    return {file.relative_to(package): file.read_bytes() for file in package.rglob("*.py")}


def _init(ray: Any, address: str | None, options: dict[str, Any], *, verbose: bool) -> None:
    try:
        with nullcontext() if verbose else _no_stderr():
            ray.init(**options)
    except Exception as error:  # Ray raises a plain Exception for a node that starts too slowly
        told = str(error).strip().partition("\n")[0] or type(error).__name__
        if address is not None:
            raise ConfigError(f"no Ray cluster at {address}: {told}") from error
        again = "give the same command again, or --local to do without Ray"
        raise PipelineError(f"Ray did not start on this machine ({told}): {again}") from error


RAYS_OWN = "\nFailed to "  # Ray Data's words behind an error's: how often it was tried, and how to try more often


def our_own(error: BaseException) -> BaseException:
    """The error of ours that Ray has wrapped, if there is one."""
    seen: BaseException | None = error
    while seen is not None:
        cause = getattr(seen, "cause", None)
        for candidate in (seen, cause):
            if isinstance(candidate, PipelineError):
                # Ray makes a class of its own out of ours and puts the worker's traceback into its text.
                ours = next(kind for kind in type(candidate).__mro__ if kind.__module__ == PipelineError.__module__)
                said = str(getattr(candidate, "cause", candidate)).partition(RAYS_OWN)[0]
                plain: BaseException = ours(said)
                return plain
        seen = cause if isinstance(cause, BaseException) and cause is not seen else seen.__cause__
    return error


def check_shared(ray: Any, output: str) -> None:
    """Raise ConfigError where another node of the cluster does not see this local folder as this process does.

    A file is put there for the moment, and nothing of it stays.
    """
    folder, others = storage.absolute(output), _other_nodes(ray)
    if not others or not storage.is_local(folder):
        return
    try:
        with _probe(folder) as (path, text):
            blind = _who_does_not_see(ray, others, path, text)
    except OSError as error:
        raise ConfigError(f"--output {output}: cannot be written ({error.strerror or error})") from error
    if blind:
        raise ConfigError(
            f"--output {output}: {len(blind)} of {len(others) + 1} nodes do not see this folder (such as {blind[0]}); "
            "give s3://..., or a folder that all nodes share"
        )


def doors(ray: Any) -> list[Door]:
    """Where the cluster's head, and Ray on this node, listen for this driver; it does not outlive either."""
    context = ray.get_runtime_context()
    host, _, port = context.gcs_address.rpartition(":")
    here = next((node for node in ray.nodes() if node["NodeID"] == context.get_node_id()), None)
    own = [Door("Ray on this node", here["NodeManagerAddress"], here["NodeManagerPort"])] if here else []
    return [Door("the Ray cluster's head", host.strip("[]"), int(port)), *own]


def _other_nodes(ray: Any) -> dict[str, str]:
    """Addresses of the nodes that can have workers, but for this one, by their ids."""
    here = ray.get_runtime_context().get_node_id()
    able = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
    return {node["NodeID"]: node["NodeManagerAddress"] for node in able if node["NodeID"] != here}


def _who_does_not_see(ray: Any, nodes: Mapping[str, str], path: str, text: str) -> list[str]:
    """Addresses of the nodes on which this file does not hold this text."""
    affinity = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
    asked = {
        node: ray.remote(num_cpus=0, scheduling_strategy=affinity(node, soft=False))(_sees).remote(path, text)
        for node in nodes
    }
    return [nodes[node] for node, answer in asked.items() if not _answer(ray, answer)]


@contextmanager
def _probe(folder: str) -> Iterator[tuple[str, str]]:
    """The path of a file in the folder, and what is in it; the folders that it takes are removed again."""
    missing = list(itertools.takewhile(lambda path: not path.exists(), [Path(folder), *Path(folder).parents]))
    os.makedirs(folder, exist_ok=True)
    path = Path(storage.half_written(str(Path(folder, "probe"))))  # swept, should this process be killed
    text = secrets.token_hex(16)
    try:
        path.write_text(text)
        yield str(path), text
    finally:
        path.unlink(missing_ok=True)
        for made in missing:
            with suppress(OSError):  # another run uses it by now
                made.rmdir()


def _sees(path: str, text: str) -> bool:
    try:
        return Path(path).read_text() == text
    except OSError:
        return False


def _answer(ray: Any, asked: Any) -> bool:
    """What a node answers; one that is lost meanwhile writes nothing either."""
    try:
        return bool(ray.get(asked))
    except ray.exceptions.RayError:
        return True
