"""Any depth network of transformers, by its id on the hub or its folder: Depth Anything V2, DPT, MiDaS, GLPN, Depth Pro, ...

    transformers:depth-anything/Depth-Anything-V2-Small-hf
    transformers:FOLDER?meaning=metric&resolution=392

Networks of one class mean different things by "depth": Depth Anything and MiDaS give affine-invariant disparity, their metric
versions, ZoeDepth, GLPN, DINOv2's heads and Depth Pro metres. That is read off the configuration, or said by the option
`meaning`.
"""
from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor, nn

from generators._hub import quiet
from generators._names import unknown
from generators.checkpoints import CheckpointError

from ._depth_config import INDOOR, check, meaning_of, range_of, sanitised
from ._network import ENCODINGS, LARGEST, MEANINGS, NetworkTeacher, located, unit_image, whole
from ._preparation import Preparation
from ._repository import DEPTH_MODEL, find

SMALLEST = 32       # pixels: below, the coarsest features of these networks have no size left
OPTIONS = dict(meaning=str, resolution=int, revision=str, near=float, far=float, dtype=str)
# In the published files of DPT this half of the coarsest fusion block is missing; nothing runs it.
_IDLE = "fusion_stage.layers.0.residual_layer1."


class TransformersDepthTeacher(NetworkTeacher):
    """Depth [N, 1, H, W]: metres, affine-invariant depth or affine-invariant disparity, as `meaning("depth")` says.

    Args:
        where: folder, owner/model on the hub, or its address
        meaning: "metric", "relative" or "disparity"; by default what the configuration says
        resolution: of the square that an image is fitted to; by default what its `preprocessor_config.json` says
        revision: branch, tag or commit on the hub
        near, far: metres between which metric depth is encoded; by default from the network's own range
        dtype: "float32", "bfloat16" or "float16"
        name, licence, source: kept in every record of a result

    Raises ValueError for a network of another kind and for one whose meaning is not known, CheckpointError for damaged files,
    and what `probes.teachers._repository.find` does for a name.
    """

    intrinsics = ("depth",)
    kind = "transformers"
    choices = OPTIONS

    def __init__(self, where: str | Path, meaning: str | None = None, resolution: int | None = None,
                 revision: str | None = None, near: float | None = None, far: float | None = None, dtype: str = "float32",
                 name: str | None = None, licence: str = "as its publisher says", source: str = "", **options):
        if meaning is not None and meaning not in MEANINGS:
            raise unknown("teacher: meaning", meaning, MEANINGS)
        if resolution is not None:
            whole("resolution", resolution, SMALLEST, LARGEST)
        options = dict(meaning=meaning, resolution=resolution, **options)
        super().__init__(name or f"{self.kind}:{located(where)}", options, dtype)
        self.repository = find(str(where), DEPTH_MODEL, self.kind, revision)
        self.config = self.repository.json("config.json")
        self._check_kind()
        check(self.config, str(self.repository.folder / "config.json"))
        self._clean = sanitised(self.config, str(self.repository.folder / "config.json"))
        self._meaning = meaning or meaning_of(self.config)
        if self._meaning is None:
            raise ValueError(f"teacher: {self.name} ({self.config['model_type']}) does not say what its depth means; add "
                             "?meaning=metric, ?meaning=relative or ?meaning=disparity to its name")
        self._range = self._ends(near, far)
        prepared = Preparation.read(self.repository.json("preprocessor_config.json"), self.config,
                                    str(self.repository.folder / "preprocessor_config.json"))
        self.preparation = prepared.at(resolution) if resolution is not None else prepared
        self.resolution = min(self.preparation.size) if isinstance(self.preparation.size, tuple) else None
        self.version, self.licence, self.source = self.repository.version, licence, source

    def _ends(self, near: float | None, far: float | None) -> tuple[float, float] | None:
        """Metres between which metric depth is encoded; None for other depth."""
        if self._meaning != "metric":
            if near is not None or far is not None:
                raise ValueError(f"teacher: near and far are of depth in metres, and that of {self.name} is {self._meaning}; "
                                 "leave them out")
            return None
        usual = range_of(self.config)
        near, far = (usual[0] if near is None else near), (usual[1] if far is None else far)
        if not all(map(math.isfinite, (near, far))) or not 0 < near < far:
            raise ValueError(f"teacher: depth between near={near} and far={far} metres; expected 0 < near < far, for instance "
                             f"?near={usual[0]:g}&far={usual[1]:g}")
        return float(near), float(far)

    def _check_kind(self) -> None:
        found, known = self.config.get("model_type"), model_types()
        if not isinstance(found, str) or found not in known:
            raise ValueError(f"teacher: {self.name} is a {str(found)!r:.60}, which is no depth network of transformers: "
                             f"{', '.join(sorted(known))}")

    def _digests(self) -> dict[str, str]:
        return self.repository.digests()

    def _load(self, which: str) -> nn.Module:
        from transformers import CONFIG_MAPPING, MODEL_FOR_DEPTH_ESTIMATION_MAPPING

        folder = self.repository.folder
        state = self.repository.state()
        try:
            made = CONFIG_MAPPING[self._clean["model_type"]].from_dict(dict(self._clean))
            with quiet():
                # Given no folder, it reads none: adapters, kernels and other weights that lie there have no part in the labels.
                model, told = MODEL_FOR_DEPTH_ESTIMATION_MAPPING[type(made)].from_pretrained(
                    None, config=made, state_dict=state, output_loading_info=True)
        except Exception as error:      # transformers lets through what its configurations and networks raise
            raise CheckpointError(f"{folder}: transformers cannot build this network ({type(error).__name__}: "
                                  f"{str(error)[:300]}); fetch it again, or update transformers") from error
        lacking = [key for key in told["missing_keys"] if _IDLE not in key]
        if lacking or told["mismatched_keys"]:
            what = lacking[0] if lacking else told["mismatched_keys"][0]
            raise CheckpointError(f"{folder}: its weights do not fill the network, {str(what):.160} is missing or of another "
                                  "shape; fetch it again")
        return model.float()

    @torch.no_grad()
    def label(self, image: Tensor, intrinsic: str) -> Tensor:
        self._check(intrinsic)
        x, restore = self.preparation(unit_image(image, self.device))
        return self._readable(restore(self._predict(x)))

    def _predict(self, x: Tensor) -> Tensor:
        """Prepared images -> [N, 1, h, w] in the network's own resolution."""
        out = self.network()(pixel_values=x.to(self.dtype))
        depth = out.predicted_depth.float()
        depth = depth[:, None] if depth.ndim == 3 else depth
        if self.config["model_type"] == "depth_pro":
            return _metres(depth, getattr(out, "field_of_view", None))
        return depth

    def _readable(self, depth: Tensor) -> Tensor:
        return depth.clamp_min(1e-3) if self._meaning == "metric" else depth

    def meaning(self, intrinsic: str) -> str:
        return self._meaning if intrinsic == "depth" else ""

    def options(self, intrinsic: str) -> dict:
        if intrinsic != "depth":
            return {}
        if self._meaning != "metric":
            return dict(ENCODINGS[self._meaning])
        near, far = self._range
        # Outdoors a metre is nothing at the far end and everything at the near one.
        return dict(near=near, far=far) | (dict(encoding="log") if far > 2 * INDOOR[1] else {})


def model_types() -> set[str]:
    """The kinds of depth network that the installed transformers knows."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_DEPTH_ESTIMATION_MAPPING_NAMES

    return set(MODEL_FOR_DEPTH_ESTIMATION_MAPPING_NAMES)


def _metres(canonical: Tensor, field_of_view: Tensor | None) -> Tensor:
    """Depth Pro's inverse depth of a camera as wide as its focal length -> metres (Bochkovskii et al. 2024, arXiv 2410.02073,
    section 3.1): f / w times its inverse, f / w = 1 / (2 tan(fov / 2))."""
    if field_of_view is not None:
        canonical = canonical * 2 * torch.tan(torch.deg2rad(field_of_view.float().reshape(-1, 1, 1, 1)) / 2)
    return 1 / canonical.clamp(1e-4, 1e4)
