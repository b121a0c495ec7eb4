"""Studies and processes: a fit in one of its own, and a study that is killed. No row is lost, and nothing is left running."""
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from study_rows import TOY, comparable, lines

from probes import OutputError
from probes.studies import Cell, study
from probes.studies._engines import Sequential
from probes.studies._work import Work


class Hard(Work):
    """Work that goes wrong, in the ways a process can."""

    def __call__(self, cell):
        if cell.fit["rank"] == 1:
            os._exit(9)
        if cell.fit["rank"] == 9:
            os.kill(os.getpid(), signal.SIGKILL)
        if cell.fit["rank"] == 2:
            raise OutputError(28, "No space left on device", "x")
        if cell.fit["rank"] == 3:
            (self.fits / "pid").write_text(str(os.getpid()))
            time.sleep(60)
        return dict(pid=os.getpid())


@pytest.mark.slow
def test_a_fit_in_a_process_of_its_own_may_crash(tmp_path):
    crash, full, _, good = (cell.at_seed(0) for cell in TOY.cells(False))
    (row,) = Sequential(isolated=True).run([crash], Hard("toy", tmp_path))
    assert row["status"] == "failed" and "ended with 9" in row["failure"] and row["key"] == crash.key and row["seed"] == 0
    assert "memory" not in row["failure"]
    (row,) = Sequential(isolated=True).run([Cell(dict(crash.fit, rank=9))], Hard("toy", tmp_path))
    assert "killed by signal 9; was there enough memory?" in row["failure"]
    (row,) = Sequential(isolated=True).run([good], Hard("toy", tmp_path))
    assert row["pid"] != os.getpid()
    with pytest.raises(OutputError, match="free some space"):
        list(Sequential(isolated=True).run([full], Hard("toy", tmp_path)))


@pytest.mark.slow
def test_a_plain_script_is_not_run_again_by_its_fits(tmp_path):
    here = Path(__file__).parent
    (tmp_path / "run.py").write_text("from pathlib import Path\nfrom test_studies_processes import *\nprint('begun')\n"
                                     "cell = TOY.cells(False)[3].at_seed(0)\n"
                                     "print(list(Sequential(isolated=True).run([cell], Hard('toy', Path('.')))))\n")
    done = subprocess.run([sys.executable, str(tmp_path / "run.py")], cwd=here.parent, capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": f"{here.parent}:{here}"}, timeout=120)
    assert done.returncode == 0 and done.stdout.count("begun") == 1 and "'pid'" in done.stdout, done.stderr


@pytest.mark.slow
def test_a_process_of_its_own_does_not_outlive_the_study(tmp_path):
    here = Path(__file__).parent
    script = (f"import sys; sys.path.insert(0, {str(here)!r})\nfrom pathlib import Path\nfrom test_studies_processes import *\n"
              f"if __name__ == '__main__':\n"
              f"    cell = TOY.cells(False)[2].at_seed(0)\n"
              f"    list(Sequential(isolated=True).run([cell], Hard('toy', Path({str(tmp_path)!r}))))\n")
    (tmp_path / "run.py").write_text(script)
    process = subprocess.Popen([sys.executable, str(tmp_path / "run.py")], cwd=here.parent,
                               env={**os.environ, "PYTHONPATH": f"{here.parent}:{here}"})
    began = time.monotonic()
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        assert process.poll() is None and time.monotonic() - began < 120
        time.sleep(0.05)
    process.kill()
    process.wait()
    child = int((tmp_path / "pid").read_text())
    for _ in range(100):
        try:
            os.kill(child, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    os.kill(child, signal.SIGKILL)
    pytest.fail("the child goes on without its parent")


TINY = dict(samples=12, steps=40, batch=2, evaluate=6, controls=["rgb"])
SCRIPT = f"""
import sys
from probes.studies import study
study("rank", sys.argv[1], small=True, only="rank=1,rank=2", options={TINY}, quiet=True)
"""


@pytest.mark.slow
def test_a_killed_study_ends_in_the_rows_of_one_that_was_not(tmp_path):
    """Killed outright when its first row is there, within the second fit; nothing of a real fit is replaced here."""
    killed, straight = tmp_path / "killed", tmp_path / "straight"
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(killed)], cwd=Path(__file__).parents[1])
    began = time.monotonic()
    while not (killed / "rows.csv").exists() or len(lines(killed)) < 2 or not any((killed / "fits").iterdir()):
        assert process.poll() is None and time.monotonic() - began < 120
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert len(lines(killed)) == 2 and not (killed / "README.md").exists()
    kept = lines(killed)[1]
    ended = study("rank", killed, small=True, only="rank=1,rank=2", options=TINY, quiet=True)
    whole = study("rank", straight, small=True, only=["rank=1", "rank=2"], options=TINY, quiet=True)
    assert lines(killed)[1] == kept and not (killed / "fits").exists()
    assert [comparable(r) for r in ended.rows] == [comparable(r) for r in whole.rows] and not whole.failed
    one, two = whole.rows
    assert (one["rank"], two["rank"]) == (1, 2) and two["parameters"] == 2 * one["parameters"] == 6400
    assert one["samples"] == 12 and one["n"] == 6 and one["control_rgb"] is not None and one["control_latent"] is None
    assert one["skill"] == pytest.approx(1 - one["error"] / one["trivial"])
    assert one["skill_low"] < one["skill"] < one["skill_high"] and one["error_low"] < one["error"] < one["error_high"]
    assert one["protocol"] == "normal-per-image/1" and one["teacher"] == one["against"] == "scenes"
    assert one["steps_per_second"] > 0 and one["peak_memory_mib"] > 100 and "torch" in one["versions"]
    from PIL import Image

    picture = Image.open(killed / "plot.png")
    assert picture.size[0] > 700 and (killed / "README.md").read_text().count("| stylegan2-scenes@760k | normal |") == 2
