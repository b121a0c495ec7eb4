"""`score`: any predictor against the maps of a dataset, by several protocols side by side.

    samples ─▶ decoded in threads ─▶ batches of one size ─▶ predictions at the samples' own size ─▶ protocols, masks always
                                                            samples.csv, scores.json, a table

The paper does not say which protocol its tables use, and the same predictions differ by more between protocols than methods
do by one; so all that apply are reported, each named and versioned. Nothing is rounded or resized on the way: float32 maps
at the images' own size. A run that was killed goes on where it was and ends with the same numbers.
"""
from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from generators._device import chosen

from .._console import Reporter
from .._parallel import Batch, Held, Ordered, Unreadable, at_once, batches, chunks, sample_bytes, threads_for
from .._probe import Probe
from .._rows import check_names, holding
from ..data import Data, Sample, valid
from ..metrics import EmptyMaskError, Protocol, aggregate, aggregate_skill, prepare_depth
from ..report import how_wrong
from ..teachers import Teacher
from ._choice import AUTO, choose, which_data, which_intrinsic, which_samples
from ._sources import Source, as_probe, check_apart, open_source
from ._store import Extras, Store
from ._trivial import Mean, mean_map

_FIXED = ("index", "name", "height", "width", "valid_pixels", "skipped")
_FINAL = "empty mask"       # why a sample is left out for good; everything else is tried again by the next run


@dataclass(frozen=True)
class Scored:
    """What `score` found.

    Args:
        results: the contents of scores.json
        rows: one a sample: index, name, every metric as PROTOCOL.METRIC, the trivial predictor's as PROTOCOL.METRIC.trivial
        folder: where both are; None where nothing was written
    """

    results: dict
    rows: list[dict[str, str]]
    folder: Path | None

    def value(self, protocol: str, metric: str) -> float:
        """A figure over all samples."""
        return self.results["protocols"][protocol]["metrics"][metric]["value"]

    @property
    def left_out(self) -> dict[str, list[str]]:
        """{why: one line for each sample that was not scored}."""
        return self.results["left_out"]


def score(source: str | Path | Probe | Teacher, data: str | Path | Data | None = None,
          protocol: str | Sequence[str] = AUTO, intrinsic: str | None = None, output: str | Path | None = None,
          first: int | None = None, count: int | None = None, size: int | None = None, policy: str = "resize",
          frame: str | None = None, meaning: str | None = None, unit: float | None = None, allow_holes: bool = False,
          trivial: int = 200, batch: int | None = None, threads: int | None = None, device: str = "auto",
          overwrite: bool = False, quiet: bool = True) -> Scored:
    """Scores predictions against the maps that data knows, at the images' own sizes.

    Args:
        source: a run folder or a Probe on a generator that is driven by images; a teacher or its name; or a folder of
            predictions, NAME-INTRINSIC.npy, .exr or -16bit.png
        data: with maps of the intrinsic; by default, for a probe, what it was fitted on
        protocol: names; by default all that fit the intrinsic and what its depth means, but those with a dataset's crop
        intrinsic: by default the probe's, or the only one there is
        output: folder for scores.json and samples.csv; what it holds of the same scoring is kept. None: nothing is written
        first, count: which of the data's samples; by default all, or, of the data that a probe was fitted on, those held out
        size, policy: of a probe: see `Probe.predict`
        frame: of a folder's normals, of `probes.frames.FRAMES`: omnidata by default, opengl, dsine, …
        meaning: of a folder's depth: metric, relative or disparity, where nothing in the folder says it
        unit: metres that 1 stands for in a folder's depth
        allow_holes: leave out pixels that have truth and no prediction; otherwise such a sample is not scored
        trivial: samples whose mean map is the trivial predictor; 0 for none
        batch: samples of one size that are predicted at once; by default the source's own, on a processor fewer large ones
        threads: that decode; by default as many as there are processors
        device: where the source computes
        overwrite: discard what `output` holds
        quiet: say nothing

    Returns a Scored: figures with 95 % intervals, bootstrapped over samples. Samples that cannot be read, have no prediction or
    no truth are left out, counted and named.

    Raises UnknownNameError for names that do not exist; ValueError for data without the map, protocols that do not apply, and
    where no sample could be scored.
    """
    if trivial < 0:
        raise ValueError(f"trivial: expected a number of samples, or 0 for no trivial predictor, got {trivial}")
    device = str(chosen(device))
    probe = as_probe(source, device)
    data = which_data(data, probe)
    about = which_intrinsic(source, probe, intrinsic, protocol, data)
    data.require((about.name,))
    numbers, left = which_samples(data, probe, first, count)
    names = {i: data.sample_name(i) for i in numbers}
    check_names(list(names.values()), data.name)
    opened = open_source(source, probe, about, data, names, size=size, policy=policy, meaning=meaning, frame=frame, unit=unit,
                         device=device)
    truth = data.meaning(about.name)
    check_apart(opened, data, names)
    used, notes = choose(protocol, about.name, opened.meaning, truth)
    notes = [*left, *notes]
    if data.made_by:
        notes.insert(0, f"the maps of {data.name} are labels of {data.made_by}, not the truth: figures tell agreement with it")
    if probe is not None and not probe.untaught and probe.record["teacher"]["name"] != "exact":
        notes.insert(0, f"the probe was taught by {how_wrong(probe.record['teacher'], about.name)}")
    together = at_once(opened.batch, device) if batch is None else batch
    batch = opened.batch if batch is None else batch
    threads, reporter = threads_for(data, threads), Reporter(quiet)
    identity = dict(source=opened.about(), data=_about(data), intrinsic=about.name,
                    meaning=opened.meaning, protocols=[str(p) for p in used], samples=_which(numbers),
                    allow_holes=allow_holes, trivial=trivial, batch=batch)
    folder = None if output is None else Path(output)
    job = _Job(data, opened, about.name, used, truth, allow_holes, names, notes, together)
    if folder is None:
        return _run(job, Store(None, identity, job.columns(), overwrite), numbers, batch, threads, trivial, reporter)
    with holding(folder, "evaluate"):
        return _run(job, Store(folder, identity, job.columns(), overwrite), numbers, batch, threads, trivial, reporter)


