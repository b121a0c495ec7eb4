"""Marigold: depth, normals, albedo and shading by a latent diffusion model, through diffusers' pipelines.

Ke et al. 2024 ("Repurposing Diffusion-Based Image Generators for Monocular Depth Estimation", arXiv 2312.02145) and Ke et al.
2025 (arXiv 2505.09358) for normals and intrinsic images. An id on the hub or a folder in diffusers' layout:

    marigold:prs-eth/marigold-normals-v1-1?steps=4&ensemble=5

What the pipelines say becomes ours here: their normals are OpenGL's (x right, y up, z towards the viewer), their intrinsic
images in linear light or sRGB as `target_properties` of the model declare. The noise is drawn per ensemble member from a fixed
seed, the same for every image, so that a label depends neither on the batch nor on the day.
"""
from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from generators._hub import TOKENIZER, quiet
from generators._names import unknown
from generators.checkpoints import CheckpointError
from generators.stable_diffusion._config import StableDiffusionConfig
from generators.stable_diffusion._format import _check_bounds
from generators.stable_diffusion._parts import PARTS, part_config
from generators.stable_diffusion._read import load_network
from generators.stable_diffusion._weights import read_part

from ..data.colour import linear_to_srgb, srgb_to_linear
from ..frames import Normals
from ._network import ENCODINGS, LARGEST, NetworkTeacher, located, resized, unit_image, unit_normals, whole
from ._repository import Layout, find

LAYOUT = Layout(
    needed=("model_index.json", "unet/config.json", "vae/config.json", "text_encoder/config.json",
            "scheduler/scheduler_config.json"),
    wanted=(*TOKENIZER, "tokenizer/added_tokens.json"), parts=tuple(PARTS))
PIPELINES = {"MarigoldDepthPipeline": ("depth",), "MarigoldNormalsPipeline": ("normal",), "MarigoldIntrinsicsPipeline": ()}
SCHEDULERS = ("DDIMScheduler", "LCMScheduler")
SETTINGS = ("prediction_type", "scale_invariant", "shift_invariant", "use_full_z_range", "target_properties",
            "default_denoising_steps", "default_processing_resolution")
