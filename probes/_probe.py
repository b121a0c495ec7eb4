"""A Probe: generator + adapter + intrinsic + where it came from. Predicts, evaluates, saves, loads."""
from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

import adapters
import generators
from generators import Generator, State
from generators._base import check_classes
from generators._files import file_sha256
from generators._names import unknown

from ._arguments import label_list, names, seed_list, seed_range
from ._bank import Bank, Request, batch_size, drawn, open_bank
from ._controls import CLOSED_FORM, Trivial
from ._files import OutputError, write_bytes_atomically, write_text_atomically
from ._intrinsics import Intrinsic, get_intrinsic
from ._photos import PhotoPrediction, predict_photos
from ._record import ADVICE, RunError, read_record
from ._results import Evaluation, Prediction, Scores, read_evaluation
from .data import Data, get_data
from .metrics import Protocol, check_protocol, depth_protocol, get_protocol, prepare_depth, summarise
from .teachers import Teacher, Unsaid, get_teacher

RESULTS = ("metrics.json", "samples.csv", "samples.png", "report.html")      # of an evaluation, in a run folder
WEIGHTS = "adapter/adapter_model.safetensors"
_SAID = ("r", "lora_alpha", "use_rslora", "use_dora", "target_modules")      # of a LoRA's configuration, what changes its maps
REFERENCE = 1000        # images that the controls of an adapter from elsewhere are fitted on