def _about(data: Data) -> dict:
    return dict(name=data.name, fingerprint=data.fingerprint, **({"labels_of": data.made_by} if data.made_by else {}))


def _which(numbers: Sequence[int]) -> list:
    """[first, count], and a digest where they do not follow each other."""
    which: list = [numbers[0], len(numbers)]
    if numbers[-1] - numbers[0] + 1 != len(numbers):
        which.append(hashlib.sha256(str(list(numbers)).encode()).hexdigest()[:16])
    return which


@dataclass
class _Job:
    data: Data
    source: Source
    intrinsic: str
    protocols: list[Protocol]
    truth: str
    allow_holes: bool
    names: dict[int, str]
    notes: list[str]
    together: int | Callable[[tuple[int, int]], int]
    mean: Mean | None = None

    def columns(self) -> list[str]:
        found = list(_FIXED)
        for p in self.protocols:
            own = [*p.metrics, *(["pixels"] if p.pooled else []), *(["coverage"] if self.allow_holes else [])]
            found += [f"{p.name}.{m}" for m in own] + [f"{p.name}.{m}.trivial" for m in p.metrics]
        return found

    def read(self, index: int) -> tuple[Sample, Any] | Unreadable:
        sample = self.data.sample(index, (self.intrinsic,))
        if not valid(sample.maps[self.intrinsic]).any():
            return Unreadable(f"its {self.intrinsic} has no value at any pixel", _FINAL)
        loaded = self.source.load(index, sample)
        return loaded if isinstance(loaded, Unreadable) else (sample, loaded)

    def evaluate(self, sample: Sample, prediction: Tensor) -> tuple[dict[str, float], Extras] | Unreadable:
        """All metrics of a sample, and what pooling needs beyond."""
        target, row, extras = sample.maps[self.intrinsic][None], {}, {}
        known = torch.isfinite(prediction).all(0)
        if self.allow_holes and not (known & valid(target[0])).any():
            return Unreadable("it has no value at any pixel that has truth", "prediction")
        pairs = [("", prediction, self.source.meaning)]
        if self.mean is not None:
            mean = self.mean.at(sample.size, self.intrinsic)
            if self.allow_holes:                # skill compares the same pixels
                mean = mean.masked_fill(~known, torch.nan)
            pairs.append((".trivial", mean, self.truth))
        for ending, values, meaning in pairs:
            for protocol in self.protocols:
                try:
                    ready = values[None]
                    if self.intrinsic == "depth":
                        ready = prepare_depth(ready, meaning, protocol, self.truth)
                    found = protocol.score(ready, target, allow_holes=self.allow_holes, names=[sample.name])
                except EmptyMaskError:          # nothing inside its crop or range: none of this protocol's figures
                    if self.allow_holes and not ending and protocol.valid(target).any():
                        row[f"{protocol.name}.coverage"] = 0.0
                    continue
                except ValueError as error:
                    if ending:                  # the mean map of such depths is none that this protocol can compare
                        continue
                    reason = str(error).removeprefix("prediction: ").removeprefix(f"{sample.name}: ")
                    return Unreadable(reason, "prediction")
                for key, value in found.items():
                    if value.ndim > 1:
                        extras[f"{protocol.name}.{key}{ending}"] = value[0].numpy()
                    elif not (ending and key == "pixels"):
                        row[f"{protocol.name}.{key}{ending}"] = float(value[0])
        return row, extras


