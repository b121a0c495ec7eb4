"""How a generator is sampled is no part of what a probe learnt: one fit is scored under several settings."""
import json
from pathlib import Path

import pytest
from families import _stable_diffusion
from study_rows import Toy

import probes
from probes import RunError
from probes.studies import Cell, _work, get_study, study

BUDGET = dict(intrinsic="normal", samples=12, batch=4, evaluate=6, controls=[], quiet=True)


def multi(**sampling):
    return _stable_diffusion(mode="multi", conv_in="random:0", **sampling)()


def test_another_way_of_sampling_is_scored_and_not_fitted_again(tmp_path, monkeypatch):
    first = probes.fit(multi(steps=2), **BUDGET, steps=3, out=str(tmp_path))
    weights, before = (tmp_path / "adapter" / "adapter_model.safetensors").read_bytes(), first.last_evaluation.metrics

    def train(*given, **more):
        raise AssertionError("fitted again")

    monkeypatch.setattr("probes._fit.train", train)
    again = probes.fit(multi(steps=5, guidance=1.0), **BUDGET, steps=3, out=str(tmp_path))
    after, record = again.last_evaluation.metrics, json.loads((tmp_path / "probe.json").read_text())
    assert (tmp_path / "adapter" / "adapter_model.safetensors").read_bytes() == weights
    assert record["generator"]["options"]["steps"] == record["request"]["generator_options"]["steps"] == 5
    assert after["metrics"]["mean_angular_error"]["value"] != before["metrics"]["mean_angular_error"]["value"]
    assert after["metrics"]["mean_angular_error"]["trivial"] == before["metrics"]["mean_angular_error"]["trivial"]
    assert json.loads((tmp_path / "metrics.json").read_text()) == json.loads(json.dumps(after))
    with pytest.raises(RunError, match="a run with another generator_options"):
        probes.fit(_stable_diffusion(mode="multi", conv_in="random:0", zero_snr=False)(), **BUDGET, steps=3, out=str(tmp_path))


def test_sampling_is_no_part_of_the_fingerprint_and_training_is():
    default = multi(steps=2)
    assert multi(steps=7, guidance=5.0, rescale=0.1).fingerprint == default.fingerprint
    assert multi(scale_image_latent=True).fingerprint != default.fingerprint
    assert default.sampling == dict(steps=2, guidance=3.0, rescale=0.7)
    assert _stable_diffusion()().sampling == {}


def test_what_only_costs_is_no_reason_to_fit_again(tmp_path, monkeypatch):
    first = probes.fit(_stable_diffusion()(), **BUDGET, steps=3, out=str(tmp_path))
    monkeypatch.setattr("probes._fit.train", lambda *given, **more: pytest.fail("fitted again"))
    spare = _stable_diffusion(checkpointing=True)()
    again = probes.fit(spare, **BUDGET, steps=3, out=str(tmp_path))
    assert spare.options["checkpointing"] and spare.fingerprint == first.generator.fingerprint
    assert again.last_evaluation.metrics == first.last_evaluation.metrics


def test_maps_of_another_way_of_sampling_are_made_again(tmp_path):
    from probes._photos import _made_by

    probe = probes.fit(multi(steps=2), **BUDGET | dict(evaluate=0), steps=1, out=str(tmp_path))
    other = probes.load(tmp_path, multi(steps=3))
    said, now = _made_by(probe, None, "resize"), _made_by(other, None, "resize")
    assert {k for k in said if said[k] != now[k]} == {"sampling"}


class Shared(Toy):
    """Two fits, each scored under three settings."""

    name, tags, seeds = "shared", ("sampled",), (1, 1)

    def cells(self, small):
        return [Cell(dict(generator="sd-scenes", intrinsic="normal", rank=r, generator_options=dict(mode="multi", steps=s)),
                     dict(sampled=s), sampled_by=("steps",)) for r in (1, 2) for s in (2, 5, 25)]


def test_cells_that_share_a_fit_share_its_folder_until_the_last_of_them_is_done(tmp_path, monkeypatch):
    seen = []

    def score(cell, place, device):
        known = Path(place).exists()
        Path(place).mkdir(parents=True, exist_ok=True)
        seen.append((cell.fit["rank"], cell.fit["generator_options"]["steps"], known))
        if seen[-1][:2] == (2, 5) and not interrupted.is_set():
            interrupted.set()
            raise KeyboardInterrupt
        return dict(family="stable-diffusion", weights="pretrained", skill=0.5, skill_low=0.4, skill_high=0.6, seed=0,
                    rank=cell.fit["rank"], seconds=1.0)

    from threading import Event

    interrupted = Event()
    monkeypatch.setattr(_work, "score", score)
    with pytest.raises(KeyboardInterrupt):
        study(Shared(), tmp_path, quiet=True)
    assert seen == [(1, 2, False), (1, 5, True), (1, 25, True), (2, 2, False), (2, 5, True)]
    assert len(list((tmp_path / "fits").iterdir())) == 1            # the first is done with, the second is still wanted
    done = study(Shared(), tmp_path, quiet=True)
    assert seen[5:] == [(2, 5, True), (2, 25, True)] and len(done.rows) == 6 and not (tmp_path / "fits").exists()


def test_the_study_of_steps_fits_once_a_seed_and_intrinsic():
    cells = [cell.at_seed(seed) for seed in range(2) for cell in get_study("steps").cells(False)]
    assert len({cell.key for cell in cells}) == len(cells) == 2 * 2 * 21
    assert len({cell.place for cell in cells}) == 2 * 2 * 2
