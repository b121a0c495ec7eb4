"""The recipes, small: they resume exactly, learn, and write the cards that ship."""
import json

import numpy as np
import pytest
import torch

from generators.checkpoints import read_checkpoint
from generators.stylegan2 import StyleGAN2Config, StyleGAN2Network
from probes.data.scenes._store import Store, write_store
from zoo import _vqgan, _widen, evaluate_levels, export, train_stylegan2, train_stylegan_xl, train_teacher, train_vqgan
from zoo._discriminator import Discriminator
from zoo._gan import Recipe, train


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


def test_a_wider_network_goes_on_where_a_narrower_one_ended(store, tmp_path):
    """The same pictures at first, the old training's discriminator and counts, and all of it, new channels too, learns."""
    settings = dict(recipe=Recipe(batch=4), device="cpu", fast=False)
    train_stylegan2.main(str(store), str(tmp_path / "narrow"), kimg=0.02, **settings)
    narrow = torch.load(tmp_path / "narrow" / "snapshot-000000.pt", weights_only=True)
    wide = train_stylegan2.trainer(Store(store), Recipe(batch=4), torch.device("cpu"), False,
                                   train_stylegan2.CHANNELS | train_stylegan2.WIDE)
    _widen.take_over(wide, tmp_path / "narrow")
    z = torch.randn(3, 128, generator=torch.Generator().manual_seed(0))
    old = StyleGAN2Network(StyleGAN2Config.from_dict(narrow["config"]))
    old.load_state_dict(narrow["ema"])
    with torch.no_grad():
        torch.testing.assert_close(wide.ema(z), old(z), atol=2e-5, rtol=0)
    before = {k: v.clone() for k, v in wide.generator.named_parameters()}
    for _ in range(2):
        wide.train_step(1.0)
    after = dict(wide.generator.named_parameters())
    reading = "synthesis.b32.conv1.weight"
    assert before[reading].shape[:2] == (256, 256) and (before[reading][:64, 64:] == 0).all()
    assert all(not torch.equal(before[k], after[k]) for k in before) and (after[reading][:64, 64:] != 0).any()

    folder = str(tmp_path / "wide")
    train_stylegan2.main(str(store), folder, kimg=0.024, widen=str(tmp_path / "narrow"), **settings)
    train_stylegan2.main(str(store), folder, kimg=0.028, widen=str(tmp_path / "narrow"), **settings)        # goes on
    card = json.loads((tmp_path / "wide" / "snapshot-000000.json").read_text())
    assert card["images"] == 28 and card["widened"]["images"] == 20 and card["recipe"]["batch"] == 4
    kept = torch.load(tmp_path / "wide" / "snapshot-000000.pt", weights_only=True)
    assert kept["config"]["channels"] != narrow["config"]["channels"]

    with pytest.raises(ValueError, match=r"synthesis.b32.conv0.weight is \[256, 128, 3, 3\].*only channels may be more"):
        _widen.widened(kept["ema"], old)
    with pytest.raises(ValueError, match=r"b4.conv1.affine.weight is .128, 64. in the narrower training, .128, 128. here"):
        _widen.widened({**narrow["ema"], "synthesis.b4.conv1.affine.weight": torch.zeros(128, 64)}, wide.ema)
    with pytest.raises(ValueError, match="the narrower training has more, which"):
        _widen.widened({**narrow["ema"], "more": torch.zeros(1)}, wide.ema)
    with pytest.raises(ValueError, match="out: the stored training is of another network"):
        train_stylegan2.main(str(store), folder, kimg=0.03, **settings)
    with pytest.raises(FileNotFoundError, match="widen: .*nothing has no state.pt"):
        train_stylegan2.main(str(store), str(tmp_path / "new"), kimg=0.1, widen=str(tmp_path / "nothing"), **settings)
    with pytest.raises(ValueError, match="another batch"):
        train_stylegan2.main(str(store), str(tmp_path / "new"), kimg=0.1, widen=str(tmp_path / "narrow"),
                             **settings | dict(recipe=Recipe(batch=8)))


def test_levels_within_one_step_are_all_kept(store, tmp_path):
    training = trainer(store)
    training.step = 499                                             # 1996 images; the next step passes both
    train(training, str(tmp_path), kimg=2, snapshots=(1.999,))
    assert sorted(p.stem for p in tmp_path.glob("*.pt")) == ["snapshot-000001", "snapshot-000002", "state"]


