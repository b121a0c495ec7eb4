"""One training step of a probe on StyleGAN2: the frozen synthesis network against the paper's formulation.

    python benchmarks/probe_step.py                       # FFHQ 256 px configuration, batch 4
    python benchmarks/probe_step.py --preset embedded     # the 64 px generator that comes with the package, batch 8
    python benchmarks/probe_step.py --json step.json

A step is forward and backward through every w -> s affine, ToRGB's included, each with a rank 8 LoRA; all weights of
the network are frozen; the loss is that of surface normals, 1 - cos + L1. The variants take turns in one run:

    grouped       convolution weights modulated per sample, the batch as groups (StyleGAN2, appendix B)
    plain         `Synthesis.forward`: shared weights, scaled activations
    frozen        `FrozenSynthesis`, float32
    frozen bf16   `FrozenSynthesis(dtype=torch.bfloat16)`
    no adapters   frozen, where the affines' own biases learn instead: LoRA's overhead is the difference to this
    floor         the bare convolutions of the same shapes, forward and backward to their input, and nothing else

Peak memory is the peak resident size of a process that builds the network and takes two steps of one variant.
"""
from __future__ import annotations

import argparse
import json
import re
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from _timing import amx, interleave, machine, table
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from generators import ops  # noqa: E402
from generators.stylegan2 import StyleGAN2Config, StyleGAN2Network, Synthesis, affine_names  # noqa: E402
from generators.stylegan2._frozen import FrozenSynthesis  # noqa: E402

PRESETS = {
    "ffhq256": (StyleGAN2Config(img_resolution=256), 4),
    "embedded": (
        StyleGAN2Config(
            img_resolution=64, z_dim=128, w_dim=128, mapping_layers=4, use_noise=False,
            channels={4: 128, 8: 128, 16: 128, 32: 64, 64: 32},
        ),
        8,
    ),
}
VARIANTS = ("grouped", "plain", "frozen", "frozen bf16", "no adapters", "floor")


def grouped_synthesis(synthesis: Synthesis, ws: Tensor, noise_mode: str = "const") -> Tensor:
    """The paper's formulation (skip architecture): every sample's own weights, and one group a sample."""
    x = image = None
    for resolution in synthesis.config.resolutions:
        block = getattr(synthesis, f"b{resolution}")
        i = block.first_ws
        if x is None:
            x = block.const.expand(len(ws), -1, -1, -1)
        else:
            x = _grouped_layer(block.conv0, x, ws[:, i], noise_mode)
            i += 1
        x = _grouped_layer(block.conv1, x, ws[:, i], noise_mode)
        torgb = block.torgb
        weight = torgb.weight * torgb.affine(ws[:, i + 1])[:, None, :, None, None]
        rgb = _per_sample(F.conv2d, x, weight) + torgb.bias[:, None, None]
        if image is not None:
            channels, taps = image.shape[1], block.kernel.shape[0]
            kernel = block.kernel.expand(channels, 1, taps, taps)
            rgb = rgb + F.conv_transpose2d(image, kernel, stride=2, padding=1, groups=channels)
        image = rgb
    return image


def _grouped_layer(layer: torch.nn.Module, x: Tensor, w: Tensor, noise_mode: str) -> Tensor:
    weight = layer.weight * layer.affine(w)[:, None, :, None, None]                          # modulation, eq. 1
    weight = weight * (weight.square().sum((2, 3, 4), keepdim=True) + 1e-8).rsqrt()          # demodulation, eq. 3
    if layer.up:
        x = _per_sample(F.conv_transpose2d, x, weight.transpose(1, 2), stride=2)
        channels, taps = x.shape[1], layer.kernel.shape[0]
        x = F.conv2d(x, layer.kernel.flip(0, 1).expand(channels, 1, taps, taps), padding=1, groups=channels)
    else:
        x = _per_sample(F.conv2d, x, weight, padding=1)
    if layer.use_noise and noise_mode == "const":
        x = x + layer.noise_const * layer.noise_strength
    return F.leaky_relu(x + layer.bias[:, None, None], 0.2) * layer.gain


