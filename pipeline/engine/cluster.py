"""Which Ray cluster a run joins, checked without Ray."""

from __future__ import annotations

import os
import socket

from pipeline.errors import ConfigError

FLAG, VARIABLE = "--ray-address", "RAY_ADDRESS"


def address_of(given: str | None) -> str | None:
    """The cluster to join: the one given by flag, else RAY_ADDRESS, else None: Ray is started on this machine.

    Asked before anything else is done, as Ray waits for minutes, silently, for a head that is not there. Raises
    ConfigError for what cannot be joined.
    """
    address = given or os.environ.get(VARIABLE)
    if address is None or address == "local":
        return None
    check_form(address, FLAG if given else VARIABLE)
    host, _, port = address.rpartition(":")
    if port.isdigit():  # else `auto`, or a cluster's name
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
        except (OSError, OverflowError) as error:
            raise ConfigError(f"no Ray cluster at {address}: nothing answers there ({error})") from error
    return address


def check_form(address: str, origin: str) -> None:
    """Raise ConfigError for addresses of other servers than a cluster's own."""
    if address.startswith("ray://"):
        raise ConfigError(
            f"{origin} ray://... is refused: a Ray Client connection that breaks loses the run. Give host:port of the "
            "cluster, or submit the job with `ray job submit`"
        )
    if "://" in address:
        what = f"{origin} {address} is a job server"
        raise ConfigError(f"{what}: give host:port of the cluster, or `ray job submit` the job to it")
