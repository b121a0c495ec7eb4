"""Runs a notebook in a folder of its own: for the tests at their smallest setting, or to renew what is kept in it.

    python tests/run_notebooks.py notebooks/02_random_weights.ipynb      # every cell, at the setting it is committed with

Of a run nothing is kept that differs from machine to machine: no times, no paths, no kernel.
"""
from __future__ import annotations

import argparse
import json
import os
import re
import sys
import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).parent.parent
_MARK = "asked of the namespace: "


def run(path: Path, folder: Path, parameters: dict[str, Any] | None = None,
        ask: str | None = None) -> tuple[nbformat.NotebookNode, Any]:
    """Executes a copy of a notebook with `folder` as its working directory.

    Args:
        path: of the notebook; the file stays as it is
        folder: where the kernel runs, and writes
        parameters: assigned in a cell behind the one tagged "parameters", as papermill does
        ask: an expression, evaluated when all is done, whose value JSON can say

    Returns (the executed copy without what was added to it, the value of `ask`). Raises CellExecutionError where a cell does.
    """
    notebook = nbformat.read(path, as_version=4)
    added = []
    if parameters:
        at = next(i for i, c in enumerate(notebook.cells) if "parameters" in c.metadata.get("tags", []))
        added.append(nbformat.v4.new_code_cell("\n".join(f"{k} = {v!r}" for k, v in parameters.items()), id="added-parameters"))
        notebook.cells.insert(at + 1, added[0])
    if ask:
        added.append(nbformat.v4.new_code_cell(f"import json\nprint({_MARK!r} + json.dumps({ask}))", id="added-question"))
        notebook.cells.append(added[-1])
    client = NotebookClient(notebook, timeout=None, kernel_name="python3", resources={"metadata": {"path": str(folder)}},
                            record_timing=False)
    client.execute(env=_environment(folder))
    answer = None
    if ask:
        text = "".join(o.text for o in added[-1].outputs if o.output_type == "stream" and _MARK in o.text)
        answer = json.loads(text.partition(_MARK)[2])
    notebook.cells = [c for c in notebook.cells if not any(c is a for a in added)]
    return notebook, answer


def _environment(folder: Path) -> dict[str, str]:
    """The kernel finds this package, this Python and no settings of the user's."""
    found = dict(os.environ)
    found["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), found.get("PYTHONPATH")]))
    found["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), found.get("PATH", "")])
    for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR"):
        found[name] = str(folder / name.lower())
    return found


def kept(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The notebook as it is committed: streams joined, cells and kernel without what belongs to one machine."""
    for cell in notebook.cells:
        cell.metadata = {"tags": cell.metadata["tags"]} if cell.metadata.get("tags") else {}
        if cell.cell_type == "code":
            for output in cell.outputs:
                output.pop("metadata", None) if output.output_type == "stream" else output.update(metadata={})
                if "text" in output:
                    output.text = re.sub(r"0x[0-9a-f]{6,}", "0x…", output.text)
    notebook.metadata = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
                         "language_info": {"name": "python", "file_extension": ".py", "mimetype": "text/x-python",
                                           "pygments_lexer": "ipython3"}}
    return notebook


def main(paths: list[str], folder: str | None = None) -> None:
    """Renews notebooks in place, each when all of its cells have run. In a `folder` that stays, what was cut short is taken
    up by the next call, as far as the fits had come."""
    for path in map(Path, paths):
        with tempfile.TemporaryDirectory() if folder is None else nullcontext(Path(folder) / path.stem) as place:
            Path(place).mkdir(parents=True, exist_ok=True)
            notebook, _ = run(path, Path(place))
        text = nbformat.writes(kept(notebook), version=4)
        beside = path.with_suffix(".ipynb.part")
        beside.write_text(text + "\n", encoding="utf-8")
        os.replace(beside, path)
        print(f"{path}: {len(text) / 1000:.0f} kB")


if __name__ == "__main__":
    given = argparse.ArgumentParser()
    given.add_argument("notebooks", nargs="+")
    given.add_argument("--folder", help="where to run them; a temporary one by default")
    asked = given.parse_args()
    main(asked.notebooks, asked.folder)
