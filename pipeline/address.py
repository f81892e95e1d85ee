"""Which Ray cluster a run joins, and whether it has been submitted to one. Nothing here imports Ray."""

from __future__ import annotations

import os
import socket

from pipeline.errors import ConfigError

FLAG, VARIABLE = "--ray-address", "RAY_ADDRESS"
SUBMITTED = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # Ray sets it for the entry point of a submitted job,
PACKAGES = "working_dir_files"  # ... which it starts in a folder below one of this name


def address_of(given: str | None) -> str | None:
    """The cluster to join: the one given by flag, else RAY_ADDRESS, else None: Ray is started on this machine.

    Raises ConfigError for what is no address of a cluster.
    """
    address = given or os.environ.get(VARIABLE)
    if address is None or address == "local":
        return None
    check_form(address, FLAG if given else VARIABLE)
    return address


def check_answers(address: str | None) -> None:
    """Raise ConfigError where nothing answers at what `address_of` gave: Ray would wait there, silently, for minutes.

    None, this machine, and names of clusters are not asked.
    """
    host, _, port = (address or "").rpartition(":")
    if not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
    except (OSError, OverflowError, UnicodeError) as error:  # of a name that is none
        raise ConfigError(f"no Ray cluster at {address}: nothing answers there ({error})") from error


def is_submitted() -> bool:
    """Whether this process is the driver of a job that `ray job submit` has started."""
    return SUBMITTED in os.environ or PACKAGES in os.getcwd().split(os.sep)


def check_form(address: str, origin: str) -> None:
    """Raise ConfigError for addresses that are not a cluster's own, such as a job server's."""
    if address.startswith("ray://"):
        raise ConfigError(
            f"{origin} ray://... is refused: a Ray Client connection that breaks loses the run. Give host:port of the "
            "cluster, or submit the job with `ray job submit`"
        )
    if "://" in address:
        what = f"{origin} {address} is a job server"
        raise ConfigError(f"{what}: give host:port of the cluster, or `ray job submit` the job to it")
