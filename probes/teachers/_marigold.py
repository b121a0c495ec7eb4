"""Marigold: depth, normals, albedo and shading by a latent diffusion model, through diffusers' pipelines.

Ke et al. 2024 ("Repurposing Diffusion-Based Image Generators for Monocular Depth Estimation", arXiv 2312.02145) and Ke et al.
2025 (arXiv 2505.09358) for normals and intrinsic images. An id on the hub or a folder in diffusers' layout:

    marigold:prs-eth/marigold-normals-v1-1?steps=4&ensemble=5

What the pipelines say becomes ours here: their normals are OpenGL's (x right, y up, z towards the viewer), their intrinsic
images in linear light or sRGB as `target_properties` of the model declare. The noise is drawn per ensemble member from a fixed
seed, the same for every image, so that a label depends neither on the batch nor on the day.
"""
from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from generators._names import unknown
from generators.checkpoints import CheckpointError

from ..data.colour import linear_to_srgb, srgb_to_linear
from ..frames import Normals
from ._network import NetworkTeacher, quiet, resized, split_options, unit_image, unit_normals
from ._repository import Layout, find

LAYOUT = Layout(
    needed=("model_index.json", "unet/config.json", "vae/config.json", "text_encoder/config.json",
            "scheduler/scheduler_config.json"),
    wanted=("tokenizer/vocab.json", "tokenizer/merges.txt", "tokenizer/tokenizer_config.json",
            "tokenizer/special_tokens_map.json", "tokenizer/tokenizer.json"),
    parts=("unet", "vae", "text_encoder"))
PIPELINES = {"MarigoldDepthPipeline": ("depth",), "MarigoldNormalsPipeline": ("normal",), "MarigoldIntrinsicsPipeline": ()}
SCHEDULERS = ("DDIMScheduler", "LCMScheduler")
SETTINGS = ("prediction_type", "scale_invariant", "shift_invariant", "use_full_z_range", "target_properties",
            "default_denoising_steps", "default_processing_resolution")
WHITE = 0.99        # quantile of a map that is known up to its scale which becomes white, as with the Retinex teacher
_FLOOR = 1 / 255


