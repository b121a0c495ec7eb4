"""Full fine-tuning: every weight that the picture's half of a generator is made of (Intrinsic LoRA, arXiv 2311.17137, Table 4).

Not a statement about what the generator knows: with all of its weights free it can be taught what was never in it. It is the
upper end beside which the tiny adapters are read. The trained weights are copies in float32 that stand in for the generator's
own within the adapter's block; files hold them whole, as weights and not as differences.
"""
from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from generators import Generator

from ._base import Adapter, swapped


class Full(Adapter):
    """Copies of all weights of `Generator.body`; buffers (running means, filters, noise) stay as they are."""

    method = "full"

    def __init__(self, generator: Generator, name: str, prompt: str | None = None):
        super().__init__(generator, name, prompt)
        with torch.no_grad():
            self._weights = {k.replace(".base_layer.", "."): nn.Parameter(v.detach().float().clone(), requires_grad=False)
                             for k, v in self._own().items()}

    def _own(self) -> dict[str, nn.Parameter]:
        """The generator's weights under the names they have now: a LoRA beside this moves some to NAME.base_layer."""
        found = {}
        for part in self.generator.body:
            for name, value in self.generator.network.get_submodule(part).named_parameters(prefix=part):
                if ".lora_" not in name and value.is_floating_point():
                    found[name] = value
        return found

    def parameters(self) -> dict[str, nn.Parameter]:
        return dict(self._weights)

    @property
    def site_names(self) -> list[str]:
        return list(self.generator.body)

    @contextmanager
    def _applied(self) -> Iterator[None]:
        now = {name: self._weights[name.replace(".base_layer.", ".")] for name in self._own()}
        with swapped(self.generator.network, now), self.generator.thawed(), super()._applied():
            yield