def _run(job: _Job, store: Store, numbers: list[int], batch: int, threads: int, trivial: int, reporter: Reporter) -> Scored:
    parts = chunks(numbers, batch)
    settled = {i for i, row in store.rows.items() if not row["skipped"] or row["skipped"].startswith(_FINAL)}
    open_parts = [part for part in parts if not settled.issuperset(part)]
    store.keep(set(numbers) - {i for part in open_parts for i in part})
    if trivial:
        with reporter.bar("mean map") as update:
            job.mean = mean_map(job.data, job.intrinsic, numbers, trivial, threads, update)
    if store.rows:
        reporter.say(f"note: the scores of {len(store.rows)} of {len(numbers)} samples are kept, they were in {store.folder} "
                     "already")
    _score_all(job, store, open_parts, len(numbers), batch, threads, reporter)
    results = _results(job, store, numbers)
    for note in results["notes"]:
        reporter.say(f"note: {note}")
    store.finish(results, numbers)
    return Scored(results, list(store.rows.values()), store.folder)


def _score_all(job: _Job, store: Store, parts: Sequence[Sequence[int]], total: int, batch: int, threads: int,
               reporter: Reporter) -> None:
    def finish(index: int, sample: Sample, prediction: Tensor) -> None:
        found = job.evaluate(sample, prediction)
        if isinstance(found, Unreadable):
            skip(index, found, sample.size)
            return
        row, extras = found
        height, width = sample.size
        known = int(valid(sample.maps[job.intrinsic]).sum())
        fixed = dict(index=index, name=sample.name, height=height, width=width, valid_pixels=known, skipped="")
        store.add(index, {**fixed, **row}, extras)

    def skip(index: int, why: Unreadable, size: tuple[Any, Any] = ("", "")) -> None:
        reason = f"{why.kind}: {why.reason}"
        store.add(index, dict(index=index, name=job.names[index], height=size[0], width=size[1], skipped=reason), {})

    def cost(found: tuple[Sample, Any]) -> int:
        return sample_bytes(found[0]) + (found[1].numel() * 4 if isinstance(found[1], Tensor) else 0)

    count, held = total - sum(map(len, parts)), Held()
    with reporter.bar(f"{job.source.name} on {job.data.name}") as update, Ordered(2 * batch, held) as work:
        for group in batches(parts, job.read, job.together, threads, lambda found: found[0].size, cost, held):
            found = _predicted(job, group)
            if isinstance(found, Unreadable):
                for index in group.items:
                    work.put(skip, index, found)
            else:
                if store.warnings is None:
                    store.warn(check_frames(job.intrinsic, [s.maps[job.intrinsic] for s, _ in group.results], found))
                for index, (sample, _), prediction in zip(group.items, group.results, found, strict=True):
                    work.put(finish, index, sample, prediction, cost=cost((sample, prediction)))
            count += len(group.items)
            update(count, total, job.names[group.items[-1]])


def _predicted(job: _Job, group: Batch) -> list[Tensor] | Unreadable:
    if isinstance(group.results[0], Unreadable):
        return group.results[0]
    samples, loaded = zip(*group.results, strict=True)
    try:
        found = job.source.predict(group.items, samples, loaded)
    except ValueError as error:             # what the source does not look at, images too small for it for one
        return Unreadable(str(error), "refused")
    for values, sample in zip(found, samples, strict=True):
        if values.shape != sample.maps[job.intrinsic].shape:
            raise TypeError(f"{job.source.name}: its {job.intrinsic} of {sample.name} is {list(values.shape)}, the truth "
                            f"{list(sample.maps[job.intrinsic].shape)}; expected the same")
    return found


