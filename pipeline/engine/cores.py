"""CPUs that this process may use."""

from __future__ import annotations

import math
import os
from contextlib import suppress
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")


def cores() -> int:
    """How many processes can compute at a time here, at least 1; containers may have less than the machine."""
    found = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(found, _quota())))


def _quota() -> float:
    """CPUs' worth of time that a container may use, as Docker's --cpus and limits of Kubernetes say (cgroups 2, 1)."""
    with suppress(OSError, ValueError):
        most, period = (CGROUPS / "cpu.max").read_text().split()
        return math.inf if most == "max" else int(most) / int(period)
    with suppress(OSError, ValueError):
        most, period = ((CGROUPS / f"cpu/cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        return int(most) / int(period) if int(most) > 0 else math.inf
    return math.inf
