"""Killed, starved, altered, contended: what a fit and a bank do when the world is unkind."""
import errno
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from families import FAMILIES
from PIL import Image
from tiny import SMALL, Brightness

import probes
from generators._files import file_sha256
from probes import _train

HERE = Path(__file__).parent
SCRIPT = """
import sys; sys.path.insert(0, sys.argv[2])
from tiny import SMALL
import probes
probes.fit("stylegan2-scenes@760k", out=sys.argv[1], save_every=0.0, **{**SMALL, "steps": int(sys.argv[3]), "evaluate": 0})
"""


def start(out: Path, cache: Path, steps: int = 30) -> subprocess.Popen:
    environment = dict(os.environ, PROBES_CACHE=str(cache), OMP_NUM_THREADS="1")
    return subprocess.Popen([sys.executable, "-c", SCRIPT, str(out), str(HERE), str(steps)], env=environment)


def weights(folder: Path):
    return safetensors.torch.load_file(folder / "adapter" / "adapter_model.safetensors")


def curve(folder: Path):
    return json.loads((folder / "probe.json").read_text())["training"]["curve"]


def test_killed_fits_end_in_the_same_weights(tmp_path):
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    assert start(straight, tmp_path / "cache", 120).wait(300) == 0
    kills = 0
    for _ in range(3):
        process = start(killed, tmp_path / "other-cache", 120)       # a bank of its own, killed on the way too
        state, began = killed / "training-state", time.time()
        mark = state.stat().st_mtime_ns if state.exists() else 0
        while process.poll() is None and time.time() - began < 120:
            if state.exists() and state.stat().st_mtime_ns != mark:
                process.send_signal(signal.SIGKILL)
                kills += 1
                break
            time.sleep(0.002)
        process.wait()
    assert kills >= 2
    assert start(killed, tmp_path / "other-cache", 120).wait(300) == 0
    expected, found = weights(straight), weights(killed)
    assert all(torch.equal(expected[k], found[k]) for k in expected) and set(expected) == set(found)
    assert curve(killed) == curve(straight) and len(curve(killed)) == 6         # the means of 20 losses each, none lost


def test_two_processes_share_one_bank(tmp_path):
    """Two fits at once that want the same pairs: both finish, one bank is there."""
    first, second = start(tmp_path / "a", tmp_path / "cache"), start(tmp_path / "b", tmp_path / "cache")
    assert first.wait(300) == 0 and second.wait(300) == 0
    assert len(list((tmp_path / "cache" / "banks").glob("*/manifest.json"))) == 1
    a, b = weights(tmp_path / "a"), weights(tmp_path / "b")
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_an_altered_adapter_is_named_and_one_saved_without_a_digest_is_read(tmp_path):
    generator = FAMILIES["stylegan2"][0]()
    settings = {**SMALL, "steps": 2, "evaluate": 0, "out": str(tmp_path)}
    probes.fit(generator, **settings)
    file, about = tmp_path / "adapter" / "adapter_model.safetensors", tmp_path / "probe.json"
    content, altered = file.read_bytes(), bytearray(file.read_bytes())
    altered[-3] ^= 1
    for damaged in (content[:-50], altered):
        file.write_bytes(damaged)
        with pytest.raises(probes.RunError, match="adapter_model.safetensors is damaged: it was altered or truncated since the "
                           "fit; bring back .*--overwrite true"):
            probes.load(tmp_path, generator)
        with pytest.raises(probes.RunError, match="altered or truncated"):
            probes.fit(generator, **settings)                           # not taken for a finished run
    record = json.loads(about.read_text())
    del record["adapter_sha256"]
    about.write_text(json.dumps(record))
    old = probes.load(tmp_path, generator)
    assert "adapter_sha256" not in old.record
    (tmp_path / "report.html").write_text("of this very adapter")
    file.write_bytes(altered)
    old.save(tmp_path)
    assert json.loads(about.read_text())["adapter_sha256"] == file_sha256(file) and (tmp_path / "report.html").exists()
    probes.load(tmp_path, generator)
    with pytest.raises(probes.OutputError, match="cannot write .*report.html.*: Not a directory; .*choose another folder"):
        old.save(tmp_path / "report.html" / "run")


