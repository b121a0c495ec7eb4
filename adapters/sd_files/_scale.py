"""alpha: where PEFT's configuration says it, and how sites of different rank and alpha become one LoRA."""
from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any

import torch
from torch import Tensor

# Filling lower ranks up multiplies a file's size, in files whose ranks were cut site by site by ten or thirty. Beyond this
# many times, and beyond a quarter of a gigabyte, it is no LoRA that somebody trained.
_FILLED, _FREE = 64, 1 << 26
_PLAIN = re.compile(r"\^?[\w.]+")
_ALTERED = ("pissa", "olora", "corda", "loftq", "lora_ga", "mica")       # initialisations that change the base's weights too


@dataclass(frozen=True)
class Pair:
    """One site: A [r, in, …], B [out, r, …], and its alpha."""

    a: Tensor
    b: Tensor
    alpha: float

    @property
    def rank(self) -> int:
        return self.a.shape[0]


def configured_alpha(config: Mapping[str, Any], site: str, rank: int) -> float:
    """The alpha of a site (without `unet.`) such that alpha / rank is the scale that PEFT would use.

    Raises ValueError for a configuration of something else than a plain LoRA.
    """
    if str(config.get("peft_type") or "LORA").rpartition(".")[2] != "LORA":
        raise ValueError(f"peft_type: expected LORA, got {config['peft_type']!r}")
    if config.get("use_dora"):
        raise ValueError("use_dora: it is a DoRA, not a LoRA of the form B A; only plain LoRA can be read")
    start = config.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(_ALTERED):
        raise ValueError(f"init_lora_weights: {start!r} changes the base's own weights, which the file does not hold; convert "
                         "it to a plain LoRA with PEFT (save_pretrained(path_initial_model_for_weight_conversion=…))")
    alpha = config.get("lora_alpha", rank)
    patterns = config.get("alpha_pattern") or {}
    if not isinstance(patterns, Mapping):
        raise ValueError(f"alpha_pattern: expected names and numbers, got {patterns!r:.80}")
    for pattern, value in patterns.items():
        if not _PLAIN.fullmatch(pattern):
            raise ValueError(f"alpha_pattern: {pattern!r:.80} is a regular expression; only names of modules are read")
        name = pattern.removeprefix("^")
        if site == name or (name == pattern and site.endswith(f".{name}")):
            alpha = value
            break
    if isinstance(alpha, bool) or not isinstance(alpha, Real) or not math.isfinite(alpha):
        raise ValueError(f"lora_alpha: expected a number, got {alpha!r:.80}")
    return alpha * math.sqrt(rank) if config.get("use_rslora") else float(alpha)


def unify(pairs: Mapping[str, Pair]) -> tuple[dict[str, Tensor], int, float]:
    """Pairs by site -> (state, rank, alpha): one rank and one alpha for all, drawing exactly the same.

    Lower ranks are filled up with zeros. Where all sites have one scale alpha / r the weights stay bit for bit; where they
    differ, the scale goes into B, and alpha = rank.

    Raises ValueError where the ranks are so far apart that the filling would be nearly all there is.
    """
    ranks, scales = {p.rank for p in pairs.values()}, {p.alpha / p.rank for p in pairs.values()}
    rank, alphas = max(ranks), {p.alpha for p in pairs.values()}
    stored = sum(p.a.numel() + p.b.numel() for p in pairs.values())
    filled = sum((p.a.numel() + p.b.numel()) // p.rank * rank for p in pairs.values())
    if filled > max(_FILLED * stored, _FREE):
        raise ValueError(f"its sites have ranks from {min(ranks)} to {rank}; at one rank its {stored} numbers "
                         f"would be {filled}")
    folded = len(scales) > 1 or scales == {0.0}
    alpha = float(rank) if folded else alphas.pop() if len(ranks) == 1 else scales.pop() * rank
    state = {}
    for site, pair in sorted(pairs.items()):
        a, b = pair.a, pair.b * (pair.alpha / pair.rank) if folded else pair.b
        if missing := rank - pair.rank:
            a = torch.cat([a, a.new_zeros(missing, *a.shape[1:])])
            b = torch.cat([b, b.new_zeros(len(b), missing, *b.shape[2:])], 1)
        state[f"{site}.lora_A.weight"], state[f"{site}.lora_B.weight"] = a.contiguous(), b.contiguous()
    return state, rank, alpha
