"""`probes convert`, `probes export` and `probes import`: files of other software."""
from __future__ import annotations

from pathlib import Path
from typing import Literal


def convert(source: str, target: str, overwrite: bool = False, yaml: str | None = None) -> None:
    """Reads a published checkpoint without running anything in it and writes it as safetensors.

    Args:
        source: .pkl of stylegan2-ada-pytorch, stylegan3, stylegan-xl or the TensorFlow original; .ckpt of
            taming-transformers, or the folder of its run
        target: .safetensors to write
        overwrite: replace the target
        yaml: the configuration of a taming checkpoint, where it does not lie beside it
    """
    from generators.checkpoints import convert as run

    done = run(source, target, overwrite, yaml)
    print(f"{done.destination}: {done.family}, {done.parameters:,} parameters")


def export(run: str, target: str, style: Literal["diffusers", "comfyui"] = "diffusers", overwrite: bool = False) -> None:
    """Writes a Stable Diffusion probe's LoRA as other software reads it.

    Args:
        run: folder that `probes fit` wrote
        target: .safetensors, or a folder for pytorch_lora_weights.safetensors
        style: diffusers (load_lora_weights) or comfyui (and kohya's scripts)
        overwrite: replace the target
    """
    from .._exchange import export_lora
    from .._probe import load

    probe = load(run, device="cpu")
    print(f"{export_lora(probe, target, style, overwrite)}: {probe.adapter.size:,} parameters, prompt {probe.adapter.prompt!r}")


def import_(file: str, generator: str, out: str, intrinsic: str | None = None, prompt: str | None = None,
            teacher: str | None = None, data: str | None = None, ignore_text_encoder: bool = False,
            generator_options: dict[str, int | float | bool | str | None] | None = None, overwrite: bool = False) -> None:
    """Makes a run folder of a LoRA that somebody else trained on Stable Diffusion.

    Args:
        file: .safetensors or .bin, in the spelling of diffusers, PEFT, kohya or of the paper's released weights
        generator: the Stable Diffusion it was trained on
        out: run folder to write
        intrinsic: what it emits; by default what the file says, if `probes export` wrote it
        prompt: that it was trained with; by default what the file says, or the intrinsic's own
        teacher: what evaluations compare with
        data: images to evaluate on
        ignore_text_encoder: leave out what the file trains in text encoders
        generator_options: of the Stable Diffusion
        overwrite: discard the run that `out` holds
    """
    from .._exchange import import_lora
    from .._run_folder import claimed, vacate

    folder = Path(out)
    if not overwrite:
        vacate(folder, overwrite)           # known before anything is read
    probe = import_lora(file, generator, intrinsic, prompt, teacher, data, None, ignore_text_encoder, generator_options)
    with claimed(folder):
        vacate(folder, overwrite)
        probe.save(folder)
    print(f"{out}: {probe.adapter.size:,} parameters on {len(probe.adapter.site_names)} sites of "
          f"{probe.generator.name}")
