"""`probes.study`: runs what is missing of a study, one safe row at a time, and writes its plot and its page."""
from __future__ import annotations

import json
import shlex
from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Any

from generators._names import unknown

from .._files import write_bytes_atomically, write_text_atomically
from .._run_folder import claimed
from ._base import Cell, Row, Study, StudyError, finished
from ._distances import CARD, Distances
from ._engines import Engine, get_engine
from ._folder import Folder, open_folder
from ._progress import Progress
from ._registry import get_study
from ._reuse import Source, reused, sources
from ._stale import stale
from ._verdict import Asked, Verdict, judge
from ._work import Work

_OWN = ("out", "device", "quiet", "seed", "overwrite", "generator", "intrinsic")        # what a study itself says of a fit


@dataclass(frozen=True)
class Outcome:
    """What a study left behind.

    Args:
        folder: rows.csv, plot.png, README.md
        rows: every row of it, the failed ones too
        verdict: on the paper's finding
        missing: cells of the grid asked for that have no row yet
    """

    folder: Path
    rows: list[Row]
    verdict: Verdict
    missing: int

    @property
    def failed(self) -> list[Row]:
        return [r for r in self.rows if r["status"] != "ok"]


def study(name: str | Study, out: str | Path | None = None, small: bool = False, engine: str | Engine = "sequential",
          address: str | None = None, only: str | Sequence[str] | None = None, seeds: int | None = None,
          plot_only: bool = False, retry: bool = False, keep: bool = False, options: Mapping[str, Any] | None = None,
          detector: str = CARD, device: str = "auto", engine_options: Mapping[str, Any] | None = None,
          quiet: bool = False, reuse: str | Path | Sequence[str | Path] | None = None) -> Outcome:
    """Runs a study: every fit of its grid that has no row yet, then its plot and its page from the rows.

    A study that was interrupted, or killed, goes on with the same call: rows that are there stay, the fit that was under way
    is taken up.

    Args:
        name: from `probes list studies`
        out: its folder; studies/NAME by default, studies/NAME-small of a small one
        small: a grid of minutes, for a first look; its verdict is about as good as that
        engine: who runs the fits; sequential: one after the other; ray: as many at once as a Ray cluster has room for
        address: of a cluster that runs, "HOST:PORT"; by default ray starts one on this machine and ends it
        only: cells to run, "generator=vqgan-scenes,intrinsic=normal": values of one name add up, names narrow down
        seeds: of every cell; by default what the study says, 3, or 1 of a small one
        plot_only: run nothing, make plot and page anew, for what the folder was begun with
        retry: run again what failed, and what was fitted with a generator or teacher that is another now
        keep: keep the run folders of the fits, in OUT/fits
        options: further arguments of `probes.fit` for every cell, such as {"steps": 500}
        detector: of the Fréchet distances: card, what the generators' cards say, or one from `probes.frechet.detectors()`
        device: cpu, cuda or auto
        engine_options: of ray: {"cpus": 1, "gpus": 0.25} for every fit, {"retries": 2} for one whose machine was lost
        quiet: print nothing
        reuse: folders of studies, this one or others, whose rows of the same fits are taken over instead of fitting again;
            not of fits whose arguments name files or folders, and a failed row stays until `retry`

    Raises UnknownNameError for names nobody registered, StudyError for an empty grid and for a folder that holds something
    else or has rows of a generator or teacher that is another now, and for an address that does not answer, DetectorError for
    a detector without its weights, OutputError where nothing can be written. A fit that fails is a row and raises nothing.
    """
    chosen = get_study(name)
    reuse = [reuse] if isinstance(reuse, (str, Path)) else list(reuse or [])
    if reuse and plot_only:
        raise StudyError("reuse: plot_only takes no rows over; leave one of the two out")
    folder = Path(out) if out else Path("studies") / f"{chosen.name}{'-small' if small else ''}"
    if plot_only:
        small, options, detector = _begun_with(folder, small, options, detector)
    options = _plain(options)
    if own := sorted(set(options) & set(_OWN)):
        raise StudyError(f"options: {', '.join(own)} of a fit is the study's own to say; choose cells with only, and how many "
                         "seeds with seeds")
    from .._fit import fit

    known = [name for name in signature(fit).parameters if name not in _OWN]
    for name in options:
        if name not in known:
            raise unknown("options", name, known)
    if isinstance(options.get("evaluate"), int) and options["evaluate"] < 2:
        raise StudyError(f"options: expected evaluate of 2 or more, for every skill has an interval, got {options['evaluate']}")
    wanted = grid(chosen, small, only, seeds, options)
    whole = grid(chosen, small, None, max(seeds or 0, chosen.seeds[0 if small else 1]), options)
    if isinstance(engine, Engine) and (address or engine_options):
        raise StudyError("engine: address and engine_options are for an engine by its name; give them to the engine itself")
    runner = engine if isinstance(engine, Engine) else get_engine(engine, address, chosen.isolated, engine_options)
    others = sources(reuse, chosen)
    distances = None if plot_only else Distances(folder, detector)      # whatever cannot begin claims no folder
    if not plot_only:
        runner.begin(keep, None if quiet else print)
    asked = Asked(whole, small, _command(chosen.name, small, only, seeds, options, detector))
    with claimed(folder):
        opened = open_folder(folder, chosen, dict(small=small, options=options, detector=detector))
        if distances is not None:
            distances.open()
            _run(opened, wanted, runner, retry, keep, others, distances, device, quiet)
        rows = opened.rows()
        verdict = write_page(opened, rows, asked)
    there = {r["key"] for r in rows}
    return Outcome(folder, rows, verdict, sum(cell.key not in there for cell in wanted))