SMALLEST = 8        # pixels of the image for one of the latent
MOST = dict(steps=1000, ensemble=100)
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
        resolution: of the longer side in the network, as in Marigold's own settings and other than with the other teachers;
            by default what the model declares
        seed: of the noise
        revision: branch, tag or commit on the hub
        dtype: "float32", "bfloat16" or "float16"
        name, licence, source: kept in every record of a result

    Raises ValueError for another kind of pipeline, CheckpointError for damaged files, and what
    `probes.teachers._repository.find` does for a name.
    """

    kind, batch = "marigold", 4
    choices = dict(steps=int, ensemble=int, resolution=int, seed=int, revision=str, dtype=str)

    def __init__(self, where: str | Path, steps: int | None = None, ensemble: int = 1, resolution: int | None = None,
                 seed: int = 0, revision: str | None = None, dtype: str = "float32", name: str | None = None,
                 licence: str = "as its publisher says", source: str = "arXiv 2312.02145"):
        for key, value in dict(steps=steps, ensemble=ensemble).items():
            if value is not None:
                whole(key, value, 1, MOST[key])
        if resolution is not None:
            whole("resolution", resolution, SMALLEST, LARGEST)
        whole("seed", seed, 0, 2**63 - 1 - MOST["ensemble"])
        options = dict(steps=steps, ensemble=ensemble, resolution=resolution, seed=seed)
        super().__init__(name or f"marigold:{located(where)}", options, dtype)
        self.repository = find(str(where), LAYOUT, self.kind, revision)
        index = self.repository.json("model_index.json")
        self.pipeline_class = index.get("_class_name")
        if not isinstance(self.pipeline_class, str) or self.pipeline_class not in PIPELINES:
            raise ValueError(f"teacher: {self.name} is a {str(self.pipeline_class)!r:.60}, expected one of "
                             f"{', '.join(PIPELINES)}")
        self.settings = {key: index[key] for key in SETTINGS if index.get(key) is not None}
        declared = f"{self.repository.folder / 'model_index.json'}: "
        for key, *ends in (("default_denoising_steps", 1, MOST["steps"]), ("default_processing_resolution", SMALLEST, LARGEST)):
            if key in self.settings:
                whole(key, self.settings[key], *ends, declared)
        self.targets = _targets(self.settings.get("target_properties"), declared)
        self.intrinsics = PIPELINES[self.pipeline_class] or (("albedo", "shading") if "albedo" in self.targets else ())
        if not self.intrinsics:
            named = ", ".join(self.targets) or "nothing that it names"
            raise ValueError(f"teacher: {self.name} predicts {named}, and no albedo")
        if ensemble > 1 and "depth" in self.intrinsics and find_spec("scipy") is None:
            raise ValueError(f"teacher: ensemble={ensemble} predictions of depth are aligned by scipy; "
                             "`pip install 'probes[data]'`, or leave ensemble out")
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
        from transformers import CLIPTokenizer

        folder = self.repository.folder
        stated = self.repository.json("scheduler/scheduler_config.json")
        kind = stated.get("_class_name")
        if not isinstance(kind, str) or kind not in SCHEDULERS:
            raise unknown("teacher: scheduler", kind, SCHEDULERS)
        network = self._network()
        try:
            scheduler = getattr(diffusers, kind).from_config(stated)
            tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True, trust_remote_code=False)
        except Exception as error:      # what configurations and the tokenizer raise comes through
            raise CheckpointError(f"{folder}: diffusers cannot build this pipeline ({type(error).__name__}: "
                                  f"{str(error)[:300]}); fetch it again") from error
        parts = {part: getattr(network, part) for part in PARTS}
        self._pipeline = getattr(diffusers, self.pipeline_class)(
            **parts, tokenizer=tokenizer, scheduler=scheduler, **_inits(self.pipeline_class, self.settings))
        self._pipeline.set_progress_bar_config(disable=True)
        return nn.ModuleDict(parts)

    def _network(self) -> nn.Module:
        """U-Net, VAE and text encoder as Stable Diffusion's are read: from the fields that describe them, and from no file but
        those that identify the teacher."""
        folder = self.repository.folder
        config, state = {}, {}
        for part in PARTS:
            place = folder / part
            config[part] = part_config(part, self.repository.json(f"{part}/config.json"), str(place / "config.json"))
            weights, files, _ = read_part(folder, part, None)
            if strange := [file.name for file in files if file.relative_to(folder).as_posix() not in self.repository.files]:
                raise CheckpointError(f"{place}: {', '.join(strange[:4])} is no part of these weights; fetch the folder again, "
                                      "whole")
            state |= {f"{part}.{name}": value for name, value in weights.items()}
        made = StableDiffusionConfig(**config, scheduler={}, resolution=SMALLEST)
        try:
            _check_bounds(made, str(folder))
            with quiet():
                network = load_network(made, state)
        except CheckpointError:
            raise
        except Exception as error:      # diffusers raises anything from TypeError to AssertionError on a bad configuration
            raise CheckpointError(f"{folder}: its weights and configurations make no latent diffusion model "
                                  f"({type(error).__name__}: {str(error)[:300]}); fetch it again") from error
        latents, several = config["vae"]["latent_channels"], max(len(self.targets), 1)
        given = config["unet"]["in_channels"], config["unet"]["out_channels"]
        if given != (latents * (1 + several), latents * several):
            raise CheckpointError(f"{folder / 'unet'}: takes {given[0]} channels and gives {given[1]}, expected "
                                  f"{latents * (1 + several)} and {latents * several} for {several} predicted maps; fetch the "
                                  "folder again")
        return network

    @torch.no_grad()
    def label(self, image: Tensor, intrinsic: str) -> Tensor:
        self._check(intrinsic)
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
        return dict(ENCODINGS[self.meaning("depth")])


def _white(values: Tensor) -> Tensor:
    """Scaled, each image by itself, so that its brightest percent is at least 1, and cut to [0, 1]."""
    brightest = values.flatten(1).sort(dim=1).values
    at = brightest[:, min(int(WHITE * brightest.shape[1]), brightest.shape[1] - 1)]
    return (values / at.clamp_min(1e-6)[:, None, None, None]).clamp(0, 1)


def _targets(properties: object, source: str) -> dict[str, dict]:
    """{target: what is declared of it} in the order of the prediction."""
    properties = {} if properties is None else properties
    names = properties.get("target_names", []) if isinstance(properties, dict) else None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names) or len({*names}) < len(names):
        raise CheckpointError(f"{source}target_properties={str(properties)!r:.80}, expected an object with target_names, a "
                              "list of words; fetch the file again")
    declared = {name: properties.get(name) or {} for name in names}
    if wrong := [name for name, said in declared.items() if not isinstance(said, dict)]:
        raise CheckpointError(f"{source}target_properties say {declared[wrong[0]]!r:.60} of {wrong[0]}, expected an object; "
                              "fetch the file again")
    return declared


def _inits(pipeline: str, settings: dict) -> dict:
    """Of the settings, those that a kind of pipeline takes."""
    own = {"MarigoldDepthPipeline": {"scale_invariant", "shift_invariant"}, "MarigoldNormalsPipeline": {"use_full_z_range"},
           "MarigoldIntrinsicsPipeline": {"target_properties"}}[pipeline]
    others = {"scale_invariant", "shift_invariant", "use_full_z_range", "target_properties"} - own
    return {key: value for key, value in settings.items() if key not in others}
