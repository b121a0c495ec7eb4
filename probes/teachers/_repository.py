"""Networks by their name on the Hugging Face hub or in a folder: which of their files are read, and what identifies them.

Only weights that cannot run anything are read: .safetensors, else a `pytorch_model.bin` through the restricted reader. Of a
repository nothing but these, its JSON files and its tokenizer is fetched, so that code which lies beside them never arrives.
"""
from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from generators._download import DownloadError, OfflineError
from generators._files import file_sha256
from generators.checkpoints import CheckpointError
from generators.stable_diffusion._hub import HUB, is_hub_id

_BLOB = re.compile(r"[0-9a-f]{64}")
_SHARD = re.compile(r"(.*)-\d{5}-of-\d{5}\.safetensors")


@dataclass(frozen=True)
class Layout:
    """What a kind of network consists of.

    Args:
        needed: files it cannot do without
        wanted: files that are taken where they are
        parts: subfolders with weights each; "" is the folder itself
    """

    needed: tuple[str, ...]
    wanted: tuple[str, ...] = ()
    parts: tuple[str, ...] = ("",)

    def choose(self, names: Iterable[str]) -> tuple[list[str], list[str]]:
        """(files to read, what is missing) of a repository or folder that has the files `names`."""
        names = set(names)
        files = [name for name in (*self.needed, *self.wanted) if name in names]
        missing = [name for name in self.needed if name not in names]
        for part in self.parts:
            found = _weights(names, f"{part}/" if part else "")
            files += found
            missing += [] if found else [f"{part}/ weights (.safetensors)" if part else "model.safetensors"]
        return files, missing


DEPTH_MODEL = Layout(("config.json",), ("preprocessor_config.json",))


def _weights(names: set[str], prefix: str) -> list[str]:
    for stem in ("model", "diffusion_pytorch_model"):
        if f"{prefix}{stem}.safetensors" in names:
            return [f"{prefix}{stem}.safetensors"]
        if (index := f"{prefix}{stem}.safetensors.index.json") in names:
            return [index, *sorted(name for name in names if (match := _SHARD.fullmatch(name)) and match[1] == prefix + stem)]
    return [f"{prefix}pytorch_model.bin"] if not prefix and "pytorch_model.bin" in names else []


@dataclass(frozen=True)
class Repository:
    """A network's files.

    Args:
        folder: where they lie
        files: that are read, relative to it
        revision: the commit on the hub, or ""
    """

    folder: Path
    files: tuple[str, ...]
    revision: str = ""

    def json(self, name: str) -> dict:
        """The content of a JSON file, {} where there is none. Raises CheckpointError for one that is damaged."""
        path = self.folder / name
        if not path.is_file():
            return {}
        try:
            content = json.loads(path.read_text())
        except ValueError as error:
            raise CheckpointError(f"{path} is no JSON ({str(error)[:100]}); fetch it again.") from error
        if not isinstance(content, dict):
            raise CheckpointError(f"{path} holds a {type(content).__name__}, expected an object; fetch it again.")
        return content

    def digests(self) -> dict[str, str]:
        """{file: sha256}, the same wherever the files lie."""
        return {name: digest(self.folder / name) for name in sorted(self.files)}

    @property
    def version(self) -> str:
        """The commit it was fetched at, or the first digits of a hash over its files."""
        return self.revision[:12] or hashlib.sha256(json.dumps(self.digests()).encode()).hexdigest()[:12]


def digest(path: Path) -> str:
    """The file's sha256; the hub's cache names large files by it, and what was once read is not read again."""
    real = path.resolve()
    if real.parent.name == "blobs" and _BLOB.fullmatch(real.name):
        return real.name
    stat = real.stat()
    return _digest(real, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=256)
def _digest(path: Path, size: int, changed: int) -> str:
    return file_sha256(path)


