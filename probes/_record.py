"""The contents of probe.json: everything needed to rebuild a probe, and to fit it again."""
from __future__ import annotations

import platform

import torch

import adapters
from generators import Generator

from ._bank import Request
from ._intrinsics import Intrinsic
from ._settings import Settings
from .data import Data
from .teachers import Teacher


def start_record(generator: Generator, intrinsic: Intrinsic, teacher: Teacher, images: Data | None, adapter: adapters.Adapter,
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


def hardware(device: torch.device) -> str:
    """What a result was made on, for records and cards."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}"
