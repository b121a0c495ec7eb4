"""Captions say what a scene shows; the recipe of `sd-scenes`, small: it resumes exactly and writes whole generators."""
import dataclasses
import json
import math
import re

import numpy as np
import pytest
import torch

from generators.stable_diffusion import StableDiffusionConfig, StableDiffusionNetwork
from generators.stable_diffusion._text import WordTokens
from probes.data.scenes import _captions as words
from probes.data.scenes import captions, sample
from probes.data.scenes._store import Store, write_store
from zoo import train_sd
from zoo._diffusion import AutoencoderRecipe, AutoencoderStage, UNetRecipe, UNetStage, draw, posteriors, recolour

SEEDS = range(2_000_000, 2_000_200)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def lines():
    return captions(SEEDS)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return write_store(tmp_path_factory.mktemp("sd") / "scenes", 1_000_000, 24, 32)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """The same recipe with narrow networks."""
    vae, whole = train_sd.vae_config, train_sd.network_config

    def network_config(resolution, scaling_factor):
        config = whole(resolution, scaling_factor)
        unet = dict(config.unet, block_out_channels=[16, 16, 16])
        return dataclasses.replace(config, unet=unet)

    monkeypatch.setattr(train_sd, "vae_config", lambda resolution: dict(vae(resolution), block_out_channels=[8, 8, 8]))
    monkeypatch.setattr(train_sd, "network_config", network_config)


def test_captions_are_the_same_whatever_the_batch(lines):
    assert captions([SEEDS[7], SEEDS[3]]) == [lines[7], lines[3]]
    assert len(set(lines)) > 190
    with pytest.raises(ValueError, match="try captions"):
        captions([])


def test_captions_keep_to_the_vocabulary_and_its_length(lines):
    assert len(set(words.VOCABULARY)) == len(words.VOCABULARY) < 150
    tokens = WordTokens(words.VOCABULARY, words.LONGEST + 2)
    ids = tokens(lines)
    assert not (ids == tokens.ids["<unknown>"]).any() and (ids[:, -1] == tokens.ids["<end>"]).all()
    used = set(ids.unique().tolist())
    prompts = {tokens.ids[w] for w in ("surface", "normal", "depth", "map", "albedo", "shading")}
    assert not used & prompts and len(used) > 45


def test_captions_name_what_is_there(lines):
    s = sample(list(SEEDS))
    named = np.array([len(re.findall("|".join(rf"\b{x}\b" for x in words._SHAPES), line)) for line in lines])
    assert (named <= s["present"].sum(1)).all() and (named == s["present"].sum(1)).mean() > 0.7
    assert all(("two lamps" in line) == (power > 0) for line, power in zip(lines, s["power"][:, 1], strict=True))
    for k, line in enumerate(lines):
        assert words._WALLS[int(s["wall_kind"][k])] + " " in line.split(" walls")[0]
        assert ("rug" not in line) or s["rug"][k]
        assert ("picture" not in line) or s["picture"][k]
        if " door on the " in line:
            assert line.split(" door on the ")[1].startswith("left" if s["door"][k] < 0 else "right")
        assert not re.search(r"\ba [aeiou]", line)
    assert np.mean(["picture" in line for line in lines]) > 0.5


def test_hidden_things_are_not_named():
    s = {k: torch.from_numpy(v) for k, v in sample(list(SEEDS[:32])).items()}
    assert words._visible(s)["object"].any()
    s["camera"], s["rotation"] = s["camera"].clone(), s["rotation"].clone()
    s["rotation"][:, 1:] = torch.tensor([[0.0, 0.0, 1.0], [0.0, -1.0, 0.0]])                   # looks at the ceiling
    s["rotation"][:, 0] = torch.tensor([1.0, 0.0, 0.0])
    seen = words._visible(s)
    assert not seen["object"].any() and not seen["rug"].any()


@pytest.mark.parametrize("rgb, name", [
    ((0.8, 0.1, 0.1), "red"), ((0.1, 0.7, 0.1), "green"), ((0.1, 0.2, 0.9), "blue"), ((0.9, 0.85, 0.1), "yellow"),
    ((0.9, 0.5, 0.1), "orange"), ((0.55, 0.33, 0.12), "brown"), ((0.95, 0.95, 0.95), "white"), ((0.5, 0.5, 0.5), "grey"),
    ((0.1, 0.1, 0.1), "black"), ((0.75, 0.9, 0.75), "pale green"), ((0.1, 0.1, 0.4), "dark blue"), ((0.5, 0.1, 0.7), "purple"),
])
def test_colours_have_their_usual_names(rgb, name):
    linear = [((c + 0.055) / 1.055) ** 2.4 for c in rgb]
    assert words._colours(np.array(linear, np.float32)) == name


def test_shapes_are_told_from_their_coefficients():
    s = sample(list(range(300)))
    found = words._shapes(s["quadric"][..., 2:])
    radius, height = s["radius"][:, :3], s["object_height"][:, :3]
    there = s["present"][:, :3] > 0
    ratio = height / np.where(there, radius, 1)
    for name, low, high in (("ball", 2, 2), ("egg", 2.2, 3.2), ("cylinder", 1, 2.6), ("cone", 1.8, 3), ("frustum", 1.2, 2.2),
                            ("vase", 1.6, 2.4), ("dome", 1.2, 1.2)):
        own = ratio[there & (found == name)]
        assert len(own) > 20 and low - 1e-3 <= own.min() and own.max() <= high + 1e-3, name
    assert set(found.flatten()) == set(words._SHAPES) - {"box"}