class MarigoldTeacher(NetworkTeacher):
    """What the model predicts, in our frames and spaces.

    depth    [N, 1, H, W] in [0, 1], affine-invariant: larger is farther, or with a disparity model nearer
    normal   [N, 3, H, W] unit vectors
    albedo   [N, 3, H, W] sRGB-encoded in [0, 1]
    shading  [N, 1, H, W] sRGB-encoded in [0, 1], its brightest percent white. A model that predicts no shading ("appearance")
             has it from the image: image / albedo in linear light, with whatever is neither

    Args:
        where: folder, owner/model on the hub, or its address
        steps: of denoising; by default what the model declares
        ensemble: predictions that are merged; more than one of depth needs scipy
        resolution: of the longer side in the network; by default what the model declares
        seed: of the noise
        revision: branch, tag or commit on the hub
        dtype: "float32", "bfloat16" or "float16"
        name, licence, source: kept in every record of a result

    Raises ValueError for another kind of pipeline, CheckpointError for damaged files, and what
    `probes.teachers._repository.find` does for a name.
    """

    batch = 4

    def __init__(self, where: str | Path, steps: int | None = None, ensemble: int = 1, resolution: int | None = None,
                 seed: int = 0, revision: str | None = None, dtype: str = "float32", name: str | None = None,
                 licence: str = "as its publisher says", source: str = "arXiv 2312.02145"):
        for key, value in dict(steps=steps, ensemble=ensemble, resolution=resolution).items():
            if value is not None and value < 1:
                raise ValueError(f"teacher: {key}={value}, expected a positive number")
        options = dict(steps=steps, ensemble=ensemble, resolution=resolution, seed=seed)
        super().__init__(name or f"marigold:{where}", options, dtype)
        self.repository = find(str(where), LAYOUT, "marigold", revision)
        index = self.repository.json("model_index.json")
        self.pipeline_class = index.get("_class_name")
        if self.pipeline_class not in PIPELINES:
            raise ValueError(f"teacher: {self.name} is a {str(self.pipeline_class)!r:.60}, expected one of "
                             f"{', '.join(PIPELINES)}")
        self.settings = {key: index[key] for key in SETTINGS if key in index}
        self.targets = _targets(self.settings.get("target_properties"))
        self.intrinsics = PIPELINES[self.pipeline_class] or (("albedo", "shading") if "albedo" in self.targets else ())
        if not self.intrinsics:
            named = ", ".join(self.targets) or "nothing that it names"
            raise ValueError(f"teacher: {self.name} predicts {named}, and no albedo")
        self.steps, self.ensemble, self.seed = steps, ensemble, seed
        self.resolution = resolution or self.settings.get("default_processing_resolution")
        if (steps or self.settings.get("default_denoising_steps")) is None or self.resolution is None:
            raise ValueError(f"teacher: {self.name} declares no steps or no resolution; add ?steps=4&resolution=768 to its "
                             "name")
        self.version, self.licence, self.source = self.repository.version, licence, source
        self._pipeline: Any = None

    def _digests(self) -> dict[str, str]:
        return self.repository.digests()

    def _load(self, which: str) -> nn.Module:
        """The parts one by one, by classes that are named here: what a folder names is not looked up."""
        import diffusers
        import transformers

        folder = self.repository.folder
        kind = str(self.repository.json("scheduler/scheduler_config.json").get("_class_name"))
        if kind not in SCHEDULERS:
            raise unknown("teacher: scheduler", kind, SCHEDULERS)
        local = dict(local_files_only=True, use_safetensors=True)
        try:
            unet = diffusers.UNet2DConditionModel.from_pretrained(folder / "unet", low_cpu_mem_usage=False, **local)
            vae = diffusers.AutoencoderKL.from_pretrained(folder / "vae", low_cpu_mem_usage=False, **local)
            with quiet():
                text = transformers.CLIPTextModel.from_pretrained(folder / "text_encoder", **local)
            tokenizer = transformers.CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
            scheduler = getattr(diffusers, kind).from_pretrained(folder / "scheduler", local_files_only=True)
        except Exception as error:      # what configurations, safetensors and the tokenizer raise comes through
            raise CheckpointError(f"{folder}: diffusers cannot build this pipeline ({type(error).__name__}: "
                                  f"{str(error)[:300]}); fetch it again") from error
        parts = dict(unet=unet.float(), vae=vae.float(), text_encoder=text.float())
        self._pipeline = getattr(diffusers, self.pipeline_class)(
            **parts, tokenizer=tokenizer, scheduler=scheduler, **_inits(self.pipeline_class, self.settings))
        self._pipeline.set_progress_bar_config(disable=True)
        return nn.ModuleDict(parts)

    @torch.no_grad()
    def label(self, image: Tensor, intrinsic: str) -> Tensor:
        if intrinsic not in self.intrinsics:
            raise ValueError(f"intrinsic: {self.name} predicts {' and '.join(self.intrinsics)}, not {intrinsic}")
        x = unit_image(image, self.device)
        found = self._predict(x)
        if intrinsic == "depth":
            return found.clamp(0, 1)
        if intrinsic == "normal":
            return unit_normals(Normals(found, "opengl").to("omnidata").values)
        maps = found.unflatten(0, (len(x), len(self.targets)))
        maps = {name: maps[:, i] for i, name in enumerate(self.targets)}
        albedo = self._linear("albedo", maps["albedo"])
        albedo = _white(albedo) if self.targets["albedo"].get("up_to_scale") else albedo
        if intrinsic == "albedo":
            return linear_to_srgb(albedo.clamp(0, 1))
        if "shading" in maps:
            return linear_to_srgb(_white(self._linear("shading", maps["shading"]).mean(1, keepdim=True)))
        light = srgb_to_linear(x).mean(1, keepdim=True)
        return linear_to_srgb(_white(light / albedo.mean(1, keepdim=True).clamp_min(_FLOOR)))

    def _predict(self, x: Tensor) -> Tensor:
        """The pipeline's own answer for [N, 3, H, W] in [0, 1]: [N, C, H, W], or [N * targets, 3, H, W], in float32."""
        self.network()
        seeds = [torch.Generator().manual_seed(self.seed + member) for _ in range(len(x)) for member in range(self.ensemble)]
        height, width = x.shape[-2:]
        inner = tuple(max(side * self.resolution // max(height, width), 1) for side in (height, width))
        # Resized here: the pipeline does it in the network's precision, and shrinks its answer without averaging.
        x = resized(x, inner, "bilinear").to(self.dtype)
        # One batch of all members, because schedulers that draw noise ask for as many generators as there are samples.
        found = self._pipeline(x, num_inference_steps=self.steps, ensemble_size=self.ensemble, generator=seeds,
                               processing_resolution=0, batch_size=len(seeds), output_type="pt").prediction.float()
        return resized(found, (height, width), "bilinear")

    def _linear(self, target: str, values: Tensor) -> Tensor:
        """A predicted target in linear light; what is declared of none is sRGB, as in the pipeline's own pictures."""
        linear = self.targets[target].get("prediction_space", "srgb") == "linear"
        return values if linear else srgb_to_linear(values.clamp(0, 1))

    def meaning(self, intrinsic: str) -> str:
        if intrinsic != "depth":
            return ""
        return "disparity" if self.settings.get("prediction_type") == "disparity" else "relative"

    def options(self, intrinsic: str) -> dict:
        if intrinsic != "depth":
            return {}
        return dict(encoding="inverse" if self.meaning("depth") == "disparity" else "percentile")


def _white(values: Tensor) -> Tensor:
    """Scaled, each image by itself, so that its brightest percent is at least 1, and cut to [0, 1]."""
    brightest = values.flatten(1).sort(dim=1).values
    at = brightest[:, min(int(WHITE * brightest.shape[1]), brightest.shape[1] - 1)]
    return (values / at.clamp_min(1e-6)[:, None, None, None]).clamp(0, 1)


def _targets(properties: dict | None) -> dict[str, dict]:
    """{target: what is declared of it} in the order of the prediction."""
    properties = properties if isinstance(properties, dict) else {}
    return {name: properties.get(name) or {} for name in properties.get("target_names", ())}


def _inits(pipeline: str, settings: dict) -> dict:
    """Of the settings, those that a kind of pipeline takes."""
    own = {"MarigoldDepthPipeline": {"scale_invariant", "shift_invariant"}, "MarigoldNormalsPipeline": {"use_full_z_range"},
           "MarigoldIntrinsicsPipeline": {"target_properties"}}[pipeline]
    others = {"scale_invariant", "shift_invariant", "use_full_z_range", "target_properties"} - own
    return {key: value for key, value in settings.items() if key not in others}


def from_argument(argument: str) -> MarigoldTeacher:
    """`marigold:ID_OR_FOLDER`, options behind a question mark."""
    where, options = split_options(argument, dict(steps=int, ensemble=int, resolution=int, seed=int, revision=str, dtype=str))
    return MarigoldTeacher(where, name=f"marigold:{argument}", **options)
