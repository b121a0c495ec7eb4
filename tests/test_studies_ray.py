"""Studies over a Ray cluster: the rows of the sequential engine, each once, whatever is lost on the way."""
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import deque
from dataclasses import replace
from pathlib import Path
from threading import Timer

import pytest
import tiny  # noqa: F401 (registers a teacher, which the workers have to know too)
from filelock import FileLock
from ray_work import Doomed, Marked, calls
from study_rows import TOY, comparable, lines

from probes.studies import Cell, StudyError, _ray, _ray_cluster, _ray_task, _run, study
from probes.studies._engines import Sequential, get_engine
from probes.studies._ray import Ray
from probes.studies._ray_task import Order, Token, left_token, perform, unpack
from probes.studies._work import Work

HERE = Path(__file__).parent
CELLS = [cell.at_seed(0) for cell in TOY.cells(False)]
NODE = dict(num_cpus=1, object_store_memory=100 << 20, include_dashboard=False)


@pytest.fixture(scope="module")
def cluster():
    """Two machines with one processor each, both this one."""
    pytest.importorskip("ray", reason="pip install 'probes[study]'")
    with pytest.MonkeyPatch.context() as own, _ray_cluster.environment():
        own.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
        own.setenv("RAY_worker_niceness", "0")
        from ray.cluster_utils import Cluster

        for attempt in range(2):
            try:
                cluster = Cluster(initialize_head=True, head_node_args=NODE)
                cluster.second = cluster.add_node(**NODE)
                break
            except Exception as error:      # noqa: BLE001 (all of it is Ray's: a busy machine exceeds the times it allows)
                if attempt == 1:
                    pytest.skip(f"Ray's own nodes do not start on this machine: {' '.join(str(error).split())[:200]}")
    yield cluster
    cluster.shutdown()


@pytest.fixture
def inside(cluster):
    """This process in the cluster, as a caller's own `ray.init` puts it."""
    import ray

    if not ray.is_initialized():
        ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    yield ray
    assert ray.is_initialized()             # what the caller began, the engine leaves
    ray.shutdown()


def token(tmp_path, words="w"):
    return Token(tmp_path / "fits", tmp_path / "cache", ".seen-x", words)


SCRIPT = """
import signal, sys
from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)        # a shell starts what is in its background with interrupts off
from ray_work import Marked
from study_rows import TOY
from probes.studies import _run, study
_run.Work = lambda study, fits, device: Marked(study, fits, device, 30.0)
study(TOY, sys.argv[1], engine="ray", quiet=True)
"""


@pytest.mark.slow
def test_an_interrupt_leaves_no_process_behind(tmp_path):
    """A cluster of its own, on all processors, before there is another; whatever it started carries the mark in its
    environment."""
    mark = f"PROBES_TEST_MARK={tmp_path}".encode()
    environment = {**os.environ, "PYTHONPATH": f"{HERE.parent}:{HERE}", "PROBES_TEST_MARK": str(tmp_path),
                   "RAY_worker_niceness": "0"}
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(tmp_path / "a")], env=environment, cwd=tmp_path,
                               stderr=subprocess.PIPE, text=True)
    began = time.monotonic()
    try:
        while not (tmp_path / "a" / "calls").exists():
            if process.poll() is not None and "Ray could not start here" in (said := process.stderr.read()):
                pytest.skip(said.strip().splitlines()[-1])
            assert process.poll() is None and time.monotonic() - began < 240
            time.sleep(0.1)
        assert len(marked(mark)) > 2
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=200) != 0
    finally:
        process.kill()
    while marked(mark) and time.monotonic() - began < 500:
        time.sleep(0.2)
    assert not marked(mark)
    assert (tmp_path / "a" / "study.json").exists() and not (tmp_path / "a" / "rows.csv").exists()


def marked(mark):
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (folder / "environ").read_bytes().split(b"\0"):
                found.append((folder / "cmdline").read_bytes().split(b"\0")[:2])
        except OSError:
            continue
    return found


@pytest.mark.slow
def test_a_machine_that_is_removed_loses_no_row_and_doubles_none(cluster, tmp_path, monkeypatch):
    import ray

    doomed = cluster.second.node_id

    class Removing(Ray):
        def run(self, cells, work):
            removed = False
            for row in super().run(cells, work):
                if not removed and [node for _, node in calls(tmp_path)].count(doomed) == 2:
                    cluster.remove_node(cluster.second, allow_graceful=False)
                    removed = True
                yield row

    (tmp_path / "doomed").write_text(doomed)
    monkeypatch.setattr(_run, "Work", Doomed)
    handler = signal.getsignal(signal.SIGTERM)
    done = study(TOY, tmp_path, engine=Removing(cluster.address), quiet=True)
    assert len(done.rows) == 8 == len({r["key"] for r in done.rows}) and len(lines(tmp_path)) == 9 and not done.failed
    begun = calls(tmp_path)
    assert len(begun) == 9 and {key for key, _ in begun} == {r["key"] for r in done.rows}
    assert [node for _, node in begun].count(doomed) == 2 and [r["hardware"] for r in done.rows].count(doomed) == 1
    assert {r["parameters"] for r in done.rows} == {1}                        # threads of torch: the processors of a fit
    assert not (tmp_path / "fits").exists() and not ray.is_initialized() and signal.getsignal(signal.SIGTERM) is handler
    assert done.verdict.kind == "reproduced"
    again = study(TOY, tmp_path, engine="ray", address=cluster.address, quiet=True)
    assert again.rows == done.rows and calls(tmp_path) == begun


