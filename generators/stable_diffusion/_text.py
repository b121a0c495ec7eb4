"""Prompt -> token ids: by CLIP's tokenizer where there is one, word by word for small models of a closed vocabulary."""
from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..checkpoints._errors import CheckpointError
from ._config import StableDiffusionConfig

Tokens = Callable[[Sequence[str]], Tensor]          # prompts -> int64 [N, L]
START, END, UNKNOWN = "<start>", "<end>", "<unknown>"
FILES = "vocab.json and merges.txt, or tokenizer.json"
_WORD = re.compile(r"[a-z]+|[0-9]+|[^\sa-z0-9]")


class WordTokens:
    """Whole words of a closed vocabulary: <start>, the prompt's words, then <end> up to the text encoder's length.

    Args:
        vocabulary: words by token, with <start>, <end> and <unknown> among them
        length: of every row

    Calling it raises ValueError for a word that is not in the vocabulary.
    """

    def __init__(self, vocabulary: Sequence[str], length: int):
        self.ids = {word: index for index, word in enumerate(vocabulary)}
        self.length = length
        if missing := [mark for mark in (START, END, UNKNOWN) if mark not in self.ids]:
            raise ValueError(f"vocabulary: {', '.join(missing)} must be in it")

    def __call__(self, prompts: Sequence[str]) -> Tensor:
        rows = torch.full((len(prompts), self.length), self.ids[END], dtype=torch.int64)
        for row, prompt in zip(rows, prompts, strict=True):
            words = _WORD.findall(prompt.lower())
            if strange := [word for word in words if word not in self.ids]:
                raise ValueError(f"prompt: {strange[0]!r:.60} in {prompt!r:.120} is no word of this model's vocabulary; "
                                 f"{self._known(strange[0])}")
            ids = [self.ids[word] for word in (START, *words)][:self.length - 1]
            row[:len(ids)] = torch.tensor(ids)
        return rows

    def _known(self, word: str) -> str:
        known = [name for name in self.ids if name.isalpha()]
        near = difflib.get_close_matches(word, known, n=3, cutoff=0.6)
        hint = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
        return f"{hint}some of its {len(known)} words: {', '.join(known[-12:])}"


def holds_tokenizer(folder: str | Path) -> bool:
    """Whether a folder has the files of CLIP's tokenizer, in either form."""
    folder = Path(folder)
    return (folder / "tokenizer.json").is_file() or all((folder / name).is_file() for name in ("vocab.json", "merges.txt"))


def tokens_of(config: StableDiffusionConfig, folder: str | None) -> Tokens:
    """The tokenizer of a configuration: that of its vocabulary, or the one in `folder`.

    Raises ValueError where it has none, FileNotFoundError where it is not in its folder, or CheckpointError where what is in
    the folder is damaged.
    """
    length = config.text_encoder["max_position_embeddings"]
    if config.vocabulary is not None:
        return WordTokens(config.vocabulary, length)
    if folder is None:
        raise ValueError("tokenizer: this checkpoint holds no tokenizer, and a prompt cannot be read without one; name the "
                         "folder of CLIP's with generator_options.tokenizer (vocab.json and merges.txt, as in the "
                         "tokenizer/ folder of any Stable Diffusion in diffusers' layout)")
    if not holds_tokenizer(folder):
        raise FileNotFoundError(f"tokenizer: {folder} holds none; expected {FILES}, as in the tokenizer/ folder of any Stable "
                                "Diffusion in diffusers' layout")
    # By its own class: AutoTokenizer takes the folder's word for the class, and offers to run code that lies there.
    from transformers import CLIPTokenizerFast

    try:
        tokenizer = CLIPTokenizerFast.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:      # the Rust parser raises plain Exception
        raise CheckpointError(f"tokenizer: {folder} cannot be read ({type(error).__name__}: {str(error)[:160]}); download it "
                              "again.") from error

    def ids(prompts: Sequence[str]) -> Tensor:
        return tokenizer(list(prompts), padding="max_length", max_length=length, truncation=True,
                         return_tensors="pt").input_ids

    return ids