@dataclass
class Probe:
    """A fitted adapter on a frozen generator.

    Attributes:
        generator: shared with whatever else is attached to it; untouched outside of this probe's methods
        adapter: the LoRA, or what another method trains
        intrinsic: what it emits
        record: the contents of probe.json: everything needed to rebuild and reproduce
        source: draws latents and images; the generator itself, except in the crossed control
        teacher: labels them, a Teacher or its name; looked up by the record's name where it is not given
        data: images of a generator that is driven by images; looked up likewise
        last_evaluation: what `evaluate` returned last
    """

    generator: Generator
    adapter: adapters.Adapter
    intrinsic: Intrinsic
    record: dict
    source: Generator | None = None
    teacher: str | Teacher | None = None
    data: Data | None = None
    curve: list[tuple[int, float]] = field(default_factory=list)
    last_evaluation: Evaluation | None = None

    @property
    def drawn_by(self) -> Generator:
        return self.source or self.generator

    @property
    def classes(self) -> list[int] | None:
        """The labels it was fitted on; None for all, or for a generator without."""
        return self.record["bank"].get("classes")

    @torch.no_grad()
    def emit(self, state: State) -> Tensor:
        """state -> encoded prediction, float [N, 3, H, W]."""
        with self.adapter.active():
            return self.adapter.emit(state).cpu()

    @property
    def images(self) -> Data | None:
        """Where the images come from, for a generator that is driven by them. Raises RunError if they are others than it was
        fitted on."""
        if self.generator.driven_by != "images":
            return None
        about = self.record["data"]
        if self.data is None:
            if about is None:
                raise ValueError("data: this probe came without data of its own; give images, or load or import it with data=")
            self.data = get_data(about["name"])
        if about is not None and not self.untaught and self.data.fingerprint != about["fingerprint"]:
            raise RunError(f"data: the images of {self.data.name} are not those this probe was fitted on (fingerprint "
                           f"{self.data.fingerprint[:12]}, expected {about['fingerprint'][:12]}); bring those back, or fit it "
                           "again")
        return self.data

    @property
    def untaught(self) -> bool:
        """Whether it came without its story: any teacher and data may judge it, none of which it was fitted on."""
        return self.record["teacher"]["name"] == Unsaid.name

    @property
    def fitted_on(self) -> range:
        """Seeds, or images by number, of its bank; where that is not known, those that its controls are fitted on."""
        images, about = self.images, self.record["bank"]
        if self.untaught and images is not None:
            return images.training(REFERENCE)
        return range(about["first_seed"], about["first_seed"] + about["samples"])

    def predict(self, seeds: Iterable[int] | None = None, classes: Sequence[int] | None = None, images: Any = None,
                size: int | None = None, policy: str = "resize") -> Prediction | list[PhotoPrediction]:
        """Images and their intrinsic for `seeds`; or, of a generator that is driven by images, the intrinsic of `images`.

        Args:
            seeds: any numbers; of a generator that is driven by images, which of its data's; by default the first eight
            classes: of a conditional generator: one label for all, or one for each seed; by default those that the probe
                was fitted on, in turn
            images: photographs: a folder, a path, a pattern, a Pillow image, an array, a tensor, or a list of these (see
                `probes.images`); of any size, and the map comes at that size
            size: of an image's shorter side as the generator sees it; by default what it was fitted on
            policy: how an image is brought to that: "resize", "square" or "native" (see `probes.images.fit`)

        Returns a Prediction, or a list of PhotoPrediction for `images`.

        Raises ValueError for an empty list of seeds, numbers the data does not have, classes the generator does not have, and
        seeds or classes beside images; ImageError, a ValueError, for what is no image.
        """
        if images is not None:
            if beside := [name for name, value in (("seeds", seeds), ("classes", classes)) if value is not None]:
                raise ValueError(f"{beside[0]}: images are given, so nothing is drawn; leave {' and '.join(beside)} out, or "
                                 "images")
            return list(predict_photos(self, images, size, policy))
        seeds, classes = seed_list(range(8) if seeds is None else seeds), label_list(classes)
        if classes is None and self.classes:
            classes = [self.classes[s % len(self.classes)] for s in seeds]
        if self.images is None:
            classes = check_classes(self.drawn_by, seeds, classes)
        elif classes is not None:
            raise ValueError(f"classes: {self.generator.name} is driven by images; leave classes out")
        images, maps = [], []
        batch = batch_size(self.generator)
        for i in range(0, len(seeds), batch):
            part = classes[i:i + batch] if classes is not None else None
            state, image = drawn(self.drawn_by, seeds[i:i + batch], part, self.images)
            images.append(image.cpu())
            maps.append(self.intrinsic.to_map(self.emit(state)))
        return Prediction(torch.cat(images), torch.cat(maps), self.intrinsic, tuple(seeds))

    def evaluate(self, seeds: int | range | Sequence[int] | None = None, controls: Sequence[str] = ("latent", "rgb"),
                 trained_controls: dict[str, Probe] | None = None,
                 progress: Callable[[str], None] | None = None, against: str | Teacher | None = None,
                 protocol: str | None = None) -> Evaluation:
        """Scores the probe on seeds it was not fitted on, with controls beside it.

        Args:
            seeds: how many, from 0; or a range, or numbers that follow each other; 500 by default, or as many as are held
                out where those are fewer
            controls: closed-form controls to fit on the probe's own bank and score too: "latent", "rgb"
            trained_controls: probes of untrained networks, already fitted, by name
            progress: called with a line at each stage
            against: the judge: "exact" for the data's exact maps, another teacher, or by default the one it was fitted on
            protocol: how maps are compared, a name of `probes list protocols`; by default the intrinsic's own
        """
        controls = names("controls", controls)
        for name in controls:
            if name not in CLOSED_FORM:
                raise unknown("controls", name, CLOSED_FORM)
        seeds = self._unseen(seeds)
        say = progress or (lambda line: None)
        judge = self.judge(against)
        compared = self.protocol(judge, protocol)
        bank = self.training_bank()
        say(f"scoring {len(seeds)} unseen seeds")
        held_out = self.truths(seeds, judge)
        trivial = Trivial(self.drawn_by, bank)
        scores = self.scores(held_out, self.emit, judge, compared)
        base = self.scores(held_out, lambda state: trivial.predict(self.drawn_by, state), judge, compared)
        results: dict[str, tuple[Scores, Scores]] = {}
        for name, probe in (trained_controls or {}).items():
            own = probe.evaluate(seeds, controls=(), against=against, protocol=protocol)
            results[name] = own.scores, own.trivial
        for name in controls:
            say(f"fitting the {name} control")
            control = CLOSED_FORM[name](self.drawn_by, bank)
            own = self.scores(held_out, lambda state, c=control: c.predict(self.drawn_by, state), judge, compared)
            results[name] = own, base
        metrics = dict(protocol=str(compared), primary=compared.primary, seeds=[seeds.start, len(seeds)],
                       against=f"{judge.name} {judge.version}", judge=_judged_by(judge, self.intrinsic.name),
                       metrics=summarise(compared, scores, base, results))
        columns = {**scores, **{f"trivial_{k}": v for k, v in base.items()},
                   **{f"{c}_{k}": v for c, (own, _) in results.items() for k, v in own.items()}}
        flat = {k: v for k, v in columns.items() if v.ndim == 1}            # a histogram is no column
        rows = [dict(seed=s, **{k: float(v[i]) for k, v in flat.items()}) for i, s in enumerate(seeds)]
        self.last_evaluation = Evaluation(metrics, rows, scores, base)
        return self.last_evaluation

    def _unseen(self, seeds: int | range | Sequence[int] | None) -> range:
        """The seeds to evaluate on, none of which is one the probe was fitted on."""
        training, images = self.fitted_on, self.images
        likely = min(500, training.start)
        seeds = seed_range(likely if seeds is None else seeds, likely)
        if seeds.start < training.stop and training.start < seeds.stop:
            held = "for instance" if images is None or images.count is None else (
                f"of the {images.count} images of {images.name} the first {training.start} are held out:")
            raise ValueError(f"seeds: {seeds} overlaps what this probe was fitted on ({training}); evaluate on others, {held} "
                             f"seeds={likely}")
        if images is not None:
            images.check(seeds)
        return seeds

    def protocol(self, judge: Teacher, name: str | None = None) -> Protocol:
        """What compares this probe's maps with a judge's: the one of that name, or the intrinsic's own, unless their depths
        mean different things. Raises UnknownNameError; ValueError where it, or nothing, compares them."""
        if name is not None:
            found, truth = get_protocol(name), judge.meaning("depth") if self.intrinsic.name == "depth" else ""
            check_protocol(found, self.intrinsic.name, self.intrinsic.meaning, truth)
            return found
        if self.intrinsic.name != "depth":
            return get_protocol(self.intrinsic.protocol)
        return depth_protocol(self.intrinsic.protocol, self.intrinsic.meaning, judge.meaning("depth"))

    def scores(self, bank: Bank, predict: Callable[[State], Tensor], judge: Teacher,
               protocol: Protocol | None = None) -> Scores:
        """Per-sample scores of what `predict` emits against the maps of a bank of `truths`, by its own protocol or another."""
        protocol, found = protocol or self.protocol(judge), []
        batch = batch_size(self.generator)
        for i in range(0, len(bank), batch):
            rows = slice(i, min(i + batch, len(bank)))
            values = self.intrinsic.to_map(predict(bank.state(rows)))
            if self.intrinsic.name == "depth":
                values = prepare_depth(values, self.intrinsic.meaning, protocol, judge.meaning("depth"))
            found.append(protocol.score(values, bank.truth(rows), allow_empty=True))
        return {k: torch.cat([f[k] for f in found]).double().numpy() for k in found[0]}

    def taught_by(self) -> Teacher:
        """The teacher it was fitted on, or of an adapter from elsewhere the one that was given. Raises RunError if that is
        another by now, ValueError where nobody knows one."""
        teacher = get_teacher(self.teacher or self.record["teacher"]["name"], self.intrinsic.name, self.images)
        self.teacher = teacher.to(self.generator.device)
        if not self.untaught and teacher.fingerprint != self.record["teacher"]["fingerprint"]:
            raise RunError(f"teacher: {teacher.name} has changed since this probe was fitted (version "
                           f"{self.record['teacher']['version']} then, {teacher.version} now); fit it again")
        return teacher

    def judge(self, against: str | Teacher | None = None) -> Teacher:
        """Whose maps it is scored against: its teacher's, or those of `against`."""
        teacher = self.taught_by() if against is None else get_teacher(against, self.intrinsic.name, self.images)
        return teacher.to(self.generator.device)

    def truths(self, seeds: range, judge: Teacher) -> Bank:
        """The states of `seeds`, as this probe's generator draws them, and a judge's physical maps of them."""
        return open_bank(Request(self.drawn_by, judge, self.intrinsic, seeds.start, len(seeds), self.classes, "float32",
                                 self.images, physical=True))

    def training_bank(self) -> Bank:
        """The pairs it was fitted on; of an adapter from elsewhere, those that its controls are fitted on."""
        seeds, latents = self.fitted_on, self.drawn_by.output_space == "latents"
        return open_bank(Request(self.drawn_by, self.judge(), self.intrinsic, seeds.start, len(seeds), self.classes,
                                 data=self.images, latents=latents))

    def save(self, folder: str | Path) -> Path:
        """Writes adapter/ (of a LoRA, PEFT's format) and probe.json, each file whole or not at all; scores of another probe in
        the folder are removed. The record takes the adapter file's sha256. Returns the folder. Raises OutputError where it
        cannot be written."""
        folder = Path(folder)
        tensors, config = self.adapter.file()
        weights = safetensors.torch.save({k: v.contiguous() for k, v in tensors.items()}, {"format": "pt"})
        try:
            (folder / "adapter").mkdir(parents=True, exist_ok=True)
            if not _is_saved(folder, self.record, weights):
                for name in RESULTS:
                    (folder / name).unlink(missing_ok=True)
        except OSError as error:
            raise OutputError(error.errno, error.strerror or str(error), str(error.filename or folder)) from error
        self.record["adapter_sha256"] = hashlib.sha256(weights).hexdigest()
        write_bytes_atomically(folder / WEIGHTS, weights)
        write_text_atomically(folder / "adapter" / "adapter_config.json", json.dumps(config, indent=2, default=str))
        write_text_atomically(folder / "probe.json", json.dumps(self.record, indent=2))
        return folder


