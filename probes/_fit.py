"""`probes.fit`: from a generator's name to a fitted, evaluated, saved probe with its controls beside it."""
from __future__ import annotations

import hashlib
import json
import platform
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from filelock import FileLock, Timeout

import adapters
import generators
from generators import Generator
from generators._base import check_classes
from generators._names import unknown

from ._bank import Request, open_bank
from ._console import Reporter
from ._controls import CLOSED_FORM, TRAINED
from ._intrinsics import Intrinsic, get_intrinsic
from ._probe import Probe, RunError, free_name, load
from ._train import DivergedError, Schedule, train
from .data import Data, default_data, get_data
from .teachers import Teacher, default_teacher, get_teacher

FIRST_TRAINING_SEED = 1_000_000
METHODS = ("lora",)


@dataclass(frozen=True)
class Settings:
    """The arguments of `fit` that decide its result."""

    generator: str
    intrinsic: str
    teacher: str
    method: str
    rank: int
    alpha: float
    scope: str
    weights: str
    samples: int
    steps: int
    batch: int
    learning_rate: float
    evaluate: int
    controls: list[str]
    seed: int
    classes: list[int] | None = None
    generator_options: dict = field(default_factory=dict)
    data: str | None = None
    prompt: str | None = None
    against: str | None = None

    def as_dict(self) -> dict:
        return dict(self.__dict__)

    def of_the_weights(self) -> dict:
        """Those that the fitted weights depend on: all but how they are scored."""
        return {k: v for k, v in self.__dict__.items() if k not in ("evaluate", "controls", "against")}