def test_a_record_that_is_none_is_named_by_whoever_reads_it(tmp_path):
    generator, about = FAMILIES["stylegan2"][0](), tmp_path / "probe.json"
    settings = {**SMALL, "steps": 2, "evaluate": 0, "out": str(tmp_path)}
    probes.fit(generator, **settings)
    whole = about.read_text()
    keyless = json.loads(whole)
    del keyless["bank"]["key"], keyless["training"]
    for content, why in ((whole[:-40], "is damaged: "), ("[]", "is not what a fit writes"), ("{}", "is not what a fit writes"),
                         ("", "is damaged: "), (json.dumps(keyless), "is damaged: it lacks training, bank.key"),
                         (json.dumps({**keyless, "version": 2}), "is of version 2, this is software for version 1")):
        about.write_text(content)
        for argument, call in (("run", lambda: probes.load(tmp_path, generator)),
                               ("out", lambda: probes.fit(generator, **settings))):
            with pytest.raises(probes.RunError, match=f"^{argument}: .*probe.json {why}.*--overwrite true"):
                call()
    assert probes.fit(generator, **settings, overwrite=True).record["training"]["status"] == "finished"


def test_damaged_scores_are_named(tmp_path):
    generator = FAMILIES["stylegan2"][0]()
    probes.fit(generator, **{**SMALL, "steps": 2, "out": str(tmp_path)})
    for content in ("{", "[1, 2]"):
        (tmp_path / "metrics.json").write_text(content)
        with pytest.raises(probes.RunError, match="metrics.json, or samples.csv beside it, is damaged: .*evaluate again"):
            probes.load(tmp_path, generator)
    for name in ("metrics.json", "samples.csv"):
        (tmp_path / name).unlink()
    assert probes.load(tmp_path, generator).last_evaluation is None


@pytest.mark.parametrize("damage", ["truncated", "altered", "foreign"])
def test_damaged_training_states_are_named(tmp_path, damage):
    settings = {**SMALL, "evaluate": 0, "out": str(tmp_path), "save_every": 0.0}

    class Stop(Exception):
        pass

    generator = FAMILIES["stylegan2"][0]()
    state = tmp_path / "training-state"
    kept = {}
    original = probes._fit.Probe.save

    def stop(self, folder):
        kept["state"] = state.read_bytes()
        raise Stop

    probes._fit.Probe.save = stop
    try:
        with pytest.raises(Stop):
            probes.fit(generator, **settings)
    finally:
        probes._fit.Probe.save = original
    content = bytearray(kept["state"])
    if damage == "altered":
        content[-3] ^= 1
    state.write_bytes(content[:-20] if damage == "truncated" else content)
    if damage == "foreign":
        settings["learning_rate"] = 0.02
    with pytest.raises(probes.TrainingStateError, match="training-state.*(altered|other settings)"):
        probes.fit(FAMILIES["stylegan2"][0](), **settings)


def poisoned(at: int, what: str):
    """The shading loss, whose value or gradient is NaN at call `at` (counted from 0)."""
    calls = []

    class BadGradient(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            return gradient * float("nan")

    def loss(prediction, target):
        calls.append(1)
        value = (prediction - target).square().mean()
        if len(calls) - 1 != at:
            return value
        return value * float("nan") if what == "loss" else BadGradient.apply(value)

    return replace(probes.get_intrinsic("shading"), loss=loss)


@pytest.mark.parametrize(("at", "what"), [(14, "loss"), (14, "gradient"), (19, "gradient")])
def test_a_fit_that_turns_nan_keeps_the_last_good_adapter(tmp_path, at, what):
    settings = {k: v for k, v in SMALL.items() if k != "intrinsic"} | {"steps": 20, "evaluate": 0, "out": str(tmp_path / "bad")}
    with pytest.raises(probes.DivergedError, match=f"{what} is nan at step {at}.*learning_rate"):
        probes.fit("stylegan2-scenes@760k", poisoned(at, what), **settings)
    assert all(torch.isfinite(v).all() for v in weights(tmp_path / "bad").values())
    assert max(v.abs().max() for k, v in weights(tmp_path / "bad").items() if "lora_B" in k) > 0
    if what == "loss":          # it is of the weights in use: kept are those of the step before, as of a gradient there
        with pytest.raises(probes.DivergedError, match=f"gradient is nan at step {at - 1}"):
            probes.fit("stylegan2-scenes@760k", poisoned(at - 1, "gradient"), **settings | {"out": str(tmp_path / "before")})
        before = weights(tmp_path / "before")
        assert all(torch.equal(value, before[name]) for name, value in weights(tmp_path / "bad").items())
    assert probes.load(tmp_path / "bad").record["training"]["status"] == "diverged"
    # It is not taken for a finished run: the same call fits again.
    again = probes.fit("stylegan2-scenes@760k", "shading", **settings)
    assert again.record["training"]["status"] == "finished"


def test_results_cut_short_are_completed_and_another_evaluation_needs_no_new_fit(tmp_path):
    settings = dict(SMALL, out=str(tmp_path), steps=20)
    probes.fit("stylegan2-scenes@760k", **settings)
    fitted = (tmp_path / "adapter" / "adapter_model.safetensors").stat().st_mtime_ns
    for name in ("metrics.json", "report.html"):
        (tmp_path / name).unlink()
    probes.fit("stylegan2-scenes@760k", **settings)
    assert (tmp_path / "report.html").exists() and (tmp_path / "metrics.json").exists()
    more = probes.fit("stylegan2-scenes@760k", **{**settings, "evaluate": 12, "controls": ["latent"]})
    entry = more.last_evaluation.metrics["metrics"]["rms"]
    assert entry["n"] == 12 and set(entry["controls"]) == {"latent"}
    assert (tmp_path / "adapter" / "adapter_model.safetensors").stat().st_mtime_ns == fitted


@pytest.fixture
def taken_up(monkeypatch):
    """The steps at which fits were taken up."""
    steps, restore = [], _train._restore
    monkeypatch.setattr(_train, "_restore", lambda *state: steps.append(restore(*state)) or steps[-1])
    return steps


def cut_short(error, **settings):
    """A fit that ends in `error` once its first training state is kept."""
    save = _train._save

    def end(*state):
        save(*state)
        raise error

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_train, "_save", end)
        with pytest.raises(type(error)):
            probes.fit(FAMILIES["stylegan2"][0](), **settings)