@pytest.mark.slow
def test_rows_are_those_of_the_sequential_engine(inside, tmp_path):
    import torch

    quick = dict(generator="stylegan2-scenes@760k", samples=12, steps=30, batch=2, evaluate=6, seed=0)
    cells = [Cell(dict(quick, intrinsic="normal", rank=1, controls=["rgb"])),
             Cell(dict(quick, intrinsic="shading", teacher="brightness", rank=2)),
             Cell(dict(quick, intrinsic="normal", rank=-1))]
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        straight = list(Sequential().run(cells, Work("toy", tmp_path / "straight", "cpu")))
    finally:
        torch.set_num_threads(before)
    engine, told = Ray(isolated=True), []
    engine.begin(say=told.append)
    spread = {r["key"]: r for r in engine.run(cells, Work("toy", tmp_path / "spread", "auto"))}
    assert [r["status"] for r in straight] == ["ok", "ok", "failed"] and "rank" in straight[2]["failure"] and not told
    assert [comparable(spread[r["key"]]) for r in straight] == [comparable(r) for r in straight]
    assert straight[0]["skill"] == spread[cells[0].key]["skill"] != straight[1]["skill"]
    assert spread[cells[0].key]["peak_memory_mib"] > 100 and (tmp_path / "spread" / cells[1].key / "probe.json").exists()


@pytest.mark.slow
def test_a_fit_that_ends_its_process_is_tried_again_and_then_a_row(inside, tmp_path):
    cells = [Cell(dict(CELLS[0].fit, rank=99)), CELLS[3]]
    rows = {r["key"]: r for r in Ray(retries=1).run(cells, Marked("toy", tmp_path / "fits"))}
    assert rows[cells[1].key]["status"] == "ok" and len(calls(tmp_path)) == 3
    failed = rows[cells[0].key]
    assert failed["status"] == "failed" and "lost 2 times; was there enough memory?" in failed["failure"]


@pytest.mark.slow
def test_a_fit_that_somebody_is_still_at_is_asked_for_again(inside, tmp_path, monkeypatch):
    monkeypatch.setattr(_ray, "_AGAIN", 0.2)
    place = tmp_path / "fits" / CELLS[0].key
    place.mkdir(parents=True)
    lock = FileLock(place / _ray_task._LOCK, thread_local=False)
    lock.acquire()
    engine, told = Ray(), []
    engine.begin(say=lambda words: (told.append(words), Timer(1.0, lock.release).start()))
    (row,) = engine.run(CELLS[:1], Marked("toy", tmp_path / "fits"))
    assert row["status"] == "ok" and len(told) == 1 and "another process is at fit" in told[0] and len(calls(tmp_path)) == 1


@pytest.mark.slow
def test_a_machine_that_sees_no_folder_of_the_callers_sends_the_fit_back(inside, tmp_path, monkeypatch):
    from contextlib import contextmanager

    @contextmanager
    def unseen(fits, cache):
        yield Token(fits, cache, ".seen-elsewhere", "")

    monkeypatch.setattr(_ray, "left_token", unseen)
    engine, told = Ray(), []
    engine.begin(keep=True, say=told.append)
    rows = list(engine.run(CELLS[:2], Marked("toy", tmp_path / "fits")))
    assert sorted(r["skill"] for r in rows) == [0.1, 0.2] and len(told) == 2 and "its own temporary folder" in told[0]
    assert "makes the banks it needs itself" in told[1]
    for cell, row in zip(CELLS, sorted(rows, key=lambda r: r["skill"]), strict=False):
        place = tmp_path / "fits" / cell.key
        assert [p.name for p in place.rglob("*") if p.is_file()] == ["weights"]
        assert (place / "adapter" / "weights").read_text() == str(cell.fit["rank"])
        assert not row["detector"].startswith(str(tmp_path)) and not Path(row["detector"]).exists()


def test_cells_that_share_a_fit_do_not_run_at_once():
    shared = [Cell(dict(generator="a", generator_options=dict(steps=n)), sampled_by=("steps",)) for n in (1, 2)]
    other = Cell(dict(generator="b"))
    queue = deque((cell, 0) for cell in (*shared, other))
    first = _ray._next(queue, set())
    assert first == (shared[0], 0) and _ray._next(queue, {first[0].place}) == (other, 0)
    assert _ray._next(queue, {first[0].place}) is None and list(queue) == [(shared[1], 0)]