def load(folder: str | Path, generator: Generator | None = None, device: str = "auto", name: str | None = None,
         source: Generator | None = None, teacher: str | Teacher | None = None,
         data: str | Path | Data | None = None) -> Probe:
    """Loads a saved probe.

    Args:
        folder: a run folder
        generator: put the adapter on this one instead of building its own; several probes may share a generator
        device: where a generator that is built goes: cpu, cuda or auto
        name: of the adapter on its generator; by default the intrinsic's name, numbered if it is taken
        source: for a crossed control, the trained generator whose latents and targets it was fitted on
        teacher: what evaluations compare with; by default the registered teacher of the record's name. It must be the one
            the probe was fitted on, except for a LoRA that was imported without one
        data: images of a generator that is driven by images; by default what the record names. The same holds for them

    Raises RunError if the folder is incomplete, of another version, or made for another generator, or if its record or its
    adapter was truncated or altered.
    """
    folder = Path(folder)
    try:
        record = read_record(folder, "run")
        tensors = _read_weights(folder / WEIGHTS, record)
    except FileNotFoundError as error:
        raise RunError(f"run: {folder} is not a finished run folder ({error.filename} is missing); give the folder "
                       "that `probes fit` wrote") from error
    about = record["generator"]
    if generator is None:
        generator = _rebuilt(about, about["weights"], device)
    if generator.fingerprint != about["fingerprint"]:
        raise RunError(f"generator: {generator.name} is not the one this probe was fitted on (fingerprint "
                       f"{generator.fingerprint[:12]}, expected {about['fingerprint'][:12]}); an adapter fits only the "
                       "weights it was trained on")
    if about["weights"].startswith("crossed") and source is None:
        source = _rebuilt(about, "pretrained", str(generator.device))
    adapter = recorded_adapter(record, generator, name)
    try:
        _check_config(folder, adapter)
        adapter.load_file(tensors)
    except ValueError:
        adapter.remove()
        raise
    intrinsic = get_intrinsic(record["intrinsic"]["name"]).with_options(record["intrinsic"]["options"])
    data = None if data is None else get_data(data)
    curve = [tuple(point) for point in record["training"].get("curve", [])]
    return Probe(generator, adapter, intrinsic, record, source, teacher, data, curve, read_evaluation(folder))


