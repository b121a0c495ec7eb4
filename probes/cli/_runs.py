"""`probes predict` and `probes evaluate`: what a saved probe says, and how well."""
from __future__ import annotations

import sys
from pathlib import Path


def predict(run: str, images: list[str] = [], seeds: int | None = None, first_seed: int | None = None,  # noqa: B006
            classes: list[int] | None = None, output: str | None = None, formats: list[str] = ["npy", "png"],  # noqa: B006
            size: int | None = None, policy: str = "resize", overwrite: bool = False, device: str = "auto") -> None:
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
        device: cpu, cuda or auto
    """
    from .._probe import load
    from .._results import check_picture

    if not images:                                  # before anything is drawn
        check_picture(output := output or "prediction.png")
    if images and (beside := [f"--{name}" for name, value in dict(seeds=seeds, first_seed=first_seed, classes=classes).items()
                              if value is not None]):
        raise ValueError(f"images: with photographs nothing is drawn; leave {' and '.join(beside)} out")
    probe = load(run, device=device)
    if images:
        _predict_photos(probe, images, output or "predictions", formats, size, policy, overwrite)
        return
    import io

    import numpy as np

    from .._files import write_bytes_atomically

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
    from .._console import Reporter
    from .._photos import predict_folder

    reporter, total = Reporter(), 0
    with reporter.bar("photographs") as update:
        def told(done: int, all_: int, name: str) -> None:
            nonlocal total
            total = all_
            update(done, all_, name)

        written, failed = predict_folder(probe, images, output, formats, size, policy, overwrite, told, reporter.say)
    for line in failed:
        print(line, file=sys.stderr)
    print(f"{output}: {probe.intrinsic.name} of {written} photographs ({probe.intrinsic.description})")
    if failed:
        raise ValueError(f"{len(failed)} of {total} images were left out" + "; the others are done" * (total > len(failed)))


def evaluate(run: str, seeds: int | None = None, controls: list[str] = ["latent", "rgb"],  # noqa: B006
             against: str | None = None, device: str = "auto", protocol: list[str] | None = None,
             output: str | None = None) -> None:
    """Scores a saved probe again, on any number of unseen seeds, and prints a table, by each protocol if several are named.

    Args:
        run: folder that `probes fit` wrote
        seeds: how many, from 0; 500 by default, or as many images as are held out
        controls: latent, rgb
        against: exact, for data with exact maps, or a teacher; by default what the run was scored against before
        device: cpu, cuda or auto
        protocol: by name; auto, all that apply; by default the intrinsic's own
        output: folder for NAME.json and NAME.csv, a row a seed, of every protocol; none by default
    """
    from rich.console import Console

    from .._probe import load
    from ..report import result_table, write_csv, write_json
    from ..scoring._choice import choose

    probe = load(run, device=device)
    against = against or (probe.record.get("request") or {}).get("against")
    asked = None
    if protocol:
        truth = probe.judge(against).meaning("depth") if probe.intrinsic.name == "depth" else ""
        found, notes = choose(protocol, probe.intrinsic.name, probe.intrinsic.meaning, truth)
        asked = [p.name for p in found]
        print(*(f"note: {note}" for note in notes), sep="\n", end="\n" * bool(notes))
    for name in asked or [None]:
        result = probe.evaluate(seeds, controls, against=against, protocol=name)
        Console(highlight=False).print(result_table(result.metrics, probe.record))
        if output:
            file = Path(output) / result.metrics["protocol"].partition("/")[0]
            written = write_json(f"{file}.json", result.metrics), write_csv(f"{file}.csv", result.rows)
            print(*written, sep=", ")
