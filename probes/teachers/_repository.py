"""Networks by their name on the Hugging Face hub or in a folder: which of their files are read, and what identifies them.

Only weights that cannot run anything are read: .safetensors, else a `pytorch_model.bin` through the restricted reader. Of a
repository nothing but these, its JSON files and its tokenizer is fetched, so that code which lies beside them never arrives.
"""
from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from generators import _hub
from generators._download import DownloadError
from generators._hub import HUB, is_hub_id, listing
from generators.checkpoints import CheckpointError
from generators.checkpoints._torch_file import check_claims, load_torch
from generators.stable_diffusion._parts import read_json
from generators.stable_diffusion._weights import read_tensors, weight_map

from ._digest import digest

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


# How images are prepared decides the labels as much as the weights do: without that file there is no network to speak of.
DEPTH_MODEL = Layout(("config.json", "preprocessor_config.json"))


def _weights(names: set[str], prefix: str) -> list[str]:
    stem = f"{prefix}{'model' if prefix in ('', 'text_encoder/') else 'diffusion_pytorch_model'}"
    if f"{stem}.safetensors" in names:
        return [f"{stem}.safetensors"]
    if (index := f"{stem}.safetensors.index.json") in names:
        return [index, *sorted(name for name in names if (match := _SHARD.fullmatch(name)) and match[1] == stem)]
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
        """The content of a JSON file. Raises CheckpointError for one that is missing or damaged."""
        return read_json(self.folder / name)

    def state(self) -> dict[str, Tensor]:
        """The weights of a network that lies in the folder itself: exactly those of `files`, whatever lies beside them.

        Raises CheckpointError where they are damaged or lacking, UnsafePickleError where a .bin asks for what no weights need.
        """
        first = self.folder / next(name for name in self.files if name.endswith((".safetensors", ".index.json", ".bin")))
        if first.suffix == ".bin":
            state = load_torch(first, "depth network", "Ask its publisher for .safetensors.")
            found = state.items() if isinstance(state, dict) else ()
            state = {name: value for name, value in found if isinstance(value, Tensor)}
        else:
            state = {}
            for file in self.shards(first) if first.suffix == ".json" else [first]:
                state |= read_tensors(file)
        check_claims(state, str(first))
        return state

    def shards(self, index: Path) -> list[Path]:
        """The files that an index lists. Raises CheckpointError where one is not among `files`."""
        found = [index.with_name(name) for name in weight_map(index)]
        if lacking := [file.name for file in found if file.relative_to(self.folder).as_posix() not in self.files]:
            raise CheckpointError(f"{index} lists {', '.join(lacking[:4])}, which is not there or is no part of these weights; "
                                  "fetch the repository again, whole")
        return found

    def digests(self) -> dict[str, str]:
        """{file: sha256}, the same wherever the files lie."""
        return {name: digest(self.folder / name) for name in sorted(self.files)}

    @property
    def version(self) -> str:
        """The commit it was fetched at, or the first digits of a hash over its files."""
        return self.revision[:12] or hashlib.sha256(json.dumps(self.digests()).encode()).hexdigest()[:12]


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
        files, missing = layout.choose(listing(folder))
        if missing:
            raise CheckpointError(f"{folder} has no {', no '.join(missing)}; copy what is missing there from the repository "
                                  f"that the network came from, or name another folder as {kind}:FOLDER")
        return Repository(folder, tuple(files))
    if not is_hub_id(name):
        raise ValueError(f"teacher: {name!r:.120} is neither a folder nor owner/model on the Hugging Face hub; write "
                         f"{kind}:FOLDER or {kind}:OWNER/MODEL")
    repo = name.removeprefix(HUB)
    return _cached(repo, layout, revision) or _fetch(repo, layout, kind, revision)


def _cached(repo: str, layout: Layout, revision: str | None) -> Repository | None:
    folder = _hub.cached(repo, layout.needed[0], revision, "teacher")
    if folder is None:
        return None
    files, missing = layout.choose(listing(folder))
    return None if missing else Repository(folder, tuple(files), folder.name)


def _fetch(repo: str, layout: Layout, kind: str, revision: str | None) -> Repository:
    def choose(names: Sequence[str]) -> list[str]:
        files, missing = layout.choose(names)
        if missing:
            raise DownloadError(f"{HUB}{repo} has no {', no '.join(missing)}: it is no network of the kind {kind}; name "
                                "another")
        return files

    folder = _hub.fetch(repo, choose, revision=revision, folder=f"a folder can be given as {kind}:FOLDER",
                        by_hand=_by_hand(repo, layout, kind, revision))
    return Repository(folder, tuple(layout.choose(listing(folder))[0]), folder.name)


def _by_hand(repo: str, layout: Layout, kind: str, revision: str | None) -> str:
    weights = [f"{part}/*.safetensors" if part else "model.safetensors" for part in layout.parts]
    files = "\n    ".join((*layout.needed, *weights, *layout.wanted))
    return (f"Fetch it by other means:\n  from {HUB}{repo}/tree/{revision or 'main'}\n  the files\n    {files}\n  into one "
            f"folder, each in its subfolder, and name the teacher {kind}:FOLDER.")
