"""The Hugging Face hub: a model's files by its id, kept in the hub's own cache.

    microsoft/beit-base-patch16-224             as its branch `main` is now
    microsoft/beit-base-patch16-224@REVISION    a branch, a tag or a commit

Token, mirror, cache and offline mode are those of the hub's own variables: HF_TOKEN, HF_ENDPOINT, HF_HOME,
HF_HUB_OFFLINE. Processes of a node that need the same file at once download it once: the cache has locks.
"""

from __future__ import annotations

import fnmatch
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import ConfigError
from pipeline.log import phase, warn

ID = re.compile(r"(?P<repo>\w[\w.-]*/\w[\w.-]*)(@(?P<revision>\w[\w./-]*))?")
MAIN = "main"
COMMIT = re.compile(r"[0-9a-f]{40}")
WEIGHTS = ("model*.safetensors", "pytorch_model*.bin", "flax_model.msgpack")  # of which one kind is taken
BUSY = (408, 429, *range(500, 600))  # states of the hub, not of the model
ANSWER_S = 6  # after which a hub that says nothing is out of reach


@dataclass(frozen=True)
class HubModel:
    """A model on the hub; `revision` None is its main branch."""

    repo: str
    revision: str | None

    @staticmethod
    def named(model: str) -> HubModel | None:
        """The model that a user names by an id; None for what cannot be one."""
        found = ID.fullmatch(model)
        return HubModel(found["repo"], found["revision"]) if found else None

    def __str__(self) -> str:
        return f"{self.repo}@{self.revision}" if self.revision else self.repo

    def at(self, path: Path) -> HubModel:
        """The same model as it is in a folder of the cache, whatever its branch may become."""
        return HubModel(self.repo, commit_of(path) or self.revision)


def commit_of(path: Path) -> str | None:
    """The commit of a model in the hub's cache, None for a path elsewhere."""
    return next((part for part in path.parts if COMMIT.fullmatch(part)), None) if "snapshots" in path.parts else None


def fetch(model: HubModel) -> Path:
    """The folder of a model's files in the cache; those that are missing are downloaded.

    A branch or tag is asked for each time. Where the hub cannot say, what it said last is taken, with a warning.
    Raises ConfigError, within seconds where the hub does not answer.
    """
    from huggingface_hub.errors import OfflineModeIsEnabled, RevisionNotFoundError  # here: it takes half a second

    weights = _begun(model)
    if weights is None:
        try:
            weights = _ask(model)
        except Exception as error:  # of whichever HTTP library the hub's client is made with
            why = _reason(model, error)
            cached = None if isinstance(error, RevisionNotFoundError) else _cached(model)
            if cached is None:
                raise ConfigError(why) from error
            if not isinstance(error, OfflineModeIsEnabled):
                warn(f"{model}: {why}; taken as it is in the hub's cache, {commit_of(cached)}")
            return cached
    try:
        with phase(f"fetching {model} from the hub"):
            return _snapshot(model, weights, local=False)
    except Exception as error:  # as above
        raise ConfigError(_reason(model, error)) from error


def _begun(model: HubModel) -> str | None:
    """Which weights the cache has of this very commit, or some of them; it can have no other content by now."""
    from huggingface_hub import try_to_load_from_cache

    if model.revision is None or not COMMIT.fullmatch(model.revision):
        return None
    found = try_to_load_from_cache(model.repo, "config.json", revision=model.revision)
    return _kind_in(Path(found).parent) if isinstance(found, str) else None


def _kind_in(folder: Path) -> str | None:
    return next((kind for kind in WEIGHTS if any(folder.glob(kind))), None)


def _ask(model: HubModel) -> str:
    """Which weights there are; raises what is wrong with the hub, the model or the right to read it.

    To download without having asked would mean to try for minutes.
    """
    from huggingface_hub import HfApi

    about = HfApi().model_info(model.repo, revision=model.revision or MAIN, timeout=ANSWER_S)
    names = [file.rfilename for file in about.siblings or ()]
    return next((kind for kind in WEIGHTS if fnmatch.filter(names, kind)), WEIGHTS[0])


def _cached(model: HubModel) -> Path | None:
    """What the cache has of it, None where that is not all of it."""
    from huggingface_hub.errors import LocalEntryNotFoundError

    for kind in WEIGHTS:
        with suppress(LocalEntryNotFoundError, ValueError):
            folder = _snapshot(model, kind, local=True)
            if any(folder.glob(kind)):
                return folder
    return None


def _snapshot(model: HubModel, weights: str, *, local: bool) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils.tqdm import disable_progress_bars

    disable_progress_bars()
    files = ["*.json", weights]
    return Path(snapshot_download(model.repo, revision=model.revision, allow_patterns=files, local_files_only=local))


def _reason(model: HubModel, error: BaseException) -> str:
    """What is wrong and what to do, in one sentence."""
    from huggingface_hub import constants, errors

    if isinstance(error, errors.LocalEntryNotFoundError):  # what came of asking for it is behind
        error = error.__cause__ or error
    match error:
        case errors.OfflineModeIsEnabled():
            return f"HF_HUB_OFFLINE is set, and the hub's cache ({constants.HF_HUB_CACHE}) does not have it"
        case errors.HFValidationError():
            return "no such folder here, and no id that the hub could have"
        case errors.HfHubHTTPError(response=answer) if answer is not None and answer.status_code not in BUSY:
            return _refusal(model, error, answer.status_code)
        case OSError(strerror=str(said)):
            return f"it cannot be stored in {constants.HF_HUB_CACHE} ({said})"
    aside = "; download it elsewhere and give its folder, or name a mirror in HF_ENDPOINT"
    return f"no such folder here, and the hub at {constants.ENDPOINT} does not answer ({_kind(error)}){aside}"


def _refusal(model: HubModel, error: BaseException, status: int) -> str:
    """Why the hub will not give it; also to whom it would, as the hub tells strangers little."""
    from huggingface_hub import constants, errors, get_token

    hub = constants.ENDPOINT
    match error:
        case errors.GatedRepoError() if get_token():
            return f"the account of this token may not read it yet: ask for access on {hub}/{model.repo}"
        case errors.GatedRepoError():
            return f"it is for those who accept its terms: do so on {hub}/{model.repo}, and set HF_TOKEN"
        case errors.RepositoryNotFoundError():
            private = "this token may not read it" if get_token() else "it is private and needs HF_TOKEN"
            return f"no such folder here, and no such model on {hub}, unless {private}"
        case errors.RevisionNotFoundError():
            return f"{model.repo} has no branch, tag or commit {model.revision or MAIN} on {hub}"
    if status == 401:
        return f"{hub} does not know the token (HF_TOKEN, or that of `hf auth login`): make a new one"
    return f"{hub} refuses it ({status})"


def _kind(error: BaseException) -> str:
    answer = getattr(error, "response", None)
    return type(error).__name__ if answer is None else f"HTTP {answer.status_code}"
