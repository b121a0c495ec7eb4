"""The layouts that come with the package, each registered without importing its module before it is used."""
from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from inspect import Parameter, Signature
from pathlib import Path

from ._base import Data, Reader, register_reader

# kind -> (module, class, whether a path alone tells, options, about); the specific layouts first: the first that recognises a
# path reads it
LAYOUTS = {
    "diode": ("_diode", "Diode", True, ("split", "scenes", "distance"),
              "DIODE: laser-scanned depth and normals; split=val|train, scenes=indoors|outdoor"),
    "nyu": ("_nyu", "Nyu", True, ("split", "depth"),
            "NYUv2's labelled .mat: Kinect depth of rooms; split=test|train|all, depth=filled|raw"),
    "hypersim": ("_hypersim", "Hypersim", True, ("split", "image"),
                 "Hypersim: rendered rooms, every map exact; split=train|val|test|all"),
    "manifest": ("_manifest", "Manifest", True, ("split", "frame", "depth_scale", "depth_meaning"),
                 "a .csv or .parquet of paths: image, normal, depth, albedo, shading, mask, group; split=…"),
    "maps": ("_beside", "Beside", True, ("maps", "frame", "depth_scale", "depth_meaning"),
             "a folder of images with maps beside them (photo-normal.npy, …); maps=FOLDER, frame=opengl, depth_scale=1000"),
    "hf": ("_huggingface", "HuggingFace", False,
           ("split", "config", "image", "normal", "depth", "albedo", "shading", "frame", "depth_scale", "depth_meaning",
            "revision", "streaming", "count"),
            "a dataset of the Hugging Face hub, hf:OWNER/NAME; split=…, depth=COLUMN, streaming=true"),
    "images": ("_folder", "ImageFolder", True, (), "the images in a folder of yours, nothing known about them"),
}


def register() -> None:
    """Registers all of LAYOUTS."""
    for kind, (module, name, by_path, options, about) in LAYOUTS.items():
        register_reader(kind, Reader(_opener(module, name, options), about, _recogniser(module) if by_path else _never))


def _opener(module: str, name: str, options: tuple[str, ...]) -> Callable[..., Data]:
    def open_(path: Path, **given: str) -> Data:
        return getattr(import_module(f"{__package__}.{module}"), name)(path, **given)

    open_.__signature__ = Signature([Parameter("path", Parameter.POSITIONAL_OR_KEYWORD),      # where get_data looks for options
                                     *(Parameter(option, Parameter.KEYWORD_ONLY) for option in options)])
    return open_


def _recogniser(module: str) -> Callable[[Path], bool]:
    return lambda path: import_module(f"{__package__}.{module}").recognises(path)


def _never(path: Path) -> bool:
    return False
