"""Repositories on the Hugging Face hub: what of one is in the cache, what is fetched, and what is said where that fails.

Whoever reads a repository chooses its files; nothing else of it is fetched, and code that lies beside them never arrives. What
is in huggingface_hub's own cache (HF_HOME) is used without asking the hub.
"""
from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ._download import DownloadError, OfflineError

HUB = "https://huggingface.co/"
# What a CLIP tokenizer is read from, in either of its forms.
TOKENIZER = ("tokenizer/vocab.json", "tokenizer/merges.txt", "tokenizer/tokenizer_config.json",
             "tokenizer/special_tokens_map.json", "tokenizer/tokenizer.json")
_ID = re.compile(r"[\w.-]+/[\w.-]+")


def is_hub_id(name: str) -> bool:
    """Whether a name is of the form owner/model, with or without the hub's address in front."""
    return bool(_ID.fullmatch(name.removeprefix(HUB))) and not name.startswith((".", "/"))


def cached(repo: str, file: str, revision: str | None = None, argument: str = "name") -> Path | None:
    """The folder of a repository in the cache, None where that has nothing of it.

    Args:
        repo: owner/model
        file: one that every repository of its kind has; whether the others are there is the caller's to see
        revision: branch, tag or commit
        argument: what the name was given as, for messages

    Raises ValueError for a name that the hub does not allow.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        # Asked for one file only: for all, it would find missing what was never wanted.
        return Path(snapshot_download(repo, revision=revision, local_files_only=True, allow_patterns=[file]))
    except HFValidationError as error:
        raise ValueError(f"{argument}: {repo!r:.120} is no name on the hub: {error}") from error
    except (LocalEntryNotFoundError, OSError):
        return None


def fetch(repo: str, choose: Callable[[Sequence[str]], list[str]], *, revision: str | None, folder: str, by_hand: str,
          where: str = "", otherwise: Callable[[], Path | None] = lambda: None) -> Path:
    """The folder of a repository after `choose`, given the names of all its files, has said which are wanted.

    Args:
        repo: owner/model
        choose: raises DownloadError where the repository lacks what it needs
        revision: branch, tag or commit
        folder: how a folder is given instead, for messages: "a folder can be given by its path"
        by_hand: where to fetch what without this program, and where to put it
        where: what could not be fetched, where that is more than the repository's name
        otherwise: what serves where the hub cannot be reached

    Raises:
        OfflineError: the hub cannot be reached, or may not be (HF_HUB_OFFLINE).
        DownloadError: the hub has no such model or revision, or refuses it.
    """
    import huggingface_hub
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    where = where or f"{HUB}{repo}"
    try:
        files = choose(huggingface_hub.HfApi().list_repo_files(repo, revision=revision))
        return Path(huggingface_hub.snapshot_download(repo, revision=revision, allow_patterns=files))
    except DownloadError:
        raise
    except GatedRepoError as error:
        raise DownloadError(f"{HUB}{repo} is given only to those who accept its terms: do that on its page, then "
                            "`hf auth login`, then call again.") from error
    except RevisionNotFoundError as error:
        raise DownloadError(f"revision: {HUB}{repo} has no {revision!r:.80}; leave revision out for the newest.") from error
    except RepositoryNotFoundError as error:
        raise DownloadError(f"{HUB}{repo}: there is no such model, or it is private (then `hf auth login` first). Check the "
                            f"name; {folder}.") from error
    except HfHubHTTPError as error:
        raise DownloadError(f"{where} could not be fetched: {str(error)[:200]}. {by_hand}") from error
    except Exception as error:      # huggingface_hub lets the errors of its HTTP library through, which changed over time
        unreachable = isinstance(error, (ConnectionError, TimeoutError, LocalEntryNotFoundError))
        if not unreachable and not type(error).__module__.startswith(("httpx", "httpcore", "requests")):
            raise
        if found := otherwise():
            return found
        reason = str(error).splitlines()[0][:300] if str(error) else type(error).__name__
        raise OfflineError(f"{where} could not be fetched: {reason}. {by_hand}") from error


def listing(folder: Path) -> list[str]:
    """All files below a folder, relative to it."""
    return [Path(root, name).relative_to(folder).as_posix() for root, _, names in os.walk(folder) for name in names]


@contextmanager
def quiet() -> Iterator[None]:
    """Without the bars and the list of weights that transformers prints: what matters of it is an error here."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