def _begun_with(folder: Path, small: bool, options: Mapping[str, Any] | None, detector: str) -> tuple[bool, Any, str]:
    """(small, options, detector) of a folder with rows, where the call does not say them; what it says must be the same, which
    opening the folder sees to. Raises StudyError."""
    if not (folder / "rows.csv").exists():
        raise StudyError(f"plot_only: {folder} has no rows yet; run the study first, without plot_only")
    try:
        then = json.loads((folder / "study.json").read_text())["request"]
        return small or then["small"], options or then["options"], then["detector"] if detector == CARD else detector
    except (OSError, ValueError, KeyError, TypeError):
        return small, options, detector     # no study's: opening it says so


def _plain(options: Mapping[str, Any] | None) -> dict[str, Any]:
    """As they will be read back from study.json. Raises StudyError for what JSON cannot say."""
    try:
        return json.loads(json.dumps(dict(options or {})))
    except TypeError as error:
        raise StudyError(f"options: expected numbers, words, lists and dictionaries ({error})") from error


def grid(study: Study, small: bool = False, only: str | Sequence[str] | None = None, seeds: int | None = None,
         options: Mapping[str, Any] | None = None) -> list[Cell]:
    """The cells of a study with their seeds, those that `only` names. Raises StudyError where none is left."""
    seeds = study.seeds[0 if small else 1] if seeds is None else seeds
    if seeds < 1:
        raise StudyError(f"seeds: expected at least 1, got {seeds}")
    cells = [cell.with_options(options or {}).at_seed(seed) for seed in range(seeds) for cell in study.cells(small)]
    if not cells:
        raise StudyError(f"study: {study.name} has no cells {'in its small grid' if small else ''}; nothing to run")
    if len({cell.key for cell in cells}) < len(cells):
        raise StudyError(f"study: {study.name} asks for the same fit twice; give its cells tags that tell them apart, or "
                         "leave out of options what the grid varies")
    as_it_is = [cell.at_seed(seed) for seed in range(seeds) for cell in study.cells(small)]
    if len({cell.measured for cell in cells}) < len({cell.measured for cell in as_it_is}):
        raise StudyError(f"options: {', '.join(options or ())} would make one fit of what {study.name} tells apart; leave out "
                         "what the grid varies")
    wishes = _wishes(only, cells)
    chosen = [cell for cell in cells if _named(cell, wishes)]
    if not chosen:
        raise StudyError(f"only: none of the {len(cells)} cells of {study.name} has {only!r}; {_offer(cells)}")
    return chosen


def _wishes(only: str | Sequence[str] | None, cells: Sequence[Cell]) -> dict[str, set[str]]:
    parts = [part.strip() for text in ([only] if isinstance(only, str) else only or []) for part in text.split(",")]
    known, wishes = list(dict.fromkeys(name for cell in cells for name in cell.labels)), {}
    for part in parts:
        name, equals, value = part.partition("=")
        if not equals or not value:
            raise StudyError(f"only: expected NAME=VALUE, got {part!r}; {_offer(cells)}")
        if name not in known:
            raise unknown("only", name, known)
        if not any(str(cell.labels.get(name)) == value for cell in cells):
            raise StudyError(f"only: none of the {len(cells)} cells has {part!r}; {_offer(cells)}")
        wishes.setdefault(name, set()).add(value)
    return wishes