def test_a_fit_that_overwrites_is_taken_up_by_the_same_call(tmp_path, taken_up):
    settings = {**SMALL, "evaluate": 0, "save_every": 0.0}
    again = {**settings, "out": str(tmp_path / "run"), "overwrite": True}
    straight, folder = tmp_path / "straight", tmp_path / "run"
    probes.fit(FAMILIES["stylegan2"][0](), out=str(straight), **settings)
    probes.fit(FAMILIES["stylegan2"][0](), **again)                                # a run to discard
    for error in (KeyboardInterrupt(), OSError(errno.ENOSPC, "full")):
        cut_short(error, **again)
    probes.fit(FAMILIES["stylegan2"][0](), **again)
    assert taken_up == [20, 40]
    assert all(torch.equal(value, weights(folder)[name]) for name, value in weights(straight).items())
    assert curve(folder) == curve(straight)
    cut_short(KeyboardInterrupt(), **again)                                     # of a finished one nothing is taken up,
    cut_short(KeyboardInterrupt(), **{**again, "learning_rate": 0.02})          # nor of another,
    (folder / "training-state").write_bytes(b"damaged")
    with pytest.raises(probes.TrainingStateError, match="altered"):
        probes.fit(FAMILIES["stylegan2"][0](), **{**again, "learning_rate": 0.02})
    probes.fit(FAMILIES["stylegan2"][0](), **{**again, "learning_rate": 0.02})     # nor of one that cannot be gone on with
    assert taken_up == [20, 40] and not (folder / ".overwriting").exists()


def test_a_fit_that_was_cut_short_before_overwriting_was_asked_for_is_discarded(tmp_path, taken_up):
    settings = {**SMALL, "evaluate": 0, "save_every": 0.0, "out": str(tmp_path)}
    cut_short(KeyboardInterrupt(), **settings)
    probes.fit(FAMILIES["stylegan2"][0](), **settings, overwrite=True)
    assert taken_up == []


def test_a_finished_run_in_a_folder_that_is_read_only_is_loaded(tmp_path, monkeypatch, capsys):
    settings = {**SMALL, "steps": 4, "out": str(tmp_path / "run"), "quiet": False}
    first, opened = probes.fit("stylegan2-scenes@760k", **settings), os.open

    def read_only(path, *arguments, **options):
        if str(path).endswith(".lock"):
            raise OSError(errno.EROFS, "Read-only file system", str(path))
        return opened(path, *arguments, **options)

    monkeypatch.setattr(os, "open", read_only)
    again = probes.fit("stylegan2-scenes@760k", **settings)
    assert "this very run, finished: loaded, not fitted again" in " ".join(capsys.readouterr().out.split())
    assert again.last_evaluation.metrics == first.last_evaluation.metrics
    with pytest.raises(probes.RunError, match="holds a run with another steps"):
        probes.fit("stylegan2-scenes@760k", **{**settings, "steps": 5})
    about = tmp_path / "run" / "probe.json"
    about.write_text(about.read_text().replace('"status": "finished"', '"status": "diverged"'))
    with pytest.raises(probes.OutputError, match="cannot write .*run: Read-only file system; .*choose another folder"):
        probes.fit("stylegan2-scenes@760k", **settings)


