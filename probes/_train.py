"""The distillation loop: adapter parameters towards the teacher, on a bank; exact to resume, whole at every moment.

min over θ of E_z d(G_θ(z), Φ(G(z)))  (arXiv 2311.17137, section 3). Which pairs a step sees follows from the seed and
the step alone, so a fit that was killed and taken up again ends in the same weights as one that was not.
"""
from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
import torch.nn.functional as F

from adapters import LoRA

from ._bank import Bank
from ._files import write_bytes_atomically
from ._intrinsics import Intrinsic

_CURVE_EVERY = 20


class DivergedError(FloatingPointError):
    """The loss or its gradient became NaN or infinite. The adapter holds the last good weights."""


class TrainingStateError(RuntimeError):
    """A stored training state is damaged or belongs to another fit."""


@dataclass(frozen=True)
class Schedule:
    """How long and how fast: Adam with a cosine learning rate after a short warm-up.

    Args:
        steps: optimiser steps
        batch: pairs a step
        learning_rate: peak
        seed: of the order of the pairs
    """

    steps: int
    batch: int
    learning_rate: float
    seed: int

    def rate(self, step: int) -> float:
        warm = max(1, min(50, self.steps // 10))
        if step < warm:
            return self.learning_rate * (step + 1) / warm
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, self.steps - warm)))

    def seeds(self, step: int) -> list[int]:
        """What the rows of a step's batch draw from, for generators that add noise."""
        raw = np.random.Philox(key=[self.seed, 1 << 63 | step]).random_raw(self.batch)
        return [int(value >> 2) for value in raw]

    def indices(self, step: int, samples: int) -> np.ndarray:
        """Rows of the bank that step sees: a fresh permutation every epoch, in ascending order within the batch."""
        batch = min(self.batch, samples)
        per_epoch = samples // batch
        epoch, at = divmod(step, per_epoch)
        order = np.random.Generator(np.random.Philox(key=[self.seed, epoch])).permutation(samples)
        return np.sort(order[at * batch:(at + 1) * batch])


@dataclass
class Outcome:
    """What training leaves beside the weights: the loss curve, the seconds it took, the last loss."""

    curve: list[tuple[int, float]]
    seconds: float

    @property
    def final_loss(self) -> float:
        return self.curve[-1][1] if self.curve else float("nan")


