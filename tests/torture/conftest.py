"""At the end of a torture run: one table of what was broken, how often, and what it cost."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.faults import FaultProxy, fault_proxy_server
from tests.weed import Weed

COLUMNS = ("fault", "injected", "lost", "duplicated")
Tally = Callable[..., None]


@pytest.fixture
def tally(record_property: Callable[[str, object], None]) -> Tally:
    """`tally("driver killed", injected=20, lost=0, duplicated=0)`: a line of the table, said before it is asserted."""

    def note(fault: str, *, injected: int, lost: int, duplicated: int) -> None:
        record_property("tally", (fault, injected, lost, duplicated))

    return note


@pytest.fixture(scope="session")
def doomed(weed: Weed) -> Iterator[FaultProxy]:
    """A proxy for the runs that are killed; what the next one asks for is counted at another."""
    with fault_proxy_server(weed.port) as proxy:
        yield proxy


@pytest.fixture(scope="session")
def fs(weed: Weed) -> Any:
    """One client that sees what is on `weed`; to make one takes as long as a small test."""
    return weed.fs()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = [r for kind in ("passed", "failed") for r in terminalreporter.getreports(kind) if r.when == "call"]
    lines = [(*value, f"{r.duration:.0f}") for r in reports for name, value in r.user_properties if name == "tally"]
    if not lines:
        return
    table = [(*COLUMNS, "seconds"), *(tuple(map(str, line)) for line in lines)]
    widths = [max(len(line[column]) for line in table) for column in range(len(table[0]))]
    terminalreporter.section("what was broken, and what it cost")
    for line in table:
        first, *rest = (text.rjust(width) for text, width in zip(line, widths, strict=True))
        terminalreporter.write_line("  ".join([line[0].ljust(len(first)), *rest]))
