"""Free loopback ports for the servers that tests start."""

import random
import socket

# Below the range the kernel hands to outgoing connections (32768 and up), so that a port found free stays free,
# and such that port + 10000, where weed listens for gRPC, stays below it too.
LOWEST, HIGHEST = 20000, 22767
GRPC_OFFSET = 10000
# Ray wants a consecutive range for its workers; it lies between weed's ports and weed's gRPC ports.
BLOCKS = range(23000, 29900, 100)


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def free_ports(count: int) -> list[int]:
    """Ports that are free together with the port 10000 above; random, so that parallel test runs rarely meet."""
    candidates = random.SystemRandom().sample(range(LOWEST, HIGHEST + 1), HIGHEST + 1 - LOWEST)
    found: list[int] = []
    for port in candidates:
        if is_free(port) and is_free(port + GRPC_OFFSET):
            found.append(port)
        if len(found) == count:
            return found
    raise RuntimeError(f"no {count} free ports between {LOWEST} and {HIGHEST}")


def free_block(size: int = 100) -> range:
    """A consecutive run of at most 100 free ports."""
    for first in random.SystemRandom().sample(BLOCKS, len(BLOCKS)):
        if all(is_free(port) for port in range(first, first + size)):
            return range(first, first + size)
    raise RuntimeError(f"no {size} consecutive free ports between {BLOCKS.start} and {BLOCKS.stop}")