def test_controls_are_checked_before_anything_is_scored(tmp_path):
    probe = probes.fit("stylegan2-scenes@760k", **{**SMALL, "steps": 5, "evaluate": 0, "out": str(tmp_path / "a")})
    with pytest.raises(ValueError, match="controls.*random"):
        probe.evaluate(4, controls=["random"])
    with pytest.raises(ValueError, match="crossed.*already"):
        probes.fit("stylegan2-scenes@760k",
                   **{**SMALL, "weights": "random", "controls": ["crossed"], "out": str(tmp_path / "b")})
    with pytest.raises(ValueError, match="device.*cuda"):
        if torch.cuda.is_available():
            raise ValueError("device: cuda is there")
        probes.fit("stylegan2-scenes@760k", **{**SMALL, "device": "cuda", "out": str(tmp_path / "c")})


def test_a_crossed_control_resumes_and_a_probe_on_a_file_loads_from_anywhere(tmp_path, monkeypatch):
    import generators
    from generators.checkpoints import write_native

    monkeypatch.chdir(tmp_path)
    drawn = FAMILIES["stylegan2"][0]()
    write_native("tiny.safetensors", "stylegan2", drawn.network.config.to_dict(), drawn.network.state_dict())
    settings = {**SMALL, "steps": 8, "teacher": "brightness", "controls": ["crossed"], "out": str(tmp_path / "run")}
    first = probes.fit("tiny.safetensors", **settings)
    (tmp_path / "run" / "metrics.json").unlink()
    again = probes.fit("tiny.safetensors", **settings)             # the crossed control is loaded, not fitted
    assert again.last_evaluation.metrics == first.last_evaluation.metrics
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert torch.equal(probes.load(tmp_path / "run").predict([3]).map, first.predict([3]).map)
    crossed = probes.load(tmp_path / "run" / "controls" / "crossed")
    assert crossed.drawn_by.fingerprint == generators.load(tmp_path / "tiny.safetensors").fingerprint
    (tmp_path / "tiny.safetensors").unlink()
    with pytest.raises(probes.RunError, match="not to be found here.*generator="):
        probes.load(tmp_path / "run")


def test_two_fits_of_one_folder_and_unwritable_folders(tmp_path):
    from filelock import FileLock

    out = tmp_path / "run"
    out.mkdir()
    with FileLock(out / ".lock"), pytest.raises(probes.RunError, match="another fit is writing"):
        probes.fit("stylegan2-scenes@760k", out=str(out), **SMALL)
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    with pytest.raises(probes.OutputError, match="cannot write.*choose another"):
        probes.fit("stylegan2-scenes@760k", out=str(blocked / "run"), **SMALL)


def test_a_full_disk_is_one_clear_line(tmp_path, monkeypatch):
    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(probes.OutputError, match="No space left on device.*free some space"):
        probes.fit("stylegan2-scenes@760k", out=str(tmp_path), **SMALL)


def test_a_teacher_that_says_nan_is_named(tmp_path):
    class Broken(Brightness):
        name = "broken"

        def label(self, image, intrinsic):
            return super().label(image, intrinsic) * float("nan")

    with pytest.raises(probes.BankError, match="broken returned values that are not finite for seeds 1000000, 1000001, "
                       "1000002 …; mend the teacher.*with masked = True"):
        probes.fit("stylegan2-scenes@760k", out=str(tmp_path), **{**SMALL, "teacher": Broken()})


def test_images_without_a_number_are_called_by_their_names(tmp_path):
    from probes.data import get_data

    class Half(Brightness):
        name = "half"

        def label(self, image, intrinsic):
            values = super().label(image, intrinsic)
            values[1::2, :, :4] = float("inf")
            return values

    for i in range(20):
        Image.fromarray(np.full((32, 32, 3), i, np.uint8)).save(tmp_path / f"photo{i:02d}.png")
    generator = FAMILIES["stable-diffusion"][0]()
    small = {**SMALL, "teacher": Half(), "samples": 16}
    with pytest.raises(probes.BankError, match="half returned values .* for images photo05.*, photo07.*, photo09"):
        probes.fit(generator, data=get_data(str(tmp_path)), out=str(tmp_path / "run"), **small)


@pytest.mark.parametrize("evaluate", [0, 8])
def test_a_teacher_without_a_single_value_fits_nothing(tmp_path, evaluate):
    class Blank(Brightness):
        name, masked = "blank", True

        def label(self, image, intrinsic):
            return super().label(image, intrinsic) * float("nan")

    with pytest.raises(probes.BankError, match="blank gave no pixel of 24 images a value for shading; mend the teacher"):
        probes.fit("stylegan2-scenes@760k", out=str(tmp_path), **{**SMALL, "teacher": Blank(), "evaluate": evaluate})
