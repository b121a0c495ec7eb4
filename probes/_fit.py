"""`probes.fit`: from a generator's name to a fitted, evaluated, saved probe with its controls beside it."""
from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import torch

import adapters
import generators
from generators import Generator
from generators._base import check_classes

from . import _depth
from ._arguments import label_list, names, numbers, plain_options, whole_numbers
from ._bank import Bank, Request, open_bank
from ._console import Reporter
from ._controls import CLOSED_FORM, TRAINED, UNTRAINED, Shuffled
from ._intrinsics import Intrinsic, get_intrinsic
from ._probe import Probe, free_name, load, recorded_adapter
from ._processes import Processes, accumulated, chosen_device, join, launch_note
from ._record import start_record
from ._run_folder import claimed, holds_finished, write_results
from ._settings import Settings, check_arguments, default_folder
from ._tracking import Tracker, check_report_to, start_tracker
from ._train import DivergedError, Schedule, train
from .data import Data, default_data, get_data
from .teachers import Teacher, default_teacher, get_teacher, teachers
from .teachers._labels import resolved

FIRST_TRAINING_SEED = 1_000_000


@dataclass(frozen=True)
class _Manner:
    """How a fit is carried out: what its result does not depend on."""

    processes: Processes
    reporter: Reporter
    device: str
    accumulate: int
    save_every: float