def _named(cell: Cell, wishes: Mapping[str, set[str]]) -> bool:
    return all(str(cell.labels.get(name)) in values for name, values in wishes.items())


def _offer(cells: Sequence[Cell]) -> str:
    """What `only` can tell apart."""
    found: dict[str, dict] = {}
    for cell in cells:
        for name, value in cell.labels.items():
            found.setdefault(name, {})[str(value)] = None
    told = [f"{name}={'|'.join(values)}" for name, values in found.items() if len(values) > 1]
    return "it knows " + "; ".join(told) if told else "its cells are all alike, so leave it out"


def _run(folder: Folder, cells: Sequence[Cell], engine: Engine, retry: bool, keep: bool, others: Sequence[Source],
         distances: Distances, device: str, quiet: bool) -> None:
    work, rows, places = Work(folder.study.name, folder.fits, device), folder.rows(), {c.key: c.place for c in cells}
    old = stale(rows, cells)
    if old and not retry:
        what, (then, now) = next(iter(old.values()))
        raise StudyError(f"out: {len(old)} rows of {folder.path} were fitted with another {what} than is here now ("
                         f"fingerprint {then[:12]} then, {now[:12]} now); run them again with --retry true, or choose another "
                         "folder with --out")
    if retry:
        again = {cell.key for cell in cells} & ({r["key"] for r in rows if r["status"] != "ok"} | old.keys())
        for key in again:
            work.clear(places[key])
        if again:
            folder.rewrite(rows := [r for r in rows if r["key"] not in again])
    there = {r["key"] for r in rows}
    missing = [cell for cell in cells if cell.key not in there]
    for path, own in reused(others, folder.study, missing).items():
        for row in own:
            folder.append(distances.beside(row))
            rows.append(row)
            there.add(row["key"])
        if not quiet:
            print(f"{path}: {len(own)} rows taken over")
    missing = [cell for cell in missing if cell.key not in there]
    wanted = Counter(cell.place for cell in missing)
    if not keep:                        # a kill may come between a row and the end of its run folder
        for key in there:
            if not wanted[places.get(key, key)]:
                work.clear(places.get(key, key))
    # Closed whatever happens here: an engine has processes elsewhere, and a traceback would keep it alive.
    with (Progress(folder.study.name, missing, len(cells), rows, quiet) as progress,
          closing(_rows(engine, missing, work)) as found):
        for row in found:
            if row["key"] in there:         # an engine that retries may be told twice
                continue
            folder.append(distances.beside(row))
            there.add(row["key"])
            place = places[row["key"]]
            wanted[place] -= 1
            if not keep and not wanted[place]:
                work.clear(place)
            progress.done(row)
    if not keep and folder.fits.exists() and not any(folder.fits.iterdir()):
        folder.fits.rmdir()


def _rows(engine: Engine, cells: Sequence[Cell], work: Work) -> Generator[Row, None, None]:
    yield from engine.run(cells, work)


def _command(name: str, small: bool, only: str | Sequence[str] | None, seeds: int | None, options: Mapping[str, Any],
             detector: str) -> str:
    """The call as one line of a shell, without what its result does not depend on."""
    only = [only] if isinstance(only, str) else list(only or [])
    given = {"small": "true" if small else None, "only": ",".join(only) or None, "seeds": seeds,
             "options": json.dumps(dict(options)) if options else None, "detector": None if detector == CARD else detector}
    parts = [part for k, v in given.items() if v is not None for part in (f"--{k}", str(v))]
    return shlex.join(["probes", "study", name, *parts])


def write_page(folder: Folder, rows: Sequence[Row], asked: Asked | None = None) -> Verdict:
    """plot.png and README.md of whatever rows there are; returns the verdict. `asked` says of which grid they are."""
    done, study = finished(rows), folder.study
    if done:
        write_bytes_atomically(folder.path / "plot.png", study.plot(done))
    else:
        (folder.path / "plot.png").unlink(missing_ok=True)
    write_text_atomically(folder.path / "README.md", study.page(rows, asked))
    return judge(study, done, asked)