def find(name: str, layout: Layout, kind: str, revision: str | None = None) -> Repository:
    """The repository called `name`, fetched where it is not in the hub's cache (HF_HOME).

    Args:
        name: a folder, owner/model on the hub, or its address
        kind: what a teacher of a folder is called by, for messages: "transformers", "marigold"
        revision: branch, tag or commit

    Raises:
        ValueError: `name` is neither.
        CheckpointError: the folder lacks files.
        OfflineError: it is not in the cache and the hub cannot be reached, or may not be (HF_HUB_OFFLINE).
        DownloadError: the hub has no such model or revision, refuses it, or it lacks files.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        files, missing = layout.choose(_files(folder))
        if missing:
            raise CheckpointError(f"{folder} has no {', no '.join(missing)}; copy the whole repository there, or name another "
                                  f"folder as {kind}:FOLDER")
        return Repository(folder, tuple(files))
    if not is_hub_id(name):
        raise ValueError(f"teacher: {name!r:.120} is neither a folder nor owner/model on the Hugging Face hub; write "
                         f"{kind}:FOLDER or {kind}:OWNER/MODEL")
    repo = name.removeprefix(HUB)
    return _cached(repo, layout, revision) or _fetch(repo, layout, kind, revision)


def _cached(repo: str, layout: Layout, revision: str | None) -> Repository | None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        # Asked for one file only: for all, it would find missing what was never wanted.
        folder = Path(snapshot_download(repo, revision=revision, local_files_only=True, allow_patterns=[layout.needed[0]]))
    except (LocalEntryNotFoundError, OSError, ValueError):
        return None
    files, missing = layout.choose(_files(folder))
    return None if missing else Repository(folder, tuple(files), folder.name)


def _fetch(repo: str, layout: Layout, kind: str, revision: str | None) -> Repository:
    import huggingface_hub
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        files, missing = layout.choose(huggingface_hub.HfApi().list_repo_files(repo, revision=revision))
        if missing:
            raise DownloadError(f"{HUB}{repo} has no {', no '.join(missing)}: it is no network of the kind {kind}; name "
                                "another")
        folder = Path(huggingface_hub.snapshot_download(repo, revision=revision, allow_patterns=files))
        return Repository(folder, tuple(files), folder.name)
    except DownloadError:
        raise
    except GatedRepoError as error:
        raise DownloadError(f"{HUB}{repo} is given only to those who accept its terms: do that on its page, then "
                            "`hf auth login`, then call again.") from error
    except RevisionNotFoundError as error:
        raise DownloadError(f"revision: {HUB}{repo} has no {revision!r:.80}; leave revision out for the newest.") from error
    except RepositoryNotFoundError as error:
        raise DownloadError(f"{HUB}{repo}: there is no such model, or it is private (then `hf auth login` first). Check the "
                            f"name; a folder can be given as {kind}:FOLDER.") from error
    except HfHubHTTPError as error:
        raise DownloadError(f"{HUB}{repo} could not be fetched: {str(error)[:200]}. "
                            f"{_by_hand(repo, layout, kind, revision)}") from error
    except Exception as error:      # huggingface_hub lets the errors of its HTTP library through, which changed over time
        unreachable = isinstance(error, (ConnectionError, TimeoutError, LocalEntryNotFoundError))
        if not unreachable and not type(error).__module__.startswith(("httpx", "httpcore", "requests")):
            raise
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise OfflineError(f"{HUB}{repo} could not be fetched: {reason}. {_by_hand(repo, layout, kind, revision)}") from error


def _by_hand(repo: str, layout: Layout, kind: str, revision: str | None) -> str:
    weights = [f"{part}/*.safetensors" if part else "model.safetensors" for part in layout.parts]
    files = "\n    ".join((*layout.needed, *weights, *layout.wanted))
    return (f"Fetch it by other means:\n  from {HUB}{repo}/tree/{revision or 'main'}\n  the files\n    {files}\n  into one "
            f"folder, each in its subfolder, and name the teacher {kind}:FOLDER.")


def _files(folder: Path) -> Sequence[str]:
    return [Path(root, name).relative_to(folder).as_posix() for root, _, names in os.walk(folder) for name in names]