def check_frames(intrinsic: str, truth: Iterable[Tensor], prediction: Iterable[Tensor]) -> list[str]:
    """A line for the truth and one for the prediction, where their normals look as if they were in another frame."""
    if intrinsic != "normal":
        return []
    from ..frames import Normals, self_check

    found = []
    for whose, normals in (("the truth", truth), ("the prediction", prediction)):
        values = torch.stack(list(normals))
        text = self_check(Normals(values)).text if valid(values).any() else ""
        if text:
            found.append(f"{whose}: {text}")
    return found


def _results(job: _Job, store: Store, numbers: Sequence[int]) -> dict:
    """The contents of scores.json."""
    rows = [(i, store.rows[i]) for i in numbers]
    scored = [(i, row) for i, row in rows if not row["skipped"]]
    left_out: dict[str, list[str]] = {}
    for _, row in rows:
        if row["skipped"]:
            kind, _, reason = row["skipped"].partition(": ")
            left_out.setdefault(kind, []).append(f"{row['name']}: {reason}")
    if not scored:
        kind, lines = next(iter(left_out.items()))
        raise ValueError(f"data: none of the {len(rows)} samples of {job.data.name} could be scored; {len(lines)} times "
                         f"{kind}, {lines[0]}")
    found, notes = {}, list(job.notes)
    for protocol in job.protocols:
        own = _table(store, scored, protocol, "", job.allow_holes)
        if not all(np.isfinite(own[m]).any() for m in protocol.metrics):
            notes.append(f"{protocol.name} is left out: none of the {len(scored)} samples has a pixel that it scores")
            continue
        base = None if job.mean is None else _table(store, scored, protocol, ".trivial", False)
        metrics = {name: dict(label=m.label, unit=m.unit, better=m.better, over=protocol.over(name), **figure)
                   for (name, m), figure in zip(protocol.metrics.items(), aggregate(protocol, own).values(), strict=True)}
        if base is not None and np.isfinite(base[protocol.primary]).any():
            skills, bases = aggregate_skill(protocol, own, base), aggregate(protocol, base)
            for name, entry in metrics.items():
                entry |= dict(trivial=bases[name]["value"], **skills[name])
        found[protocol.name] = dict(version=protocol.version, description=protocol.description, formula=protocol.formula,
                                    source=protocol.source, primary=protocol.primary, metrics=metrics)
        if "coverage" in own:
            found[protocol.name]["coverage"] = float(np.nanmean(own["coverage"]))
    if not found:
        raise ValueError(f"protocol: {', '.join(notes[-len(job.protocols):])}; choose another with --protocol")
    from .. import __version__

    mean = None if job.mean is None else dict(samples=job.mean.samples, scored=job.mean.scored)
    return dict(format="probes-scores", version=1, status="finished", software=f"probes {__version__}", identity=store.identity,
                samples=len(scored), trivial=mean, protocols=found, left_out=left_out,
                notes=[*notes, *(store.warnings or [])])


def _table(store: Store, scored: Sequence[tuple[int, dict]], protocol: Protocol, ending: str,
           coverage: bool) -> dict[str, np.ndarray]:
    """The columns of a protocol, as its `score` gives them for all samples at once."""
    def column(name: str) -> np.ndarray:
        return np.array([float(row.get(name) or "nan") for _, row in scored])

    table = {m: column(f"{protocol.name}.{m}{ending}") for m in protocol.metrics}
    if protocol.pooled:
        table["pixels"] = np.nan_to_num(column(f"{protocol.name}.pixels"))
    if coverage:
        table["coverage"] = column(f"{protocol.name}.coverage")
    for name, length in protocol.extras.items():
        key, blank = f"{protocol.name}.{name}{ending}", np.zeros(length, np.int32)
        with tempfile.TemporaryFile() as file:          # 18,000 numbers a sample: on disk, whatever their number
            table[name] = np.memmap(file, np.int32, "w+", shape=(len(scored), length))
        for place, (i, _) in enumerate(scored):
            table[name][place] = store.extras(i).get(key, blank)
    return table
