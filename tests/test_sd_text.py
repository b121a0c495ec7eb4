"""Prompt -> tokens: closed vocabularies, CLIP's tokenizer from its files and nothing else, and whose it is."""
import json
import shutil
import sys
from dataclasses import replace

import make_sd
import pytest
import torch
from families import FAMILIES

import generators
from generators import checkpoints
from generators.checkpoints import CheckpointError
from generators.stable_diffusion import StableDiffusion, StableDiffusionConfig
from generators.stable_diffusion._read import read_folder
from generators.stable_diffusion._text import WordTokens, tokens_of


@pytest.fixture
def words(tmp_path):
    make_sd.write_tokenizer(tmp_path / "words")
    return tmp_path / "words"


@pytest.fixture
def config():
    """Of a network that reads with CLIP's tokenizer."""
    config = FAMILIES["stable-diffusion"][0]().network.config
    return replace(config, vocabulary=None, text_encoder={**config.text_encoder, **make_sd.TEXT})


def test_a_closed_vocabulary_knows_its_words_only():
    tokens = WordTokens(("<start>", "<end>", "<unknown>", ",", "surface", "normal", "albedo"), 6)
    assert tokens(["Surface, normal", ""]).tolist() == [[0, 4, 3, 5, 1, 1], [0, 1, 1, 1, 1, 1]]
    assert tokens(["albedo " * 9]).tolist() == [[0, 6, 6, 6, 6, 1]]
    with pytest.raises(ValueError, match=r"prompt: 'normals' in 'surface normals' is no word of this model's vocabulary; "
                       r"did you mean 'normal'\? some of its 3 words: surface, normal, albedo"):
        tokens(["albedo", "surface normals"])
    generator = FAMILIES["stable-diffusion"][0]()
    with pytest.raises(ValueError, match="prompt: 'shadows'"):
        generator.context(1, "shadows")


def test_clips_tokenizer_is_read_from_its_files(words, config):
    tokens = tokens_of(config, str(words))
    assert tokens(["ab c", ""]).tolist() == [[0, 19, 13, *[2] * 6], [0, *[2] * 8]]
    one = words.parent / "one"
    one.mkdir()
    from transformers import CLIPTokenizerFast

    CLIPTokenizerFast.from_pretrained(words).save_pretrained(one)
    for file in one.iterdir():
        if file.name not in ("tokenizer.json", "tokenizer_config.json"):
            file.unlink()
    assert torch.equal(tokens_of(config, str(one))(["ab c"]), tokens(["ab c"]))


def test_a_tokenizer_runs_nothing_that_lies_in_its_folder(words, config, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *a: "y")           # whoever were asked would agree
    expected = tokens_of(config, str(words))(["ab c"])
    (words / "evil.py").write_text(f"open({str(words / 'ran')!r}, 'w')\nfrom transformers import CLIPTokenizer\n"
                                   "class Evil(CLIPTokenizer):\n    pass\n")
    for name, entry in (("tokenizer_config", {"tokenizer_class": "Evil", "auto_map": {"AutoTokenizer": ["evil.Evil", None]}}),
                        ("config", {"model_type": "evil", "auto_map": {"AutoConfig": "evil.Evil",
                                                                       "AutoTokenizer": ["evil.Evil", None]}})):
        (words / f"{name}.json").write_text(json.dumps(entry))
        assert torch.equal(tokens_of(config, str(words))(["ab c"]), expected)
    assert not (words / "ran").exists() and not any("evil" in name for name in sys.modules)


def test_missing_and_damaged_tokenizers_are_named(words, config):
    with pytest.raises(FileNotFoundError, match="tokenizer: someone/model holds none; expected vocab.json and merges.txt"):
        tokens_of(config, "someone/model")          # and the hub is not asked
    (words / "vocab.json").write_text("[")
    with pytest.raises(CheckpointError, match="tokenizer: .*words cannot be read.*download it again"):
        tokens_of(config, str(words))
    with pytest.raises(ValueError, match="tokenizer: this checkpoint holds no tokenizer"):
        tokens_of(config, None)


def test_generators_on_one_network_read_with_their_own_tokenizers(words, config):
    from generators.stable_diffusion import StableDiffusionNetwork

    other = words.parent / "other"
    shutil.copytree(words, other)
    vocabulary = json.loads((other / "vocab.json").read_text())
    vocabulary["c</w>"], vocabulary["d</w>"] = vocabulary["d</w>"], vocabulary["c</w>"]
    (other / "vocab.json").write_text(json.dumps(vocabulary))
    network = StableDiffusionNetwork(config)
    first = StableDiffusion("a", network, tokenizer=str(words))
    c = first.context(1, "c")
    second = StableDiffusion("b", network, tokenizer=str(other))
    assert torch.equal(second.context(1, "d"), c) and not torch.equal(second.context(1, "c"), c)
    assert torch.equal(first.context(1, "d"), second.context(1, "c"))


def test_where_the_checkpoints_tokenizer_lies_is_not_recorded(words, tmp_path):
    make_sd.write_folder(tmp_path / "sd1")
    generator = generators.load(tmp_path / "sd1")
    assert "tokenizer" not in generator.options and generator.context(1, "ab").shape == (1, 9, 16)
    assert "tokenizer" not in generator.randomised(1).options
    torch.testing.assert_close(generator.randomised(1).context(1, "ab"), generator.context(1, "ab"))
    shutil.move(tmp_path / "sd1", tmp_path / "moved")           # another machine: what was recorded loads there too
    again = generators.load(tmp_path / "moved", **generator.options)
    assert torch.equal(again.context(1, "ab"), generator.context(1, "ab")) and again.fingerprint == generator.fingerprint
    asked = generators.load(tmp_path / "moved", tokenizer=str(words))
    assert asked.options["tokenizer"] == str(words)


def test_a_file_of_weights_names_no_tokenizer(tmp_path):
    generator = FAMILIES["stable-diffusion"][0]()
    config, state = generator.network.config.to_dict(), generator.network.state_dict()
    with pytest.raises(CheckpointError, match="names a tokenizer, which no file of weights may"):
        checkpoints.write_native(tmp_path / "a.safetensors", "stable-diffusion", {**config, "tokenizer": "/"}, state)
    make_sd.write_folder(tmp_path / "sd1")
    checkpoint = read_folder(tmp_path / "sd1")
    native, _ = checkpoints.native_state(checkpoint)
    assert "tokenizer" in checkpoint.config and StableDiffusionConfig.from_dict(native).tokenizer is None
