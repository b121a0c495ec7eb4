"""Benchmarks run: what a figure was measured with must still be there."""
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent.parent / "benchmarks"


def run(name, *arguments):
    done = subprocess.run([sys.executable, HERE / name, *map(str, arguments)], capture_output=True, text=True,
                          env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_stable_diffusions_step_on_any_device(tmp_path):
    out = run("sd_step.py", "--preset", "sd-embedded", "--device", "cpu", "--precision", "bf16", "--batch", 1, "--repeats", 1,
              "--peak-tflops", 1, "--json", tmp_path / "step.json")
    report = json.loads((tmp_path / "step.json").read_text())
    assert list(report["times"]) == ["all inside", "plain", "checkpointing", "floor"] and report["flops"] > 1e8
    share = 100 * report["flops"] / report["times"]["plain"]["wall"] / 1e12
    line = next(line for line in out.splitlines() if line.startswith("plain"))
    assert line.endswith(f"{share:.0f} %") and "sd-embedded, 64 px, batch 1, bf16, CPU, 1 threads" in out


@pytest.mark.slow
def test_a_probes_step():
    out = run("probe_step.py", "--preset", "embedded", "--repeats", 1, "--threads", 1, "--no-memory",
              "--variants", "plain", "frozen")
    assert "speed-up: over grouped" in out and sum(line.startswith(("plain", "frozen")) for line in out.splitlines()) >= 2


@pytest.mark.slow
def test_what_a_prediction_takes():
    out = run("sd_predict.py", "--preset", "sd-embedded", "--steps", 1)
    rows = {line.split("  ")[0]: line.split()[-3:] for line in out.splitlines() if "p32" in line or "f16" in line}
    assert list(rows) == ["single, fp32", "single, bf16", "multi, fp32", "multi, bf16"]
    assert all(50 < float(loaded) < float(peak) < 8000 for loaded, peak, _ in rows.values())


def test_the_baseline_is_the_same_network(monkeypatch):
    """What the speed-up is over draws the same pictures, and its adapters get the same gradients."""
    monkeypatch.syspath_prepend(HERE)
    from _steps_stylegan2 import StyleGAN2Steps

    steps = StyleGAN2Steps("embedded")
    image, gradients = steps["plain"]()
    for name, close in (("grouped", 1e-4), ("frozen", 1e-4), ("frozen bf16", 0.05)):
        theirs, their_gradients = steps[name]()
        assert (theirs - image).abs().max() < close * image.abs().max(), name
        assert (their_gradients - gradients).norm() < 10 * close * gradients.norm(), name
        assert gradients.norm() > 0