def fit(
    generator: str | Generator = "stylegan2-scenes",
    intrinsic: str | Intrinsic = "normal",
    teacher: str | Teacher = "auto",
    data: str | Data = "auto",
    method: str = "lora",
    rank: int = 8,
    alpha: float | None = None,
    scope: str = "auto",
    weights: str = "pretrained",
    samples: int | None = None,
    steps: int | None = None,
    batch: int | None = None,
    learning_rate: float | None = None,
    evaluate: int = 500,
    against: str | None = None,
    classes: Sequence[int] | None = None,
    prompt: str | None = None,
    controls: Sequence[str] = ("latent", "rgb"),
    seed: int = 0,
    device: str = "auto",
    out: str | None = None,
    overwrite: bool = False,
    save_every: float = 15.0,
    quiet: bool = False,
    generator_options: dict[str, int | float | bool | str | None] | None = None,
) -> Probe:
    """Fits a probe: a small adapter that makes a frozen generator emit an intrinsic of its own images.

    A fit that was killed is taken up where it was by the same call; a finished one is loaded.

    Args:
        generator: name from `probes list generators`, path of a checkpoint, or a Generator
        intrinsic: normal, depth, albedo, shading, or one that was registered
        teacher: name from `probes list teachers`; auto takes the default of what the generator draws; exact, where the data has
            exact maps, is no teacher but the truth
        data: of a generator that is driven by images (Stable Diffusion): a name from `probes list data` or the path of a
            folder; auto takes what the generator was trained on, where that is here. A fifth of a folder is held out
        method: what is trained; lora
        rank: of the LoRA
        alpha: the update is scaled by alpha / rank; the rank by default
        scope: which sites are adapted: `affine`, every w -> s affine of a StyleGAN; `decoder-attention` or `decoder` of a
            VQGAN; `all`, `self`, `cross`, `down`, `mid` or `up` attention of a Stable Diffusion; auto is the paper's for the
            family
        weights: pretrained, or random / random:SEED / crossed / crossed:SEED for the control networks
        samples: pairs in the bank; this and the next three are what the generator's family recommends by default: for
            StyleGAN2 4096, 3000, 8 and 0.01
        steps: optimiser steps
        batch: pairs a step
        learning_rate: Adam's, at its peak
        evaluate: unseen seeds (or images) to score on; 0 skips evaluation and report
        against: what is scored against: the teacher by default, or exact
        classes: of a conditional generator, the labels to draw, taken in turn; all of them by default
        prompt: what a generator that reads text is told; by default the intrinsic's own: surface normal, depth map, albedo,
            shading
        controls: latent, rgb (seconds), random, crossed (each as long as the fit itself)
        seed: of the adapter's initial weights, the order of the pairs and the control networks
        device: cpu, cuda or auto
        out: run folder; runs/GENERATOR-INTRINSIC by default
        overwrite: discard what is in `out`
        save_every: seconds between writes of the training state
        quiet: print nothing
        generator_options: of the generator's family, such as a StyleGAN's truncation_psi, a VQGAN's temperature, and
            precision, "fp32" or "bf16" (faster where the CPU has AMX)

    Returns the probe, loaded on its generator, evaluated.

    Raises UnknownNameError for names nobody registered, ValueError for bad values, RunError if `out` holds another run,
    DivergedError if the loss stops being finite (the last good adapter is saved first), OutputError if `out` cannot be
    written.
    """
    _check(method, controls, dict(rank=rank, samples=samples, steps=steps, batch=batch), learning_rate, evaluate, seed)
    device = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    bound = get_intrinsic(intrinsic)
    reporter = Reporter(quiet)
    options = generator_options or {}
    built = generators.load(generator, weights, device, **options)
    if built.weights != "pretrained" and set(controls) & set(TRAINED):
        raise ValueError(f"controls: {', '.join(sorted(set(controls) & set(TRAINED)))} compare with untrained networks, and "
                         f"this generator's weights are {built.weights} already; ask for them on the pretrained one")
    if isinstance(generator, Generator) and built.weights.startswith("crossed"):
        raise ValueError("generator: a crossed generator cannot be fitted by itself, since its targets are another's; give "
                         "the pretrained one with weights='crossed'")
    images = _data(data, built)
    world = images.world if images else built.world
    teacher = get_teacher(default_teacher(world) if teacher == "auto" else teacher, bound.name, images).to(device)
    if world not in teacher.worlds:
        reporter.say(f"note: teacher {teacher.name} is for {', '.join(teacher.worlds)}; these images show {world}")
    if against is not None:
        get_teacher(against, bound.name, images)
    bound = bound.with_options(teacher.options(bound.name))
    given = dict(samples=samples, steps=steps, batch=batch, learning_rate=learning_rate)
    taken = Generator.recommended | built.recommended | {name: value for name, value in given.items() if value is not None}
    if classes is not None:
        classes = check_classes(built, range(len(classes) or 1), classes)
    settings = Settings(built.address, bound.name, teacher.name,
                        method, rank, float(rank if alpha is None else alpha),
                        built.scopes[0] if scope == "auto" else scope, built.weights, **taken,
                        evaluate=evaluate, controls=list(controls), seed=seed, classes=classes,
                        generator_options={**built.options, **built.origin}, data=images.name if images else None,
                        prompt=(prompt or bound.prompt or bound.name) if built.reads_text else None, against=against)
    settings = _within(settings, images, reporter)
    folder = Path(out) if out else default_folder(settings)
    with _claimed(folder):
        source = generators.load(generator, "pretrained", device, **options) if built.weights.startswith("crossed") else None
        if _existing(folder, settings, overwrite):
            probe = load(folder, built, source=source, teacher=teacher, data=images)
        else:
            probe = _fit_one(built, source, bound, teacher, images, settings, folder, save_every, reporter)
        if probe.last_evaluation and probe.record["request"] == settings.as_dict():
            reporter.say(f"{folder} holds this very run, finished: loaded, not fitted again")
        elif evaluate:
            trained = _trained_controls(probe, generator, teacher, settings, folder, save_every, reporter, device)
            probe.evaluate(settings.evaluate, [c for c in controls if c in CLOSED_FORM], trained, reporter.say, against)
            probe.record["request"] = settings.as_dict()
            _write_results(probe, folder)
        (folder / "training-state").unlink(missing_ok=True)
        if evaluate:
            from .report import result_table

            reporter.console.print(result_table(probe.last_evaluation.metrics, probe.record))
        reporter.say(f"run folder: {folder}")
    return probe


def default_folder(settings: Settings) -> Path:
    """runs/GENERATOR-INTRINSIC, with the weights where they are a control's."""
    tail = "" if settings.weights == "pretrained" else "-" + settings.weights.replace(":", "")
    return Path("runs") / f"{Path(settings.generator).stem}-{settings.intrinsic}{tail}"


def _check(method: str, controls: Sequence[str], counts: dict[str, int | None], learning_rate: float | None,
           evaluate: int, seed: int) -> None:
    if method not in METHODS:
        raise unknown("method", method, METHODS)
    for control in controls:
        if control not in (*CLOSED_FORM, *TRAINED):
            raise unknown("controls", control, (*CLOSED_FORM, *TRAINED))
    for name, value in counts.items():
        if value is not None and value < 1:
            raise ValueError(f"{name}: expected at least 1, got {value}")
    if learning_rate is not None and not 0 < learning_rate < float("inf"):
        raise ValueError(f"learning_rate: expected a positive number, got {learning_rate}; leave it out for the "
                         "generator's own")
    if counts["samples"] is not None and counts["samples"] < 10:
        raise ValueError(f"samples: expected at least 10 pairs, got {counts['samples']}; leave it out for the generator's own")
    if seed < 0:
        raise ValueError(f"seed: expected a number of at least 0, got {seed}")
    if evaluate < 0:
        raise ValueError(f"evaluate: expected a number of seeds of at least 0, got {evaluate}")


