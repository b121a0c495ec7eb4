"""The notebooks are run, every cell, at their smallest setting; what they show when they are opened is a clean run."""
import ast
import json
import re

import nbformat
import numpy as np
import pytest
from IPython.core.inputtransformer2 import TransformerManager
from run_notebooks import ROOT, kept, run

import generators

FOLDER = ROOT / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
OWN = FOLDER / "bring_your_own_generator.ipynb"
PATHS = re.compile(r"site-packages|(?<![\w.:/])/(?:work|tmp|root|home|Users|usr|opt|var|content|mnt|private)\b")


def code(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [c for c in notebook.cells if c.cell_type == "code"]


def parsed(cell: nbformat.NotebookNode) -> ast.Module:
    """The cell's syntax tree, its magics turned into calls."""
    return ast.parse(TransformerManager().transform_cell(cell.source))


def printed(notebook: nbformat.NotebookNode) -> str:
    outputs = [o for c in code(notebook) for o in c.outputs]
    assert not any(o.output_type == "error" for o in outputs)
    return "\n".join(o.get("text") or o.get("data", {}).get("text/plain", "") for o in outputs)


def pictures(notebook: nbformat.NotebookNode) -> int:
    return sum(name in o.get("data", {}) for c in code(notebook) for o in c.outputs for name in ("image/jpeg", "image/png"))


def skills(text: str) -> list[float]:
    """Of the probe and of its controls, from the sentence and from the tables' rows of controls."""
    plain = re.sub(r"\x1b\[[\d;]*m", "", text).replace("−", "-")
    rows = [row.split() for row in re.findall(r"skill of controls(.*)", plain)]
    return [float(x) for x in re.findall(r"Skill (-?[\d.]+\d)", plain)] + [float(x) for row in rows for x in row]


def test_the_five_are_here():
    assert [p.stem for p in NOTEBOOKS] == ["01_first_probe", "02_random_weights", "03_fid_vs_accuracy",
                                           "04_stable_diffusion_on_your_photos", "bring_your_own_generator"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_what_is_kept_in_a_notebook_is_a_clean_run(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    cells = code(notebook)
    assert [c.execution_count for c in cells] == list(range(1, len(cells) + 1))       # once, from top to bottom
    assert path.stat().st_size < 400_000
    assert pictures(notebook) >= 2
    assert not re.search(r"Warning|Traceback|%\||\d+it/s", printed(notebook))          # nor a progress bar's remains
    for cell in notebook.cells:
        said = [{k: v for k, v in o.get("data", {}).items() if not k.startswith("image/")} | {"text": o.get("text", "")}
                for o in cell.get("outputs", [])]
        assert not PATHS.search(json.dumps([cell.source, said]))
        assert set(cell.metadata) <= {"tags"}                                          # no times, no collapsed cells
    assert not any("stderr" == o.get("name") for c in cells for o in c.outputs)
    assert kept(nbformat.read(path, as_version=4)) == notebook


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_notebook_opens_with_setup_and_parameters_and_uses_what_is_public(path):
    cells = code(nbformat.read(path, as_version=4))
    assert 'find_spec("probes") is None' in cells[0].source and "%pip install" in cells[0].source
    assert [i for i, c in enumerate(cells) if "parameters" in c.metadata.get("tags", [])] == [1]
    assert "SMALL" in cells[1].source and "STEPS" in cells[1].source
    for node in (n for c in cells for n in ast.walk(parsed(c))):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else (
            [f"{node.module}.{a.name}" for a in node.names] if isinstance(node, ast.ImportFrom) else
            [node.attr] if isinstance(node, ast.Attribute) else [])
        assert not any(part.startswith("_") and not part.startswith("__") for name in names for part in name.split(".")), names


def test_nothing_of_a_run_is_kept_that_another_machine_would_not_give():
    stream = nbformat.v4.new_output("stream", text="<object at 0x7f00deadbeef>\n")
    shown = nbformat.v4.new_output("execute_result", data={"text/plain": "1"}, metadata={"needs_background": "light"})
    cell = nbformat.v4.new_code_cell("1", outputs=[stream, shown], metadata={"execution": {"iopub.execute_input": "now"},
                                                                             "tags": ["parameters"]})
    notebook = kept(nbformat.v4.new_notebook(cells=[cell], metadata={"papermill": {"a": 1}}))
    assert notebook.cells[0].metadata == {"tags": ["parameters"]} and "papermill" not in notebook.metadata
    assert notebook.cells[0].outputs[0].text == "<object at 0x…>\n" and notebook.cells[0].outputs[1].metadata == {}


@pytest.mark.slow
def test_first_probe(tmp_path):
    ask = """[normal.last_evaluation.skill, probes.load("runs/first-48-40/depth").last_evaluation.metrics["against"],
              [float(relit((0.0, y, 0.0))[:, :, 48:].mean()) for y in (-1.0, 1.0)]]"""
    notebook, (skill, against, floors) = run(FOLDER / "01_first_probe.ipynb", tmp_path,
                                             dict(SAMPLES=48, STEPS=40, EVALUATE=16), ask)
    assert pictures(notebook) == 4
    assert skill > 0.1                              # of 40 steps; an adapter that stayed as it was has far below 0
    assert floors[0] > floors[1] + 0.1              # lit from above, and from below
    assert against.startswith("scenes")
    assert "refused: generator: stylegan2-scenes@64k is not the one" in printed(notebook)
    assert (tmp_path / "runs" / "first-48-40" / "normal" / "report.html").is_file()


@pytest.mark.slow
def test_random_weights_and_the_other_controls(tmp_path):
    parameters = dict(SAMPLES=48, STEPS=24, EVALUATE=16, SCOPES=["affine@32"])
    ask = """dict(left=left, skill={name: bar["skill"] for name, bar in bars.items()}, scope=where["affine@32"]["skill"],
        rgb=[torch.rad2deg(torch.acos((maps["rgb"] * teacher).sum(1).clamp(-1, 1))).mean((1, 2)).tolist(),
             [row["rgb_mean_angular_error"] for row in probe.last_evaluation.rows[:4]]])"""
    notebook, found = run(FOLDER / "02_random_weights.ipynb", tmp_path, parameters, ask)
    assert pictures(notebook) == 4
    assert set(found["skill"]) == {"probe", "pixels", "latent", "rgb", "crossed", "random", "shuffled"}
    for name in ("crossed", "shuffled"):
        assert found["left"][name][1] > 0                                              # the whole interval
        assert found["skill"]["probe"] > found["skill"][name] > found["skill"]["probe"] - 5
    assert found["left"]["latent"][0] == pytest.approx(1 - (1 - found["skill"]["probe"]) / (1 - found["skill"]["latent"]))
    assert found["rgb"][0] == pytest.approx(found["rgb"][1], abs=0.3)                  # what is written out there is that one
    assert -5 < found["scope"] < 1


@pytest.mark.slow
def test_fid_vs_accuracy(tmp_path):
    levels = ["stylegan2-scenes@16k", "stylegan2-scenes@760k"]
    parameters = dict(SAMPLES=16, STEPS=6, EVALUATE=8, LEVELS=levels)
    notebook, rows = run(FOLDER / "03_fid_vs_accuracy.ipynb", tmp_path, parameters, "rows")
    assert [row["generator"] for row in rows] == levels                                # the worse first
    assert [float(row["frechet"]) for row in rows] == [pytest.approx(generators.card(n)["frechet"]["value"]) for n in levels]
    assert all(np.isfinite([float(row["skill"]), float(row["control_crossed"])]).all() for row in rows)
    assert "verdict: not testable here" in printed(notebook) and pictures(notebook) == 2
    assert (tmp_path / "studies" / "fid-16-6" / "plot.png").is_file()


@pytest.mark.slow
def test_photographs(tmp_path):
    pytest.importorskip("skimage")
    parameters = dict(SAMPLES=16, STEPS=6, EVALUATE=8)
    notebook, angles = run(FOLDER / "04_stable_diffusion_on_your_photos.ipynb", tmp_path, parameters, "angles")
    assert pictures(notebook) == 3
    assert angles["facing the camera"] == pytest.approx(49.5, abs=0.2)                 # a fact about the photograph
    assert angles["the average normal"] == pytest.approx(47.4, abs=0.2) and 0 < angles["probe"] < 180
    written = sorted(path.name for path in (tmp_path / "maps").glob("*"))
    assert written == [f"{name}-normal.{kind}" for name in ("astronaut", "chelsea", "coffee", "motorcycle")
                       for kind in ("npy", "png")]
    normals = np.load(tmp_path / "maps" / "coffee-normal.npy")
    assert normals.shape == (3, 400, 600) and np.linalg.norm(normals, axis=0) == pytest.approx(1, abs=1e-3)


def test_the_wrapper_is_short_and_the_weights_are_only_data():
    cells = code(nbformat.read(OWN, as_version=4))
    nodes = [n for c in cells for n in ast.walk(parsed(c))]
    wrapper = next(n for n in nodes if isinstance(n, ast.ClassDef))
    assert wrapper.end_lineno - wrapper.lineno + 1 < 40
    imported = {a.name for n in nodes if isinstance(n, ast.Import) for a in n.names}
    imported |= {n.module for n in nodes if isinstance(n, ast.ImportFrom)}
    assert not any("gan_face" in name for name in imported)
    loads = [n for n in nodes if isinstance(n, ast.Call) and ast.unparse(n.func) == "torch.load"]
    assert len(loads) == 1 and "weights_only=True" in ast.unparse(loads[0])


@pytest.mark.slow
def test_own_generator_without_an_index_says_that_it_is_untrained(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    notebook, _ = run(OWN, tmp_path, dict(SAMPLES=24, STEPS=10, EVALUATE=8))
    text = printed(notebook)
    assert "NOT FACES" in text and "untrained" in text
    assert pictures(notebook) == 3 and len(skills(text)) == 7
    assert "is not to be found here" in text and "fingerprint" in text              # both refusals of probes.load
    assert (tmp_path / "runs" / "faces-albedo" / "controls" / "crossed" / "adapter").is_dir()


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_own_generator_gives_what_its_notebook_shows(tmp_path):
    shown = printed(nbformat.read(OWN, as_version=4))
    assert "faces: the published weights" in shown
    notebook, _ = run(OWN, tmp_path)
    text = printed(notebook)
    assert pictures(notebook) == 3
    if "NOT FACES" in text:
        pytest.skip("every cell ran, but no package index was at hand: on an untrained network")
    assert skills(text) == pytest.approx(skills(shown), abs=0.04)
    assert re.findall(r"The probe is .*", text) == re.findall(r"The probe is .*", shown)
