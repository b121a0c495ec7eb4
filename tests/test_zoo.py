"""The recipes, small: they resume exactly, learn, and write the cards that ship."""
import json

import numpy as np
import pytest
import torch

from generators.checkpoints import read_checkpoint
from probes.data.scenes._store import Store, write_store
from zoo import export, train_stylegan2, train_teacher
from zoo._discriminator import Discriminator
from zoo._gan import Recipe


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return write_store(tmp_path_factory.mktemp("zoo") / "scenes", 1_000_000, 48, 32)


def trainer(store):
    return train_stylegan2.trainer(Store(store), Recipe(batch=4, r1_every=2), torch.device("cpu"), fast=False)


def test_gan_training_resumes_exactly(store):
    straight, first, second = trainer(store), trainer(store), trainer(store)
    for _ in range(4):
        losses = straight.train_step(1.0)
    for _ in range(2):
        first.train_step(1.0)
    second.load(first.state())
    other = Recipe(batch=8, r1_every=2)
    with pytest.raises(ValueError, match="another batch"):
        train_stylegan2.trainer(Store(store), other, torch.device("cpu"), fast=False).load(first.state())
    for _ in range(2):
        second.train_step(1.0)
    for name, value in straight.ema.state_dict().items():
        assert torch.equal(value, second.ema.state_dict()[name]), name
    assert np.isfinite(list(losses.values())).all()


def test_gan_recipe_keeps_snapshots_and_exports_cards(store, tmp_path, monkeypatch):
    settings = dict(recipe=Recipe(batch=4), snapshots=(0.008,), device="cpu", fast=False)
    train_stylegan2.main(str(store), str(tmp_path / "run"), kimg=0.016, **settings)
    train_stylegan2.main(str(store), str(tmp_path / "run"), kimg=0.02, **settings)           # goes on
    card = json.loads((tmp_path / "run" / "snapshot-000000.json").read_text())
    assert card["images"] == 20 and card["recipe"]["batch"] == 4 and card["data"]["count"] == 48
    monkeypatch.setattr(export, "_SAMPLES", 200)
    real = export.real_features(0, 32)
    card = export.export(tmp_path / "run" / "snapshot-000000.pt", "tiny", tmp_path / "out", real, 0.0)
    assert card["frechet"]["value"] > 0.1 and card["frechet"]["samples"] == 200
    checkpoint = read_checkpoint(tmp_path / "out" / "tiny.safetensors")
    assert checkpoint.family == "stylegan2" and checkpoint.config["img_resolution"] == 32


def test_teacher_recipe_resumes_and_writes_its_card(store, tmp_path):
    recipe = train_teacher.Recipe(batch=4)
    train_teacher.main(str(store), str(tmp_path), steps=3, recipe=recipe, device="cpu", fast=False, exact_scenes=4)
    card = json.loads((tmp_path / "scenes.json").read_text())
    assert card["images"] == 12 and card["exact_errors"]["normal mean angular error (degrees)"] > 5
    from probes.teachers._scenes import ScenesTeacher

    teacher = ScenesTeacher(tmp_path)
    maps = {name: teacher.label(torch.zeros(1, 3, 32, 32), name) for name in teacher.intrinsics}
    assert maps["normal"].norm(dim=1).allclose(torch.ones(1, 32, 32), atol=1e-5) and maps["depth"].shape[1] == 1


def test_the_shipped_teacher_is_as_good_as_its_card_says():
    from probes.teachers import get_teacher

    teacher = get_teacher("scenes", "normal")
    measured = train_teacher.exact_errors(teacher.network, 40)
    for what, value in measured.items():
        assert value == pytest.approx(teacher.card["exact_errors"][what], rel=0.25, abs=0.02), what
    with pytest.raises(ValueError, match="multiples of 16"):
        teacher.label(torch.zeros(1, 3, 40, 40), "normal")


def test_the_discriminator_tells_its_size():
    network = Discriminator(32, (16, 16, 16))
    assert network(torch.zeros(4, 3, 32, 32)).shape == (4,)
    assert set(network.learning_rate_scales()) == {name for name, _ in network.named_parameters()}
    with pytest.raises(ValueError, match="channels"):
        Discriminator(64, (16, 16, 16))
