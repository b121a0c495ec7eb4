"""What the families' steps share: the loss, LoRA that has already learnt something, a training step, the floor."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn

from adapters._fused_linear import register_fused_linear

Step = Callable[[], object]


class Steps(Protocol):
    """The steps of one preset, by name, all on one batch. A step that is compared returns (image, gradients)."""

    variants: tuple[str, ...]
    unmeasured: tuple[str, ...]  # those whose result is not compared with the reference's
    base: str  # what speed-ups are over
    reference: str  # what accuracy is measured against
    batch: int
    notes: str  # what the variants are

    def __getitem__(self, variant: str) -> Step: ...


def normals_loss(prediction: Tensor, target: Tensor) -> Tensor:
    """1 - cos + L1, over pixels; target of unit length.

    Spelt out because `F.cosine_similarity` over channels takes six times as long on a CPU: 50 ms of an FFHQ step.
    """
    cosine = (prediction * target).sum(1) * (prediction.square().sum(1) + 1e-12).rsqrt()
    return 1 - cosine.mean() + (prediction - target).abs().mean()


def random_target(batch: int, resolution: int) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    return F.normalize(torch.randn(batch, 3, resolution, resolution, generator=generator))


def adapt(network: nn.Module, names: Sequence[str], perturb: Callable[[str], bool]) -> None:
    """Rank 8 LoRA, as `fit` attaches it, on the modules `names`, not at its start; random values for the parameters that
    `perturb` picks."""
    torch.manual_seed(0)  # of LoRA's own initialisation
    if names:
        inject_adapter_in_model(register_fused_linear(LoraConfig(r=8, target_modules=list(names))), network)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, value in network.named_parameters():
            if "lora_B" in name:
                value.copy_(0.02 * torch.randn(value.shape, generator=generator))
            elif perturb(name):
                value.copy_(0.1 * torch.randn(value.shape, generator=generator))


def training_step(draw: Callable[[], Tensor], target: Tensor | None, network: nn.Module,
                  loss: Callable[[Tensor, Tensor], Tensor] = normals_loss) -> Step:
    learning = [p for p in network.parameters() if p.requires_grad]

    def step() -> tuple[Tensor, Tensor]:
        for parameter in learning:
            parameter.grad = None
        image = draw()
        loss(image.float(), target).backward()
        return image.detach(), torch.cat([p.grad.flatten() for p in learning])

    return step


def bare(calls: list[tuple[Callable[..., Tensor], Tensor, Tensor, dict]]) -> Step:
    """Runs f(x, weight, **options) for all of the calls, forward and backward to x, and nothing else."""
    prepared = []
    for f, x, weight, options in calls:
        if x.ndim == 4:
            x, weight = (t.contiguous(memory_format=torch.channels_last) for t in (x, weight))
        x = x.requires_grad_()
        with torch.no_grad():
            prepared.append((f, x, weight, options, torch.randn_like(f(x, weight, **options))))

    def step() -> None:
        for f, x, weight, options, grad in prepared:
            torch.autograd.grad(f(x, weight, **options), x, grad)

    return step
