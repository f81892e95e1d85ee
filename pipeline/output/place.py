"""Every name in an output, and what may be found there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from pipeline import storage
from pipeline.errors import ConfigError, ObjectUnreadable, StorageError
from pipeline.storage import Entry

SPAN = ".parquet"
REPORT, METRICS, SEEN = ".json", ".prom", ".spans.parquet"  # endings of the files in runs/


@dataclass(frozen=True)
class Place:
    """The root of an output, a folder or prefix without a slash at its end."""

    root: str

    @staticmethod
    def of(output: str) -> Place:
        """The output that a user names."""
        return Place(storage.absolute(output).rstrip("/"))

    def above(self) -> Iterator[Place]:
        """The places in which this one lies, the nearest first."""
        folder = self.root.rpartition("/")[0]
        while folder and not folder.endswith("/"):
            yield Place(folder)
            folder = folder.rpartition("/")[0]

    def beside(self, model: str) -> str:
        """Where an output of another model goes, such as `model=base-0123abcd`: beside this one."""
        parent, _, last = self.root.rpartition("/")
        return storage.join(parent if last.startswith("model=") else f"{self.root}-by-model", model)

    @property
    def bound_file(self) -> str:
        """`_run.json`: what the output is bound to."""
        return storage.join(self.root, "_run.json")

    @property
    def success_file(self) -> str:
        """`_SUCCESS`: names the last successful run."""
        return storage.join(self.root, "_SUCCESS")

    @property
    def lease_file(self) -> str:
        """`_lease.json`: who works on it now."""
        return storage.join(self.root, "_lease.json")

    @property
    def page_file(self) -> str:
        """The HTML report."""
        return storage.join(self.root, "report.html")

    @property
    def data(self) -> str:
        """Where the files of finished spans lie."""
        return storage.join(self.root, "data")

    @property
    def plan(self) -> str:
        """Where plan parts and shard entries lie."""
        return storage.join(self.root, "plan")

    @property
    def runs(self) -> str:
        """Where every run leaves its report."""
        return storage.join(self.root, "runs")

    def keeps(self, uri: str) -> bool:
        """Whether a file is one of those that make it an output; the page is none."""
        files, folders = (self.bound_file, self.success_file, self.lease_file), (self.data, self.plan, self.runs)
        return uri in files or any(uri.startswith(f"{folder}/") for folder in folders)

    def span_file(self, name: str) -> str:
        """The file of a finished span."""
        return storage.join(self.data, name + SPAN)

    def plan_file(self, name: str) -> str:
        """A plan part or shard entry."""
        return storage.join(self.plan, name)

    def report_file(self, run: str) -> str:
        """The report of a run."""
        return storage.join(self.runs, run + REPORT)

    def metrics_file(self, run: str) -> str:
        """The figures of a run for Prometheus."""
        return storage.join(self.runs, run + METRICS)

    def seen_file(self, run: str) -> str:
        """The span files that a run has seen, with their counts."""
        return storage.join(self.runs, run + SEEN)

    def spans(self) -> Iterator[tuple[str, Entry]]:
        """Name and file of every finished span, in the order of names."""
        for entry in storage.listing(self.data):
            name = entry.uri[len(self.data) + 1 :]
            if name.endswith(SPAN) and not name.startswith("."):
                yield name.removesuffix(SPAN), entry

    def reports(self) -> list[str]:
        """The URIs of the runs' reports, oldest first."""
        return sorted(entry.uri for entry in storage.listing(self.runs) if entry.uri.endswith(REPORT))

    def seen_files(self) -> Iterator[Entry]:
        """What earlier runs have seen, oldest first."""
        return (entry for entry in storage.listing(self.runs) if entry.uri.endswith(SEEN))

    def not_ours(self, why: str) -> ConfigError:
        """The error to raise if a command needs an output of ours and this is none."""
        return ConfigError(f"{self.root} is no output of these jobs: {why}")

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Errors of the storage within the block become a StorageError of one sentence about the output."""
        try:
            yield
        except (OSError, ObjectUnreadable) as error:
            reason = storage.cause_and_file(error)
            raise StorageError(
                f"{self.root} cannot be written ({reason}); finished spans are safe, the same command continues"
            ) from error
