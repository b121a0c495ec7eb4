"""A fit in several processes is the fit in one; what one process cannot do, none of them waits for."""
import json
import os
import socket
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from families import FAMILIES
from filelock import FileLock
from run_processes import TINY, fitted, spoiled
from safetensors.torch import load_file
from tiny import SMALL

import probes
from probes import _processes
from probes._tracking import start_tracker
from probes._train import Schedule, _learn

HERE = Path(__file__).parent
TOGETHER = ["averaged", "pair", "pair-accumulate", "noise", "scored", "joined-later", "uneven", "locked", "broken-teacher",
            "nan", "memory", "disk", "killed"]


def apart(first, second):
    assert set(first) == set(second)
    return max((first[k] - second[k]).abs().max().item() for k in first)


def environment(folder, **more):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return os.environ | dict(PROBES_CACHE=str(folder / "cache"), ACCELERATE_USE_CPU="true", OMP_NUM_THREADS="1",
                             MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), **more)


def launcher(surroundings):
    """What stands before a script or `-m` of two processes on this machine."""
    return ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1",
            "--main_process_port", surroundings["MASTER_PORT"], "--mixed_precision", "no", "--dynamo_backend", "no"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """{case: what each of two processes saw}, after one that was killed in the last case and one pair more, by a launcher."""
    folder, own = tmp_path_factory.mktemp("together"), pytest.MonkeyPatch()
    own.setenv("PROBES_CACHE", str(folder / "cache"))
    with pytest.raises(MemoryError):
        fitted(folder / "joined-later", intrinsic=spoiled(22, raised), save_every=0.0)
    assert (folder / "joined-later" / "training-state").exists()
    (folder / "locked").mkdir()
    script, surroundings = [str(HERE / "run_processes.py"), str(folder)], environment(folder)
    with FileLock(folder / "locked" / ".lock"):
        pair = [subprocess.Popen([sys.executable, *script, *TOGETHER],
                                 env=surroundings | dict(RANK=str(i), LOCAL_RANK=str(i), WORLD_SIZE="2")) for i in range(2)]
        try:
            codes = [process.wait(240) for process in pair]
        finally:
            for process in pair:
                process.kill()
    found = {name: [torch.load(folder / f"{name}.{i}.pt") for i in range(2)] for name in TOGETHER if name != "killed"}
    found["killed"] = [torch.load(folder / "killed.0.pt"), dict(codes=codes, state=(folder / "killed/training-state").exists())]
    began = time.monotonic()
    done = subprocess.run([sys.executable, *launcher(surroundings), *script, "resumed", "late-teacher"], env=surroundings,
                          capture_output=True, timeout=240)
    found |= {name: [torch.load(folder / f"{name}.{i}.pt") for i in range(2)] for name in ("resumed", "late-teacher")}
    found["launcher"] = [dict(code=done.returncode, seconds=time.monotonic() - began, text=done.stderr.decode())]
    yield folder, found
    own.undo()


