"""One training step of a probe on a generator, in several ways: what the frozen network's own path gains, and what is left.

    python benchmarks/probe_step.py                              # StyleGAN2, FFHQ 256 px configuration, batch 4
    python benchmarks/probe_step.py --preset embedded            # the 64 px StyleGAN2 that comes with the package
    python benchmarks/probe_step.py --preset stylegan-xl-ffhq256
    python benchmarks/probe_step.py --preset vqgan-ffhq --json step.json
    python benchmarks/probe_step.py --preset sd15                # Stable Diffusion 1.5's shapes at 512 px; 24 GB

A step is forward and backward with a rank 8 LoRA on every default site of the family; all weights of the network are
frozen; the loss is that of surface normals, 1 - cos + L1. The variants take turns in one run; the text in front of the
table says what they are (`_steps_*.py`, a module a family).

Peak memory is the peak resident size of a process while it takes two steps of one variant, after the network is built; where
the system cannot forget a peak (it is Linux that can), what building took is in it.
"""
from __future__ import annotations

import argparse
import gc
import importlib
import json
import subprocess
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from _memory import forget_peak, peak_resident, tight
from _timing import amx, interleave, machine, table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from _steps import Steps  # noqa: E402

from generators import ops  # noqa: E402

# Which module has the presets of a family; only the chosen one is imported.
FAMILIES = {
    "ffhq256": "StyleGAN2", "embedded": "StyleGAN2",
    "stylegan-xl-ffhq256": "StyleGANXL", "stylegan-xl-embedded": "StyleGANXL",
    "vqgan-ffhq": "VQGAN", "vqgan-embedded": "VQGAN",
    "sd15": "StableDiffusion", "sd15-256": "StableDiffusion",
}
MODULES = {"StyleGAN2": "_steps_stylegan2", "StyleGANXL": "_steps_stylegan_xl", "VQGAN": "_steps_vqgan",
           "StableDiffusion": "_steps_stable_diffusion"}


def make_steps(preset: str) -> Steps:
    family = FAMILIES[preset]
    return getattr(importlib.import_module(MODULES[family]), f"{family}Steps")(preset)


def peak_memory(variant: str, args: argparse.Namespace) -> float:
    """Peak resident size, MiB, of a process while it takes two steps of one variant."""
    command = [sys.executable, __file__, "--peak-of", variant, "--preset", args.preset, "--threads", str(args.threads)]
    done = subprocess.run(command, capture_output=True, text=True, check=True,
                          env=tight())
    return float(done.stdout.split()[-1])


def accuracy(steps: Steps, variant: str) -> dict[str, float]:
    """Image and adapters' gradient of a variant against the reference, the plain network in float32."""
    (expected, gradient), (image, other) = steps[steps.reference](), steps[variant]()
    error = (image - expected).abs() / expected.abs().mean()
    return {
        "image_max": error.max().item(),
        "image_mean": error.mean().item(),
        "gradient_relative": ((other - gradient).norm() / gradient.norm()).item(),
        "gradient_cosine": F.cosine_similarity(other.double(), gradient.double(), dim=0).item(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=FAMILIES, default="ffhq256")
    parser.add_argument("--repeats", type=int, default=5, help="timed steps of each variant")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="cpu: CPU time per thread, for a "
                        "machine that others use too")
    parser.add_argument("--variants", nargs="+", help="some of those that the preset has; default: all")
    parser.add_argument("--no-memory", action="store_true", help="skip the runs that measure peak memory")
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    parser.add_argument("--peak-of", help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    steps = make_steps(args.preset)
    if unknown := set(args.variants or ()) - set(steps.variants):
        parser.error(f"--variants: {args.preset} has no {', '.join(sorted(unknown))}; it has {', '.join(steps.variants)}")
    if args.peak_of:
        step = steps[args.peak_of]
        step()                  # whose first part may still be building
        gc.collect()
        forget_peak()
        step()
        step()
        print(peak_resident())
        return

    chosen = [variant for variant in steps.variants if variant in (args.variants or steps.variants)]
    times = interleave({variant: steps[variant] for variant in chosen}, args.repeats)
    report = {"preset": args.preset, "batch": steps.batch, "machine": machine(),
              "compiled_ops": ops.wanted_extension("cpu") is not None, "clock": args.clock, "variants": times}
    for variant in chosen:
        if variant not in steps.unmeasured:
            times[variant].update(accuracy(steps, variant))
            if not args.no_memory:
                times[variant]["peak_mib"] = peak_memory(variant, args)
    print_report(report, steps)
    if args.json:
        args.json.write_text(json.dumps(report, indent=2) + "\n")


def print_report(report: dict, steps: Steps) -> None:
    about, times, clock = report["machine"], report["variants"], report["clock"]
    print(f"{report['preset']}, batch {report['batch']}, {about['threads']} thread(s), {about['capability']}"
          f"{' with AMX' if about['amx'] else ''}, torch {about['torch']}, "
          f"{'with' if report['compiled_ops'] else 'without'} compiled ops; medians, {clock} time\n")
    print(steps.notes.partition("\n")[2].strip("\n") + "\n")
    rows = []
    for name, values in times.items():
        cells = [name, f"{1e3 * values[clock]:.1f}"]
        for base, inverted in ((steps.base, True), ("floor", False)):
            ratio = values[clock] / times[base][clock] if base in times else None
            cells.append("" if ratio is None else f"{1 / ratio if inverted else ratio:.2f}x")
        cells.append(f"{values['peak_mib']:.0f}" if "peak_mib" in values else "")
        for key in ("image_max", "image_mean", "gradient_relative"):
            cells.append(f"{values[key]:.1e}" if key in values else "")
        rows.append(cells)
    print(table(["variant", "ms/step", "speed-up", "of floor", "peak MiB", "image max", "mean", "gradient"], rows))
    print(f"\nspeed-up: over {steps.base}. image: largest and mean error against {steps.reference}, over the image's mean"
          " magnitude;"
          "\ngradient: error of all adapters' gradients together, relative.")
    ours = "frozen" if "frozen" in steps.variants else "plain"
    if {ours, "no adapters"} <= set(times):
        overhead = times[ours][clock] / times["no adapters"][clock] - 1
        print(f"LoRA overhead: {100 * overhead:.1f} % of the step ({ours} against no adapters)")
    if not amx():
        print("This CPU has no AMX: bfloat16 is not expected to be fast.")


if __name__ == "__main__":
    main()