def train(adapter: LoRA, bank: Bank, intrinsic: Intrinsic, schedule: Schedule, state_path: Path | None = None,
          identity: str = "", save_every: float = 15.0,
          progress: Callable[[int, float], None] | None = None) -> Outcome:
    """Trains `adapter` in place.

    Args:
        adapter: attached to its generator
        bank: the pairs
        intrinsic: gives the loss of a generator whose output is pixels; in latents it is the mean squared error
        schedule: steps, batch, learning rate, seed
        state_path: where the training state is kept while it runs; taken up if it is there; None keeps none
        identity: of the fit; a state of another identity is refused
        save_every: seconds between writes of the state
        progress: called with (step, loss) after every step

    Raises:
        DivergedError: the loss is not finite; the adapter is set back to its last good weights
        TrainingStateError: the state at `state_path` is damaged or another fit's
    """
    generator, parameters = adapter.generator, adapter.parameters()
    judge = intrinsic.loss if generator.output_space == "pixels" else F.mse_loss
    values = list(parameters.values())
    optimiser = torch.optim.Adam(values, lr=schedule.learning_rate, betas=(0.9, 0.99), foreach=True)
    step, outcome = 0, Outcome([], 0.0)
    if state_path is not None and state_path.exists():
        step = _restore(state_path, identity, parameters, optimiser, outcome)
    good = [v.detach().clone() for v in values]
    recent: list[float] = []
    last_save, clock = time.monotonic(), time.monotonic()
    with adapter.active(train=True):
        while step < schedule.steps:
            state, target = bank.lesson(schedule.indices(step, len(bank)))
            prediction, target = generator.regress(state, target.to(generator.device), schedule.seeds(step)[:len(target)])
            loss = judge(prediction, target)
            value = loss.item()
            if not math.isfinite(value):
                with torch.no_grad():
                    torch._foreach_copy_(values, good)
                raise _diverged("loss", value, step, schedule)
            torch._foreach_copy_(good, [v.detach() for v in values])
            for group in optimiser.param_groups:
                group["lr"] = schedule.rate(step)
            optimiser.zero_grad(set_to_none=True)
            # A mean over pixels would fall below fp16's range in the half-precision layers of a GPU.
            scale = 2.0 ** round(math.log2(prediction[0].numel())) if generator.device.type == "cuda" else 1.0
            (loss * scale).backward()
            gradients = [v.grad for v in values]
            if scale != 1:
                torch._foreach_div_(gradients, scale)
            # Adam would carry one bad gradient into the weights and, for good, into its moments.
            if not math.isfinite(sum(g.square().sum() for g in gradients)):
                raise _diverged("gradient", float("nan"), step, schedule)
            optimiser.step()
            recent.append(value)
            step += 1
            if step % _CURVE_EVERY == 0 or step == schedule.steps:
                outcome.curve.append((step, float(np.mean(recent))))
                recent.clear()
            now = time.monotonic()
            outcome.seconds += now - clock
            clock = now
            # Only where the running mean of the curve is empty, so that a resumed curve is the same too.
            if state_path is not None and not recent and now - last_save >= save_every and step < schedule.steps:
                _save(state_path, identity, parameters, optimiser, step, outcome)
                last_save = now
            if progress:
                progress(step, value)
    return outcome


def _diverged(what: str, value: float, step: int, schedule: Schedule) -> DivergedError:
    return DivergedError(f"the {what} is {value} at step {step}; the adapter is kept as it last was with a finite one. Try a "
                         f"smaller learning_rate (it was {schedule.learning_rate:g}), for instance "
                         f"{schedule.learning_rate / 10:g}, or a larger batch")


def _save(path: Path, identity: str, parameters: dict, optimiser: torch.optim.Adam, step: int,
          outcome: Outcome) -> None:
    tensors = {}
    for name, parameter in parameters.items():
        moments = optimiser.state[parameter]
        tensors[f"{name}|value"] = parameter.detach().cpu()
        for key in ("exp_avg", "exp_avg_sq", "step"):
            tensors[f"{name}|{key}"] = moments[key].detach().cpu().clone()
    about = dict(identity=identity, step=step, seconds=outcome.seconds, curve=outcome.curve)
    data = safetensors.torch.save({k: v.contiguous() for k, v in tensors.items()}, {"about": json.dumps(about)})
    write_bytes_atomically(path, hashlib.sha256(data).hexdigest().encode() + data)


def _restore(path: Path, identity: str, parameters: dict, optimiser: torch.optim.Adam, outcome: Outcome) -> int:
    raw = path.read_bytes()
    digest, data = raw[:64], raw[64:]
    if hashlib.sha256(data).hexdigest().encode() != digest:
        raise TrainingStateError(f"training state: {path} was truncated or altered; delete it to start this fit anew")
    header = json.loads(data[8:8 + int.from_bytes(data[:8], "little")])
    about = json.loads(header["__metadata__"]["about"])
    if about["identity"] != identity:
        raise TrainingStateError(f"training state: {path} belongs to a fit with other settings; choose another `out`, "
                                 "or delete it to start anew")
    tensors = safetensors.torch.load(data)
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(tensors[f"{name}|value"])
            optimiser.state[parameter] = {
                key: tensors[f"{name}|{key}"].to(parameter.device if key != "step" else "cpu")
                for key in ("exp_avg", "exp_avg_sq", "step")}
    outcome.seconds, outcome.curve = about["seconds"], [tuple(point) for point in about["curve"]]
    return about["step"]
