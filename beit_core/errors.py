"""The errors of this package.

CheckpointError        a model folder or file cannot be used; the message names it and the next step
  CheckpointMismatch   its tensors are not those its configuration promises; names every one
NotFinite              a model's answer is none
"""


class CheckpointError(Exception):
    """The checkpoint cannot be used as it is."""


class CheckpointMismatch(CheckpointError):
    """The tensors of a checkpoint differ from what its configuration promises."""


class NotFinite(ValueError):
    """A model's answer has a NaN or an infinity, mostly because its dtype is too narrow."""
