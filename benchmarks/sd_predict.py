"""Peak memory and time of `probe.predict` for one photograph, on Stable Diffusion's shapes with random weights.

    python benchmarks/sd_predict.py                          # Stable Diffusion 1.5 at 512 px
    python benchmarks/sd_predict.py --preset sd-embedded

Each row is a process of its own on the CPU, which builds generator and probe and predicts twice: all of it counts, from the
photograph to the map at its size. `loaded` is what the process holds before that, mostly weights. The single step is one pass
of the U-Net; the multi-step variant (AUG) takes a batch of three in each of its steps, for guidance.
"""
from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
import time

import numpy as np
import torch
from _memory import forget_peak, peak_resident, tight
from _steps_stable_diffusion import PRESETS, config_of
from _timing import machine, table

import adapters
from generators.stable_diffusion import StableDiffusion, StableDiffusionNetwork
from probes import Probe, get_intrinsic

MULTI = dict(mode="multi", conv_in="doubled")


def measure(args: argparse.Namespace, mode: str, precision: str) -> dict[str, float]:
    """{"loaded", "peak": MiB, "seconds"} of one process, this one."""
    network = StableDiffusionNetwork(config_of(args.preset)).requires_grad_(False)
    length = network.config.text_encoder["max_position_embeddings"]
    network.tokenizer = "none"
    network._tokens = lambda prompts: torch.zeros(len(prompts), length, dtype=torch.int64)
    options = dict(MULTI, steps=args.steps) if mode == "multi" else {}
    generator = StableDiffusion(args.preset, network, resolution=PRESETS[args.preset][0], precision=precision, **options)
    probe = Probe(generator, adapters.attach(generator, "normal"), get_intrinsic("normal"), {})
    side = generator.resolution
    photograph = np.random.default_rng(0).integers(0, 256, (side, side * 4 // 3, 3), dtype=np.uint8)
    gc.collect()
    loaded = resident()
    forget_peak()
    probe.predict(images=[photograph])
    began = time.perf_counter()
    (done,) = probe.predict(images=[photograph])
    seconds = time.perf_counter() - began
    assert done.map.shape[-2:] == photograph.shape[:2]
    return dict(loaded=loaded, peak=peak_resident(), seconds=seconds)


def resident() -> float:
    forget_peak()
    return peak_resident()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=PRESETS, default="sd15")
    parser.add_argument("--steps", type=int, default=25, help="of the multi-step variant")
    parser.add_argument("--of", nargs=2, metavar=("MODE", "PRECISION"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.of:
        print(json.dumps(measure(args, *args.of)))
        return
    rows = []
    for mode in ("single", "multi"):
        for precision in ("fp32", "bf16"):
            command = [sys.executable, __file__, "--preset", args.preset, "--steps", str(args.steps), "--of", mode, precision]
            done = subprocess.run(command, capture_output=True, text=True, check=True, env=tight())
            found = json.loads(done.stdout.splitlines()[-1])
            rows.append([f"{mode}, {precision}", f"{found['loaded']:.0f}", f"{found['peak']:.0f}", f"{found['seconds']:.1f}"])
    about, side = machine(), PRESETS[args.preset][0]
    print(f"{args.preset}, one photograph of {side * 4 // 3}x{side} px, {about['threads']} thread(s), torch {about['torch']}; "
          f"multi: {args.steps} steps\n")
    print(table(["probe.predict", "loaded MiB", "peak MiB", "seconds"], rows))


if __name__ == "__main__":
    main()
