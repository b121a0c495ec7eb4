"""Which implementations of the ops this machine has, why, and whether they agree: `python -m generators.ops`."""
from __future__ import annotations

import argparse
import os
import shutil
import sys

import torch
from rich.console import Console
from rich.table import Table

from ._check import TOLERANCE, check
from ._dispatch import SWITCH, mode, wanted_extension
from ._extension import EXTENSIONS, compiler, version_line

# device of the tensors, implementation, the switch that selects it, its extension
IMPLEMENTATIONS = (("cpu", "torch", "torch", None), ("cpu", "C++ extension", "cpu", "cpu"),
                   ("cuda", "torch", "torch", None), ("cuda", "CUDA extension", "cuda", "cuda"))


def state(device: str, extension: str | None, build: bool) -> tuple[bool, str]:
    """(usable now, and why or why not); builds what may be built."""
    if device == "cuda" and not torch.cuda.is_available():
        reason = "no CUDA device" if torch.version.cuda else f"torch {torch.__version__} is built without CUDA"
        return False, reason
    if extension is None:
        return True, "always there"
    ext = EXTENSIONS[extension]
    missing = ext.missing()
    if missing:
        return False, missing
    if extension == "cpu" and not (build or mode() == "cpu" or ext.built()):
        return False, f"not asked for: {SWITCH}=cpu uses it, --build compiles and checks it"
    ext.load()
    return ext.loaded, ext.failure or f"built in {ext.directory()}"


def versions() -> list[tuple[str, str]]:
    nvcc = shutil.which("nvcc") or os.path.join(os.environ.get("CUDA_HOME", "/usr/local/cuda"), "bin", "nvcc")
    gpu = "none"
    if torch.cuda.is_available():
        gpu = f"{torch.cuda.get_device_name()}, sm_{''.join(map(str, torch.cuda.get_device_capability()))}"
    return [("torch", f"{torch.__version__} (CUDA {torch.version.cuda or 'none'})"), ("GPU", gpu),
            (compiler(), version_line(compiler(), "--version") or "not found"),
            ("nvcc", version_line(nvcc, "--version") or "not found"),
            ("ninja", version_line("ninja", "--version") or "not on PATH (the pip package is used if installed)")]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m generators.ops", description=__doc__)
    parser.add_argument("--build", action="store_true", help="compile the C++ CPU op too (about 20 s, once)")
    build = parser.parse_args(argv).build
    console = Console(width=None if sys.stdout.isatty() else 120)

    tools = Table("tool", "version", title="Tools")
    for tool, version in versions():
        tools.add_row(tool, version)
    console.print(tools)

    found = Table("tensors on", "implementation", "state", "why", title=f"Implementations ({SWITCH}={mode()})")
    usable = []
    for device, name, switch, extension in IMPLEMENTATIONS:
        with console.status(f"{name} for {device}"):
            there, why = state(device, extension, build)
        wanted = wanted_extension(device)
        falls_back = extension is None and wanted is not None and not EXTENSIONS[wanted].loaded
        active = there and (wanted == extension or falls_back)
        found.add_row(device, name, "active" if active else "available" if there else "absent", why)
        if there:
            usable.append((f"{name} on {device}", switch, device))
    console.print(found)

    table = Table("implementation", "op", "dtype", "cases", "result", "1st order", "2nd order", "allowed", "",
                  title="Largest error against torch in float64 on the CPU, relative to the largest value")
    failed = 0
    for name, switch, device in usable:
        with console.status(f"checking {name}"):
            rows = check(name, switch, device)
        for row in rows:
            failed += not row.passed
            table.add_row(row.implementation, row.op, str(row.dtype)[6:], str(row.configurations),
                          *(f"{e:.1e}" for e in row[4:]), f"{TOLERANCE[row.dtype]:.0e}",
                          "ok" if row.passed else "FAILED")
    console.print(table)
    asked_in_vain = build and not EXTENSIONS["cpu"].loaded
    if asked_in_vain:
        console.print(f"The C++ CPU op was not built: {EXTENSIONS['cpu'].missing() or EXTENSIONS['cpu'].failure}")
    console.print(f"{failed} of {len(table.rows)} checks failed" if failed else "All implementations agree.")
    return 1 if failed or asked_in_vain else 0


if __name__ == "__main__":
    sys.exit(main())
