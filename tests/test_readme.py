"""The commands of README and guide are run: everything in their bash and python blocks but the installation itself."""
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BOTH = README + (ROOT / "GUIDE.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", BOTH, re.DOTALL)


def commands() -> list[str]:
    lines = " ".join(blocks("bash")).replace("\\\n", " ").splitlines()
    parts = [part.strip() for line in lines for part in re.split(r"&&|#.*", line)]
    return [p for p in parts if p.startswith("probes ")]


def test_the_two_commands_are_there():
    assert "pip install -e . && probes fit --generator stylegan2-scenes --intrinsic normal" in README
    assert "pip install -e '.[test]' && pytest" in README


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_commands_run_and_print_what_the_readme_shows(tmp_path, cache):
    (tmp_path / "photos").mkdir()
    for i in range(3):
        noise = np.random.default_rng(i).integers(0, 255, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / f"photos/{i}.jpg")
    for command in commands():
        arguments = command.split()[1:]
        done = subprocess.run([sys.executable, "-m", "probes", *arguments], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    folder = tmp_path / "runs" / "stylegan2-scenes-normal"
    assert (folder / "report.html").exists()
    check_shown_figures(json.loads((folder / "metrics.json").read_text()))


def check_shown_figures(metrics: dict):
    """The row of the README's table against a run: probe, latent, rgb, trivial in degrees, and skill."""
    entry = metrics["metrics"]["mean_angular_error"]
    measured = [entry["value"], entry["controls"]["latent"]["value"], entry["controls"]["rgb"]["value"],
                entry["trivial"]["value"]]
    *degrees, skill = [float(x) for x in re.search(r"mean angular error +([\d. ]+)\n", README)[1].split()]
    assert degrees == pytest.approx(measured, abs=0.3) and skill == pytest.approx(entry["skill"], abs=0.015)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_python_block_runs(tmp_path, monkeypatch):
    import probes

    monkeypatch.chdir(tmp_path)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (70, 90, 3), dtype=np.uint8))
    picture.save("street.jpg")
    picture.convert("I;16").save("room.tif")
    fit = probes.fit
    monkeypatch.setattr(probes, "fit", lambda **k: fit(**k, samples=64, steps=60, evaluate=16, quiet=True))
    for block in blocks("python"):
        exec(compile(block, "README.md", "exec"), {})
    assert (tmp_path / "albedo.png").exists()


def test_files_the_readme_names_exist():
    for target in re.findall(r"\]\((?!http)([^)]+)\)", BOTH):
        path, _, heading = target.partition("#")
        assert (ROOT / path).exists(), target
        headings = re.findall(r"^#+ (.+)$", (ROOT / path).read_text(), re.MULTILINE) if heading else []
        assert not heading or heading in [title.lower().replace(" ", "-") for title in headings], target
    assert "@@" not in BOTH
