"""A network as a folder of three files, and its way to the Hugging Face Hub and back."""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType

from torch import nn

from segcore.errors import InputError, check
from segcore.files import atomic_write, make_folder
from segcore.hub.card import MARK, render
from segcore.hub.origin import Origin
from segcore.recipe.file import RecipeFile
from segcore.weights.files import save_weights
from segcore.weights.header import PRETRAINED, SUFFIX, find_weights

CONFIG, CARD = "config.json", "README.md"
_REPOSITORY = re.compile(r"([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")
log = logging.getLogger(__name__)


def write_repository(folder: Path, model: nn.Module, origin: Origin, name: str = "user/name") -> Path:
    """Write weights, recipe and model card into a folder, each whole or not at all; returns the folder.

    Paths of this machine that the recipe holds are left out.

    Args:
        name: of the repository, for the card.

    Raises:
        InputError: if it cannot be written.
    """
    origin = origin.without_paths()
    meta = origin.meta
    make_folder(folder, "folder")
    save_weights(folder / PRETRAINED, model.state_dict(), meta)
    document = RecipeFile(paper=meta.paper, name=meta.recipe_name, versions=meta.versions, recipe=meta.recipe)
    texts = {CONFIG: document.text()}
    card = folder / CARD
    if card.exists() and MARK not in card.read_text("utf-8", errors="replace"):
        log.warning("%s is not ours and stays as it is", card)
    else:
        texts[CARD] = render(origin, name, sum(parameter.numel() for parameter in model.parameters()))
    for name, text in texts.items():
        with atomic_write(folder / name) as file:
            file.write(text.encode())
    return folder


def locate(name: str | Path) -> Path:
    """Return the weights file that a name means, downloaded where need be.

    Args:
        name: a file; a folder of `write_repository` or a work directory; or user/name[@revision] of the hub. What
            exists on this machine is meant first.

    Raises:
        InputError: if there is nothing of that name, or no weights in it.
    """
    path = Path(name)
    if path.is_dir():
        return find_weights(path)
    if path.is_file():
        return path
    named = _REPOSITORY.fullmatch(str(name))
    check(
        named is not None and path.suffix not in (SUFFIX, ".pth", ".pt"),
        f"{name} is neither a file, nor a folder, nor a repository of the form user/name[@revision]",
    )
    assert named is not None
    return _download(named[1], named[2])


def _download(repository: str, revision: str | None) -> Path:
    hub = _library()
    with _explained(repository):
        hub.hf_hub_download(repository, CONFIG, revision=revision)  # the hub counts downloads by this file
        return Path(hub.hf_hub_download(repository, PRETRAINED, revision=revision))


def upload(repository: str, write: Callable[[Path], object], *, private: bool = False) -> str:
    """Upload a folder as one commit, into a repository that is made where it does not exist; returns its address.

    Args:
        write: writes the folder; a model card that the repository has lies in it already.

    Raises:
        InputError: if the hub cannot be reached or refuses.
    """
    hub = _library()
    with TemporaryDirectory() as folder, _explained(repository):
        address = hub.create_repo(repository, private=private, exist_ok=True)
        if hub.file_exists(repository, CARD):
            shutil.copy(hub.hf_hub_download(repository, CARD), folder)
        write(Path(folder))
        hub.upload_folder(repo_id=repository, folder_path=folder, commit_message="Weights of segcore")
    return str(address)


def _library() -> ModuleType:
    try:
        import huggingface_hub
    except ImportError as error:
        raise InputError(f"the hub needs huggingface_hub ({error}); pip install 'segcore[hub]'") from error
    return huggingface_hub


@contextmanager
def _explained(repository: str) -> Iterator[None]:
    """Make one sentence of what the hub's library raises."""
    from huggingface_hub import errors

    login = "it wants to know who you are: `hf auth login`"
    sentences = (
        (errors.RepositoryNotFoundError, "there is no such repository, or it is private: `hf auth login` opens yours"),
        (errors.RevisionNotFoundError, "it has no such revision"),
        (
            errors.LocalEntryNotFoundError,
            "it is not in the cache, the hub was not reached, and no folder here is called so",
        ),
        (errors.EntryNotFoundError, f"it has no {CONFIG} and {PRETRAINED}: save_pretrained did not make it"),
        (errors.OfflineModeIsEnabled, "HF_HUB_OFFLINE is set"),
        (errors.LocalTokenNotFoundError, login),
    )
    try:
        yield
    # the bases of its error are the network library's, whichever that is, and OSError
    except (  # pyright: ignore[reportGeneralTypeIssues]
        OSError,
        errors.HFValidationError,
        *errors.HfHubHTTPError.__bases__,
    ) as error:
        said = str(error).strip().partition("\n")[0] or type(error).__name__
        status = getattr(getattr(error, "response", None), "status_code", 0)
        said = login if status in (401, 403) else said
        reason = next((words for kind, words in sentences if isinstance(error, kind)), said)
        raise InputError(f"{repository} on the hub: {reason}") from error
