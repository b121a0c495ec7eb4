"""`probes study`: a grid of fits, its plot and its page."""
from __future__ import annotations


def study(name: str, out: str | None = None, small: bool = False, engine: str = "sequential", address: str | None = None,
          only: str | list[str] | None = None, seeds: int | None = None, plot_only: bool = False, retry: bool = False,
          keep: bool = False, options: dict | None = None, detector: str = "card", device: str = "auto",
          engine_options: dict | None = None, reuse: list[str] | None = None) -> None:
    """Runs a study: every fit of its grid that has no row yet, then its plot and its page from the rows.

    Args:
        name: from `probes list studies`; findings: nothing is run, and OUT/README.md says of every finding of the paper what
            the study folders in OUT found
        out: its folder; studies/NAME by default, studies/NAME-small of a small one, of findings studies
        small: a grid of minutes, for a first look
        engine: who runs the fits; sequential: one after the other; ray: as many at once as a Ray cluster has room for
        address: of a cluster that runs, HOST:PORT; by default ray starts one on this machine and ends it
        only: cells to run, generator=vqgan-scenes,intrinsic=normal
        seeds: of every cell; 3 by default, 1 of a small one
        plot_only: run nothing, make plot and page anew
        retry: run again what failed, and what was fitted with a generator or teacher that is another now
        keep: keep the run folders of the fits, in OUT/fits
        options: further arguments of `probes fit` for every cell, '{"steps": 500}'
        detector: of the Fréchet distances: card, scenes, inception, dinov2, dinov2:FOLDER
        device: cpu, cuda or auto
        engine_options: of ray, for every fit, '{"cpus": 1, "gpus": 0.25, "retries": 2}'
        reuse: a folder of a study, this one or another, whose rows of the same fits are taken over; may be given several
            times
    """
    from ..studies import study as run

    if name == "findings":
        given = dict(small=small, only=only, seeds=seeds, plot_only=plot_only, retry=retry, options=options,
                     engine="" if engine == "sequential" else engine, address=address, keep=keep, engine_options=engine_options,
                     detector="" if detector == "card" else detector, reuse=reuse)
        return _findings(out or "studies", [option for option, value in given.items() if value])
    done = run(name, out, small, engine, address, only, seeds, plot_only, retry, keep, options, detector, device,
               engine_options, reuse=reuse)
    failed = len(done.failed)
    print(f"{done.folder}: {len(done.rows) - failed} fits"
          + (f", {failed} failed (--retry true tries them again)" if failed else "")
          + (f", {done.missing} of those asked for missing" if done.missing else ""))
    print(f"{done.verdict.kind}: {done.verdict.reason}")
    there = [name for name in ("README.md", "plot.png", "rows.csv") if (done.folder / name).exists()]
    print(f"{done.folder}/{', '.join(there)}")
    if failed:
        raise SystemExit(1)


def _findings(folder: str, given: list[str]) -> None:
    from pathlib import Path

    from .._files import write_text_atomically
    from ..studies import findings

    if given:
        raise ValueError(f"study: findings runs nothing and takes --out alone, not --{', --'.join(given)}")
    title, text, page = "# Findings of the paper, and what was measured here\n", findings(folder), Path(folder) / "README.md"
    if page.exists() and not page.read_text(errors="replace").startswith(title):
        raise ValueError(f"out: {page} is another page, which this would replace; move it away, or choose another folder")
    write_text_atomically(page, f"{title}\n{text}\n")
    print(text.partition("\n")[0])
    print(page)