def raised(value):
    raise MemoryError("made up")


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The fit that all the others must equal, by one process."""
    folder, own = tmp_path_factory.mktemp("alone"), pytest.MonkeyPatch()
    own.setenv("PROBES_CACHE", str(folder / "cache"))
    yield fitted(folder / "run")
    own.undo()


def error(runs, case):
    return [seen["error"] for seen in runs[1][case]]


@pytest.mark.slow
@pytest.mark.parametrize("case", ["pair", "pair-accumulate", "joined-later", "resumed"])
def test_two_processes_fit_what_one_fits(runs, alone, case):
    """Straight, in micro-batches, taken over from one process in the middle, and killed in the middle."""
    expected, (main, other) = alone.adapter.state(), runs[1][case]
    assert apart(main["state"], expected) < 1e-5 and max(v.abs().max() for v in expected.values()) > 0.1
    assert apart(main["state"], other["state"]) == 0
    assert main["processes"] == other["processes"] == 2
    np.testing.assert_allclose(np.array(main["curve"]), np.array(alone.curve), atol=1e-5)
    assert main["curve"] == other["curve"]


@pytest.mark.slow
def test_gradients_are_averaged(runs):
    """Adam would not notice a sum in the place of a mean."""
    for seen in runs[1]["averaged"]:
        assert seen["seen"] == [4.5, [3.0, -2.0], [1.0, 2.0], float("inf"), [1.5, 2.5]]


@pytest.mark.slow
def test_noise_belongs_to_the_row_not_to_the_process(runs, tmp_path):
    main, other = runs[1]["noise"]
    expected = fitted(tmp_path, "stable-diffusion-multi", steps=10).adapter.state()
    assert apart(main["state"], expected) < 1e-5 and apart(main["state"], other["state"]) == 0


@pytest.mark.slow
def test_what_the_main_process_scored_all_know(runs, tmp_path):
    main, other = runs[1]["scored"]
    alone = fitted(tmp_path, evaluate=8, controls=["latent", "random"])
    entries = [m["last"]["metrics"][m["last"]["primary"]] for m in (main, other)]
    expected = alone.last_evaluation.metrics["metrics"][alone.last_evaluation.metrics["primary"]]
    assert entries[0] == entries[1] and entries[0]["value"] == pytest.approx(expected["value"], abs=1e-5)
    assert entries[0]["controls"]["random"]["value"] == pytest.approx(expected["controls"]["random"]["value"], abs=1e-4)
    record = json.loads((runs[0] / "scored" / "probe.json").read_text())
    assert record["training"]["processes"] == 2 and (runs[0] / "scored" / "controls" / "random" / "probe.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("case", "main", "other"), [
    ("uneven", "ValueError: batch: 6 pairs .* 2 processes × 2 micro-batches .* batch=8", "ValueError: batch: 6 pairs"),
    ("locked", "RunError: out: another fit is writing", "ProcessesError: process 0 of 2 stopped: RunError: out"),
    ("broken-teacher", "BankError: .*not finite", "ProcessesError: process 0 of 2 stopped: BankError: .*not finite"),
    ("nan", "DivergedError: the loss is nan at step 9", "DivergedError: the loss is nan at step 9"),
    ("memory", "ProcessesError: process 1 of 2 stopped: MemoryError: made up", "MemoryError: made up"),
    ("disk", "OutputError: cannot write .*No space left", "ProcessesError: process 0 of 2 stopped: OutputError: cannot write"),
])
def test_an_error_on_one_process_ends_all(runs, case, main, other):
    import re

    found = error(runs, case)
    assert re.match(main, found[0]) and re.match(other, found[1]), found
    assert max(seen["seconds"] for seen in runs[1][case]) < 30


@pytest.mark.slow
def test_a_nan_on_one_process_leaves_the_last_good_adapter(runs):
    record = json.loads((runs[0] / "nan" / "probe.json").read_text())
    assert record["training"]["status"] == "diverged"


@pytest.mark.slow
def test_a_killed_process_does_not_keep_the_others_waiting(runs):
    main, about = runs[1]["killed"]
    assert main["error"].startswith("ProcessesError: process 0 of 2 lost the others") and main["seconds"] < 30
    assert about["codes"] == [1, -9] and about["state"]


@pytest.mark.slow
def test_a_launcher_ends_when_the_main_process_fails(runs):
    """The teacher raises on the main process after two seconds, in which the other waits for the bank."""
    launcher = runs[1]["launcher"][0]
    assert launcher["code"] != 0 and launcher["seconds"] < 120
    assert error(runs, "late-teacher") == ["OSError: the teacher's disk is gone",
                                           "ProcessesError: process 0 of 2 stopped: OSError: the teacher's disk is gone"]
    assert all(2 <= seen["seconds"] < 30 for seen in runs[1]["late-teacher"])


@pytest.mark.parametrize("family", ["stylegan2", "stable-diffusion-multi"])
def test_micro_batches_change_nothing(family, tmp_path):
    whole, parts = (fitted(tmp_path / str(a), family, steps=6, accumulate=a) for a in (1, 2))
    assert apart(whole.adapter.state(), parts.adapter.state()) < 1e-5
    assert parts.record["training"]["accumulate"] == 2 and parts.record["request"] == whole.record["request"]


def test_micro_batches_leave_the_gradient_of_the_whole_batch(tmp_path):
    probe = fitted(tmp_path, "stylegan2", steps=3)
    bank, values = probe.training_bank(), list(probe.adapter.parameters().values())
    found = []
    for accumulate in (1, 2, 4):
        with probe.adapter.active(train=True):
            for value in values:
                value.grad = None
            shares = Schedule(9, 8, 0.01, 0).shares(4, len(bank), accumulate)
            loss = _learn(probe.adapter, bank, probe.intrinsic, shares, _processes.ALONE, values)
            found.append((loss, torch.cat([value.grad.flatten() for value in values])))
    for loss, gradient in found[1:]:
        assert loss == pytest.approx(found[0][0], rel=1e-5)
        torch.testing.assert_close(gradient, found[0][1], rtol=1e-3, atol=1e-6 * found[0][1].abs().max().item())


def test_processes_and_micro_batches_share_out_the_very_pairs_of_a_step():
    schedule = Schedule(10, 12, 0.01, 5)
    for step in (0, 3):
        shares = [share for index in range(3) for share in schedule.shares(step, 40, 2, index, 3)]
        assert len(shares) == 6 and {len(rows) for rows, _ in shares} == {2}
        assert np.array_equal(np.concatenate([rows for rows, _ in shares]), schedule.indices(step, 40))
        assert sum((seeds for _, seeds in shares), []) == schedule.seeds(step)


@pytest.mark.parametrize(("change", "message"), [
    (dict(accumulate=3), r"4 pairs a step .*1 processes × 3 micro-batches.*multiple of 3, for instance batch=6"),
    (dict(accumulate=0), "accumulate: expected at least 1, got 0"),
    (dict(batch=40, accumulate=5), "24 pairs a step .*, of the 24 samples there are"),
    (dict(report_to="tensorbord"), "did you mean 'tensorboard'"),
])
def test_bad_input_comes_before_any_work(change, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        fitted(tmp_path / "run", **change)
    assert not (tmp_path / "run").exists()


def test_one_process_joins_nothing(monkeypatch):
    """Nor does one of many jobs that a batch system started side by side."""
    for name in ("WORLD_SIZE", "LOCAL_RANK", "ACCELERATE_MIXED_PRECISION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PMI_SIZE", "4")
    assert _processes.join() is _processes.ALONE and not torch.distributed.is_initialized()
    assert _processes.ALONE.main and _processes.ALONE.share(lambda: 3) == 3


def test_a_launch_that_started_fewer_than_asked_is_noted(launched, tmp_path, monkeypatch, capsys):
    """What `accelerate launch --cpu --num_processes 2` leaves in the environment of the one process it starts."""
    launched("no")
    for name in ("WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "29500")
    probe = fitted(tmp_path, steps=3, quiet=False)
    said = " ".join(capsys.readouterr().out.split())
    assert "note: this is one process by itself" in said and "accelerate launch --multi_gpu" in said
    assert probe.record["training"]["processes"] == 1


def test_under_a_launch_every_process_has_its_own_device(monkeypatch):
    third = SimpleNamespace(count=4, device=torch.device("cuda:3"))
    monkeypatch.setattr(_processes, "_joined", third)
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    assert _processes.chosen_device("auto", _processes.join("auto")) == "cuda:3"
    assert _processes.chosen_device("cuda", third) == "cuda:3"
    with pytest.raises(ValueError, match="each of the 4 processes has a GPU of its own.*leave device out"):
        _processes.join("cuda:1")


@pytest.fixture
def launched(monkeypatch):
    """As if `accelerate launch` had started this process, by itself."""
    from accelerate.state import AcceleratorState

    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    monkeypatch.setattr(_processes, "_joined", None)
    yield lambda precision: monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", precision)
    AcceleratorState._reset_state(reset_partial_state=True)


def test_gradient_accumulation_of_the_launcher_is_honoured(launched, tmp_path, monkeypatch):
    launched("no")
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "2")
    assert fitted(tmp_path / "told", steps=3).record["training"]["accumulate"] == 2
    assert fitted(tmp_path / "asked", steps=3, accumulate=4).record["training"]["accumulate"] == 4
    with pytest.raises(ValueError, match="1 processes × 2 micro-batches"):
        fitted(tmp_path / "odd", steps=3, batch=3)
    monkeypatch.setattr(_processes, "_joined", None)
    for name in ("ACCELERATE_MIXED_PRECISION", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert fitted(tmp_path / "alone", steps=3).record["training"]["accumulate"] == 1       # no launcher's


def test_mixed_precision_of_the_launcher_is_honoured(launched, tmp_path, monkeypatch):
    exact = fitted(tmp_path / "exact", "stable-diffusion", steps=6)
    launched("bf16")
    generator, seen = FAMILIES["stable-diffusion"][0](), []
    forward = type(generator).forward
    monkeypatch.setattr(type(generator), "forward", lambda self, state: (
        seen.append((torch.is_autocast_enabled("cpu"), torch.is_grad_enabled())), forward(self, state))[1])
    half = probes.fit(generator, **{**TINY, "steps": 6, "out": str(tmp_path / "half")})
    assert seen == [(True, True)] * 6 and half.record["request"]["mixed_precision"] == "bf16"
    assert "mixed_precision" not in exact.record["request"]
    assert 1e-6 < apart(half.adapter.state(), exact.adapter.state()) < 0.05
    launched("no")
    monkeypatch.setattr(_processes, "_joined", _processes.ALONE)
    with pytest.raises(probes.RunError, match="another mixed_precision"):
        fitted(tmp_path / "half", "stable-diffusion", steps=6)


def test_a_precision_that_is_not_for_this_is_named(launched, tmp_path):
    launched("fp8")
    with pytest.raises(ValueError, match="mixed_precision: fp8 .*--mixed_precision bf16, fp16 or no"):
        fitted(tmp_path / "run")
    assert not (tmp_path / "run").exists()


class Stand:
    """What accelerate's trackers look like from here."""

    requires_logging_directory, made = True, []

    def __init__(self, run_name, logging_dir=None, **options):
        self.name, self.folder, self.options, self.lines, self.finished = run_name, logging_dir, options, [], False
        Stand.made.append(self)

    def start(self):
        self.started = True

    def store_init_configuration(self, values):
        self.values = values

    def log(self, values, step=None):
        assert self.started and not self.finished
        self.lines.append((step, values))

    def finish(self):
        self.finished = True


