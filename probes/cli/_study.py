"""`probes study`: a grid of fits, its plot and its page."""
from __future__ import annotations


def study(name: str, out: str | None = None, small: bool = False, engine: str = "sequential", address: str | None = None,
          only: str | list[str] | None = None, seeds: int | None = None, plot_only: bool = False, retry: bool = False,
          keep: bool = False, options: dict | None = None, detector: str = "card", device: str = "auto") -> None:
    """Runs a study: every fit of its grid that has no row yet, then its plot and its page from the rows.

    Args:
        name: from `probes list studies`
        out: its folder; studies/NAME by default, studies/NAME-small of a small one
        small: a grid of minutes, for a first look
        engine: who runs the fits; sequential: one after the other
        address: of a cluster, for engines that use one
        only: cells to run, generator=vqgan-scenes,intrinsic=normal
        seeds: of every cell; 3 by default, 1 of a small one
        plot_only: run nothing, make plot and page anew
        retry: run again what failed, and what was fitted on a generator that is another now
        keep: keep the run folders of the fits, in OUT/fits
        options: further arguments of `probes fit` for every cell, '{"steps": 500}'
        detector: of the Fréchet distances: card, scenes, inception, dinov2, dinov2:FOLDER
        device: cpu, cuda or auto
    """
    from ..studies import study as run

    done = run(name, out, small, engine, address, only, seeds, plot_only, retry, keep, options, detector, device)
    failed = len(done.failed)
    print(f"{done.folder}: {len(done.rows) - failed} fits"
          + (f", {failed} failed (--retry true tries them again)" if failed else "")
          + (f", {done.missing} of those asked for missing" if done.missing else ""))
    print(f"{done.verdict.kind}: {done.verdict.reason}")
    there = [name for name in ("README.md", "plot.png", "rows.csv") if (done.folder / name).exists()]
    print(f"{done.folder}/{', '.join(there)}")
    if failed:
        raise SystemExit(1)
