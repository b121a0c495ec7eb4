"""Omnidata-v2: surface normals and affine-invariant depth of any photograph, the paper's teacher for both.

Kar et al. 2022 ("3D Common Corruptions and Data Augmentation", arXiv 2203.01441) trained these networks, DPT-hybrids, on the
Omnidata set of Eftekhar et al. 2021 (arXiv 2110.04994). What goes in and comes out is that of the release's demo
(EPFL-VILAB/omnidata, `omnidata_tools/torch/demo.py`): 384 pixels on the shorter side; for normals RGB in [0, 1], for depth in
[-1, 1]; the output clamped to [0, 1]. Normals are twice that minus one, in our frame as they are; depth grows with distance and
is up to a scale and a shift. The demo cuts out the middle square; here the whole picture goes in.
"""
from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from generators._download import cached_path, fetch
from generators.checkpoints import CheckpointError
from generators.checkpoints._torch_file import check_claims, load_torch

from ._catalog import OMNIDATA
from ._digest import digest
from ._dpt_hybrid import UNUSED, DPTHybrid
from ._network import ENCODINGS, LARGEST, NetworkTeacher, located, resized, unit_image, unit_normals, whole

SOURCE = "arXiv 2203.01441; https://github.com/EPFL-VILAB/omnidata"
# The authors' deposit of December 2023; files of a Zenodo record never change.
URLS = {intrinsic: f"https://zenodo.org/records/10447888/files/omnidata_dpt_{intrinsic}_v2.ckpt"
        for intrinsic in ("normal", "depth")}
CHANNELS = {3: "normal", 1: "depth"}
MULTIPLE = 32
LONGEST = 3         # times the shorter side: beyond, a panorama is squeezed rather than taken at any price
_HEAD = "scratch.output_conv.4.weight"


class OmnidataTeacher(NetworkTeacher):
    """Unit normals [N, 3, H, W] in our frame, and relative depth [N, 1, H, W] in [0, 1].

    Args:
        file: a checkpoint of one of them, .ckpt or .safetensors; what it predicts is read off its head. Without one both are
            fetched from where they were published, each when it is first needed; labels are then known by the file's address,
            or where somebody put it into the cache by hand, by its content
        resolution: of the shorter side in the network
        dtype: "float32", "bfloat16" or "float16"

    Raises:
        CheckpointError: the file is no such network.
        DownloadError: the file could not be fetched; the message says where to put it.
    """

    licence, source, resolution, batch = OMNIDATA, SOURCE, 384, 8
    kind, choices = "omnidata", dict(resolution=int, dtype=str)

    def __init__(self, file: str | Path | None = None, resolution: int = 384, dtype: str = "float32", name: str = "omnidata"):
        whole("resolution", resolution, MULTIPLE, LARGEST)
        super().__init__(name, dict(resolution=resolution), dtype)
        self.resolution, self.file = resolution, Path(located(file)) if file is not None else None
        if self.file is None:
            self.intrinsics, self.version = ("normal", "depth"), "v2"
        else:
            if not self.file.is_file():
                raise ValueError(f"teacher: there is no file {self.file}; fetch {URLS['normal']} or {URLS['depth']} and give "
                                 "its path as omnidata:FILE")
            self._state = read_omnidata(self.file)
            self.intrinsics = (CHANNELS[len(self._state[_HEAD])],)
            self.version = digest(self.file)[:12]

    def _digests(self) -> dict[str, str]:
        if self.file is not None:
            return {"weights": digest(self.file)}
        # The published ones go by their address, so that labels stay good when the files come, and go: a record of Zenodo
        # never changes, and `fetch` holds a file to the hash of its download. Of what was put there by hand nobody knows that.
        return {which: digest(file) if (file := by_hand(url)) else url for which, url in URLS.items()}

    def _load(self, which: str) -> DPTHybrid:
        if self.file is None:
            state = read_omnidata(by_hand(URLS[which]) or fetch(URLS[which]))
            if CHANNELS[len(state[_HEAD])] != which:
                raise CheckpointError(f"{cached_path(URLS[which])} predicts {CHANNELS[len(state[_HEAD])]}, expected {which}; "
                                      "delete it and call again")
        else:
            state, self._state = self._state, {}
        return build(state)

    @torch.no_grad()
    def label(self, image: Tensor, intrinsic: str) -> Tensor:
        self._check(intrinsic)
        network = self.network(intrinsic)
        size = image.shape[-2:]
        x = resized(unit_image(image, self.device), inner_size(*size, self.resolution), "bilinear")
        if intrinsic == "depth":
            x = x * 2 - 1
        out = network(x.to(self.dtype)).float().clamp(0, 1)
        if intrinsic == "depth":
            return resized(out, size)
        return unit_normals(resized(out * 2 - 1, size, "bilinear"))

    def options(self, intrinsic: str) -> dict:
        return dict(ENCODINGS["relative"]) if intrinsic == "depth" else {}

    def meaning(self, intrinsic: str) -> str:
        return "relative" if intrinsic == "depth" else ""


