"""Probes as the LoRA files that other software of the Stable Diffusion world exchanges, and those files as probes.

The tensors of a LoRA fit any intrinsic and any way of running the U-Net, so a file that is written here says in its header
what it emits, how that is encoded, with which prompt, and with which options of the generator. What comes in is believed in
that, and nobody may say otherwise; files of other software say nothing of it.
"""
from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import adapters
import generators
from adapters.sd_files import LoRAFile, fits, read_lora, write_lora
from adapters.sd_files._open import json_object
from generators import Generator
from generators.checkpoints import CheckpointError

from ._bank import Request
from ._intrinsics import Intrinsic, get_intrinsic, intrinsics
from ._probe import REFERENCE, Probe, free_name
from ._record import start_record
from ._settings import Settings
from .data import Data, get_data
from .teachers import Teacher, Unsaid, get_teacher

INTRINSIC, ENCODED, PROMPT, BASE, OPTIONS = (
    f"probes.{name}" for name in ("intrinsic", "intrinsic_options", "prompt", "base_model", "generator_options"))

Value = int | float | bool | str | None
# The options of a Stable Diffusion that a header tells, and those that decide, by mode, what an adapter means. The others stand
# in for what nobody chose.
_TOLD: dict[str, type | tuple[type, ...]] = dict(
    mode=str, timestep=int, conv_in=str, zero_snr=bool, scale_image_latent=bool, resolution=int, steps=int,
    guidance=(int, float), rescale=(int, float))
_DECIDING = dict(single=("mode", "timestep"), multi=("mode", "conv_in", "zero_snr", "scale_image_latent"))
_MADE_ANYWHERE = re.compile(r"own|doubled|random:\d+")     # a first convolution that no file is needed for


def import_lora(path: str | Path, generator: str | Generator, intrinsic: str | Intrinsic | None = None,
                prompt: str | None = None, teacher: str | Teacher | None = None, data: str | Data | None = None,
                device: str | None = None, ignore_text_encoder: bool = False,
                generator_options: dict[str, Value] | None = None) -> Probe:
    """A LoRA as a probe: one that `export_lora` wrote, the paper's released weights, or any in diffusers', PEFT's or kohya's
    spelling.

    A file that `export_lora` wrote says what it emits, how that is encoded, its prompt and the generator's options: these are
    taken where they are left out here, and must not be others where they are given. Any other file says neither what it emits
    nor how: `intrinsic` and `prompt` do, and depth is taken to be relative, as the paper's is: [0, 1] between an image's ends.

    Args:
        path: .safetensors, .bin, or the folder of either: see `adapters.sd_files.read_lora`
        generator: the Stable Diffusion it was trained on: a name, a path, a hub id, or the Generator
        intrinsic: what it emits; by default what the file says
        prompt: that it was trained with; by default what the file says, or the intrinsic's own
        teacher: what evaluations compare with, where one is asked for
        data: images to evaluate on
        device: where the generator goes; by default a Generator stays where it is, and one that is built goes to the CPU
        ignore_text_encoder: leave out what the file trains in text encoders
        generator_options: of the Stable Diffusion; by default what the file says

    Raises ValueError for a generator that is no Stable Diffusion, for a file of another base model and for what the file
    contradicts, CheckpointError for a file that is no LoRA.
    """
    if device is None:
        device = str(generator.device) if isinstance(generator, Generator) else "cpu"
    file = read_lora(path, ignore_text_encoder)
    bound = _intrinsic(file, intrinsic)
    prompt = _prompt(file, prompt) or bound.prompt or bound.name
    built = _generator(file, generator, device, dict(generator_options or {}))
    fits(file, built.network)
    images = None if data is None else get_data(data)
    judge = Unsaid() if teacher is None else get_teacher(teacher, bound.name, images)
    adapter = adapters.attach(built, free_name(built, bound.name), rank=file.rank, alpha=file.alpha, sites=file.sites,
                              prompt=prompt)
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
    """Writes a probe's LoRA for other software; see `adapters.sd_files.write_lora`. What `import_lora` needs to make the same
    probe of it stands in the file's header. Raises ValueError for a probe on another generator than a Stable Diffusion."""
    if not isinstance(probe.adapter, adapters.LoRA):
        raise ValueError(f"run: this probe was fitted with method {probe.adapter.method!r}; only LoRAs are exchanged")
    if not probe.generator.reads_text:
        raise ValueError(f"run: this probe is on a {probe.generator.family}; LoRA files are exchanged for Stable Diffusion "
                         "only")
    options = {name: value for name, value in probe.generator.options.items() if name in _TOLD}
    if Path(options.get("conv_in", "")).is_absolute():
        options["conv_in"] = Path(options["conv_in"]).name      # where it lies is this machine's affair
    about = {INTRINSIC: probe.intrinsic.name, ENCODED: json.dumps(probe.intrinsic.options),
             PROMPT: probe.adapter.prompt or "", BASE: str(probe.record["generator"]["name"]), OPTIONS: json.dumps(options)}
    return write_lora(path, *probe.adapter.plain(), style, about, overwrite)


