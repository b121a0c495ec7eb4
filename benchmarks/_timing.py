"""Timing helpers: variants take turns in one run, so that whatever else the machine does meets all of them alike."""
from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable

import torch


def interleave(steps: dict[str, Callable[[], object]], repeats: int, warmup: int = 1,
               finish: Callable[[], object] = lambda: None) -> dict[str, dict[str, float]]:
    """Runs A B C A B C ... and gives each variant's medians: {name: {"wall": s, "cpu": s, "fastest": s}}.

    `cpu` is the process's CPU time over the number of threads: what the step would take on an idle machine if its
    threads were always busy. Where the machine is shared it is the steadier of the two. `finish` waits for whatever a step
    left running, such as an accelerator's work.
    """
    samples: dict[str, list[tuple[float, float]]] = {name: [] for name in steps}
    for turn in range(warmup + repeats):
        for name, step in steps.items():
            wall, cpu = time.perf_counter(), time.process_time()
            step()
            finish()
            elapsed = time.perf_counter() - wall, (time.process_time() - cpu) / torch.get_num_threads()
            if turn >= warmup:
                samples[name].append(elapsed)
    return {
        name: {
            "wall": statistics.median(wall for wall, _ in values),
            "cpu": statistics.median(cpu for _, cpu in values),
            "fastest": min(wall for wall, _ in values),
        }
        for name, values in samples.items()
    }


def machine() -> dict[str, object]:
    """What the times depend on."""
    capability = torch.backends.cpu.get_cpu_capability()
    return {
        "cpu": platform.processor() or platform.machine(),
        "capability": capability,
        "amx": amx(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def amx() -> bool:
    """Whether the CPU multiplies bfloat16 tiles, which is what makes bfloat16 fast."""
    supported = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return bool(supported and supported())


def table(header: list[str], rows: list[list[str]]) -> str:
    """Columns of text, the first to the left and the others to the right."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    lines = []
    for row in [header, *rows]:
        first, *others = (cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        lines.append("  ".join([first.strip().ljust(widths[0]), *others]).rstrip())
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])
