"""Models by their names on the Hugging Face hub: fetched once, and only what is read.

    resolve("stable-diffusion-v1-5/stable-diffusion-v1-5")      the folder, in huggingface_hub's own cache (HF_HOME)

What is in the cache is used without asking the hub. Of each part one file of weights is fetched, .safetensors where there
is one: 4 GB of the 40 that lie in some of these repositories.
"""
from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path

from .._download import DownloadError, OfflineError
from ._parts import PARTS
from ._weights import choose, weight_map

# Withdrawn by their publishers (runwayml in August 2024, Stability AI in November 2025) -> copies that are kept since.
ALIASES = {
    "runwayml/stable-diffusion-v1-5": "stable-diffusion-v1-5/stable-diffusion-v1-5",
    "runwayml/stable-diffusion-inpainting": "stable-diffusion-v1-5/stable-diffusion-inpainting",
    **{f"stabilityai/stable-diffusion-{name}": f"sd2-community/stable-diffusion-{name}"
       for name in ("2", "2-base", "2-1", "2-1-base", "2-inpainting")},
}
HUB = "https://huggingface.co/"
# What is read besides weights.
DESCRIPTIONS = ("model_index.json", *(f"{part}/config.json" for part in PARTS), "scheduler/scheduler_config.json")
TOKENIZER = ("tokenizer/vocab.json", "tokenizer/merges.txt", "tokenizer/tokenizer_config.json",
             "tokenizer/special_tokens_map.json", "tokenizer/tokenizer.json")
_ID = re.compile(r"[\w.-]+/[\w.-]+")


def is_hub_id(name: str) -> bool:
    """Whether a name is of the form owner/model, with or without the hub's address in front."""
    return bool(_ID.fullmatch(name.removeprefix(HUB))) and not name.startswith((".", "/"))


def resolve(name: str, revision: str | None = None, variant: str | None = None) -> Path:
    """The folder of a model, fetched where it is not in the cache.

    Args:
        name: owner/model on the hub, its address, or a folder, which is returned as it is
        revision: branch, tag or commit
        variant: of the weights, e.g. "fp16", which takes half the download; by default full precision

    Raises:
        ValueError: `name` is neither.
        OfflineError: it is not in the cache and the hub cannot be reached, or may not be (HF_HUB_OFFLINE).
        DownloadError: the hub has no such model or revision, refuses it, or it lacks a part.
    """
    if Path(name).is_dir():
        return Path(name)
    if not is_hub_id(str(name)):
        raise ValueError(f"generator: {name!r:.120} is neither a folder nor owner/model on the Hugging Face hub, as "
                         "stable-diffusion-v1-5/stable-diffusion-v1-5 is")
    given = str(name).removeprefix(HUB)
    kept = ALIASES.get(given, given)
    for repo in dict.fromkeys((given, kept)):           # fetched before it was withdrawn, it is still in the cache
        if folder := _cached(repo, revision, variant):
            return folder
    return _fetch(kept, given, revision, variant)


def _cached(repo: str, revision: str | None, variant: str | None, exactly: bool = True) -> Path | None:
    """The folder in the cache where it has all parts, `exactly` in the precision that was asked for."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        # Asked for one file only: for all, it would find missing what was never wanted.
        folder = Path(snapshot_download(repo, revision=revision, local_files_only=True, allow_patterns=["unet/config.json"]))
    except HFValidationError as error:
        raise ValueError(f"generator: {repo!r:.120} is no name on the hub: {error}") from error
    except (LocalEntryNotFoundError, OSError):
        return None
    try:
        _, missing, kinds = _wanted(_files(folder), variant, lambda index: weight_map(folder / index))
    except ValueError:
        return None
    asked = variant in kinds if variant else kinds == {None}
    return folder if not missing and (asked or not exactly) else None


def _fetch(repo: str, given: str, revision: str | None, variant: str | None) -> Path:
    import huggingface_hub
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    where = f"{repo}{f' ({revision})' if revision else ''}{f', which keeps {given},' if given != repo else ''}"

    def index(path: str) -> list[str]:
        return weight_map(Path(huggingface_hub.hf_hub_download(repo, path, revision=revision)))

    try:
        names = huggingface_hub.HfApi().list_repo_files(repo, revision=revision)
        wanted, missing, _ = _wanted(names, variant, index)
        if missing:
            raise DownloadError(f"{HUB}{repo} is no Stable Diffusion in diffusers' layout: it has no {', no '.join(missing)}. "
                                "A single file (.safetensors) of it can be given by its path, once downloaded.")
        return Path(huggingface_hub.snapshot_download(repo, revision=revision, allow_patterns=wanted))
    except GatedRepoError as error:
        raise DownloadError(f"{HUB}{repo} is given only to those who accept its terms: do that on its page, then "
                            "`hf auth login`, then call again.") from error
    except RevisionNotFoundError as error:
        raise DownloadError(f"revision: {HUB}{repo} has no {revision!r:.80}; leave revision out for the newest.") from error
    except RepositoryNotFoundError as error:
        raise DownloadError(f"{HUB}{repo}: there is no such model, or it is private (then `hf auth login` first). Check the "
                            "name; a folder in diffusers' layout can be given by its path.") from error
    except HfHubHTTPError as error:
        raise DownloadError(f"{where} could not be fetched: {str(error)[:200]}. {_by_hand(repo, revision, variant)}") from error
    except DownloadError:
        raise
    except Exception as error:      # huggingface_hub lets the errors of its HTTP library through, which changed over time
        unreachable = isinstance(error, (ConnectionError, TimeoutError, LocalEntryNotFoundError))
        if not unreachable and not type(error).__module__.startswith(("httpx", "httpcore", "requests")):
            raise
        if folder := _cached(repo, revision, variant, exactly=False):
            return folder       # another precision, but all there is
        reason = str(error).splitlines()[0][:300] if str(error) else type(error).__name__
        raise OfflineError(f"{where} could not be fetched: {reason}. {_by_hand(repo, revision, variant)}") from error


def _wanted(names: Iterable[str], variant: str | None, index: Callable[[str], Iterable[str]],
            ) -> tuple[list[str], list[str], set[str | None]]:
    """(files to fetch, what is missing, variants) of a repository or folder that has the files `names`."""
    names, kinds = set(names), set()
    wanted, missing = [], [name for name in DESCRIPTIONS if name not in names and name != "model_index.json"]
    for part in PARTS:
        inside = {name[len(part) + 1:] for name in names if name.startswith(f"{part}/")}
        files, kind = choose(inside, part, variant, lambda name, part=part: index(f"{part}/{name}"))
        wanted += [f"{part}/{name}" for name in files]
        kinds.add(kind)
        missing += [] if files and inside.issuperset(files) else [f"{part}/ weights"]
    return [name for name in (*DESCRIPTIONS, *TOKENIZER) if name in names] + wanted, missing, kinds


def _files(folder: Path) -> list[str]:
    return [Path(root, name).relative_to(folder).as_posix() for root, _, names in os.walk(folder) for name in names]


def _by_hand(repo: str, revision: str | None, variant: str | None) -> str:
    dotted = f".{variant}" if variant else ""
    stems = {"text_encoder": "model"}
    weights = [f"{part}/{stems.get(part, 'diffusion_pytorch_model')}{dotted}.safetensors" for part in PARTS]
    files = "\n       ".join((*DESCRIPTIONS, *weights, *TOKENIZER[:2]))
    return (f"Fetch it by other means:\n  from {HUB}{repo}/tree/{revision or 'main'}\n  the files\n       {files}\n  into one "
            "folder, each in its subfolder, and give that folder's path instead of the name.")
