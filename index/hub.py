"""Where a model is: a path, a name that comes with the package, or a hub id, looked up in the hub's cache.

fetch() alone connects.
"""

from __future__ import annotations

import os
import re

from retrieval.errors import MissingExtra, StorageError, UserError

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(?:/[\w.-]+)?(?:@[\w.-]+)?")
SHIPPED = ("smith",)  # dense encoders that come with the package, by name
_WANTED = ["*.safetensors", "*.json", "*.txt", "*.model", "*.gguf"]  # nothing that is unpickled or run


def resolve(model: str) -> str:
    """The directory (or GGUF file) of a model: a path, a name of SHIPPED, or a hub id fetched before.

    Never touches the network. Raises UserError, MissingExtra.
    """
    if os.path.exists(model):
        return model
    if model in SHIPPED:
        from retrieval.index.model_files import shipped

        return shipped(model)
    if not is_hub_id(model):
        raise UserError(f"no model directory {model!r}; give the directory that holds the model's files")
    found = _snapshot(model, local=True)
    if found is None:
        raise UserError(
            f"no directory {model!r}, and no model of that name was fetched; correct the path, or fetch the "
            f"hub id: retrieve model fetch {model}"
        )
    return found


def fetch(model: str) -> str:
    """Fetches `owner/name[@revision]` into the hub's cache, without what would be unpickled or run.

    Returns its directory. Raises UserError for what is no hub id or not there, StorageError without network.
    """
    if not is_hub_id(model):
        raise UserError(f"{model!r} is no hub id; write it as owner/name, or owner/name@revision")
    found = _snapshot(model, local=False)
    if found is None:
        raise StorageError(f"cannot reach the hub for {model!r}; is there a network?")
    return found


def is_hub_id(model: str) -> bool:
    """Whether a text can name a model of the hub: it is no absolute path, and none that begins with a dot."""
    return not os.path.isabs(model) and _HUB_ID.fullmatch(model) is not None


def _snapshot(model: str, *, local: bool) -> str | None:
    """The cached directory of a hub id; None where it is not in the cache, or the hub cannot be reached."""
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
    except ImportError:
        raise MissingExtra("models", f"{model!r} is no directory, and reading it as a hub id") from None
    name, _, revision = model.partition("@")
    try:
        return str(
            snapshot_download(name, revision=revision or None, allow_patterns=_WANTED, local_files_only=local)
        )
    except LocalEntryNotFoundError:
        return None
    except HFValidationError as error:
        raise UserError(f"{model!r} is no hub id: {str(error).splitlines()[0]}") from None
    except HfHubHTTPError as error:
        raise UserError(f"the hub does not give {model!r}: {str(error).splitlines()[0]}") from None
    except OSError as error:
        raise StorageError(f"cannot fetch {model!r}: {error}") from None