def fit(
    generator: str | Generator = "stylegan2-scenes",
    intrinsic: str | Intrinsic = "normal",
    teacher: str | Teacher = "auto",
    data: str | Data = "auto",
    encoding: str | None = None,
    method: str = "lora",
    method_options: dict[str, int | float | bool | str | None] | None = None,
    rank: int | None = None,
    alpha: float | None = None,
    scope: str = "auto",
    weights: str = "pretrained",
    samples: int | None = None,
    steps: int | None = None,
    batch: int | None = None,
    accumulate: int = 1,
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
    report_to: str = "none",
    quiet: bool = False,
    generator_options: dict[str, int | float | bool | str | None] | None = None,
) -> Probe:
    """Fits a probe: a small adapter that makes a frozen generator emit an intrinsic of its own images.

    A fit that was killed is taken up where it was by the same call; a finished one is loaded. Under `accelerate launch` or
    torchrun all processes fit one probe together.

    Args:
        generator: name from `probes list generators`, path of a checkpoint, or a Generator
        intrinsic: normal, depth, albedo, shading, or one that was registered
        teacher: name from `probes list teachers`; auto takes the default of what the generator draws; exact, where the data has
            exact maps, is no teacher but the truth
        data: of a generator that is driven by images (Stable Diffusion): a name from `probes list data` or the path of a
            folder; auto takes what the generator was trained on, where that is here. A fifth of a folder is held out
        encoding: of depth: log, linear or disparity (metres), relative or percentile (up to a scale and a shift), inverse
            (of teachers that give disparity), with another range as linear,near=0.5,far=40; by default what suits the teacher
        method: what is trained: lora; to read it beside: full, linear, offset, token, prompt, sdedit, edit, visii,
            pixels, encoder (`probes list methods`)
        method_options: of the method, such as a LoRA's rslora, dora and init, a linear probe's layers, an offset's per_layer
        rank: of the LoRA, 8 by default; of encoder, of its LoRA; of pixels, of the LoRA whose size it has
        alpha: the update is scaled by alpha / rank; the rank by default
        scope: which sites are adapted: `affine`, every w -> s affine of a StyleGAN; `decoder-attention` or `decoder` of a
            VQGAN; `all`, `self`, `cross`, `down`, `mid` or `up` attention of a Stable Diffusion; auto is the paper's for the
            family
        weights: pretrained, or random / random:SEED / crossed / crossed:SEED for the control networks
        samples: pairs in the bank; this and the next three are what the generator's family recommends by default: for
            StyleGAN2 4096, 3000, 8 and 0.01, for the embedded ones 1024 and 700
        steps: optimiser steps
        batch: pairs a step, shared out equally among the processes of a launch
        accumulate: take each process's share of a step in so many parts, one after the other; saves memory, same result;
            where it is 1, the --gradient_accumulation_steps of `accelerate launch` count
        learning_rate: Adam's, at its peak; other methods than LoRA have one of their own
        evaluate: unseen seeds (or images) to score on; 0 skips evaluation and report
        against: what is scored against: the teacher by default, or exact
        classes: of a conditional generator, the labels to draw, taken in turn; all of them by default
        prompt: what a generator that reads text is told; by default the intrinsic's own: surface normal, depth map, albedo,
            shading
        controls: latent, rgb (seconds; at 512 px minutes, and gigabytes), random, crossed, shuffled (each as long as the fit
            itself)
        seed: of the adapter's initial weights, the order of the pairs and the control networks
        device: cpu, cuda or auto; under a launch, auto is the launcher's choice: to each process its own GPU
        out: run folder; runs/GENERATOR-INTRINSIC by default
        overwrite: discard what is in `out`
        save_every: seconds between writes of the training state
        report_to: tensorboard (files go to OUT/tensorboard), wandb, or none
        quiet: print nothing
        generator_options: of the generator's family, such as a StyleGAN's truncation_psi, a VQGAN's temperature, and
            precision, "fp32" or "bf16" (faster where the CPU has AMX). `accelerate launch --mixed_precision` reaches
            Stable Diffusion and VQGAN; StyleGANs, whose styles must stay exact, know their own precision only

    Returns the probe, loaded on its generator, evaluated.

    Raises UnknownNameError for names nobody registered, ValueError for bad values, RunError if `out` holds another run,
    DivergedError if the loss stops being finite (the last good adapter is saved first), OutputError if `out` cannot be
    written, ProcessesError if another process of the launch fails.
    """
    controls, classes = names("controls", controls), label_list(classes)
    options, method_options = plain_options(generator_options=generator_options, method_options=method_options)
    accumulate, evaluate, seed = whole_numbers(accumulate=accumulate, evaluate=evaluate, seed=seed)
    rank, samples, steps, batch = whole_numbers(True, rank=rank, samples=samples, steps=steps, batch=batch)
    alpha, learning_rate, save_every = *numbers(True, alpha=alpha, learning_rate=learning_rate), *numbers(save_every=save_every)
    kind = check_arguments(method, method_options, rank, alpha, scope, controls,
                           dict(rank=rank, samples=samples, steps=steps, batch=batch, accumulate=accumulate), learning_rate,
                           evaluate, seed)
    check_report_to(report_to)
    intrinsic = get_intrinsic(intrinsic)
    _check_teachers(teacher)
    _check_teachers(against, other=())
    processes = join(device)
    manner = _Manner(processes, Reporter(quiet or not processes.main), chosen_device(device, processes),
                     accumulated(accumulate, processes), save_every)
    if note := launch_note(processes):
        manner.reporter.say(note)
    if isinstance(generator, Generator) and generator.weights.startswith("crossed"):
        raise ValueError("generator: a crossed generator cannot be fitted by itself, since its targets are another's; give "
                         "the pretrained one with weights='crossed'")
    with processes:
        built = generators.load(generator, weights, manner.device, **options)
        _check_controls(built, controls)
        if built.driven_by == "images" and "crossed" in controls:
            manner.reporter.say("note: with images from outside, random and crossed are one control; random stands for both")
            controls = list(dict.fromkeys("random" if name == "crossed" else name for name in controls))
        if prompt is not None and not built.reads_text:
            raise ValueError(f"prompt: {built.name} reads no text; leave prompt out")
        images = _data(data, built)
        bound, teacher = _bound(intrinsic, teacher, built, images, encoding, manner)
        if against is not None:
            get_teacher(against, bound.name, images)
        given = dict(samples=samples, steps=steps, batch=batch, learning_rate=learning_rate)
        taken = Generator.recommended | built.recommended
        taken |= dict(learning_rate=kind.rate(taken["learning_rate"])) | (dict(steps=0) if not kind.trained else {})
        taken |= {k: value for k, value in given.items() if value is not None}
        rank = (rank or 8) if "rank" in kind.shared else None
        alpha = float(rank if alpha is None else alpha) if "alpha" in kind.shared else None
        scope = (built.scopes[0] if scope == "auto" else scope) if "scope" in kind.shared else None
        if classes is not None:
            classes = check_classes(built, range(len(classes) or 1), classes)
        settings = Settings(built.address, bound.name, teacher.name,
                            method, rank, alpha, scope, built.weights, **taken,
                            evaluate=evaluate, controls=controls, seed=seed, classes=classes,
                            generator_options={**built.options, **built.origin}, data=images.name if images else None,
                            prompt=(prompt or bound.prompt or bound.name) if built.reads_text else None,
                            against=resolved(against), mixed_precision=processes.mixed_precision, method_options=method_options)
        settings = _within(settings, images, manner.reporter)
        _schedule(settings).shares(0, settings.samples, manner.accumulate, processes.index, processes.count)
        folder = Path(out) if out else default_folder(settings)
        with claimed(folder) if processes.main else nullcontext():
            crossed = built.weights.startswith("crossed")
            source = generators.load(generator, "pretrained", manner.device, **options) if crossed else None
            pairs = _pairs(built, source, bound, teacher, images, settings)
            probe, finished = None, processes.share(lambda: holds_finished(folder, settings, pairs, overwrite))
            if finished:
                probe = _loaded(folder, built, source, bound, teacher, images, processes)
                probe.record["generator"]["options"] = settings.generator_options       # it may be sampled in another way now
            scored = finished and probe.last_evaluation is not None and probe.record["request"] == settings.as_dict()
            if scored:
                manner.reporter.say(f"{folder} holds this very run, finished: loaded, not fitted again")
            elif evaluate or not finished:
                tracker = start_tracker(report_to if processes.main else "none", folder, settings.as_dict())
                with closing(tracker):
                    probe = probe or _fit_one(built, source, bound, teacher, images, settings, folder, manner, tracker)
                    if evaluate:
                        _evaluate(probe, generator, teacher, settings, folder, manner, tracker)
            if processes.main:
                _forget_state(folder)
            if evaluate:
                from .report import result_table

                manner.reporter.console.print(result_table(probe.last_evaluation.metrics, probe.record))
            manner.reporter.say(f"run folder: {folder}")
    return probe


