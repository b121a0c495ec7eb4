"""One training step on Stable Diffusion's shapes, on a CPU or a GPU: times, memory, and the share of the machine's peak.

    python benchmarks/sd_step.py --device cuda --precision bf16 --batch 4 --compile --peak-tflops 989
    python benchmarks/sd_step.py --preset sd-embedded --repeats 3

The variants are those of `_steps_stable_diffusion.py`, all in one precision and taking turns: `all inside` (what the paper's
released scripts do), `plain` (what `fit` runs), `compiled` (the same through torch.compile), `checkpointing` and `floor` (the
bare U-Net). Multiplications are counted, those of `plain` as it runs, and `--peak-tflops` is what the maker says of the
machine at that precision. (On a CPU torch does not count attention's.) Memory is what was allocated on the GPU, one variant
at a time; on a CPU, `probe_step.py` measures it in processes of their own.
"""
from __future__ import annotations

import argparse
import json
from contextlib import nullcontext
from pathlib import Path

import torch
from _steps_stable_diffusion import PRESETS, StableDiffusionSteps
from _timing import interleave, table
from torch.utils.flop_counter import FlopCounterMode


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=PRESETS, default="sd15")
    parser.add_argument("--resolution", type=int, help="of the images; default: the preset's")
    parser.add_argument("--batch", type=int, help="default: the preset's")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="of the U-Net")
    parser.add_argument("--compile", action="store_true", help="also through torch.compile")
    parser.add_argument("--peak-tflops", type=float, help="of the machine at this precision")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    args = parser.parse_args()
    steps = StableDiffusionSteps(args.preset, args.resolution, args.batch, args.device)
    names = ["all inside", "plain", *(["compiled"] if args.compile else []), "checkpointing", "floor"]
    on_gpu, half = torch.device(args.device).type == "cuda", " bf16" if args.precision == "bf16" else ""
    finish = torch.cuda.synchronize if on_gpu else lambda: None
    runs, memory = {}, {}
    for name in names:                                  # the bare U-Net comes last: it is a second one
        # As `fit` takes them: what a step does not need is elsewhere.
        with steps.generator.stepping() if name not in ("all inside", "floor") else nullcontext():
            runs[name] = steps[name + half]
            runs[name]()                                # whose first turn may build something
            if on_gpu:
                torch.cuda.reset_peak_memory_stats()
                runs[name]()
                memory[name] = torch.cuda.max_memory_allocated() / 2**20
    with FlopCounterMode(display=False) as counter:
        runs["plain"]()
    flops = counter.get_total_flops()
    times = interleave(runs, args.repeats, finish=finish)
    rows = []
    for name, values in times.items():
        share = flops / values["wall"] / args.peak_tflops / 1e12 if args.peak_tflops and name != "all inside" else None
        rows.append([name, f"{1e3 * values['wall']:.1f}", f"{times['all inside']['wall'] / values['wall']:.2f}x",
                     f"{values['wall'] / times['floor']['wall']:.2f}x",
                     f"{memory[name]:.0f}" if on_gpu and name != "floor" else "",
                     "" if share is None else f"{100 * share:.0f} %"])
    where = torch.cuda.get_device_name() if on_gpu else f"CPU, {torch.get_num_threads()} threads"
    print(f"{args.preset}, {steps.resolution} px, batch {steps.batch}, {args.precision}, {where}, torch {torch.__version__}; "
          f"{flops / 1e12:.3f} TFLOP a step; medians of {args.repeats}, wall time\n")
    print(table(["variant", "ms/step", "speed-up", "of floor", "peak MiB", "of peak"], rows))
    if args.json:
        report = dict(vars(args), json=str(args.json), where=where, flops=flops, times=times, peak_mib=memory)
        args.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
