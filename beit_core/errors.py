"""The one error family of this package.

CheckpointError        a model folder or file cannot be used; the message names it and the next step
  CheckpointMismatch   its tensors are not those its configuration promises; names every one
"""


class CheckpointError(Exception):
    """The checkpoint cannot be used as it is."""


class CheckpointMismatch(CheckpointError):
    """The tensors of a checkpoint differ from what its configuration promises."""