def _forget_state(folder: Path) -> None:
    """Removes the training state of a finished fit; a read-only folder refuses even where there is none."""
    if (folder / "training-state").exists():
        (folder / "training-state").unlink()


def _check_controls(built: Generator, controls: Sequence[str]) -> None:
    trained = sorted(set(controls) & set(UNTRAINED))
    if built.weights != "pretrained" and trained:
        raise ValueError(f"controls: {', '.join(trained)} compare with untrained networks, and this generator's weights are "
                         f"{built.weights} already; ask for them on the pretrained one")


def _check_teachers(name: str | Teacher | None, other: tuple[str, ...] = ("auto",)) -> None:
    """Raises UnknownNameError for a name that is no teacher's, nor one of `other`, whatever generator and data are."""
    known = {*other, *teachers()}
    if isinstance(name, str) and name not in known and f"{name.partition(':')[0]}:…" not in known:
        get_teacher(name)


def _bound(intrinsic: Intrinsic, teacher: str | Teacher, generator: Generator, images: Data | None,
           encoding: str | None, manner: _Manner) -> tuple[Intrinsic, Teacher]:
    """(the intrinsic as the teacher means it, the teacher on the fit's device)."""
    world = images.world if images else generator.world
    teacher = get_teacher(default_teacher(world) if teacher == "auto" else teacher, intrinsic.name, images).to(manner.device)
    if world not in teacher.worlds:
        manner.reporter.say(f"note: teacher {teacher.name} is for {', '.join(teacher.worlds)}; these images show {world}")
    options = teacher.options(intrinsic.name)
    if intrinsic.name == "depth":
        options = _depth.chosen(intrinsic.options, intrinsic.chosen, options, encoding, teacher.meaning("depth"))
    elif encoding is not None:
        raise ValueError(f"encoding: that is how depth is written as an image, {intrinsic.name} has one way only; leave "
                         "encoding out")
    return intrinsic.with_options(options), teacher


