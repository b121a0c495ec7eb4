"""Drawing codes from the transformer (section 3.2): one token after another, each given all before it.

Each sequence has a random stream of its own, so a seed draws the same codes whatever batch it comes in. A token is drawn
as argmax(log p - log E), E ~ Exp(1) (the Gumbel-max form of sampling): unlike a walk along the cumulative
distribution, whose every step lies on a rounding error of all the probabilities before it, the choice turns over only
when the best two candidates agree to the last digits.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Decoder:
    """A GPT-2 fed token by token; keys and values of what it has seen stay in buffers of the final size.

    transformers' own cache is concatenated anew at every token; with 24 layers that costs more than the attention.

    Args:
        model: `transformers.GPT2LMHeadModel` in eval mode.
        batch: sequences.
        length: most tokens a sequence will have.
    """

    def __init__(self, model: nn.Module, batch: int, length: int) -> None:
        config, weight = model.config, model.lm_head.weight
        self.model, self.heads, self.seen = model, config.n_head, 0
        shape = (config.n_layer, batch, config.n_head, length, config.n_embd // config.n_head)
        self.keys = torch.empty(shape, dtype=weight.dtype, device=weight.device)
        self.values = torch.empty_like(self.keys)

    @torch.no_grad()
    def __call__(self, tokens: Tensor) -> Tensor:
        """tokens: int64 [N, L], the next of each sequence -> logits float [N, vocab_size] of the one after them."""
        body, (count, length) = self.model.transformer, tokens.shape
        end = self.seen + length
        if self.seen and length > 1:
            raise ValueError(f"tokens: expected one at a time after the first call, got {length}")
        x = body.wte(tokens) + body.wpe.weight[self.seen : end]
        for i, block in enumerate(body.h):
            q, k, v = block.attn.c_attn(block.ln_1(x)).view(count, length, 3 * self.heads, -1).transpose(1, 2).chunk(3, 1)
            self.keys[i, :, :, self.seen : end], self.values[i, :, :, self.seen : end] = k, v
            keys, values = self.keys[i, :, :, :end], self.values[i, :, :, :end]
            mixed = F.scaled_dot_product_attention(q, keys, values, is_causal=length > 1)
            x = x + block.attn.c_proj(mixed.transpose(1, 2).reshape(count, length, -1))
            x = x + block.mlp(block.ln_2(x))
        self.seen = end
        return self.model.lm_head(body.ln_f(x[:, -1]))


def filter_logits(logits: Tensor, temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None) -> Tensor:
    """log p of the distribution that is drawn from, -inf where nothing is drawn: float64 [N, V] of logits [N, V].

    Args:
        logits: of the transformer.
        temperature: they are divided by it.
        top_k: only the k most probable tokens are kept.
        top_p: of those only the most probable that together reach this probability (nucleus sampling, Holtzman et al.
            2019, arXiv 1904.09751); at least one.
    """
    scores = logits.double() / temperature
    if top_k is not None and top_k < scores.shape[-1]:
        scores = scores.masked_fill(scores < scores.topk(top_k).values[..., -1:], -torch.inf)
    if top_p is not None and top_p < 1:
        ordered, order = scores.sort(descending=True, stable=True)
        probability = ordered.softmax(-1)
        beyond = probability.cumsum(-1) - probability >= top_p  # what the more probable ones sum to already
        scores = scores.masked_fill(torch.zeros_like(beyond).scatter(-1, order, beyond), -torch.inf)
    return scores.log_softmax(-1)


@torch.no_grad()
def draw(model: nn.Module, prefix: Tensor, seeds: list[int], length: int, codes: int, temperature: float = 1.0,
         top_k: int | None = None, top_p: float | None = None) -> Tensor:
    """Draws sequences of codes.

    Args:
        model: `transformers.GPT2LMHeadModel` in eval mode.
        prefix: int64 [N, P], the condition.
        seeds: one a sequence.
        length: codes to draw.
        codes: how many tokens are codes: the first of the vocabulary.
        temperature, top_k, top_p: see `filter_logits`.

    Returns:
        int64 [N, length], all below `codes`, on the CPU.
    """
    decoder = Decoder(model, len(seeds), prefix.shape[1] + length - 1)
    streams = [torch.Generator().manual_seed(seed) for seed in seeds]
    tokens, drawn = prefix, []
    for _ in range(length):
        scores = filter_logits(decoder(tokens)[:, :codes].cpu(), temperature, top_k, top_p)
        race = torch.stack([torch.empty(codes, dtype=torch.float64).exponential_(generator=s) for s in streams])
        drawn.append((scores - race.log()).argmax(-1, keepdim=True))
        tokens = drawn[-1].to(prefix.device)
    return torch.cat(drawn, 1)


def coordinate_tokens(resolution: int, factor: int, levels: int) -> Tensor:
    """Where each square of an image lies, as tokens: int64 [(resolution / factor)²] (section 3.3, and taming's CoordStage).

    A pixel's coordinate is its row-major index over the number of pixels; a square's is the mean of its pixels, and its
    token that mean in units of 1 / levels. One image is drawn as a whole, so this is the same for every image.
    """
    pixels = torch.arange(resolution**2, dtype=torch.float64).div(resolution**2).float().view(1, 1, resolution, resolution)
    means = F.avg_pool2d(pixels, factor).clamp(0, 1)
    return (means * levels).round().long().flatten()
