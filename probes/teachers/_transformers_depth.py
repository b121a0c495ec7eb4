"""Any depth network of transformers, by its id on the hub or its folder: Depth Anything V2, DPT, MiDaS, GLPN, Depth Pro, ...

    transformers:depth-anything/Depth-Anything-V2-Small-hf
    transformers:FOLDER?meaning=metric&resolution=392

Networks of one class mean different things by "depth": Depth Anything and MiDaS give affine-invariant disparity, their metric
versions, ZoeDepth, GLPN, DINOv2's heads and Depth Pro metres. That is read off the configuration, or said by the option
`meaning`.
"""
from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from generators._names import unknown
from generators.checkpoints import CheckpointError
from generators.checkpoints._torch_file import load_torch

from ._network import NetworkTeacher, quiet, split_options, unit_image
from ._preparation import Preparation
from ._repository import DEPTH_MODEL, find

MEANINGS = ("metric", "relative", "disparity")
ENCODINGS = {"relative": dict(encoding="percentile"), "disparity": dict(encoding="inverse")}
INDOOR, OUTDOOR = (0.25, 10.0), (1.0, 80.0)         # metres, of the encoding where a network does not say
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

    def __init__(self, where: str | Path, meaning: str | None = None, resolution: int | None = None,
                 revision: str | None = None, near: float | None = None, far: float | None = None, dtype: str = "float32",
                 name: str | None = None, licence: str = "as its publisher says", source: str = "", **options):
        if meaning is not None and meaning not in MEANINGS:
            raise unknown("teacher: meaning", meaning, MEANINGS)
        super().__init__(name or f"{self.kind}:{where}", dict(meaning=meaning, resolution=resolution, **options), dtype)
        self.repository = find(str(where), DEPTH_MODEL, self.kind, revision)
        self.config = self.repository.json("config.json")
        self._check_kind()
        self._meaning = meaning or meaning_of(self.config)
        if self._meaning is None:
            raise ValueError(f"teacher: {self.name} ({self.config['model_type']}) does not say what its depth means; add "
                             "?meaning=metric, ?meaning=relative or ?meaning=disparity to its name")
        self._range = near, far
        prepared = Preparation.read(self.repository.json("preprocessor_config.json"), self.config)
        self.preparation = prepared.at(resolution) if resolution else prepared
        self.resolution = min(self.preparation.size) if isinstance(self.preparation.size, tuple) else None
        self.version, self.licence, self.source = self.repository.version, licence, source

    def _check_kind(self) -> None:
        found, known = self.config.get("model_type"), model_types()
        if found not in known:
            raise ValueError(f"teacher: {self.name} is a {str(found)!r:.60}, which is no depth network of transformers: "
                             f"{', '.join(sorted(known))}")

    def _digests(self) -> dict[str, str]:
        return self.repository.digests()

    def _load(self, which: str) -> nn.Module:
        from transformers import MODEL_FOR_DEPTH_ESTIMATION_MAPPING, AutoConfig

        folder = self.repository.folder
        try:
            config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
            made = MODEL_FOR_DEPTH_ESTIMATION_MAPPING[type(config)]
            with quiet():
                if "pytorch_model.bin" in self.repository.files:
                    state = load_torch(folder / "pytorch_model.bin", "depth network", "Ask its publisher for .safetensors.")
                    model, told = made.from_pretrained(None, config=config, state_dict=state, output_loading_info=True)
                else:
                    model, told = made.from_pretrained(folder, config=config, local_files_only=True, use_safetensors=True,
                                                       output_loading_info=True)
        except CheckpointError:
            raise
        except Exception as error:      # transformers lets through what its configurations and safetensors raise
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
        near, far = range_of(self.config)
        near, far = self._range[0] or near, self._range[1] or far
        # Outdoors a metre is nothing at the far end and everything at the near one.
        return dict(near=near, far=far) | (dict(encoding="log") if far > INDOOR[1] * 2 else {})


def meaning_of(config: dict) -> str | None:
    """What a network of this configuration gives, None where that cannot be told.

    Sources: `depth_estimation_type` of Depth Anything; Birkl et al. 2023 (MiDaS 3.1, arXiv 2307.14460) for DPT; Oquab et al.
    2023 (DINOv2, arXiv 2304.07193, section 7.4) for DPT on DINOv2; the networks' papers for the others.
    """
    kind = config.get("model_type")
    if "depth_estimation_type" in config or kind == "depth_anything":
        return "metric" if config.get("depth_estimation_type") == "metric" else "disparity"
    if kind == "dpt":
        return "metric" if "dinov2" in str((config.get("backbone_config") or {}).get("model_type", "")) else "disparity"
    return "metric" if kind in ("zoedepth", "glpn", "depth_pro") else None


def range_of(config: dict) -> tuple[float, float]:
    """(near, far) in metres that suit a metric network, from the largest depth that it can say."""
    heads, pro = config.get("bin_configurations") or (), config.get("model_type") == "depth_pro"
    said = [float(found["max_depth"]) for found in (config, *heads) if found.get("max_depth")]
    largest = max(said, default=OUTDOOR[1] if pro else INDOOR[1])
    # A network for rooms and streets at once still has to tell the things in a room apart.
    return INDOOR[0] if largest <= 20 or pro or len(heads) > 1 else OUTDOOR[0], largest


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


def from_argument(argument: str) -> TransformersDepthTeacher:
    """`transformers:ID_OR_FOLDER`, options behind a question mark."""
    where, options = split_options(argument, OPTIONS)
    return TransformersDepthTeacher(where, name=f"transformers:{argument}", **options)