def _data(data: str | Data, generator: Generator) -> Data | None:
    """The images of a generator that is driven by images; None for one that draws its own."""
    if generator.driven_by != "images":
        if data != "auto":
            raise ValueError(f"data: {generator.name} draws its own images; leave data out")
        return None
    images = get_data(default_data(generator.world) if data == "auto" else data)
    images.check_training()
    return images


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


def _schedule(settings: Settings) -> Schedule:
    return Schedule(settings.steps, settings.batch, settings.learning_rate, settings.seed)


def _pairs(generator: Generator, source: Generator | None, intrinsic: Intrinsic, teacher: Teacher, images: Data | None,
           settings: Settings) -> Request:
    """What a fit learns from."""
    first = images.first_training_index if images else FIRST_TRAINING_SEED
    return Request(source or generator, teacher, intrinsic, first, settings.samples, settings.classes, data=images,
                   latents=generator.output_space == "latents")


def _bank(request: Request, manner: _Manner) -> Bank:
    """Built by the main process, then opened by the others: built again only on nodes that do not share its disk."""
    if manner.processes.main:
        with manner.reporter.bar("bank") as update:
            bank = open_bank(request, progress=lambda done, total: update(done, total, "pairs"))
        if (cut := bank.manifest.get("cut", 0)) > 0.01:
            encoding, near, far = (request.intrinsic.options[name] for name in ("encoding", "near", "far"))
            manner.reporter.say(f"note: {cut:.0%} of the depth is nearer than {near:g} or farther than {far:g} m, which the "
                                f"probe cannot say; give a range, as --encoding {encoding},near=0.5,far=40")
    manner.processes.wait()
    return bank if manner.processes.main else open_bank(request)


def _fit_one(generator: Generator, source: Generator | None, intrinsic: Intrinsic, teacher: Teacher, images: Data | None,
             settings: Settings, folder: Path, manner: _Manner, tracker: Tracker) -> Probe:
    processes = manner.processes
    request = _pairs(generator, source, intrinsic, teacher, images, settings)
    adapter = adapters.build(settings.method, generator, free_name(generator, intrinsic.name), settings.prompt,
                             settings.method_options, scope=settings.scope, rank=settings.rank, alpha=settings.alpha,
                             seed=settings.seed)
    try:
        _read_prompt(adapter)               # what cannot be fitted is to be known before anything is labelled
        bank = _bank(request, manner)
    except BaseException:
        adapter.remove()
        raise
    record = start_record(generator, intrinsic, teacher, images, adapter, settings, request)
    record["training"] |= dict(processes=processes.count, accumulate=manner.accumulate)
    probe = Probe(generator, adapter, intrinsic, record, source, teacher, images)
    identity = hashlib.sha256(json.dumps([settings.of_the_weights(generator), bank.key, generator.fingerprint],
                                         sort_keys=True).encode()).hexdigest()
    processes.same("generator, pairs or settings", identity)
    try:
        with manner.reporter.bar("fit") as update:
            lessons = Shuffled(bank, settings.seed) if settings.shuffled else bank
            outcome = train(adapter, lessons, intrinsic, _schedule(settings), folder / "training-state", identity,
                            manner.save_every, lambda step, loss: update(step, settings.steps, f"steps, loss {loss:.4f}"),
                            manner.accumulate, processes, tracker.training)
    except DivergedError:
        record["training"].update(status="diverged")
        if processes.main:
            probe.save(folder)
        raise
    probe.curve = outcome.curve
    record["training"].update(seconds=round(outcome.seconds, 2), final_loss=outcome.final_loss if outcome.curve else None,
                              status="finished", curve=outcome.curve, peak_memory_mib=round(outcome.peak_memory_mib, 1),
                              steps_per_second=round(settings.steps / outcome.seconds, 3) if outcome.seconds else None)
    if processes.main:
        probe.save(folder)
    return probe