def _per_sample(convolve: Callable[..., Tensor], x: Tensor, weight: Tensor, **options: int) -> Tensor:
    n, _, height, width = x.shape
    y = convolve(x.reshape(1, -1, height, width), weight.flatten(0, 1), groups=n, **options)
    return y.view(n, -1, *y.shape[2:])


def make_network(config: StyleGAN2Config, adapters: bool = True) -> StyleGAN2Network:
    """A network with noise, biases and, if asked for, LoRA that has already learnt something."""
    network = StyleGAN2Network(config, seed=0).requires_grad_(False)
    generator = torch.Generator().manual_seed(1)
    if adapters:
        torch.manual_seed(0)                                    # of LoRA's own initialisation
        inject_adapter_in_model(LoraConfig(r=8, target_modules=affine_names(network)), network)
    with torch.no_grad():
        for name, value in network.named_parameters():
            if name.endswith("noise_strength") or (name.endswith("bias") and "affine" not in name):
                value.copy_(0.1 * torch.randn(value.shape, generator=generator))
            elif "lora_B" in name:
                value.copy_(0.02 * torch.randn(value.shape, generator=generator))
    if not adapters:
        for name in affine_names(network):
            network.get_submodule(name).bias.requires_grad_(True)
    return network


def normals_loss(prediction: Tensor, target: Tensor) -> Tensor:
    """1 - cos + L1, over pixels; target of unit length.

    Spelt out because `F.cosine_similarity` over channels takes six times as long on a CPU: 50 ms of an FFHQ step.
    """
    cosine = (prediction * target).sum(1) * (prediction.square().sum(1) + 1e-12).rsqrt()
    return 1 - cosine.mean() + (prediction - target).abs().mean()


class Steps:
    """The steps to be timed, by name, on one batch."""

    def __init__(self, config: StyleGAN2Config, batch: int) -> None:
        self.network = make_network(config)
        generator = torch.Generator().manual_seed(2)
        with torch.no_grad():
            self.ws = self.network.mapping(torch.randn(batch, config.z_dim, generator=generator))
        self.target = torch.randn(batch, 3, config.img_resolution, config.img_resolution, generator=generator)
        self.target = F.normalize(self.target)
        self._config, self._batch = config, batch

    def __getitem__(self, variant: str) -> Callable[[], object]:
        synthesis = self.network.synthesis
        if variant == "grouped":
            return self._step(lambda ws: grouped_synthesis(synthesis, ws))
        if variant == "plain":
            return self._step(synthesis)
        if variant == "frozen":
            return self._step(FrozenSynthesis(synthesis))
        if variant == "frozen bf16":
            return self._step(FrozenSynthesis(synthesis, torch.bfloat16))
        if variant == "no adapters":
            bare = make_network(self._config, adapters=False)
            return self._step(FrozenSynthesis(bare.synthesis), bare)
        return bare_convolutions(self._config, self._batch)

    def _step(self, draw: Callable[[Tensor], Tensor], network: torch.nn.Module | None = None) -> Callable[[], object]:
        learning = [p for p in (network or self.network).parameters() if p.requires_grad]

        def step() -> tuple[Tensor, Tensor]:
            for parameter in learning:
                parameter.grad = None
            image = draw(self.ws)
            normals_loss(image, self.target).backward()
            return image.detach(), torch.cat([p.grad.flatten() for p in learning])

        return step


