"""Where a model is: a path stays a path; a hub id is looked up in the hub's cache, and fetched if allowed."""

from __future__ import annotations

import os
import re

from retrieval.errors import MissingExtra, StorageError, UserError

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(?:/[\w.-]+)?(?:@[\w.-]+)?")
_WANTED = ["*.safetensors", "*.json", "*.txt", "*.model", "*.gguf"]  # nothing that is unpickled or run


def resolve(model: str, *, download: bool = False) -> str:
    """The directory (or GGUF file) of a model: a path, or a hub id `owner/name[@revision]`.

    A path never touches the network. A hub id is found in the local cache of huggingface_hub, and only
    with download=True fetched into it. Raises UserError, MissingExtra, StorageError.
    """
    if os.path.exists(model):
        return model
    if os.path.isabs(model) or model.startswith((".", "~")) or not _HUB_ID.fullmatch(model):
        raise UserError(f"no model directory {model!r}; give the directory that holds the model's files")
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
    except ImportError:
        raise MissingExtra("models", f"{model!r} is no directory, and reading it as a hub id") from None
    name, _, revision = model.partition("@")
    try:
        return str(
            snapshot_download(
                name, revision=revision or None, allow_patterns=_WANTED, local_files_only=not download
            )
        )
    except LocalEntryNotFoundError:
        if download:
            raise UserError(f"cannot reach the hub for {model!r}; is there a network?") from None
        raise UserError(
            f"no directory {model!r}, and no model of that name in the hub's cache; correct the path, or "
            "give --download to fetch the hub id"
        ) from None
    except HfHubHTTPError as error:
        raise UserError(f"the hub does not give {model!r}: {str(error).splitlines()[0]}") from None
    except OSError as error:
        raise StorageError(f"cannot fetch {model!r}: {error}") from None