def autoencoder(store, **changes):
    return AutoencoderStage(train_sd.new_vae(32, 0), Store(store), AutoencoderRecipe(**{"batch": 4, **changes}), CPU)


def unet(store, **changes):
    network = StableDiffusionNetwork(train_sd.network_config(32, 1.3), seed=0)
    mean, std = posteriors(network.vae, Store(store), CPU)
    recipe = UNetRecipe(**{"batch": 4, **changes})
    return UNetStage(network, mean, std, captions(range(1_000_000, 1_000_024)), recipe, CPU)


@pytest.mark.parametrize("stage, trained", [(autoencoder, "ema"), (unet, "average")])
def test_trainings_resume_exactly_and_refuse_another_recipe(store, stage, trained):
    straight, first, second = stage(store), stage(store), stage(store)
    before = {k: v.clone() for k, v in getattr(straight, trained).state_dict().items()}
    for _ in range(4):
        losses = straight.train_step(1.0)
    for _ in range(2):
        first.train_step(1.0)
    second.load(first.state())
    for _ in range(2):
        second.train_step(1.0)
    after, again = getattr(straight, trained).state_dict(), getattr(second, trained).state_dict()
    for name, value in after.items():
        assert torch.equal(value, again[name]), name
    assert second.images == 16 and all(math.isfinite(v) for v in losses.values())
    # Rows of words that no caption uses, and residual branches that wait for their last layer, may stay.
    moved = [not torch.equal(after[k], before[k]) for k in after if after[k].is_floating_point()]
    assert np.mean(moved) > 0.9
    with pytest.raises(ValueError, match="another batch; choose another --out"):
        stage(store, batch=8).load(first.state())


def test_probes_prompts_keep_their_first_embeddings(store):
    stage = unet(store, weight_decay=0.0)
    table = stage.model["text_encoder"].get_input_embeddings().weight
    before = table.detach().clone()
    for _ in range(2):
        stage.train_step(1.0)
    changed = (table.detach() != before).any(1)
    assert not changed[words.VOCABULARY.index("albedo")] and changed[words.VOCABULARY.index("room")]


def test_the_autoencoder_learns_and_never_sees_a_map_of_an_intrinsic(store, monkeypatch):
    stage = autoencoder(store, batch=8)
    asked, batch = [], stage.store.batch
    monkeypatch.setattr(stage.store, "batch", lambda name, picks: asked.append(name) or batch(name, picks))
    l1 = [stage.train_step(1.0)["l1"] for _ in range(40)]
    assert set(asked) == {"image"}
    assert np.mean(l1[-8:]) < 0.65 * np.mean(l1[:4])


def test_colours_are_changed_image_by_image():
    rng = torch.Generator().manual_seed(0)
    image = torch.rand(60, 3, 8, 8, generator=rng) * 2 - 1
    other = recolour(image, rng)
    assert other.min() >= -1 and other.max() <= 1 and (other - image).abs().mean((1, 2, 3)).median() > 0.3
    grey = (other - other.mean(1, keepdim=True)).abs().amax((1, 2, 3)) < 1e-5
    assert 8 < grey.sum() < 32
    kept = (image.abs().sum(1) - other.abs().sum(1)).abs().amax((1, 2)) < 1e-5              # permuted, with signs
    assert 8 < kept.sum() < 32


def test_both_stages_make_a_generator(store, tmp_path, monkeypatch):
    monkeypatch.setattr(train_sd, "MEASURED", 8)
    monkeypatch.setattr(train_sd, "draw", lambda network, prompts: draw(network, prompts, steps=2))
    out = str(tmp_path / "run")
    train_sd.first(str(store), out, kimg=0.016, recipe=AutoencoderRecipe(batch=4), device="cpu")
    about = json.loads((tmp_path / "run" / "first.json").read_text())
    assert set(about["reconstruction"]) == {"image", "albedo", "shading", "normal", "depth"}
    assert 1 < about["reconstruction"]["normal"] < 90 and about["images"] == 16
    recipe = UNetRecipe(batch=4)
    train_sd.second(str(store), out, kimg=0.008, recipe=recipe, snapshots=(), device="cpu")
    train_sd.second(str(store), out, kimg=0.016, recipe=recipe, snapshots=(), device="cpu")               # goes on
    saved = torch.load(tmp_path / "run" / "snapshot-000000.pt", weights_only=True)
    assert saved["family"] == "stable-diffusion"
    network = StableDiffusionNetwork(StableDiffusionConfig.from_dict(saved["config"]), seed=5)
    network.load_state_dict(saved["ema"])
    mean, _ = posteriors(network.vae, Store(store), CPU)
    assert float(mean.float().std()) * saved["config"]["vae"]["scaling_factor"] == pytest.approx(1, abs=0.02)
    card = json.loads((tmp_path / "run" / "snapshot-000000.json").read_text())
    assert card["images"] == 16 and card["recipe"]["wordless"] == 0.1 and card["autoencoder"]["images"] == 16
    pictures = draw(network, ["a room", ""], steps=2)
    assert pictures.shape == (2, 3, 32, 32) and pictures.isfinite().all()
    torch.save(dict(model=network.vae.state_dict()) | dict(note=torch.zeros(1)), tmp_path / "run" / "first.pt")
    with pytest.raises(ValueError, match="another autoencoder"):
        train_sd.second(str(store), out, kimg=0.02, recipe=recipe, snapshots=(), device="cpu")