def test_gan_recipes_refuse_scenes_of_another_size(store):
    with pytest.raises(ValueError, match="scenes have 32 px.*64 px; render them with --size 64"):
        train_stylegan_xl.trainer(Store(store), 64, None, Recipe(batch=4), torch.device("cpu"), fast=False)


def test_stylegan_xl_grows_from_a_stem_that_stays_as_it_is(store, tmp_path):
    options = dict(recipe=Recipe(batch=4), device="cpu", fast=False)
    train_stylegan_xl.main(str(store), str(tmp_path / "stem"), resolution=16, kimg=0.008, **options)
    stem = torch.load(tmp_path / "stem" / "snapshot-000000.pt", weights_only=True)
    path = tmp_path / "stem" / "snapshot-000000.pt"
    trainer = train_stylegan_xl.trainer(Store(store), 32, path, Recipe(batch=4), torch.device("cpu"), fast=False)
    before = {k: v.clone() for k, v in trainer.generator.state_dict().items()}
    for _ in range(2):
        trainer.train_step(1.0)
    after = trainer.generator.state_dict()
    kept = [k for k in after if k in stem["ema"] and not k.endswith(("w_avg", "magnitude_ema"))]
    assert len(kept) > 20 and any(k.startswith("synthesis.L3") for k in kept)
    assert all(torch.equal(after[k], stem["ema"][k]) for k in kept)
    grown = {k for k in after if k not in stem["ema"] and not torch.equal(after[k], before[k])}
    assert {k.split(".")[1] for k in grown} == {layer.name for layer in trainer.config.layers[4:]}
    train_stylegan_xl.main(str(store), str(tmp_path / "full"), resolution=32, stem=str(path), kimg=0.008, **options)
    network = torch.load(tmp_path / "full" / "snapshot-000000.pt", weights_only=True)
    assert network["family"] == "stylegan-xl" and network["config"]["img_resolution"] == 32


def first_stage(store):
    network = train_vqgan.VQGANNetwork(train_vqgan.network_config(32), seed=0)
    recipe = _vqgan.Recipe(batch=4, adversarial_from=0.004, restart_every=2)
    return _vqgan.FirstStage(network, Store(store), recipe, torch.device("cpu"))


def test_vqgan_first_stage_resumes_exactly(store):
    straight, first, second = first_stage(store), first_stage(store), first_stage(store)
    for _ in range(4):
        losses = straight.train_step()
    for _ in range(2):
        first.train_step()
    second.load(first.state())
    for _ in range(2):
        second.train_step()
    for name, value in straight.ema.state_dict().items():
        assert torch.equal(value, second.ema.state_dict()[name]), name
    assert np.isfinite(list(losses.values())).all()


def test_vqgan_first_stage_goes_on_beside_the_levels_it_has_kept(store, tmp_path):
    stage = first_stage(store)
    stage.images = 9_996                                            # the next step passes 10k
    train_vqgan.save_atomically(stage.state(), tmp_path / "first.pt")
    (tmp_path / "first-000008.pt").write_text("the level at 8k")
    train_vqgan.first(str(store), str(tmp_path), kimg=10, recipe=stage.recipe, snapshots=(8, 32), device="cpu")
    assert (tmp_path / "first-000008.pt").read_text() == "the level at 8k" and not list(tmp_path.glob("first-000032*"))
    assert json.loads((tmp_path / "first-000010.json").read_text())["images"] == 10_000


def test_codes_that_nothing_uses_are_given_to_something(store):
    stage = first_stage(store)
    table = stage.model.quantize.embedding.weight
    with torch.no_grad():
        table[1:] = 100.0                                          # one code takes everything
    stage.train_step()
    assert (table < 50).all(1).sum() == len(table)
    assert stage.train_step()["perplexity"] > 5


