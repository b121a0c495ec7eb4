"""What Stable Diffusion XL is told beside an image and a timestep (Podell et al. 2023, arXiv 2307.01952, section 2).

The U-Net attends to the last layers but one of two text encoders, side by side, and to a summary of the prompt by the second
one, which is added to the timestep's embedding together with three pairs of sizes: of the picture before it was resized, of
the corner it was cut at, of the picture as it is. Here all that comes from the words is one tensor, the summary as one more
row behind the tokens', so that whoever repeats or stacks what a U-Net is told need not know of it.
"""
from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# The tokenizers are the same but for their padding: CLIP's end, and the vocabulary's first, "!"
# (stabilityai/stable-diffusion-xl-base-1.0, tokenizer/ and tokenizer_2/special_tokens_map.json).
_PADDING = 0


def read_by_both(first: nn.Module, second: nn.Module, ids: Tensor) -> Tensor:
    """Token ids -> what the two text encoders make of them.

    Args:
        ids: int64 [N, L], padded with the token of the end

    Returns:
        float [N, L + 1, D]: the tokens' states, then the summary, float [N, D2], with zeros up to D.
    """
    ended = (ids == ids[:, -1:]).cumsum(1) > 1                # behind the first end there is nothing but padding
    other = second(input_ids=ids.masked_fill(ended, _PADDING), output_hidden_states=True)
    states = torch.cat([first(input_ids=ids, output_hidden_states=True).hidden_states[-2], other.hidden_states[-2]], -1)
    summary = other.text_embeds
    return torch.cat([states, F.pad(summary, (0, states.shape[-1] - summary.shape[-1]))[:, None]], 1)


def told(context: Tensor, width: int, sample: Tensor, factor: int) -> tuple[Tensor, dict[str, Tensor]]:
    """What `read_by_both` gave, as the U-Net takes it: (encoder_hidden_states, added_cond_kwargs).

    Args:
        context: float [N, L + 1, D]
        width: of the summary
        sample: float [N, C, h, w]: latents; the picture is taken to be whole and of its own size
        factor: pixels for one of a latent, along a side
    """
    height, breadth = (side * factor for side in sample.shape[2:])
    sizes = torch.tensor([height, breadth, 0, 0, height, breadth], dtype=torch.float32, device=sample.device)
    sizes = sizes.expand(len(sample), -1)
    return context[:, :-1], dict(text_embeds=context[:, -1, :width], time_ids=sizes)