def _judged_by(judge: Teacher, intrinsic: str) -> dict:
    return dict(name=judge.name, version=judge.version, exact_errors=judge.exact_errors(intrinsic))


def _read_weights(path: Path, record: dict) -> dict[str, Tensor]:
    """The tensors of an adapter's file, checked against the record, where that has a digest: runs of before have none."""
    expected = record.get("adapter_sha256")
    if expected is not None and file_sha256(path) != expected:
        raise RunError(f"run: {path} is damaged: it was altered or truncated since the fit; {ADVICE}")
    try:
        return safetensors.torch.load_file(path)
    except (ValueError, safetensors.SafetensorError) as error:
        raise RunError(f"run: {path} is damaged: {error}; {ADVICE}") from error


def _check_config(folder: Path, adapter: adapters.Adapter) -> None:
    """Raises RunError where adapter_config.json tells of another adapter than the record, by which this one was made."""
    path = folder / "adapter" / "adapter_config.json"
    try:
        found = json.loads(path.read_text())
        there = {key: found.get(key) for key in _SAID}
    except FileNotFoundError:
        return                          # the record alone makes it
    except (ValueError, AttributeError) as error:
        raise RunError(f"run: {path} is damaged ({error}); {ADVICE}") from error
    if not isinstance(adapter, adapters.LoRA):
        return
    made = json.loads(json.dumps(adapter.file()[1], default=str))
    there, made = ({**about, "target_modules": sorted(about.get("target_modules") or [])} for about in (there, made))
    if wrong := [f"{key} {there[key]!r:.60}" for key in _SAID if there[key] != made.get(key)]:
        raise RunError(f"run: probe.json of {folder} is of another adapter than {path.name} ({', '.join(wrong)} there): one of "
                       f"the two was altered since the fit; {ADVICE}")


