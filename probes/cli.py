"""The `probes` command. Every subcommand is a function of the API: its signature is the command line and the YAML."""
from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from jsonargparse import ActionConfigFile, ArgumentParser, Namespace


def list_(what: Literal["generators", "intrinsics", "teachers", "data", "methods", "protocols"]) -> None:
    """Lists what there is by name.

    Args:
        what: generators, intrinsics, teachers, data, methods or protocols
    """
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column, width in _COLUMNS[what]:
        table.add_column(column, no_wrap=width, overflow="fold")
    for row in _ROWS[what]():
        table.add_row(*row)
    Console(highlight=False).print(table)


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


def predict(run: str, images: list[str] = [], seeds: int | None = None, first_seed: int | None = None,  # noqa: B006
            classes: list[int] | None = None, output: str | None = None, formats: list[str] = ["npy", "png"],  # noqa: B006
            size: int | None = None, policy: str = "resize", overwrite: bool = False, device: str = "cpu") -> None:
    """Draws images and their intrinsic with a saved probe, or the intrinsic of photographs.

    Args:
        run: folder that `probes fit` wrote
        images: photographs, folders of them, patterns; for probes of generators that are driven by images
        seeds: without images: how many; 8 by default
        first_seed: without images: the first of them; 0 by default
        classes: without images: of a conditional generator, one label for all or one for each seed
        output: without images a .png to look at, prediction.png by default, the map itself beside it as .npy, float32;
            with images a folder, predictions by default, in which what this probe made already is kept
        formats: with images: npy, exr, png16, png
        size: with images: of the shorter side as the generator sees it; by default what it was fitted on
        policy: with images: resize, square or native
        overwrite: with images: make again what is there
        device: cpu or cuda
    """
    from ._probe import load

    if images and (beside := [f"--{name}" for name, value in dict(seeds=seeds, first_seed=first_seed, classes=classes).items()
                              if value is not None]):
        raise ValueError(f"images: with photographs nothing is drawn; leave {' and '.join(beside)} out")
    probe = load(run, device=device)
    if images:
        _predict_photos(probe, images, output or "predictions", formats, size, policy, overwrite)
        return
    import io

    import numpy as np

    from ._files import write_bytes_atomically

    output = output or "prediction.png"
    first_seed, seeds = first_seed or 0, 8 if seeds is None else seeds
    prediction = probe.predict(range(first_seed, first_seed + seeds), classes)
    prediction.save_picture(output)
    array = io.BytesIO()
    np.save(array, prediction.map.numpy())
    beside = write_bytes_atomically(Path(output).with_suffix(".npy"), array.getvalue())
    print(f"{output}, {beside}: {prediction.intrinsic.name} of seeds {first_seed} … {first_seed + seeds - 1} "
          f"({prediction.intrinsic.description})")


def _predict_photos(probe, images: list[str], output: str, formats: list[str], size: int | None, policy: str,
                    overwrite: bool) -> None:
    from ._console import Reporter
    from ._photos import predict_folder

    reporter = Reporter()
    with reporter.bar("photographs") as update:
        written, failed = predict_folder(probe, images, output, formats, size, policy, overwrite, update, reporter.say)
    for line in failed:
        print(line, file=sys.stderr)
    print(f"{output}: {probe.intrinsic.name} of {written} photographs ({probe.intrinsic.description})")
    if failed:
        raise ValueError(f"{len(failed)} of the images could not be read; the others are done")


def evaluate(run: str, seeds: int | None = None, controls: list[str] = ["latent", "rgb"],  # noqa: B006
             against: str | None = None, device: str = "cpu") -> None:
    """Scores a saved probe again, on any number of unseen seeds, and prints the table.

    Args:
        run: folder that `probes fit` wrote
        seeds: how many, from 0; 500 by default, or as many images as are held out
        controls: latent, rgb
        against: exact, for data with exact maps, or a teacher; by default what the run was scored against before
        device: cpu or cuda
    """
    from rich.console import Console

    from ._probe import load
    from .report import result_table

    probe = load(run, device=device)
    against = against or (probe.record.get("request") or {}).get("against")
    result = probe.evaluate(seeds, controls, against=against)
    Console(highlight=False).print(result_table(result.metrics, probe.record))


def export(run: str, target: str, style: Literal["diffusers", "comfyui"] = "diffusers", overwrite: bool = False) -> None:
    """Writes a Stable Diffusion probe's LoRA as other software reads it.

    Args:
        run: folder that `probes fit` wrote
        target: .safetensors, or a folder for pytorch_lora_weights.safetensors
        style: diffusers (load_lora_weights) or comfyui (and kohya's scripts)
        overwrite: replace the target
    """
    from ._exchange import export_lora
    from ._probe import load

    probe = load(run)
    print(f"{export_lora(probe, target, style, overwrite)}: {probe.adapter.size:,} parameters, prompt {probe.adapter.prompt!r}")


