"""The distillation loop: adapter parameters towards the teacher, on a bank; exact to resume, whole at every moment.

min over θ of E_z d(G_θ(z), Φ(G(z)))  (arXiv 2311.17137, section 3). Which pairs a step sees follows from the seed and
the step alone, so a fit that was killed and taken up again ends in the same weights as one that was not. Nor does it
follow from how the pairs of a step are shared out: several processes, and micro-batches one after the other, give the
mean gradient over the same pairs.
"""
from __future__ import annotations

import hashlib
import json
import math
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
import torch.nn.functional as F

from adapters import Adapter

from ._bank import Bank, batch_size
from ._controls import Shuffled
from ._files import write_bytes_atomically
from ._intrinsics import Intrinsic
from ._processes import ALONE, Processes

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
        batch: pairs a step, over all processes and micro-batches
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

    def shares(self, step: int, samples: int, accumulate: int = 1, index: int = 0,
               count: int = 1) -> list[tuple[np.ndarray, list[int]]]:
        """(rows, what they draw from) of the micro-batches that process `index` of `count` takes of a step: equally many rows
        each. Raises ValueError where that is not possible."""
        rows = self.indices(step, samples)
        parts = accumulate * count
        if len(rows) % parts:
            likely = -(-len(rows) // parts) * parts
            raise ValueError(f"batch: {len(rows)} pairs a step cannot be shared equally by {count} processes × {accumulate} "
                             f"micro-batches (accumulate); choose a multiple of {parts}, for instance batch={likely}"
                             + (f", of the {samples} samples there are" if len(rows) < self.batch else ""))
        size, seeds = len(rows) // parts, self.seeds(step)
        starts = range(index * accumulate * size, (index + 1) * accumulate * size, size)
        return [(rows[i:i + size], seeds[i:i + size]) for i in starts]


@dataclass
class Outcome:
    """What training leaves beside the weights.

    Args:
        curve: (step, mean loss since the last point)
        seconds: it took, over all its interruptions
        peak_memory_mib: of the process (resident, on a CPU) or of the device (allocated) while it trained, in MiB; on systems
            that cannot forget a peak, of the process from its start
    """

    curve: list[tuple[int, float]]
    seconds: float
    peak_memory_mib: float = 0.0

    @property
    def final_loss(self) -> float:
        return self.curve[-1][1] if self.curve else float("nan")


def train(adapter: Adapter, bank: Bank | Shuffled, intrinsic: Intrinsic, schedule: Schedule, state_path: Path | None = None,
          identity: str = "", save_every: float = 15.0, progress: Callable[[int, float], None] | None = None,
          accumulate: int = 1, processes: Processes = ALONE,
          report: Callable[[int, float, float, float], None] | None = None) -> Outcome:
    """Trains `adapter` in place.

    Args:
        adapter: attached to its generator
        bank: the pairs
        intrinsic: gives the loss of an adapter whose output is pixels, a mean over the rows; in latents it is the mean
            squared error
        schedule: steps, batch, learning rate, seed
        state_path: where the training state is kept while it runs; taken up if it is there; None keeps none
        identity: of the fit; a state of another identity is refused
        save_every: seconds between writes of the state
        progress: called with (step, loss) after every step
        accumulate: micro-batches that a process takes one after the other, for a batch that does not fit into its memory
        processes: all of which call this together, each with the same bank; the main one alone keeps the state
        report: called with (step, loss, learning rate, pairs a second) along the loss curve

    Raises:
        DivergedError: the loss is not finite; the adapter is set back to its last good weights
        TrainingStateError: the state at `state_path` is damaged or another fit's
        ValueError: a step's pairs cannot be shared equally by the processes and their micro-batches
        ProcessesError: another process failed
    """
    parameters = adapter.parameters()
    values = list(parameters.values())
    if not values:
        return Outcome([], 0.0)
    optimiser = torch.optim.Adam(values, lr=schedule.learning_rate, betas=(0.9, 0.99), foreach=True)
    schedule.shares(0, len(bank), accumulate, processes.index, processes.count)
    with adapter.active(train=True):                # before what an earlier call left is restored: it may set first values
        adapter.calibrate(*bank.lesson(slice(0, min(len(bank), batch_size(adapter.generator)))))
    step, outcome = 0, Outcome([], 0.0)
    stored = processes.share(lambda: state_path.read_bytes() if state_path is not None and state_path.exists() else None)
    if stored is not None:
        step = _restore(state_path, stored, identity, parameters, optimiser, outcome)
    good = [v.detach().clone() for v in values]
    recent: list[float] = []
    processes.begin(schedule.steps - step, values)
    last_save, clock, reported = time.monotonic(), time.monotonic(), (step, outcome.seconds)
    # An adapter that reads pixels needs more of a generator of latents than its steps.
    lean = adapter.output_space == adapter.generator.output_space
    with adapter.active(train=True), adapter.generator.stepping() if lean else nullcontext():
        _forget_peak(adapter.generator.device)
        while step < schedule.steps:
            shares = schedule.shares(step, len(bank), accumulate, processes.index, processes.count)
            optimiser.zero_grad(set_to_none=True)
            value = processes.mean(_learn(adapter, bank, intrinsic, shares, processes, values), values)
            if not math.isfinite(value):
                with torch.no_grad():
                    torch._foreach_copy_(values, good)
                processes.end()
                raise _diverged("loss", value, step, schedule)
            torch._foreach_copy_(good, [v.detach() for v in values])
            # Adam would carry one bad gradient into the weights and, for good, into its moments.
            if not math.isfinite(sum(v.grad.square().sum() for v in values)):
                processes.end()
                raise _diverged("gradient", float("nan"), step, schedule)
            for group in optimiser.param_groups:
                group["lr"] = schedule.rate(step)
            optimiser.step()
            recent.append(value)
            step += 1
            now = time.monotonic()
            outcome.seconds += now - clock
            clock = now
            if step % _CURVE_EVERY == 0 or step == schedule.steps:
                outcome.curve.append((step, float(np.mean(recent))))
                recent.clear()
                if report and processes.main:
                    pairs = (step - reported[0]) * min(schedule.batch, len(bank))
                    report(*outcome.curve[-1], schedule.rate(step - 1), pairs / max(outcome.seconds - reported[1], 1e-9))
                    reported = step, outcome.seconds
            # Only where the running mean of the curve is empty, so that a resumed curve is the same too.
            if (state_path is not None and processes.main and not recent and now - last_save >= save_every
                    and step < schedule.steps):
                _save(state_path, identity, parameters, optimiser, step, outcome)
                last_save = now
            if progress and processes.main:
                progress(step, value)
    outcome.peak_memory_mib = _peak(adapter.generator.device)
    return outcome


def _learn(adapter: Adapter, bank: Bank | Shuffled, intrinsic: Intrinsic, shares: list[tuple[np.ndarray, list[int]]],
           processes: Processes, values: list[torch.Tensor]) -> float:
    """Leaves the gradient of the mean loss over `shares` in the adapter and returns that loss; without a gradient from the
    first micro-batch on whose loss is not finite."""
    generator, total = adapter.generator, 0.0
    pixels = adapter.output_space == "pixels"
    judge, read = (intrinsic.loss, bank.batch) if pixels else (F.mse_loss, bank.lesson)
    for rows, seeds in shares:
        state, target = read(rows)
        missing = target.isnan()
        with processes.autocast():
            prediction, target = adapter.regress(state, target.nan_to_num(0.0).to(generator.device), seeds)
        if missing.any():               # there both are 1, whatever was predicted: no loss and no gradient
            missing = missing.to(target.device)
            prediction, target = prediction.masked_fill(missing, 1.0), target.masked_fill(missing, 1.0)
        if processes.mixed_precision:
            prediction, target = prediction.float(), target.float()
        loss = judge(prediction, target)
        value = loss.item()
        total += value / len(shares)
        if not math.isfinite(value):
            return total
        # A mean over pixels would fall below fp16's range, in which a GPU may run some layers whatever the weights are.
        half = (generator.device.type == "cuda" or processes.mixed_precision == "fp16"
                or any(p.dtype == torch.float16 for p in generator.network.parameters()))
        scale = 2.0 ** round(math.log2(prediction[0].numel())) if half else 1.0
        (loss * (scale / len(shares))).backward()
    if scale != 1:
        torch._foreach_div_([v.grad for v in values], scale)
    return total


def _forget_peak(device: torch.device) -> None:
    """Lets the peak of memory start anew, where the system can do that."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif sys.platform == "linux":
        with suppress(OSError), open("/proc/self/clear_refs", "w") as file:      # 5: the resident peak (Linux, proc(5))
            file.write("5")


def _peak(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    try:
        import resource
    except ImportError:                 # Windows
        return 0.0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def _diverged(what: str, value: float, step: int, schedule: Schedule) -> DivergedError:
    return DivergedError(f"the {what} is {value} at step {step}; the adapter is kept as it last was with a finite one. Try a "
                         f"smaller learning_rate (it was {schedule.learning_rate:g}), for instance "
                         f"{schedule.learning_rate / 10:g}, or a larger batch, with another out or overwrite=True")


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


def _restore(path: Path, raw: bytes, identity: str, parameters: dict, optimiser: torch.optim.Adam, outcome: Outcome) -> int:
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