class _claimed:
    """Holds the run folder for this process; another fit of the same folder is told so."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __enter__(self) -> None:
        from ._files import OutputError

        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.lock = FileLock(self.folder / ".lock")
            self.lock.acquire(timeout=0)
        except Timeout:
            raise RunError(f"out: another fit is writing {self.folder} at this moment; wait for it, or choose another "
                           "folder with --out") from None
        except OSError as error:
            raise OutputError(error.errno, error.strerror or str(error), str(self.folder)) from error

    def __exit__(self, *exc) -> None:
        self.lock.release()          # the file stays: removing it would let two processes hold two locks


def _existing(folder: Path, settings: Settings, overwrite: bool) -> bool:
    """Whether the folder holds these very weights, fitted. Clears it on overwrite, refuses another run's."""
    if overwrite:
        for name in ("training-state", "probe.json", "metrics.json", "samples.csv", "samples.png", "report.html"):
            (folder / name).unlink(missing_ok=True)
        for name in ("controls", "adapter"):
            shutil.rmtree(folder / name, ignore_errors=True)
    path = folder / "probe.json"
    if not path.exists():
        return False
    record = json.loads(path.read_text())
    request = record.get("request") or {}
    changed = [k for k, v in settings.of_the_weights().items() if request.get(k) != v]
    if changed:
        raise RunError(f"out: {folder} holds a run with another {', '.join(changed)}; choose another folder with --out, "
                       "or discard it with --overwrite true")
    return record["training"]["status"] == "finished"


def _data(data: str | Data, generator: Generator) -> Data | None:
    """The images of a generator that is driven by images; None for one that draws its own."""
    if generator.driven_by != "images":
        if data != "auto":
            raise ValueError(f"data: {generator.name} draws its own images; leave data out")
        return None
    return get_data(default_data(generator.world) if data == "auto" else data)


def _within(settings: Settings, images: Data | None, reporter: Reporter) -> Settings:
    """The settings, cut to what there is of images that have an end."""
    if images is None or images.count is None:
        return settings
    first = images.first_training_index
    most = dict(samples=images.count - first, evaluate=first)
    cut = {name: limit for name, limit in most.items() if getattr(settings, name) > limit}
    if cut:
        reporter.say(f"note: {images.name} holds {images.count} images, of which {first} are held out: "
                     + ", ".join(f"{name} {limit}" for name, limit in cut.items()))
    return replace(settings, **cut)


def _fit_one(generator: Generator, source: Generator | None, intrinsic: Intrinsic, teacher: Teacher, images: Data | None,
             settings: Settings, folder: Path, save_every: float, reporter: Reporter) -> Probe:
    first = images.first_training_index if images else FIRST_TRAINING_SEED
    request = Request(source or generator, teacher, intrinsic, first, settings.samples, settings.classes, data=images,
                      latents=generator.output_space == "latents")
    with reporter.bar("bank") as update:
        bank = open_bank(request, progress=lambda done, total: update(done, total, "pairs"))
    adapter = adapters.attach(generator, free_name(generator, intrinsic.name), settings.scope, settings.rank,
                              settings.alpha, settings.seed, prompt=settings.prompt)
    schedule = Schedule(settings.steps, settings.batch, settings.learning_rate, settings.seed)
    record = _record(generator, intrinsic, teacher, images, adapter, settings, request)
    probe = Probe(generator, adapter, intrinsic, record, source, teacher, images)
    identity = hashlib.sha256(json.dumps([settings.of_the_weights(), bank.key, generator.fingerprint],
                                         sort_keys=True).encode()).hexdigest()
    try:
        with reporter.bar("fit") as update:
            outcome = train(adapter, bank, intrinsic, schedule, folder / "training-state", identity, save_every,
                            lambda step, loss: update(step, settings.steps, f"steps, loss {loss:.4f}"))
    except DivergedError:
        record["training"].update(status="diverged")
        probe.save(folder)
        raise
    probe.curve = outcome.curve
    record["training"].update(seconds=round(outcome.seconds, 2), final_loss=outcome.final_loss, status="finished",
                              curve=outcome.curve)
    probe.save(folder)
    return probe