def _intrinsic(file: LoRAFile, given: str | Intrinsic | None) -> Intrinsic:
    """What a file emits, encoded as it was trained to be. Raises ValueError where nobody says what, or file and caller say
    different things."""
    said = file.metadata.get(INTRINSIC)
    if given is None and not said:
        raise ValueError(f"intrinsic: {file.source} does not say what it emits; pass one of {', '.join(intrinsics())}")
    bound = get_intrinsic(said if given is None else given)
    if said and said != bound.name:
        raise ValueError(f"intrinsic: {file.source} was trained to emit {said}, as its header says, got {bound.name}; pass "
                         f"{said}")
    if ENCODED not in file.metadata:
        return bound.with_options(dict(encoding="relative")) if bound.name == "depth" else bound
    options = _object(file, ENCODED)
    for name in sorted(bound.chosen & set(options)):
        if bound.options[name] != options[name]:
            raise ValueError(f"intrinsic: {file.source} was trained with {name}={options[name]!r} of {bound.name}, as its "
                             f"header says, got {bound.options[name]!r}; pass intrinsic={bound.name!r}, by its name alone")
    try:
        return bound.with_options(options)
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{file.source}: {ENCODED} in its header is not of {bound.name} ({error}); export it "
                              "again.") from error


def _prompt(file: LoRAFile, given: str | None) -> str | None:
    """The prompt that a file was trained with, as far as it or the caller says. Raises ValueError where they differ."""
    said = file.metadata.get(PROMPT)
    if said and given and said != given:
        raise ValueError(f"prompt: {file.source} was trained with {said!r}, as its header says, got {given!r}; leave prompt "
                         "out")
    return said or given


def _generator(file: LoRAFile, generator: str | Generator, device: str, given: dict[str, Value]) -> Generator:
    """The Stable Diffusion of an import, run as the file was trained to be. Raises ValueError for any other generator, and
    for options that the file contradicts."""
    said = _told(file)
    if isinstance(generator, Generator):
        _check(file, said, generator.options, "pass its name, or a Generator that was loaded with " + ", ".join(
            f"{name}={said[name]!r}" for name in _DECIDING.get(said.get("mode"), ()) if name in said))
        taken = given
    else:
        _check(file, said, given, "leave it out")
        entry = generators.catalog().get(str(generator))
        told = said if entry is None or entry.family == "stable-diffusion" else {}
        taken = {**given, **{name: value for name, value in told.items() if given.get(name) is None}}
        if not _is_made(taken.get("conv_in")) and given.get("conv_in") is None:
            raise ValueError(f"generator_options: {file.source} was trained with conv_in={taken['conv_in']!r:.200}, and "
                             "nothing is read or fetched on a file's word; pass conv_in, its path here or its name on the hub")
    built = generators.load(generator, device=device, **taken)
    if not built.reads_text:
        raise ValueError(f"generator: {built.name} is a {built.family}; LoRA files are exchanged for Stable Diffusion only")
    return built


def _told(file: LoRAFile) -> dict[str, Any]:
    """What a file's header says of the generator's options; nothing where another software wrote it."""
    said = _object(file, OPTIONS)
    wrong = [name for name, value in said.items() if name not in _TOLD or not isinstance(value, _TOLD[name])]
    if said and str(said.get("mode")) not in _DECIDING:
        wrong.append("mode")
    if wrong:
        raise CheckpointError(f"{file.source}: {OPTIONS} in its header says {wrong[0]}={said.get(wrong[0])!r:.80}, expected "
                              f"{', '.join(_TOLD)} of a Stable Diffusion; export it again, or update this software.")
    return said


def _check(file: LoRAFile, said: dict[str, Any], stated: dict[str, Any], remedy: str) -> None:
    """Raises ValueError where an option that decides what the adapter means is stated otherwise than its file says."""
    for name in _DECIDING.get(said.get("mode"), ()):
        one, other = said.get(name), stated.get(name)
        if one is None or other is None or one == other:
            continue
        if name == "conv_in" and not _is_made(one) and not _is_made(other):
            continue            # one InstructPix2Pix goes by many names and places: these may be the same
        raise ValueError(f"generator_options: {file.source} was trained with {name}={one!r}, as its header says, got "
                         f"{name}={other!r}; {remedy}")


def _is_made(conv_in: Any) -> bool:
    return conv_in is None or _MADE_ANYWHERE.fullmatch(str(conv_in)) is not None


def _object(file: LoRAFile, name: str) -> dict[str, Any]:
    return json_object(file.metadata.get(name, "{}"), Path(file.source), f"{name} in its header")
