"""The processes of one fit: who this one is, what all of them agree on, and how their gradients become one.

    accelerate launch --multi_gpu --num_processes 8 -m probes fit …        (or torchrun, one node or several)

Every process holds the frozen generator and the whole adapter, and takes its share of the pairs of a step. What travels in a
step is one vector: the adapter's gradients, the loss, and whether somebody failed. Everything else is agreed on beside the
training, over gloo, where waiting for hours (while the main process builds a bank) is no error.

One rule keeps a failure from leaving the others in a collective for good: at any moment, all processes expect the same kind of
collective next, a step's sum or an exchange of words, and a process that fails takes part in that one to say so. Then it
raises its own error and the others a ProcessesError that quotes it.
"""
from __future__ import annotations

import atexit
import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from generators._device import chosen

T = TypeVar("T")
_PATIENCE = timedelta(days=7)       # of those that wait while the main process builds or evaluates


class ProcessesError(RuntimeError):
    """Another process of this fit failed, or is gone."""


class Processes:
    """This process among those that a launcher started; `Processes()` is one by itself, for which everything is free.

        with processes:                                  an error within the block reaches all of them
            value = processes.share(compute)             computed by the main process, known to all
            processes.begin(steps, parameters)
            loss = processes.mean(loss, parameters)      once a step

    Attributes:
        index, count: which of how many
        device: what the launcher gave this one; None where there was no launcher
        mixed_precision: what the launcher was told: "bf16", "fp16" or None
    """

    def __init__(self, accelerator: Any = None):
        self._accelerator = accelerator
        self.index = accelerator.process_index if accelerator else 0
        self.count = accelerator.num_processes if accelerator else 1
        self.device: torch.device | None = accelerator.device if accelerator else None
        self.mixed_precision = accelerator.mixed_precision if accelerator else "no"
        self.mixed_precision = None if self.mixed_precision == "no" else self.mixed_precision
        # A group of its own: NCCL sends no words, and gives up on those that wait for longer than some minutes.
        self._group = dist.new_group(backend="gloo", timeout=_PATIENCE) if self.count > 1 else None
        self._left, self._blank, self._told = 0, None, False

    @property
    def main(self) -> bool:
        """Whether this is the one that writes, prints and evaluates."""
        return self.index == 0

    def __enter__(self) -> Processes:
        self._left, self._told = 0, False
        return self

    def __exit__(self, kind, error, trace) -> None:
        if self.count == 1 or self._told or not isinstance(error, Exception):
            return
        with suppress(ProcessesError):      # the error that is on its way says more
            if self._left:
                flagged = self._blank.clone()
                flagged[-1] = 1
                self._sum(flagged)
            self._exchange(error)

    def share(self, make: Callable[[], T]) -> T:
        """What `make` returns on the main process, which alone calls it, on all of them."""
        if self.count == 1:
            return make()
        found = [make() if self.main else None]
        self._exchange()
        dist.broadcast_object_list(found, src=0, group=self._group)
        return found[0]

    def wait(self) -> None:
        """Until all have come this far."""
        if self.count > 1:
            self._exchange()

    def same(self, what: str, value: str) -> None:
        """Raises ProcessesError where `value` is not what the main process has; `what` says what differs."""
        if value != self.share(lambda: value):
            raise ProcessesError(f"{what} of process {self.index} differ from those of the main process; give every node "
                                 "the same files and versions")

    def begin(self, steps: int, parameters: list[Tensor]) -> None:
        """Announces that the next `steps` collectives are `mean` over these parameters, and makes them equal everywhere."""
        if self.count == 1:
            return
        flat = torch.cat([p.detach().flatten() for p in parameters])
        self._exchange()
        dist.broadcast(flat, src=0)
        _scatter(flat, [p.detach() for p in parameters])
        self._left, self._blank = steps, flat.new_zeros(len(flat) + 2)

    def end(self) -> None:
        """Takes back what is left of `begin`; for errors that all processes raise after the same step."""
        self._left = 0

    def mean(self, loss: float, parameters: list[Tensor]) -> float:
        """Averages the gradients in place, a missing one being zero; returns the average loss, which is not finite on any
        process where it is not finite on one. Every process must have taken equally many rows."""
        if self.count == 1:
            return loss
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        flat = torch.cat([*(g.flatten() for g in gradients), gradients[0].new_tensor([loss, 0.0])])
        self._sum(flat)
        self._left -= 1
        total, failures = flat[-2:].tolist()
        if failures:
            self._exchange()
        _scatter(flat[:-2] / self.count, gradients)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        return total / self.count

    def autocast(self) -> AbstractContextManager:
        """Where `accelerate launch --mixed_precision` says so, the forward pass runs in half precision, but for StyleGANs,
        which know their own only."""
        return self._accelerator.autocast() if self.mixed_precision else nullcontext()

    def _sum(self, flat: Tensor) -> None:
        try:
            dist.all_reduce(flat)
        except RuntimeError as error:
            raise self._lost(error) from error

    def _exchange(self, error: Exception | None = None) -> None:
        """Waits for all; raises ProcessesError where another one brings an error."""
        words: list[str | None] = [None] * self.count
        try:
            dist.all_gather_object(words, error and f"{type(error).__name__}: {error}", group=self._group)
        except RuntimeError as broken:
            raise self._lost(broken) from broken
        failed = [i for i, word in enumerate(words) if word]
        if failed and error is None:
            self._told = True
            raise ProcessesError(f"process {failed[0]} of {self.count} stopped: {words[failed[0]]}")

    def _lost(self, error: Exception) -> ProcessesError:
        self._told = True
        reason = str(error).strip().splitlines() or [type(error).__name__]
        return ProcessesError(f"process {self.index} of {self.count} lost the others: one was killed, or its machine is out "
                              f"of reach; the same command goes on from the last training state ({reason[0][:120]})")


