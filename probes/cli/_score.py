"""`probes evaluate SOURCE --data DATA`: a probe, a teacher or a folder of predictions against a dataset's maps."""
from __future__ import annotations

import sys
from inspect import signature
from pathlib import Path

from .._record import read_record
from ..teachers import teachers

# Why samples may be left out without anything being wrong: the command then ends well.
_HARMLESS = ("empty mask",)


def evaluate(source: str, data: str | None = None, protocol: list[str] = [], seeds: int | None = None,  # noqa: B006
             controls: list[str] = ["latent", "rgb"], against: str | None = None, intrinsic: str | None = None,  # noqa: B006
             output: str | None = None, first: int | None = None, count: int | None = None, size: int | None = None,
             policy: str = "resize", frame: str | None = None, meaning: str | None = None, unit: float | None = None,
             allow_holes: bool = False, trivial: int = 200, batch: int | None = None, threads: int | None = None,
             device: str = "auto", overwrite: bool = False) -> None:
    """Scores a probe again, on unseen seeds with its controls; or, with --data, a probe, a teacher or a folder of predictions
    on the maps of data, by several protocols side by side; --protocol alone, where a probe has data, means that.

    Args:
        source: folder that `probes fit` wrote; with data also a teacher's name, or a folder with NAME-INTRINSIC.npy, .exr or
            -16bit.png
        data: with maps: scenes, diode:PATH,split=val, maps:PATH, …
        protocol: by name, several with commas, or given several times; auto is all that apply, the default on data
        seeds: without data: how many, from 0; 500 by default, or as many images as are held out
        controls: without data: latent, rgb
        against: without data: exact, for data with exact maps, or a teacher; by default what the run was scored against before
        intrinsic: of a teacher or folder
        output: folder for the figures and a table with a row a sample; on data scores/SOURCE-DATA-INTRINSIC by default
        first: sample
        count: how many samples; all by default
        size: of a probe, of the shorter side as it sees an image
        policy: of a probe: resize, square or native
        frame: of a folder's normals: omnidata, opengl, dsine, …
        meaning: of a folder's depth: metric, relative, disparity
        unit: metres that 1 stands for in a folder's depth
        allow_holes: leave out pixels without a prediction
        trivial: samples whose mean map is the trivial predictor; 0 for none
        batch: samples at once
        threads: that decode
        device: cpu, cuda or auto
        overwrite: discard the scores that the folder holds
    """
    protocol = [name for part in protocol for name in part.split(",")]
    if data is None and (not protocol or _draws(source)):
        from ._runs import evaluate as again

        if source in teachers() and not Path(source).exists():
            raise ValueError(f"data: a teacher is scored on maps: probes evaluate {source} --data scenes")
        given = dict(intrinsic=intrinsic, first=first, count=count, size=size, policy=policy, frame=frame, meaning=meaning,
                     unit=unit, allow_holes=allow_holes, trivial=trivial, batch=batch, threads=threads, overwrite=overwrite)
        if wrong := [name for name, value in given.items() if value != signature(evaluate).parameters[name].default]:
            raise ValueError(f"{wrong[0]}: without --data a probe is scored on seeds, against its teacher; give --data to "
                             f"score it on maps, or leave --{' and --'.join(wrong)} out")
        again(source, seeds, controls, against, device, protocol, output)
        return
    if wrong := [name for name, value in dict(seeds=seeds, against=against).items() if value is not None]:
        raise ValueError(f"{wrong[0]}: with --data or --protocol, samples of data are scored against its maps; leave "
                         f"--{' and --'.join(wrong)} out, and choose samples with --first and --count")
    score(source, data, protocol or ["auto"], intrinsic, output, first, count, size, policy, frame, meaning, unit, allow_holes,
          trivial, batch, threads, device, overwrite)


def _draws(source: str) -> bool:
    """Whether this is a run folder without data: its generator draws its own images."""
    return (Path(source) / "probe.json").exists() and read_record(Path(source), "source").get("data") is None


def score(source: str, data: str | None, protocol: list[str], intrinsic: str | None = None, output: str | None = None,
          first: int | None = None, count: int | None = None, size: int | None = None, policy: str = "resize",
          frame: str | None = None, meaning: str | None = None, unit: float | None = None, allow_holes: bool = False,
          trivial: int = 200, batch: int | None = None, threads: int | None = None, device: str = "auto",
          overwrite: bool = False) -> None:
    """Scores on data, shows the table, and tells what was left out."""
    from rich.console import Console

    from ..scoring import score as run
    from ..scoring._table import score_table

    output = output or str(default_output(source, data, intrinsic))
    done = run(source, data, "auto" if protocol == ["auto"] else protocol, intrinsic, output, first, count, size, policy, frame,
               meaning, unit, allow_holes, trivial, batch, threads, device, overwrite, quiet=False)
    Console(highlight=False).print(score_table(done.results))
    print(f"{output}: scores.json, samples.csv")
    failed = {kind: lines for kind, lines in done.left_out.items() if kind not in _HARMLESS}
    for kind, lines in failed.items():
        for line in lines:
            print(f"{kind}: {line}", file=sys.stderr)
    if failed:
        count = sum(map(len, failed.values()))
        raise ValueError(f"{count} of the samples were not scored; the figures are those of the others")


def default_output(source: str, data: str | None, intrinsic: str | None) -> Path:
    """scores/SOURCE-DATA-INTRINSIC, of names without what a path cannot hold."""
    def short(text: str) -> str:
        kept = "".join(c if c.isalnum() or c in "._-=" else "-" for c in Path(text).name)
        return kept.strip("-.") or "all"

    parts = [short(source), *([short(data)] if data else []), *([intrinsic] if intrinsic else [])]
    return Path("scores") / "-".join(parts)