@pytest.fixture
def stand(monkeypatch):
    from accelerate import tracking

    monkeypatch.setattr("probes._tracking.find_spec", lambda name: object())
    monkeypatch.setattr(Stand, "made", [])
    for name in ("tensorboard", "wandb"):
        monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, name, Stand)
    return Stand


def test_a_tracker_hears_of_the_loss_and_the_scores(stand, tmp_path, monkeypatch):
    settings = dict(steps=45, evaluate=8, controls=[], report_to="tensorboard")
    probe = fitted(tmp_path / "run", **settings)
    (tracker,) = stand.made
    assert tracker.finished and tracker.folder == str(tmp_path / "run") and tracker.values["learning_rate"] == 0.01
    assert [(step, line["train/loss"]) for step, line in tracker.lines[:-1]] == probe.curve
    assert [line["train/learning_rate"] for _, line in tracker.lines[:-1]] == [
        Schedule(45, 4, 0.01, 0).rate(step - 1) for step in (20, 40, 45)]
    assert all(0 < line["train/pairs_per_second"] < 1e5 for _, line in tracker.lines[:-1])
    step, line = tracker.lines[-1]
    assert step == 45 and line["skill/rms"] == probe.last_evaluation.skill
    fitted(tmp_path / "run", **settings)
    assert len(stand.made) == 1                                 # loaded: nothing to report
    monkeypatch.setattr(stand, "requires_logging_directory", False)
    with pytest.raises(MemoryError):
        fitted(tmp_path / "failing", report_to="wandb", intrinsic=spoiled(22, raised))
    assert stand.made[1].finished and stand.made[1].options["name"] == "failing" and len(stand.made[1].lines) == 1
    for name in ("failing", "another"):
        start_tracker("wandb", tmp_path / name, {})
    first, again, other = (tracker.options["id"] for tracker in stand.made[1:])
    assert first == again != other                              # a fit that goes on is the same run there