def test_vqgan_recipe_writes_a_generator(store, tmp_path, monkeypatch):
    recipe = _vqgan.Recipe(batch=4, transformer_batch=8)
    train_vqgan.first(str(store), str(tmp_path), kimg=0.016, recipe=recipe, snapshots=(0.008,), device="cpu")
    second = _vqgan.Recipe(batch=16, transformer_batch=16, seed=3)
    train_vqgan.second(str(store), str(tmp_path), level=0, kimg=0.032, recipe=second, device="cpu")
    monkeypatch.setattr(export, "_SAMPLES", 200)
    card = export.export(tmp_path / "snapshot-000000.pt", "tiny", tmp_path / "out", export.real_features(0, 32), 0.0)
    assert card["family"] == "vqgan" and card["images"] == 16 and card["transformer_images"] == 32
    assert card["recipe"]["batch"] == 4 and card["recipe"]["transformer_batch"] == 16           # each stage's own
    assert card["recipe"]["seed"] == 0 and card["transformer_seed"] == 3
    import generators

    drawn = generators.load(tmp_path / "out" / "tiny.safetensors")
    assert not drawn.network.config.encoder and drawn.forward(drawn.prepare(drawn.sample([0]))).shape == (1, 3, 32, 32)


def test_a_transformer_is_not_trained_on_the_codes_of_another_first_stage(store, tmp_path):
    recipe = _vqgan.Recipe(batch=4, transformer_batch=8)
    train_vqgan.first(str(store), str(tmp_path), kimg=0.004, recipe=recipe, snapshots=(), device="cpu")
    train_vqgan.second(str(store), str(tmp_path), level=0, kimg=0.008, recipe=recipe, device="cpu")
    train_vqgan.second(str(store), str(tmp_path), level=0, kimg=0.016, recipe=recipe, device="cpu")        # goes on
    (tmp_path / "first.pt").unlink()
    train_vqgan.first(str(store), str(tmp_path), kimg=0.008, recipe=recipe, snapshots=(), device="cpu")
    with pytest.raises(ValueError, match="out: .*codes-000000.pt holds the codes of another first stage"):
        train_vqgan.second(str(store), str(tmp_path), level=0, kimg=0.024, recipe=recipe, device="cpu")


def test_collecting_results_leaves_those_of_other_runs_alone(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(evaluate_levels, "RESULTS", tmp_path)
    (tmp_path / "stylegan2-scenes.csv").write_text("what was measured")
    evaluate_levels.main(out=str(tmp_path / "runs"), collect=True)
    assert (tmp_path / "stylegan2-scenes.csv").read_text() == "what was measured" and "| --- " in capsys.readouterr().out


def test_collected_results_stand_beside_those_of_other_levels_and_budgets():
    def row(generator, images, samples, skill, **more):
        return dict(generator=generator, images=images, intrinsic="normal", teacher="scenes", samples=samples, steps=10, seed=0,
                    skill=skill) | more

    kept = [row("g@8", "8000", "64", "0.1", mode=""), row("g", "16000", "64", "0.2"), row("g", "16000", "128", "0.3")]
    found = [row("g", 16000, 64, 0.25), row("g", 16000, 64, 0.4, intrinsic="depth")]
    said = [(r["generator"], r["samples"], r["intrinsic"], r["skill"]) for r in evaluate_levels.merged(kept, found)]
    assert said == [("g", "128", "normal", "0.3"), ("g", 64, "normal", 0.25), ("g", 64, "depth", 0.4),
                    ("g@8", "64", "normal", "0.1")]


def test_the_transformer_learns_codes(store):
    network = train_vqgan.VQGANNetwork(train_vqgan.network_config(32), seed=0)
    codes = torch.arange(16).repeat(8, 1).short()
    stage = _vqgan.TransformerStage(network, codes, _vqgan.Recipe(transformer_batch=16), torch.device("cpu"))
    nats = [stage.train_step()["nats"] for _ in range(60)]
    assert nats[-1] < 0.5 * nats[0]


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


def test_several_steps_are_no_part_of_the_figure_of_controls():
    single = dict(generator="sd-scenes", intrinsic="normal", mode="single", samples="10", steps="5", images="1", seed="0",
                  skill="0.4", skill_low="0.3", skill_high="0.5")
    multi = {**single, "mode": "multi: 10 steps, guidance 1, zero terminal SNR", "steps": "50", "skill": "0.2"}
    assert [row["skill"] for row in evaluate_levels.as_study([multi, single])] == [0.4]
    options = dict(mode="multi", steps=10, guidance=1.0, zero_snr=False)
    assert evaluate_levels._mode(options) == "multi: 10 steps, guidance 1, its own terminal SNR"
    assert evaluate_levels._mode(dict(mode="single")) == "single" and evaluate_levels._mode({}) == ""
