"""Probes as the LoRA files that other software of the Stable Diffusion world exchanges, and those files as probes."""
from __future__ import annotations

from pathlib import Path

import adapters
import generators
from adapters.sd_files import fits, read_lora, write_lora
from generators import Generator

from ._bank import Request
from ._intrinsics import Intrinsic, get_intrinsic
from ._probe import REFERENCE, Probe, free_name
from ._record import start_record
from ._settings import Settings
from .data import Data, get_data
from .teachers import Teacher, Unsaid, get_teacher


def import_lora(path: str | Path, generator: str | Generator, intrinsic: str | Intrinsic, prompt: str | None = None,
                teacher: str | Teacher | None = None, data: str | Data | None = None, device: str | None = None,
                ignore_text_encoder: bool = False,
                generator_options: dict[str, int | float | bool | str | None] | None = None) -> Probe:
    """A LoRA that somebody else trained, as a probe: the paper's released weights, or any in diffusers', PEFT's or kohya's
    spelling.

    Such a file says neither what it emits nor how that is encoded: `intrinsic` and `prompt` do. Depth is taken to be relative,
    as the paper's is: [0, 1] between an image's ends.

    Args:
        path: .safetensors, .bin, or the folder of either: see `adapters.sd_files.read_lora`
        generator: the Stable Diffusion it was trained on: a name, a path, a hub id, or the Generator
        intrinsic: what it emits
        prompt: that it was trained with; the intrinsic's own by default
        teacher: what evaluations compare with, where one is asked for
        data: images to evaluate on
        device: where the generator goes; by default a Generator stays where it is, and one that is built goes to the CPU
        ignore_text_encoder: leave out what the file trains in text encoders
        generator_options: of the Stable Diffusion

    Raises ValueError for a generator that is no Stable Diffusion and for a file of another base model, CheckpointError for a
    file that is no LoRA.
    """
    if device is None:
        device = str(generator.device) if isinstance(generator, Generator) else "cpu"
    built = generators.load(generator, device=device, **(generator_options or {}))
    if not built.reads_text:
        raise ValueError(f"generator: {built.name} is a {built.family}; LoRA files are exchanged for Stable Diffusion only")
    file = read_lora(path, ignore_text_encoder)
    fits(file, built.network)
    bound = get_intrinsic(intrinsic)
    if bound.name == "depth":
        bound = bound.with_options(dict(encoding="relative"))
    images = None if data is None else get_data(data)
    judge = Unsaid() if teacher is None else get_teacher(teacher, bound.name, images)
    adapter = adapters.attach(built, free_name(built, bound.name), rank=file.rank, alpha=file.alpha, sites=file.sites,
                              prompt=prompt or bound.prompt or bound.name)
    adapter.load_state(file.state)
    reference = range(0) if images is None else images.training(REFERENCE)
    settings = Settings(built.address, bound.name, judge.name, "lora", file.rank, file.alpha, "the file's", built.weights,
                        len(reference), steps=0, batch=0, learning_rate=0.0, evaluate=0, controls=[], seed=0,
                        generator_options={**built.options, **built.origin}, data=images and images.name, prompt=adapter.prompt)
    request = Request(built, judge, bound, reference.start, len(reference), data=images)
    record = start_record(built, bound, judge, images, adapter, settings, request)
    record["training"].update(status="finished", imported=dict(file=Path(file.source).name, style=file.style))
    return Probe(built, adapter, bound, record, None, judge, images)


def export_lora(probe: Probe, path: str | Path, style: str = "diffusers", overwrite: bool = False) -> Path:
    """Writes a probe's LoRA for other software; see `adapters.sd_files.write_lora`. The prompt and the intrinsic stand in the
    file's header. Raises ValueError for a probe on another generator than a Stable Diffusion."""
    if not isinstance(probe.adapter, adapters.LoRA):
        raise ValueError(f"run: this probe was fitted with method {probe.adapter.method!r}; only LoRAs are exchanged")
    if not probe.generator.reads_text:
        raise ValueError(f"run: this probe is on a {probe.generator.family}; LoRA files are exchanged for Stable Diffusion "
                         "only")
    about = {"probes.intrinsic": probe.intrinsic.name, "probes.prompt": probe.adapter.prompt or "",
             "probes.base_model": str(probe.record["generator"]["name"])}
    return write_lora(path, *probe.adapter.plain(), style, about, overwrite)
