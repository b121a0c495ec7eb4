"""Fits in one of several processes; started by test_processes.py, by itself or through a launcher.

usage: run_processes.py OUT CASE...    every process runs the cases in turn and writes what it saw to OUT/CASE.INDEX.pt

A process that catches an error here goes on with the next case, as a notebook would: that only works if the others caught
theirs, and if nobody was left behind in a collective.
"""
import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch
from families import FAMILIES
from tiny import SMALL, Brightness

import probes
from probes._processes import join

INDEX = int(os.environ.get("RANK", 0))
TINY = {**SMALL, "steps": 30, "evaluate": 0}


def spoiled(at, act):
    """The shading loss; its call `at`, counted from 0, does `act` to the value."""
    calls = []

    def loss(prediction, target):
        calls.append(1)
        value = (prediction - target).square().mean()
        return act(value) if len(calls) - 1 == at else value

    return replace(probes.get_intrinsic("shading"), loss=loss)


def killed(value):
    os.kill(os.getpid(), signal.SIGKILL)


def raised(value):
    raise MemoryError("made up")


class Broken(Brightness):
    """Fails on the main process, which alone asks it."""

    name = "broken"

    def label(self, image, intrinsic):
        return super().label(image, intrinsic) * float("nan")


class Slow(Brightness):
    """Fails late, when the others have waited for a while."""

    name = "slow"

    def label(self, image, intrinsic):
        time.sleep(2)
        raise OSError("the teacher's disk is gone")


def fitted(out, family="stylegan2", **options):
    generator = FAMILIES[family][0]()
    settings = {**TINY, "out": str(out), **options}
    return probes.fit(generator, **settings)


def straight(out, **options):
    probe = fitted(out, **options)
    return dict(state=probe.adapter.state(), curve=probe.curve, processes=probe.record["training"]["processes"],
                last=probe.last_evaluation and probe.last_evaluation.metrics)


def scored(out):
    """With evaluation and a control that is a fit; then the same again, loaded, from another folder's point of view."""
    options = dict(evaluate=8, controls=["latent", "random"])
    first = straight(out, **options)
    again = straight(out, **options)
    assert first["last"] == again["last"] and all(torch.equal(first["state"][k], again["state"][k]) for k in first["state"])
    return first


def full_disk(out):
    """The main process fails between two steps, when the others are in the next one already."""
    from probes import OutputError, _train

    def save(*arguments):
        raise OutputError(28, "No space left on device", str(out))

    kept, _train._save = _train._save, save
    try:
        return straight(out, save_every=0.0)
    finally:
        _train._save = kept


def averaged(out):
    """Two steps' gradients by hand; in the second, this process has none or the other's loss is infinite."""
    processes = join("cpu")
    parameter = torch.nn.Parameter(torch.tensor([1.0 + INDEX, 2.0]))
    with processes:
        processes.begin(2, [parameter])
        parameter.grad = torch.tensor([1.0 + 4 * INDEX, -2.0])
        seen = [processes.mean(4.0 + INDEX, [parameter]), parameter.grad.tolist(), parameter.tolist()]
        parameter.grad = torch.tensor([3.0, 5.0]) if INDEX else None
        return dict(seen=[*seen, processes.mean(float("inf") if INDEX else 1.0, [parameter]), parameter.grad.tolist()])


CASES = {
    "averaged": averaged,
    "pair": straight,
    "pair-accumulate": lambda out: straight(out, accumulate=2),
    "noise": lambda out: straight(out, family="stable-diffusion-multi", steps=10),
    "scored": scored,
    "joined-later": straight,
    "uneven": lambda out: straight(out, batch=6, accumulate=2),
    "locked": straight,
    "broken-teacher": lambda out: straight(out, teacher=Broken()),
    "nan": lambda out: straight(out, intrinsic=spoiled(9 if INDEX else -1, lambda value: value * float("nan"))),
    "memory": lambda out: straight(out, intrinsic=spoiled(7 if INDEX else -1, raised)),
    "disk": full_disk,
    "killed": lambda out: straight(out, intrinsic=spoiled(22 if INDEX else -1, killed), save_every=0.0),
    "resumed": lambda out: straight(out.with_name("killed")),
    "late-teacher": lambda out: straight(out, teacher=Slow()),
}


def main(out, *names):
    for name in names:
        began = time.monotonic()
        try:
            seen = CASES[name](Path(out) / name)
        except Exception as error:
            seen = dict(error=f"{type(error).__name__}: {error}")
        torch.save(seen | dict(seconds=time.monotonic() - began), Path(out) / f"{name}.{INDEX}.pt")
    return 1 if "error" in seen else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