def test_what_a_machine_does_with_an_order(tmp_path, monkeypatch):
    (tmp_path / "calls").write_text("")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "own"))
    (tmp_path / "own").mkdir()
    cache = os.environ["PROBES_CACHE"]
    order = Order(CELLS[1], Marked("toy", tmp_path / "fits"), token(tmp_path), 1, os.getcwd(), ("no_such_module",), True)
    with left_token(tmp_path / "fits", tmp_path / "cache") as real:
        assert real.seen(tmp_path / "fits") and real.seen(tmp_path / "cache") and not real.seen(tmp_path)
        answer = perform(Order(CELLS[1], order.work, real, 1, os.getcwd()))
        assert not answer.own_fits and not answer.own_cache and answer.files is None
        assert os.environ["PROBES_CACHE"] == str(tmp_path / "cache")
    monkeypatch.setenv("PROBES_CACHE", cache)
    assert not real.seen(tmp_path / "fits") and not list(tmp_path.glob("*/.seen*"))
    place = tmp_path / "fits" / CELLS[1].key
    assert answer.row["skill"] == 0.2 and answer.row["detector"] == str(place) and place.exists()
    monkeypatch.setattr(Marked, "__call__", _below_own)
    answer = perform(order)
    assert answer.own_fits and answer.own_cache and answer.files == {"adapter/weights": b"2"}
    assert os.environ["PROBES_CACHE"] == cache and not Path(answer.row["place"]).exists()
    assert answer.row["place"].startswith(str(tmp_path / "own"))
    more = perform(replace(order, more=True))               # another cell will score the same fit
    assert more.own_fits and (Path(more.row["place"]) / "adapter" / "weights").exists()
    unpack(answer.files, place)
    assert [p.name for p in place.rglob("*") if p.is_file()] == ["weights"]
    with pytest.raises(ValueError, match="leads out of the run folder"):
        unpack({"../x": b""}, place)


def _below_own(self, cell):
    place = self.fits / cell.key
    (place / "adapter").mkdir()
    (place / "adapter" / "weights").write_bytes(b"2")
    (place / "training-state").write_bytes(b"half")
    return dict(place=str(place))


def test_an_error_that_must_stop_the_study_comes_back_as_one(tmp_path, monkeypatch):
    from probes import OutputError

    class Odd(Exception):               # of a place where the caller cannot find it
        pass

    order = Order(CELLS[0], Marked("toy", tmp_path / "fits"), token(tmp_path), 1, os.getcwd())
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for error, kind in ((OutputError(28, "No space left on device", "x"), OutputError), (OSError(28, "full", "y"), OutputError),
                        (Odd("words"), RuntimeError)):
        def fail(self, cell, error=error):
            raise error

        monkeypatch.setattr(Marked, "__call__", fail)
        answer = perform(order)
        assert type(answer.error) is kind and answer.row is None and not answer.busy


def test_an_address_that_does_not_answer_claims_nothing(tmp_path, monkeypatch):
    began = time.monotonic()
    with socket.socket() as dumb:
        dumb.bind(("127.0.0.1", 0))
        port = dumb.getsockname()[1]
        with pytest.raises(StudyError, match=f"address: nothing answers at 127.0.0.1:{port} .*ray start --head"):
            study(TOY, tmp_path / "a", engine="ray", address=f"127.0.0.1:{port}", quiet=True)
        assert time.monotonic() - began < 60
        dumb.listen()                       # something answers, and it is no cluster
        monkeypatch.setattr(_ray_cluster, "_JOINS", 3.0)
        with pytest.raises(StudyError, match=f"no Ray cluster can be joined at 127.0.0.1:{port} .no answer within 3 seconds"):
            study(TOY, tmp_path / "a", engine="ray", address=f"127.0.0.1:{port}", quiet=True)
    assert not (tmp_path / "a").exists()


def test_where_ray_is_missing_the_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(StudyError, match=r"engine: ray cannot be imported .*pip install 'probes\[study\]'"):
        study(TOY, tmp_path / "a", engine="ray", quiet=True)
    assert not (tmp_path / "a").exists()


def test_options_that_cannot_be_are_named(tmp_path):
    for options, words in ((dict(cpu=1), "engine_options: unknown name 'cpu'; did you mean 'cpus'"),
                           (dict(cpus=0), "cpus to be a number above 0, got 0"),
                           (dict(gpus=-1), "gpus to be a number from 0, got -1"),
                           (dict(retries="2"), "retries to be a number from 0, got '2'")):
        with pytest.raises(ValueError, match=words):
            study(TOY, tmp_path / "a", engine="ray", engine_options=options)
    for address, words in (("ray://head:10001", "Ray client server"), ("head", "expected HOST:PORT or auto, got 'head'")):
        with pytest.raises(StudyError, match=words):
            get_engine("ray", address)
    with pytest.raises(StudyError, match="give them to the engine itself"):
        study(TOY, tmp_path / "a", engine=Ray(), engine_options=dict(cpus=2))
    assert not (tmp_path / "a").exists()
