"""Time of the ops against their plain definitions, at the shapes of StyleGANs: `python benchmarks/ops.py`.

Plain is what the definition says: zeros inserted, padded, a depthwise 2-D convolution at every position, every
down-th kept; for bias_act one torch op a step; for filtered_lrelu our upfirdn2d, bias_act, upfirdn2d. Each pair is
timed in turns, so that a busy machine slows both alike; the ratio (plain / ours, above 1 is faster) is what carries
over, the milliseconds are this machine's.
"""
from __future__ import annotations

import argparse
import os
import statistics
import time

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table

from generators.ops import bias_act, filtered_lrelu, setup_filter, upfirdn2d

TAPS = setup_filter([1, 3, 3, 1])
# name, channels, input resolution, upfirdn2d options: StyleGAN2 at 256 pixels, and its discriminator's way down
RESAMPLING = (
    ("up ×2, features", 128, 64, dict(up=2, padding=(2, 1, 2, 1), gain=4)),
    ("up ×2, features", 64, 128, dict(up=2, padding=(2, 1, 2, 1), gain=4)),
    ("up ×2, RGB skip", 3, 128, dict(up=2, padding=(2, 1, 2, 1), gain=4)),
    ("blur after up-convolution", 64, 128, dict(padding=(2, 1, 2, 1), gain=4)),
    ("down ×2, features", 64, 128, dict(down=2, padding=(1, 1, 1, 1))),
)
# name, channels, convolution's output, filtered_lrelu options: StyleGAN-XL at 256 pixels
SHORT, LONG = (setup_filter(torch.hann_window(taps + 2, periodic=False)[1:-1]) for taps in (12, 24))
ACTIVATIONS = (
    ("up ×2, lrelu, down ×2", 256, 38, dict(fu=SHORT, up=2, padding=(9, 8, 9, 8))),
    ("up ×4, lrelu, down ×2", 128, 54, dict(fu=LONG, up=4, padding=(-6, -9, -6, -9))),
    ("up ×2, lrelu, down ×2", 64, 150, dict(fu=SHORT, up=2, padding=(9, 8, 9, 8))),
)


def plain_upfirdn2d(x, f, up=1, down=1, padding=(0, 0, 0, 0), gain=1.0):
    n, c, h, w = x.shape
    z = x.new_zeros(n, c, h, up, w, up)
    z[:, :, :, 0, :, 0] = x
    z = F.pad(z.reshape(n, c, h * up, w * up), padding)
    weight = (torch.outer(f, f).flip(0, 1) * gain).to(x.dtype).expand(c, 1, len(f), len(f))
    return F.conv2d(z, weight, groups=c)[:, :, ::down, ::down]


def plain_bias_act(x, b):
    return (F.leaky_relu(x + b[:, None, None], 0.2) * 2**0.5).clamp(-256, 256)


def plain_filtered_lrelu(x, b, fu, up, padding):
    u = upfirdn2d(x + b[:, None, None], fu, up=up, padding=padding, gain=up**2)
    return upfirdn2d(bias_act(u, act="lrelu", clamp=256), SHORT.to(x.device), down=2)


def seconds(runs, repeats: int, device: str) -> list[float]:
    """Median time of each of `runs`, taken in turns after one warm-up."""
    times = [[] for _ in runs]
    for repeat in range(repeats + 1):
        for run, kept in zip(runs, times, strict=True):
            start = time.perf_counter()
            run()
            if device == "cuda":
                torch.cuda.synchronize()
            if repeat:
                kept.append(time.perf_counter() - start)
    return [statistics.median(kept) for kept in times]


def with_backward(function, x, *arguments, **options):
    leaf = x.detach().requires_grad_()
    y = function(leaf, *arguments, **options)
    y.backward(torch.ones_like(y))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    device, batch, f = arguments.device, arguments.batch, TAPS.to(arguments.device)

    table = Table("op", "shape", "dtype", "memory format", "plain, ms", "ours, ms", "ratio", "with backward", title=(
        f"{device}, {torch.get_num_threads()} threads, PROBES_OPS={os.environ.get('PROBES_OPS', 'auto')}"))

    def row(name, x, layout, plain, ours, *tensors, **options):
        with torch.no_grad():
            pair = [lambda fn=fn: fn(x, *tensors, **options) for fn in (plain, ours)]
            slow, fast = seconds(pair, arguments.repeats, device)
        pair = [lambda fn=fn: with_backward(fn, x, *tensors, **options) for fn in (plain, ours)]
        slow_both, fast_both = seconds(pair, arguments.repeats, device)
        table.add_row(name, "×".join(map(str, x.shape)), str(x.dtype)[6:], layout, f"{slow * 1e3:.2f}",
                      f"{fast * 1e3:.2f}", f"{slow / fast:.1f}", f"{slow_both / fast_both:.1f}")

    for dtype in (torch.float32, torch.bfloat16):
        for layout in ("contiguous_format", "channels_last"):
            kind = dict(device=device, dtype=dtype)
            for name, channels, size, options in RESAMPLING:
                x = torch.randn(batch, channels, size, size, **kind).contiguous(memory_format=getattr(torch, layout))
                row(name, x, layout, plain_upfirdn2d, upfirdn2d, f, **options)
            x = torch.randn(batch, 64, 128, 128, **kind).contiguous(memory_format=getattr(torch, layout))
            row("bias, lrelu, clamp", x, layout, plain_bias_act,
                lambda x, b: bias_act(x, b, act="lrelu", clamp=256), torch.randn(64, **kind))
            for name, channels, size, options in ACTIVATIONS:
                x = torch.randn(batch, channels, size, size, **kind).contiguous(memory_format=getattr(torch, layout))
                row(name, x, layout, plain_filtered_lrelu,
                    lambda x, b, **o: filtered_lrelu(x, b=b, fd=SHORT.to(device), down=2, clamp=256, **o),
                    torch.randn(channels, **kind), **dict(options, fu=options["fu"].to(device)))
    Console(width=130).print(table)


if __name__ == "__main__":
    main()
