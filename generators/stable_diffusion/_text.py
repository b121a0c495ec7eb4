"""Prompt -> token ids: by CLIP's tokenizer where there is one, word by word for small models of a closed vocabulary."""
from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ._config import StableDiffusionConfig

Tokens = Callable[[Sequence[str]], Tensor]          # prompts -> int64 [N, L]
START, END, UNKNOWN = "<start>", "<end>", "<unknown>"
_WORD = re.compile(r"[a-z]+|[0-9]+|[^\sa-z0-9]")


class WordTokens:
    """Whole words of a closed vocabulary: <start>, the prompt's words, then <end> up to the text encoder's length.

    Args:
        vocabulary: words by token, with <start>, <end> and <unknown> among them
        length: of every row
    """

    def __init__(self, vocabulary: Sequence[str], length: int):
        self.ids = {word: index for index, word in enumerate(vocabulary)}
        self.length = length
        if missing := [mark for mark in (START, END, UNKNOWN) if mark not in self.ids]:
            raise ValueError(f"vocabulary: {', '.join(missing)} must be in it")

    def __call__(self, prompts: Sequence[str]) -> Tensor:
        rows = torch.full((len(prompts), self.length), self.ids[END], dtype=torch.int64)
        for row, prompt in zip(rows, prompts, strict=True):
            words = [START, *_WORD.findall(prompt.lower())][:self.length - 1]
            row[:len(words)] = torch.tensor([self.ids.get(word, self.ids[UNKNOWN]) for word in words])
        return rows


def tokens_of(config: StableDiffusionConfig, folder: str | None) -> Tokens:
    """The tokenizer of a configuration: that of its vocabulary, or the one in `folder`.

    Raises ValueError where it has none, or FileNotFoundError where it is not in its folder.
    """
    length = config.text_encoder["max_position_embeddings"]
    if config.vocabulary is not None:
        return WordTokens(config.vocabulary, length)
    if folder is None:
        raise ValueError("tokenizer: this checkpoint holds no tokenizer, and a prompt cannot be read without one; name the "
                         "folder of CLIP's with generator_options.tokenizer (vocab.json and merges.txt, as in the "
                         "tokenizer/ folder of any Stable Diffusion in diffusers' layout)")
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)

    def ids(prompts: Sequence[str]) -> Tensor:
        return tokenizer(list(prompts), padding="max_length", max_length=length, truncation=True,
                         return_tensors="pt").input_ids

    return ids
