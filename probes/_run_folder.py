"""The folder of a run: who may write it, whose it is, and what a finished fit leaves in it."""
from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from ._bank import Request
from ._bank_part import json_sha256
from ._files import OutputError, write_text_atomically
from ._probe import RESULTS, Probe
from ._record import RunError, read_record
from ._settings import Settings, learnt_with
from ._train import DivergedError, TrainingStateError

_OVERWRITING = ".overwriting"       # there while a fit that began by discarding another is under way: which one
_FOR_GOOD = (RunError, DivergedError, TrainingStateError)       # what a call that goes on from there would meet again
_ADVICE = "choose another folder with --out, or discard it with --overwrite true"


class claimed:
    """Holds the run folder for this process; another fit of the same folder is told so. One that cannot be written, such as a
    shared folder that is read-only, is used without where it holds a finished run."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.lock: FileLock | None = None

    def __enter__(self) -> None:
        lock = FileLock(self.folder / ".lock")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=0)
        except Timeout:
            raise RunError(f"out: another fit is writing {self.folder} at this moment; wait for it, or choose another "
                           "folder with --out") from None
        except OSError as error:
            if not _is_finished(self.folder):
                raise OutputError(error.errno, error.strerror or str(error), str(self.folder)) from error
        else:
            self.lock = lock

    def __exit__(self, kind: type[BaseException] | None, *_) -> None:
        if self.lock is None:
            return
        if kind is None or issubclass(kind, _FOR_GOOD):
            with suppress(OSError):
                (self.folder / _OVERWRITING).unlink(missing_ok=True)
        self.lock.release()          # the file stays: removing it would let two processes hold two locks


def _is_finished(folder: Path) -> bool:
    with suppress(RunError, OSError):
        return read_record(folder, "out")["training"]["status"] == "finished"
    return False


def vacate(folder: Path, overwrite: bool) -> None:
    """Raises RunError where the folder holds a run; discards that on overwrite. Raises OutputError where it cannot."""
    if overwrite:
        try:
            for name in (_OVERWRITING, "training-state", "probe.json", *RESULTS):
                (folder / name).unlink(missing_ok=True)
        except OSError as error:
            raise OutputError(error.errno, error.strerror or str(error), str(folder)) from error
        for name in ("controls", "adapter", "tensorboard"):
            shutil.rmtree(folder / name, ignore_errors=True)
    elif (folder / "probe.json").exists():
        raise RunError(f"out: {folder} holds a run already; {_ADVICE}")


def holds_finished(folder: Path, settings: Settings, pairs: Request, overwrite: bool) -> bool:
    """Whether the folder holds these very weights, fitted on these very pairs. Clears it on overwrite, once for a fit that is
    cut short and taken up by the same call; refuses another run's and one whose record is damaged."""
    if overwrite:
        _overwrite(folder, json_sha256([settings.of_the_weights(pairs.generator), pairs.key,
                                         pairs.generator.fingerprint]))
    if not (folder / "probe.json").exists():
        return False
    record = read_record(folder, "out")
    request, generator = record["request"], pairs.generator
    request = {**request, "generator_options": learnt_with(request.get("generator_options") or {}, generator)}
    changed = [k for k, v in settings.of_the_weights(generator).items() if request.get(k) != v]
    if changed:
        raise RunError(f"out: {folder} holds a run with another {', '.join(changed)}; {_ADVICE}")
    if record["bank"]["key"] != pairs.key:
        raise RunError(f"out: {folder} holds a run that was fitted on other pairs: {_difference(record, pairs)}; {_ADVICE}")
    return record["training"]["status"] == "finished"


def _overwrite(folder: Path, identity: str) -> None:
    """Discards what the folder holds, unless this very fit did so before it was cut short: the rest is its own."""
    mark = folder / _OVERWRITING
    try:
        if mark.read_text() == identity:
            return
    except (OSError, ValueError):
        pass
    vacate(folder, True)
    write_text_atomically(mark, identity)


def _difference(record: dict, pairs: Request) -> str:
    """Why the pairs of a record are not those asked for, as far as the record tells."""
    options, now = record["intrinsic"]["options"], pairs.intrinsic.options
    found = [f"{name} {options.get(name)} then, {value} now" for name, value in now.items() if options.get(name) != value]
    if pairs.data is not None and (record.get("data") or {}).get("fingerprint") != pairs.data.fingerprint:
        found.append(f"the images of {pairs.data.name} have changed since")
    if record["teacher"]["fingerprint"] != pairs.teacher.fingerprint:
        found.append(f"teacher {pairs.teacher.name} has changed since (version {record['teacher']['version']} then, "
                     f"{pairs.teacher.version} now)")
    return ", ".join(found) or "the generator that drew them, or the version of this software, is another now"


def _short(teacher: str) -> str:
    """A teacher's name as the head of a column: of labels:/a/long/folder the folder alone."""
    kind, colon, rest = teacher.partition(":")
    return f"{kind}{colon}{Path(rest).name}"


def write_results(probe: Probe, folder: Path, shown: int = 8) -> None:
    """samples.csv, samples.png and report.html, and last metrics.json and the record, which say that all is there."""
    from .report import display, judge_name, sheet, teacher_line, write_csv, write_json, write_report

    evaluation = probe.last_evaluation
    (folder / "metrics.json").unlink(missing_ok=True)
    write_csv(folder / "samples.csv", evaluation.rows)
    seeds = range(evaluation.metrics["seeds"][0], evaluation.metrics["seeds"][0] + min(shown, len(evaluation.rows)))
    name, prediction = probe.intrinsic.name, probe.predict(seeds)
    judge = probe.judge(probe.record["request"]["against"])
    judged = probe.truths(range(seeds.start, seeds.start + len(evaluation.rows)), judge)
    taught, meanings = judged.truth(slice(0, len(seeds))), (judge.meaning(name), probe.intrinsic.meaning)
    primary = evaluation.metrics["primary"]
    unit = evaluation.metrics["metrics"][primary]["unit"]
    captions = [f"seed {s}\n{evaluation.rows[i][primary]:.3g}{unit}" for i, s in enumerate(seeds)]
    like = taught if meanings[0] == meanings[1] else None          # metres and shares of a range have no scale in common
    picture = sheet({"image": prediction.image,
                     _short(judge_name(evaluation.metrics)): display(name, taught, meaning=meanings[0]),
                     "probe": display(name, prediction.map, like=like, meaning=meanings[1])}, folder / "samples.png",
                    captions=captions, note=teacher_line(probe.record, evaluation.metrics))
    write_report(folder / "report.html", probe.record, evaluation.metrics, evaluation.rows, picture, probe.curve)
    write_json(folder / "metrics.json", evaluation.metrics)
    write_json(folder / "probe.json", probe.record)