def bare_convolutions(config: StyleGAN2Config, batch: int) -> Callable[[], None]:
    """The floor: one convolution after the other, channels last, forward and backward to the input."""
    calls = []

    def add(convolve: Callable[..., Tensor], side: int, inputs: int, weight: Tensor, **options: int) -> None:
        x = torch.randn(batch, inputs, side, side).contiguous(memory_format=torch.channels_last).requires_grad_()
        weight = weight.contiguous(memory_format=torch.channels_last)
        with torch.no_grad():
            grad = torch.randn_like(convolve(x, weight, **options))
        calls.append((convolve, x, weight, options, grad))

    for r in config.resolutions:
        channels = config.channels_at(r)
        if r > 4:
            below = config.channels_at(r // 2)
            add(F.conv_transpose2d, r // 2, below, torch.randn(below, channels, 3, 3), stride=2)
        add(F.conv2d, r, channels, torch.randn(channels, channels, 3, 3), padding=1)
        if config.has_torgb(r):
            add(F.conv2d, r, channels, torch.randn(3, channels, 1, 1))

    def step() -> None:
        for convolve, x, weight, options, grad in calls:
            torch.autograd.grad(convolve(x, weight, **options), x, grad)

    return step


def peak_resident() -> float:
    """Peak resident size of this process, MiB."""
    # Not getrusage's where it can be helped: on Linux a child starts with the peak that its parent had.
    status = Path("/proc/self/status")
    if status.exists():
        return int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def peak_memory(variant: str, args: argparse.Namespace) -> float:
    """Peak resident size, MiB, of a process that takes two steps of one variant."""
    command = [sys.executable, __file__, "--peak-of", variant, "--preset", args.preset, "--threads", str(args.threads)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def accuracy(steps: Steps, variant: str) -> dict[str, float]:
    """Image and adapters' gradient of a variant against the plain network in float32."""
    (expected, gradient), (image, other) = steps["plain"](), steps[variant]()
    error = (image - expected).abs() / expected.abs().mean()
    return {
        "image_max": error.max().item(),
        "image_mean": error.mean().item(),
        "gradient_relative": ((other - gradient).norm() / gradient.norm()).item(),
        "gradient_cosine": F.cosine_similarity(other.double(), gradient.double(), dim=0).item(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=PRESETS, default="ffhq256")
    parser.add_argument("--repeats", type=int, default=5, help="timed steps of each variant")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="cpu: CPU time per thread, for a "
                        "machine that others use too")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--no-memory", action="store_true", help="skip the runs that measure peak memory")
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    parser.add_argument("--peak-of", choices=VARIANTS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    config, batch = PRESETS[args.preset]
    steps = Steps(config, batch)
    if args.peak_of:
        step = steps[args.peak_of]
        step()
        step()
        print(peak_resident())
        return

    chosen = [variant for variant in VARIANTS if variant in args.variants]
    times = interleave({variant: steps[variant] for variant in chosen}, args.repeats)
    report = {"preset": args.preset, "batch": batch, "machine": machine(),
              "compiled_ops": ops.wanted_extension("cpu") is not None, "clock": args.clock, "variants": times}
    for variant in chosen:
        if variant not in ("floor", "no adapters"):
            times[variant].update(accuracy(steps, variant))
            if not args.no_memory:
                times[variant]["peak_mib"] = peak_memory(variant, args)
    print_report(report)
    if args.json:
        args.json.write_text(json.dumps(report, indent=2) + "\n")


def print_report(report: dict) -> None:
    about, times, clock = report["machine"], report["variants"], report["clock"]
    print(f"{report['preset']}, batch {report['batch']}, {about['threads']} thread(s), {about['capability']}"
          f"{' with AMX' if about['amx'] else ''}, torch {about['torch']}, "
          f"{'with' if report['compiled_ops'] else 'without'} compiled ops; medians, {clock} time\n")
    rows = []
    for name, values in times.items():
        cells = [name, f"{1e3 * values[clock]:.1f}"]
        for base, inverted in (("grouped", True), ("floor", False)):
            ratio = values[clock] / times[base][clock] if base in times else None
            cells.append("" if ratio is None else f"{1 / ratio if inverted else ratio:.2f}x")
        cells.append(f"{values['peak_mib']:.0f}" if "peak_mib" in values else "")
        for key in ("image_max", "image_mean", "gradient_relative"):
            cells.append(f"{values[key]:.1e}" if key in values else "")
        rows.append(cells)
    print(table(["variant", "ms/step", "speed-up", "of floor", "peak MiB", "image max", "mean", "gradient"], rows))
    print("\nspeed-up: over grouped. image: largest and mean error against plain, over the image's mean magnitude;"
          "\ngradient: error of all adapters' gradients together, relative.")
    if {"frozen", "no adapters"} <= set(times):
        overhead = times["frozen"][clock] / times["no adapters"][clock] - 1
        print(f"LoRA overhead: {100 * overhead:.1f} % of the step (frozen against no adapters)")
    if not amx():
        print("This CPU has no AMX: bfloat16 is not expected to be fast.")


if __name__ == "__main__":
    main()