ALONE = Processes()
_joined: Processes | None = None


def join(device: str = "auto") -> Processes:
    """The processes of `accelerate launch`, torchrun or an Accelerator of the caller's; ALONE where there is none of them.

    Args:
        device: as of `fit`; cpu keeps GPUs out of it

    Raises ValueError for a GPU by its number, where every process has its own, and for a precision that is not bf16 or fp16.
    """
    global _joined
    grouped = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
    torchrun = int(os.environ.get("WORLD_SIZE") or 1) > 1 and "LOCAL_RANK" in os.environ
    # Only the launcher's own variables count besides: a batch system sets its PMI_SIZE for jobs that are strangers, too.
    if not (grouped or torchrun or "ACCELERATE_MIXED_PRECISION" in os.environ):
        return ALONE
    if _joined is None:
        from accelerate import Accelerator

        precision = os.environ.get("ACCELERATE_MIXED_PRECISION") or "no"
        if precision not in ("no", "bf16", "fp16"):
            raise ValueError(f"mixed_precision: {precision} is not for frozen generators; launch with --mixed_precision bf16, "
                             "fp16 or no")
        accelerator = Accelerator(cpu=device == "cpu")
        if not grouped and accelerator.num_processes > 1:
            atexit.register(_leave)
        _joined = Processes(accelerator)
    if _joined.count > 1 and ":" in device:
        raise ValueError(f"device: each of the {_joined.count} processes has a GPU of its own, and {device!r} is one for all; "
                         "leave device out")
    return _joined


def accumulated(asked: int, processes: Processes) -> int:
    """Parts of a process's share of a step: `asked`, or, where that is 1, what `accelerate launch` was told."""
    told = os.environ.get("ACCELERATE_GRADIENT_ACCUMULATION_STEPS") or "1"
    return int(told) if asked == 1 and processes is not ALONE and told.isdigit() and told != "0" else asked


def launch_note(processes: Processes) -> str | None:
    """A line for those who asked accelerate for several processes on CPUs and got one, which it does without a word."""
    if processes.count == 1 and processes.device is not None and {"MASTER_ADDR", "MASTER_PORT"} <= set(os.environ):
        return ("note: this is one process by itself; `accelerate launch --cpu` starts no more of them without MPI. For N "
                "on CPUs: ACCELERATE_USE_CPU=true accelerate launch --multi_gpu --num_processes N …")
    return None


def chosen_device(device: str, processes: Processes) -> str:
    """The device that `fit` is to use for its argument."""
    if processes.device is not None and device in ("auto", processes.device.type):
        return str(processes.device)
    return str(chosen(device)) if device == "auto" else device


def _leave() -> None:
    with suppress(RuntimeError, ValueError, AssertionError):
        dist.destroy_process_group()


def _scatter(flat: Tensor, into: list[Tensor]) -> None:
    for part, tensor in zip(flat.split([t.numel() for t in into]), into, strict=True):
        tensor.copy_(part.view_as(tensor))