@pytest.mark.parametrize(("name", "package"), [("tensorboard", "tensorboard"), ("wandb", "wandb")])
def test_a_tracker_that_is_not_installed_is_named_first(name, package, tmp_path, monkeypatch):
    monkeypatch.setattr("probes._tracking.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=f"report_to: {name} is not installed; pip install {package}"):
        fitted(tmp_path / "run", report_to=name)
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(find_spec("tensorboard") is None, reason="tensorboard is not installed")
def test_tensorboard_files_are_in_the_run_folder(tmp_path):
    fitted(tmp_path, **{**SMALL, "steps": 20}, report_to="tensorboard")
    assert list((tmp_path / "tensorboard").glob("events.out.tfevents.*"))


@pytest.mark.slow
def test_the_readmes_launch(tmp_path):
    """`accelerate launch … -m probes fit`, two processes, and the same command without it."""
    surroundings, found = environment(tmp_path), []
    fit = ["-m", "probes", "fit", "--generator", "stylegan2-scenes@760k", "--samples", "12",
           "--steps", "4", "--batch", "4", "--evaluate", "0", "--rank", "2"]
    for name, before in (("two", launcher(surroundings)), ("one", [])):
        done = subprocess.run([sys.executable, *before, *fit, "--out", str(tmp_path / name)], env=surroundings, text=True,
                              capture_output=True, timeout=240)
        assert done.returncode == 0, done.stderr
        found.append(load_file(tmp_path / name / "adapter" / "adapter_model.safetensors"))
        assert json.loads((tmp_path / name / "probe.json").read_text())["training"].get("processes", 1) == (2 if before else 1)
    two, one = (torch.cat([weights[k].flatten() for k in sorted(weights)]) for weights in found)
    assert (two - one).norm() < 2e-3 * one.norm()       # batches of 2 and 4 round otherwise, and Adam enlarges it
