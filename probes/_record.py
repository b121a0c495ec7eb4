"""The contents of probe.json: everything needed to rebuild a probe, and to fit it again."""
from __future__ import annotations

import json
import platform
from pathlib import Path

import torch

import adapters
from generators import Generator

from ._bank import Request
from ._intrinsics import Intrinsic
from ._settings import Settings
from .data import Data
from .teachers import Teacher
from .teachers._labels import resolved

_AGAIN = "make the run again (--overwrite true, or another folder with --out)"
ADVICE = f"bring back the file that was written, or {_AGAIN}"
_FORMAT, _VERSION = "probes-run", 1
_READ = dict(generator=("name", "weights", "fingerprint"), intrinsic=("name", "options"),       # what a run is judged by
             teacher=("name", "version", "fingerprint"), method=("name", "sites"),
             bank=("first_seed", "samples", "key"), training=("status",), request=())
_TEACHERS = "teacher", "against"        # of a request: folders of labels were once kept as they were typed


class RunError(ValueError):
    """A run folder cannot be read, or does not fit the generator it is loaded on."""


def start_record(generator: Generator, intrinsic: Intrinsic, teacher: Teacher, images: Data | None, adapter: adapters.Adapter,
            settings: Settings, request: Request) -> dict:
    """The contents of probe.json before training."""
    import peft

    from . import __version__

    total = sum(v.numel() for k, v in generator.base_state().items())
    return {
        "format": _FORMAT, "version": _VERSION,
        "generator": dict(name=settings.generator, family=generator.family, weights=generator.weights,
                          fingerprint=generator.fingerprint, resolution=generator.resolution, parameters=total,
                          world=generator.world, options=settings.generator_options),
        "intrinsic": dict(name=intrinsic.name, options=intrinsic.options, description=intrinsic.description),
        "teacher": dict(name=teacher.name, version=teacher.version, licence=teacher.licence,
                        fingerprint=teacher.fingerprint, exact_errors=teacher.exact_errors(intrinsic.name)),
        "data": None if images is None else dict(name=images.name, fingerprint=images.fingerprint, world=images.world),
        "method": dict(name=settings.method, rank=settings.rank, alpha=settings.alpha, scope=settings.scope,
                       sites=adapter.site_names, parameters=adapter.size, prompt=adapter.prompt,
                       **(dict(options={k: adapter.options.get(k, v) for k, v in settings.method_options.items()})
                          if settings.method_options else {})),
        "bank": dict(first_seed=request.first_seed, samples=settings.samples, classes=settings.classes,
                     key=request.key),
        "training": dict(steps=settings.steps, batch=settings.batch, learning_rate=settings.learning_rate,
                         seed=settings.seed, status="started"),
        "request": settings.as_dict(),
        "versions": dict(probes=__version__, torch=torch.__version__, peft=peft.__version__,
                         python=platform.python_version()),
        "hardware": hardware(generator.device),
    }


def read_record(folder: Path, argument: str) -> dict:
    """What the probe.json of a run folder says. Raises FileNotFoundError where there is none, RunError, which names the
    `argument` that the folder was given as, where it is truncated, of something else or of another version."""
    path = folder / "probe.json"
    try:
        record = json.loads(path.read_bytes())
    except NotADirectoryError as error:
        file = next((place for place in (folder, *folder.parents) if place.exists() and not place.is_dir()), folder)
        advice = file.parent if file.name == "probe.json" else "the folder that `probes fit` wrote"
        raise RunError(f"{argument}: expected a run folder, got the file {file}; give {advice}") from error
    except (ValueError, RecursionError) as error:
        raise RunError(f"{argument}: {path} is damaged: {error}; {ADVICE}") from error
    if not isinstance(record, dict) or record.get("format") != _FORMAT:
        raise RunError(f"{argument}: {path} is not what a fit writes (no object with the format {_FORMAT!r}); {ADVICE}")
    if record.get("version") != _VERSION:
        raise RunError(f"{argument}: {path} is of version {record.get('version')!r:.80}, this is software for version "
                       f"{_VERSION}; update it, or {_AGAIN}")
    missing = [part for part in _READ if not isinstance(record.get(part), dict)]
    missing += [f"{part}.{key}" for part, keys in _READ.items() if part not in missing for key in keys
                if key not in record[part]]
    if missing:
        raise RunError(f"{argument}: {path} is damaged: it lacks {', '.join(missing)}; {ADVICE}")
    record["request"] |= {key: resolved(record["request"].get(key)) for key in _TEACHERS if key in record["request"]}
    return record


def hardware(device: torch.device) -> str:
    """What a result was made on, for records and cards."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}"