def _read_prompt(adapter: adapters.Adapter) -> None:
    """Raises what the generator says of a prompt that it cannot read; adapters that see the finished picture tell it none."""
    generator = adapter.generator
    if generator.reads_text and adapter.output_space == generator.output_space and hasattr(generator, "context"):
        with adapter.active(), torch.no_grad():
            generator.context(1)


def _loaded(folder: Path, generator: Generator, source: Generator | None, intrinsic: Intrinsic, teacher: Teacher,
            images: Data | None, processes: Processes) -> Probe:
    """The finished probe of a run folder, which only the main process need see."""
    probe = load(folder, generator, source=source, teacher=teacher, data=images) if processes.main else None
    record, state, curve, evaluation = processes.share(
        lambda: (probe.record, probe.adapter.state(), probe.curve, probe.last_evaluation))
    if probe is None:
        adapter = recorded_adapter(record, generator)
        adapter.load_state(state)
        probe = Probe(generator, adapter, intrinsic, record, source, teacher, images, curve, evaluation)
    return probe


def _evaluate(probe: Probe, generator: str | Generator, teacher: Teacher, settings: Settings, folder: Path, manner: _Manner,
              tracker: Tracker) -> None:
    """Fits the controls that are fits, together; scores everything and writes the results, on the main process."""
    trained = _trained_controls(probe, generator, teacher, settings, folder, manner)

    def score():
        closed = [c for c in settings.controls if c in CLOSED_FORM]
        evaluation = probe.evaluate(settings.evaluate, closed, trained, manner.reporter.say, settings.against)
        probe.record["request"] = settings.as_dict()
        write_results(probe, folder)
        tracker.scores(settings.steps, evaluation.metrics)
        return evaluation

    probe.last_evaluation = manner.processes.share(score)
    probe.record["request"] = settings.as_dict()


def _trained_controls(probe: Probe, generator: str | Generator, teacher: Teacher, settings: Settings, folder: Path,
                      manner: _Manner) -> dict[str, Probe]:
    """The same fit on networks that were never trained, and on targets of other pictures, each in a folder of its own below the
    run's."""
    found, processes = {}, manner.processes
    for name in settings.controls:
        if name not in TRAINED:
            continue
        shuffled = name == "shuffled"
        weights = settings.weights if shuffled else f"{name}:{settings.seed}"
        built = isinstance(generator, Generator)
        own = probe.generator if shuffled else generators.load(
            probe.generator if built else generator, weights, manner.device, **({} if built else settings.generator_options))
        place = folder / "controls" / name
        altered = Settings(**{**settings.as_dict(), "weights": weights, "controls": [], "evaluate": 0, "shuffled": shuffled})
        source = probe.source if shuffled else probe.generator if name == "crossed" else None
        pairs = _pairs(own, source, probe.intrinsic, teacher, probe.data, altered)
        if processes.share(lambda: holds_finished(place, altered, pairs, False)):      # noqa: B023 (called here and now)
            found[name] = _loaded(place, own, source, probe.intrinsic, teacher, probe.data, processes)
            continue
        manner.reporter.say(f"control: {name if shuffled else weights}")
        try:
            found[name] = _fit_one(own, source, probe.intrinsic, teacher, probe.data, altered, place, manner, Tracker())
        except DivergedError as error:
            manner.reporter.say(f"control: {name} is left out, it diverged: {error}")
        if processes.main:
            _forget_state(place)
    return found