def by_hand(url: str) -> Path | None:
    """The file at the place of `url` in the cache, where it did not come from there: `fetch` notes the hash of what it brings
    beside it."""
    path = cached_path(url)
    return path if path.is_file() and not path.with_name(f"{path.name}.sha256").exists() else None


def inner_size(height: int, width: int, shorter: int) -> tuple[int, int]:
    """Height and width in the network: the shorter side as asked for, the other in proportion, both multiples of 32."""
    scale = shorter / min(height, width)
    longest = LONGEST * shorter

    def fit(side: int) -> int:
        return max(round(min(side * scale, longest) / MULTIPLE), 1) * MULTIPLE

    return fit(height), fit(width)


def read_omnidata(path: Path) -> dict[str, Tensor]:
    """The state of a DPT-hybrid in the names of the release, from a Lightning .ckpt or a .safetensors; nothing in it is run.

    Raises CheckpointError for another network, UnsafePickleError for a pickle that asks for what no weights need.
    """
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            content = load_file(path)
        except SafetensorError as error:
            raise CheckpointError(f"{path} is truncated or damaged ({error}); download it again.") from error
    else:
        content = load_torch(path, "Omnidata checkpoint")
    state = content.get("state_dict", content) if isinstance(content, dict) else {}
    state = {name.removeprefix("model."): value for name, value in state.items() if isinstance(value, Tensor)}
    if len(state.get(_HEAD, ())) not in CHANNELS:
        raise CheckpointError(f"{path} is no Omnidata-v2 network: it has no {_HEAD} of 1 or 3 channels; fetch "
                              f"{URLS['normal']} or {URLS['depth']}")
    check_claims(state, str(path))
    return {name: value for name, value in state.items() if not name.startswith(UNUSED)}


def build(state: dict[str, Tensor]) -> DPTHybrid:
    """The network of a state, whose sizes are read off it. Raises CheckpointError where they do not fit together."""
    try:
        network = DPTHybrid(**_sizes(state))
        network.load_state_dict(state)
    except (KeyError, RuntimeError, ValueError, ZeroDivisionError) as error:
        raise CheckpointError(f"omnidata: these weights are no DPT-hybrid ({str(error)[:300]}); fetch {URLS['normal']} "
                              f"or {URLS['depth']}") from error
    return network


def _sizes(state: dict[str, Tensor]) -> dict:
    vit = "pretrained.model."
    tokens, width = state[f"{vit}pos_embed"].shape[1:]
    depth = _count(state, f"{vit}blocks.")
    stages = _count(state, f"{vit}patch_embed.backbone.stages.")
    depths = tuple(_count(state, f"{vit}patch_embed.backbone.stages.{i}.blocks.") for i in range(stages))
    return dict(channels=len(state[_HEAD]), width=width, heads=max(width // 64, 1), depth=depth,
                grid=int((tokens - 1) ** 0.5), stem=len(state[f"{vit}patch_embed.backbone.stem.conv.weight"]), depths=depths,
                read=(depth * 3 // 4 - 1, depth - 1), features=len(state["scratch.layer1_rn.weight"]))


def _count(state: dict[str, Tensor], prefix: str) -> int:
    return len({name[len(prefix):].split(".")[0] for name in state if name.startswith(prefix)})