def import_(file: str, generator: str, intrinsic: str, out: str, prompt: str | None = None, teacher: str | None = None,
            data: str | None = None, ignore_text_encoder: bool = False,
            generator_options: dict[str, int | float | bool | str | None] | None = None, overwrite: bool = False) -> None:
    """Makes a run folder of a LoRA that somebody else trained on Stable Diffusion.

    Args:
        file: .safetensors or .bin, in the spelling of diffusers, PEFT, kohya or of the paper's released weights
        generator: the Stable Diffusion it was trained on
        intrinsic: what it emits
        out: run folder to write
        prompt: that it was trained with; the intrinsic's own by default
        teacher: what evaluations compare with
        data: images to evaluate on
        ignore_text_encoder: leave out what the file trains in text encoders
        generator_options: of the Stable Diffusion
        overwrite: discard the run that `out` holds
    """
    from ._exchange import import_lora
    from ._run_folder import claimed, vacate

    folder = Path(out)
    if not overwrite:
        vacate(folder, overwrite)           # known before anything is read
    probe = import_lora(file, generator, intrinsic, prompt, teacher, data, None, ignore_text_encoder, generator_options)
    with claimed(folder):
        vacate(folder, overwrite)
        probe.save(folder)
    print(f"{out}: {probe.adapter.size:,} parameters on {len(probe.adapter.site_names)} sites of "
          f"{probe.generator.name}")


def _generators():
    from generators import catalog

    return [(e.name, e.family, f"{e.resolution} px", e.kind, f"{e.description}; {e.license.split(' (')[0]}")
            for e in catalog().values()]


def _intrinsics():
    from ._intrinsics import intrinsics

    return [(i.name, str(i.channels), i.description) for i in intrinsics().values()]


def _teachers():
    from .teachers import teachers

    return list(teachers().items())


def _data():
    from .data import known_data

    return [*known_data().items(), ("FOLDER", "the images in a folder of yours; a fifth is held out")]


def _methods():
    return [("lora", "low-rank update of the sites' weights (PEFT)")]


def _protocols():
    from .metrics import protocols

    return [(str(p), ", ".join(p.metrics), p.description) for p in protocols().values()]


_ROWS: dict[str, Callable] = dict(generators=_generators, intrinsics=_intrinsics, teachers=_teachers, data=_data,
                                  methods=_methods, protocols=_protocols)
_COLUMNS = dict(
    generators=[("name", True), ("family", True), ("size", True), ("kind", True), ("about; licence", False)],
    intrinsics=[("name", True), ("channels", True), ("unit and frame", False)],
    teachers=[("name", True), ("about", False)], data=[("name", True), ("about", False)],
    methods=[("name", True), ("about", False)],
    protocols=[("name", True), ("metrics", False), ("definition", False)])


def _parser() -> tuple[ArgumentParser, dict[str, Callable]]:
    from ._fit import fit

    # name -> (function, whether required arguments are positional, arguments that are no options of the command)
    commands = {"fit": (fit, False), "list": (list_, True), "predict": (predict, True), "evaluate": (evaluate, True),
                "convert": (convert, True), "export": (export, True), "import": (import_, False)}
    parser = ArgumentParser(prog="probes", description=__doc__)
    sub = parser.add_subcommands(required=True)
    for name, (function, positional) in commands.items():
        own = ArgumentParser(description=(function.__doc__ or "").split("\n\n")[0])
        own.add_argument("--config", action=ActionConfigFile, help="YAML file with any of the options below")
        several = {"images"} if function is predict else set()            # photographs follow the run, without --images
        own.add_function_arguments(function, as_group=False, as_positional=positional, skip=several)
        if several:
            own.add_argument("images", type=str, nargs="*", default=[], help="photographs, folders of them, patterns")
        sub.add_subcommand(name, own, help=(function.__doc__ or "").split("\n")[0])
    return parser, {name: function for name, (function, _) in commands.items()}


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; errors that a user can mend are one line, without a traceback."""
    parser, functions = _parser()
    parsed: Namespace = parser.parse_args(arguments)
    options = dict(parsed[parsed.subcommand].items())
    options.pop("config", None)
    try:
        functions[parsed.subcommand](**options)
    except KeyboardInterrupt:
        again = "; the same command goes on from here" if parsed.subcommand == "fit" else ""
        print(f"interrupted{again}", file=sys.stderr)
        return 130
    except (ValueError, OSError, RuntimeError, FloatingPointError) as error:
        print(f"probes {parsed.subcommand}: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
