"""Rendering rate of the scenes world: `python -m benchmarks.scenes`. Eager and compiled, in one run, one process each
core, since that is how a recipe renders."""
from __future__ import annotations

import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import torch
from jsonargparse import auto_cli

from probes.data.scenes import render


def _rate(first: int, count: int, size: int, fused: bool) -> float:
    torch.set_num_threads(1)
    render(range(first, first + 16), size, compile=fused)              # compilation and caches are not what is timed
    began = time.perf_counter()
    for start in range(first, first + count, 64):
        render(range(start, start + 64), size, compile=fused)
    return count / (time.perf_counter() - began)


def main(count: int = 1024, size: int = 64, processes: int = 2) -> None:
    """Prints images a second, all processes together.

    Args:
        count: images a process
        size: height and width in pixels
        processes: how many render at once
    """
    rates = {}
    for name, fused in (("eager", False), ("compiled", True)):
        with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
            jobs = [pool.submit(_rate, i * count, count, size, fused) for i in range(processes)]
            rates[name] = sum(job.result() for job in jobs)
        print(f"{name:10s} {rates[name]:7.0f} images/s at {size} px, {processes} processes")
    print(f"compiled / eager: {rates['compiled'] / rates['eager']:.1f}")


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