def recorded_adapter(record: dict, generator: Generator, name: str | None = None) -> adapters.Adapter:
    """A fresh adapter of the kind that a record tells of."""
    method = record["method"]
    return adapters.build(method["name"], generator, name or free_name(generator, record["intrinsic"]["name"]),
                          method.get("prompt"), method.get("options"), rank=method.get("rank"), alpha=method.get("alpha"),
                          sites=method["sites"])


def _is_saved(folder: Path, record: dict, weights: bytes) -> bool:
    """Whether a run folder holds this very adapter, whatever it was scored on; its results are then this probe's."""
    def essence(record: dict) -> dict:
        about = json.loads(json.dumps(record)).items()
        return {k: v for k, v in about if k not in ("request", "adapter_sha256")}       # the weights themselves are compared

    try:
        there = json.loads((folder / "probe.json").read_text())
        return essence(there) == essence(record) and (folder / WEIGHTS).read_bytes() == weights
    except (FileNotFoundError, ValueError, AttributeError):
        return False


def _rebuilt(about: dict, weights: str, device: str) -> Generator:
    try:
        return generators.load(about["name"], weights, device, **about["options"])
    except (generators.UnknownNameError, FileNotFoundError, generators.checkpoints.CheckpointError) as error:
        raise RunError(f"generator: this probe was fitted on {about['name']!r}, which is not to be found here ({error}); build "
                       "that generator and pass it with generator=") from error


def free_name(generator: Generator, wanted: str) -> str:
    taken = adapters.names_on(generator)
    return next(n for n in (wanted, *(f"{wanted}-{i}" for i in range(2, 10_000))) if n not in taken)
