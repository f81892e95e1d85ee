"""The exceptions that pass from room to room; others stay in the room that defines them.

    PipelineError                exit 1
    ├── ConfigError              exit 2: the command cannot work; nothing was written
    ├── TooManyFailures          exit 3: the run finished, but too many images failed
    ├── StorageError             exit 1: the output cannot be written, or the source cannot be listed any more
    │   ├── CredentialsLost      exit 1: the storage no longer accepts our credentials, in mid-run
    │   └── PatienceSpent        exit 1: the storage throttled or did not answer for longer than `--patience`
    ├── DeviceFailed             exit 1: the device failed, in new processes too
    └── ObjectUnreadable         never leaves the pipeline: one object cannot be read; it becomes a row

An image that cannot be decoded is no exception at all: it is a row with a status and a reason.
"""

DEVICE_FAILURES = 3  # of one run that a new process is started for, per worker; more are not chance


class PipelineError(Exception):
    """Base of all errors that are reported to the user in one sentence."""

    exit_code = 1


class ConfigError(PipelineError):
    """The command cannot work as given: a bad flag, no input, no permission, a foreign model or output."""

    exit_code = 2


class TooManyFailures(PipelineError):
    """The run finished and every image has its row, but the share of failed ones is above `--max-failed`."""

    exit_code = 3


class StorageError(PipelineError):
    """Storage the run depends on as a whole - its output, its plan, a listing - failed after all retries."""


class CredentialsLost(StorageError):
    """The storage refuses our credentials themselves, not one object: every further read would fail too."""


class PatienceSpent(StorageError):
    """The storage has throttled, failed or been out of reach for too long: no object is at fault, so none is a row."""


class DeviceFailed(PipelineError):
    """The device is unusable for this process; a new process may recover it."""


class ObjectUnreadable(PipelineError):
    """One object cannot be read; `str()` is stable text, the same on every run."""


def is_pyarrows(error: OSError) -> bool:
    """Whether an error says that pyarrow cannot read a Parquet file, and is none of a disk or storage."""
    return type(error) is OSError and error.errno is None
