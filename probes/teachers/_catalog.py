"""Published networks that can teach, by name: where each lies, under which licence, and what its depth means.

Licences are those of the weights, as their pages on the hub or their repositories state them. Nothing here imports a network.
"""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from typing import Any

from ._base import Teacher

MIT, APACHE, NC, RAIL = "MIT", "Apache-2.0", "CC-BY-NC-4.0", "OpenRAIL++-M"
OMNIDATA = "Omnidata: non-commercial research and education"


@dataclass(frozen=True)
class Entry:
    """A published network.

    Args:
        kind: "transformers", "zoedepth", "marigold" or "omnidata"
        where: its id on the hub
        intrinsics: what it can label
        meaning: of its depth; "" without any
        options: of its adapter
    """

    kind: str
    where: str
    intrinsics: tuple[str, ...]
    licence: str
    source: str
    meaning: str = ""
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def about(self) -> str:
        """One line for lists."""
        unit = {"": "", "metric": " in metres", "relative": " up to scale and shift", "disparity": " as disparity"}
        what = ", ".join(name + unit[self.meaning] if name == "depth" else name for name in self.intrinsics)
        return f"{what} of photographs; {self.where or 'Zenodo'}, {self.licence}"


def _depth_anything(name: str, licence: str, meaning: str = "disparity") -> Entry:
    where = f"depth-anything/Depth-Anything-V2-{name}-hf"
    return Entry("transformers", where, ("depth",), licence, "arXiv 2406.09414", meaning)


def _dinov2(name: str, far: float) -> Entry:
    ends = dict(near=0.25 if far <= 20 else 1.0, far=far)
    return Entry("transformers", f"facebook/dpt-dinov2-{name}", ("depth",), APACHE, "arXiv 2304.07193", "metric", ends)


def _zoedepth(name: str) -> Entry:
    return Entry("zoedepth", f"Intel/zoedepth-{name}", ("depth",), MIT, "arXiv 2302.12288", "metric")


def _marigold(name: str, licence: str, intrinsics: tuple[str, ...], meaning: str = "") -> Entry:
    source = "arXiv 2312.02145" if licence == APACHE else "arXiv 2505.09358"
    return Entry("marigold", f"prs-eth/marigold-{name}", intrinsics, licence, source, meaning)


CATALOG: dict[str, Entry] = {
    "omnidata": Entry("omnidata", "", ("normal", "depth"), OMNIDATA, "arXiv 2203.01441", "relative"),
    "zoedepth-nyu": _zoedepth("nyu"),
    "zoedepth-kitti": _zoedepth("kitti"),
    "zoedepth-nk": _zoedepth("nyu-kitti"),
    "depth-anything-v2-small": _depth_anything("Small", APACHE),
    "depth-anything-v2-base": _depth_anything("Base", NC),
    "depth-anything-v2-large": _depth_anything("Large", NC),
    "depth-anything-v2-metric-indoor-small": _depth_anything("Metric-Indoor-Small", APACHE, "metric"),
    "depth-anything-v2-metric-indoor-large": _depth_anything("Metric-Indoor-Large", NC, "metric"),
    "depth-anything-v2-metric-outdoor-small": _depth_anything("Metric-Outdoor-Small", APACHE, "metric"),
    "depth-anything-v2-metric-outdoor-large": _depth_anything("Metric-Outdoor-Large", NC, "metric"),
    "dpt-dinov2-small-nyu": _dinov2("small-nyu", 10.0),
    "dpt-dinov2-base-nyu": _dinov2("base-nyu", 10.0),
    "dpt-dinov2-small-kitti": _dinov2("small-kitti", 80.0),
    "midas-dpt-large": Entry("transformers", "Intel/dpt-large", ("depth",), APACHE, "arXiv 2103.13413", "disparity"),
    "midas-dpt-hybrid": Entry("transformers", "Intel/dpt-hybrid-midas", ("depth",), APACHE, "arXiv 2103.13413", "disparity"),
    "depth-pro": Entry("transformers", "apple/DepthPro-hf", ("depth",), "Apple AMLR (research)", "arXiv 2410.02073", "metric"),
    "marigold-depth": _marigold("depth-v1-1", RAIL, ("depth",), "relative"),
    "marigold-depth-v1-0": _marigold("depth-v1-0", APACHE, ("depth",), "relative"),
    "marigold-normals": _marigold("normals-v1-1", RAIL, ("normal",)),
    "marigold-appearance": _marigold("iid-appearance-v1-1", RAIL, ("albedo", "shading")),
    "marigold-lighting": _marigold("iid-lighting-v1-1", RAIL, ("albedo", "shading")),
}
_MODULES = {"transformers": ("._transformers_depth", "TransformersDepthTeacher"), "zoedepth": ("._zoedepth", "ZoeDepthTeacher"),
            "marigold": ("._marigold", "MarigoldTeacher"), "omnidata": ("._omnidata", "OmnidataTeacher")}


def build(name: str) -> Teacher:
    """A network of the catalogue. Raises what its adapter does where the files cannot be had."""
    entry = CATALOG[name]
    made = _adapter(entry.kind)
    if entry.kind == "omnidata":
        return made(name=name, **entry.options)
    said = dict(meaning=entry.meaning) if entry.kind == "transformers" else {}
    return made(entry.where, name=name, licence=entry.licence, source=entry.source, **said, **entry.options)


def _adapter(kind: str) -> Any:
    module, name = _MODULES[kind]
    return getattr(import_module(module, __package__), name)


def _by_argument(kind: str) -> Callable[..., Teacher]:
    def build_from(argument: str, data: Any = None) -> Teacher:
        return _adapter(kind).from_argument(argument)

    return build_from


# KIND:ARGUMENT -> (factory(argument, data), one line about it); options follow a question mark: "zoedepth:FOLDER?flip=false".
PREFIXES: dict[str, tuple[Callable[..., Teacher], str]] = {
    "transformers": (_by_argument("transformers"), "depth by any depth network of transformers: an id on the hub, or a folder"),
    "zoedepth": (_by_argument("zoedepth"), "depth in metres by a ZoeDepth: an id on the hub, or a folder"),
    "marigold": (_by_argument("marigold"), "depth, normal, or albedo and shading by a Marigold: an id on the hub, or a folder"),
    "omnidata": (_by_argument("omnidata"), "normal or depth by an Omnidata-v2 checkpoint: a .ckpt or .safetensors"),
}


def register(teacher: Callable[..., None], kind: Callable[..., None] | None = None) -> None:
    """Tells `register_teacher`, and `register_teacher_kind` where given, of all that is here."""

    for name, entry in CATALOG.items():
        teacher(name, partial(build, name), entry.about)
    for name, (factory, about) in PREFIXES.items() if kind is not None else ():
        kind(name, factory, about)