def _trained_controls(probe: Probe, generator: str | Generator, teacher: Teacher, settings: Settings, folder: Path,
                      save_every: float, reporter: Reporter, device: str) -> dict[str, Probe]:
    """The same fit on networks that were never trained, each in a folder of its own below the run's."""
    found = {}
    for name in settings.controls:
        if name not in TRAINED:
            continue
        weights = f"{name}:{settings.seed}"
        own = generators.load(probe.generator if isinstance(generator, Generator) else generator, weights, device,
                              **({} if isinstance(generator, Generator) else settings.generator_options))
        place = folder / "controls" / name
        place.mkdir(parents=True, exist_ok=True)
        altered = Settings(**{**settings.as_dict(), "weights": weights, "controls": [], "evaluate": 0})
        source = probe.generator if name == "crossed" else None
        if _existing(place, altered, overwrite=False):
            found[name] = load(place, own, source=source, teacher=teacher, data=probe.data)
            continue
        reporter.say(f"control: {weights}")
        try:
            found[name] = _fit_one(own, source, probe.intrinsic, teacher, probe.data, altered, place, save_every, reporter)
        except DivergedError as error:
            reporter.say(f"control: {name} is left out, it diverged: {error}")
        (place / "training-state").unlink(missing_ok=True)
    return found


def _record(generator: Generator, intrinsic: Intrinsic, teacher: Teacher, images: Data | None, adapter: adapters.LoRA,
            settings: Settings, request: Request) -> dict:
    """The contents of probe.json before training."""
    import peft

    from . import __version__

    total = sum(v.numel() for k, v in generator.base_state().items())
    return {
        "format": "probes-run", "version": 1,
        "generator": dict(name=settings.generator, family=generator.family, weights=generator.weights,
                          fingerprint=generator.fingerprint, resolution=generator.resolution, parameters=total,
                          options=settings.generator_options),
        "intrinsic": dict(name=intrinsic.name, options=intrinsic.options, description=intrinsic.description),
        "teacher": dict(name=teacher.name, version=teacher.version, licence=teacher.licence,
                        fingerprint=teacher.fingerprint, exact_errors=teacher.exact_errors(intrinsic.name)),
        "data": None if images is None else dict(name=images.name, fingerprint=images.fingerprint, world=images.world),
        "method": dict(name=settings.method, rank=settings.rank, alpha=settings.alpha, scope=settings.scope,
                       sites=adapter.site_names, parameters=adapter.size, prompt=adapter.prompt),
        "bank": dict(first_seed=request.first_seed, samples=settings.samples, classes=settings.classes,
                     key=request.key),
        "training": dict(steps=settings.steps, batch=settings.batch, learning_rate=settings.learning_rate,
                         seed=settings.seed, status="started"),
        "request": settings.as_dict(),
        "versions": dict(probes=__version__, torch=torch.__version__, peft=peft.__version__,
                         python=platform.python_version()),
        "hardware": hardware(generator.device),
    }


def hardware(device: torch.device) -> str:
    """What a result was made on, for records and cards."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}"


def _write_results(probe: Probe, folder: Path, shown: int = 8) -> None:
    """samples.csv, samples.png and report.html, and last metrics.json and the record, which say that all is there."""
    from .report import display, sheet, write_csv, write_json, write_report

    evaluation = probe.last_evaluation
    (folder / "metrics.json").unlink(missing_ok=True)
    write_csv(folder / "samples.csv", evaluation.rows)
    seeds = range(evaluation.metrics["seeds"][0], evaluation.metrics["seeds"][0] + min(shown, len(evaluation.rows)))
    name, prediction = probe.intrinsic.name, probe.predict(seeds)
    judged = probe.bank(range(seeds.start, seeds.start + len(evaluation.rows)), against=probe.record["request"]["against"])
    taught = probe.intrinsic.to_map(judged.target(slice(0, len(seeds))))
    primary = evaluation.metrics["primary"]
    unit = evaluation.metrics["metrics"][primary]["unit"]
    captions = [f"seed {s}\n{evaluation.rows[i][primary]:.3g}{unit}" for i, s in enumerate(seeds)]
    picture = sheet({"image": prediction.image, evaluation.metrics["against"].partition(" ")[0]: display(name, taught),
                     "probe": display(name, prediction.map, like=taught)}, folder / "samples.png", captions=captions)
    write_report(folder / "report.html", probe.record, evaluation.metrics, evaluation.rows, picture, probe.curve)
    write_json(folder / "metrics.json", evaluation.metrics)
    write_json(folder / "probe.json", probe.record)
