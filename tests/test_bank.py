"""Banks: what they hold, built once and resumed; what is damaged or cannot be written is named."""
import errno
import json
import os
import tempfile

import numpy as np
import pytest
import torch
from families import FAMILIES
from tiny import Brightness

import probes
from probes import _bank
from probes._bank import Request, open_bank


def request(samples=20):
    return Request(FAMILIES["stylegan2"][0](), Brightness(), probes.get_intrinsic("albedo"), 7, samples)


def test_a_bank_holds_what_generator_and_teacher_say_and_is_built_once(tmp_path):
    asked = request()
    built = []
    bank = open_bank(asked, tmp_path, batch=6, progress=lambda done, total: built.append(done))
    assert built == [6, 12, 18, 20] and len(bank) == 20
    state, target = bank.batch(np.array([3, 19]))
    image = asked.generator.forward(asked.generator.prepare(asked.generator.sample([10, 26]))).clamp(-1, 1)
    torch.testing.assert_close(state["w"], asked.generator.prepare(asked.generator.sample([10, 26]))["w"])
    torch.testing.assert_close(target, asked.intrinsic.to_image(asked.teacher.label(image, "albedo")), atol=2e-3, rtol=0)
    torch.testing.assert_close(bank.trivial[0], bank.target(slice(None)).mean(0), atol=1e-5, rtol=1e-4)
    built.clear()
    assert open_bank(asked, tmp_path, progress=lambda *a: built.append(a)).key == bank.key and not built
    assert open_bank(request(21), tmp_path).key != bank.key


def test_a_bank_build_goes_on_where_it_was_killed(tmp_path):
    asked, seen = request(40), []

    class Killed(BaseException):
        pass

    def die(done, total):
        if done == 36:
            raise Killed

    with pytest.raises(Killed):
        open_bank(asked, tmp_path, batch=4, progress=die)
    bank = open_bank(asked, tmp_path, batch=4, progress=lambda done, total: seen.append(done))
    assert seen[0] == 36 and len(seen) == 2                       # 32 rows were safe
    whole = open_bank(asked, tmp_path / "whole", batch=4)
    assert np.array_equal(bank.targets, whole.targets) and torch.equal(bank.mean, whole.mean)


@pytest.mark.parametrize("damage", ["truncated", "altered", "missing", "manifest"])
def test_damaged_banks_are_named(tmp_path, damage):
    bank = open_bank(request(), tmp_path)
    file = bank.folder / ("manifest.json" if damage == "manifest" else "target.npy")
    content = bytearray(file.read_bytes())
    if damage == "missing":
        file.unlink()
    elif damage == "altered":
        content[-7] ^= 1
        file.write_bytes(content)
    else:
        file.write_bytes(content[:-50])
    with pytest.raises(probes.BankError, match=f"{file.name}.*delete"):
        open_bank(request(), tmp_path)


@pytest.mark.parametrize("content", ["[]", "{}", '{"files": {}, "arrays": {"target": {}}}', '{"files": {}, "arrays": []}'])
def test_a_manifest_of_something_else_is_named(tmp_path, content):
    bank = open_bank(request(), tmp_path)
    (bank.folder / "manifest.json").write_text(content)
    with pytest.raises(probes.BankError, match="manifest.json is damaged; delete"):
        open_bank(request(), tmp_path)


def test_a_read_only_cache_gives_the_banks_that_are_finished(tmp_path, monkeypatch):
    bank, opened = open_bank(request(), tmp_path), os.open

    def read_only(path, *arguments, **options):
        if str(path).endswith(".lock"):
            raise OSError(errno.EROFS, "Read-only file system", str(path))
        return opened(path, *arguments, **options)

    monkeypatch.setattr(os, "open", read_only)
    found = open_bank(request(), tmp_path, progress=lambda *_: pytest.fail("built again"))
    assert np.array_equal(found.targets, bank.targets)
    with pytest.raises(probes.OutputError, match=r"cannot write .*\.lock: Read-only file system .*PROBES_CACHE") as caught:
        open_bank(request(21), tmp_path)
    assert "\n" not in str(caught.value) and caught.value.errno == errno.EROFS
    (bank.folder / "target.npy").unlink()
    with pytest.raises(probes.BankError, match="target.npy was truncated or altered"):
        open_bank(request(), tmp_path)


@pytest.mark.parametrize(("module", "function", "refused", "named"), [
    (os, "mkdir", "a.cache", "a.cache"), (os, "mkdir", ".part", r"\.part"),
    (np.lib.format, "open_memmap", "target.npy", "target.npy"), (tempfile, "mkstemp", ".mean.npy.", "mean.npy"),
    (os, "replace", ".part", "[0-9a-f]{32}")],
    ids=["cache", "folder", "array", "mean", "end"])
def test_a_disk_that_fills_while_a_bank_is_built_is_one_clear_line(tmp_path, monkeypatch, module, function, refused, named):
    folder, real = tmp_path / "a.cache", getattr(module, function)

    def full(*arguments, **options):
        if str(options.get("prefix") or arguments[0]).endswith(refused):
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(module, function, full)
        with pytest.raises(probes.OutputError, match=f"cannot write .*{named}.*: No space left on device .*free some") as told:
            open_bank(request(), folder)
        assert "\n" not in str(told.value) and told.value.errno == errno.ENOSPC
    assert len(open_bank(request(), folder)) == 20


def cut_short(folder, rows=40, at=36):
    """The .part of a bank whose build ended when `at` rows were there: with four at once, the first 32 are safe."""
    def die(done, total):
        if done == at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        open_bank(request(rows), folder, batch=4, progress=die)
    (part,) = folder.glob("*.part")
    return part


def shortened(path):
    path.write_bytes(path.read_bytes()[:-5])


def halved(path):
    path.write_bytes(path.read_bytes()[:path.stat().st_size // 2])


def altered(path, at=300):
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def without_its_header(path):
    path.write_bytes(b"?" * 128 + path.read_bytes()[128:])


def of_before(path):
    about = json.loads(path.read_text())
    path.write_text(json.dumps({name: about[name] for name in ("done", "cut")}))


def saying_more(path):
    about = json.loads(path.read_text())
    path.write_text(json.dumps({**about, "cut": about["cut"] + 1}))


@pytest.mark.parametrize(("name", "damage", "why"), [
    ("progress.json", shortened, "line 1 column"), ("progress.json", of_before, "altered since"),
    ("progress.json", saying_more, "altered since"), ("target.npy", halved, "target.npy was truncated or altered"),
    ("target.npy", altered, "target.npy was truncated or altered"), ("state.w.npy", altered, "state.w.npy was truncated"),
    ("target.npy", without_its_header, "target.npy was truncated or altered"),
    ("state.w.npy", os.unlink, "No such file.*state.w.npy")])
def test_a_part_of_a_bank_that_is_not_as_it_was_left_is_begun_again(tmp_path, name, damage, why):
    damage(cut_short(tmp_path) / name)
    seen = []
    with pytest.warns(UserWarning, match=rf"bank: .*\.part is not as it was left \(.*{why}.*\); it is begun again"):
        bank = open_bank(request(40), tmp_path, batch=20, progress=lambda done, total: seen.append(done))
    whole = open_bank(request(40), tmp_path / "whole", batch=20)
    assert seen == [20, 40] and np.array_equal(bank.targets, whole.targets)


def test_what_is_not_safe_yet_of_a_part_may_be_anything(tmp_path):
    part = cut_short(tmp_path)
    altered(part / "target.npy", -7)            # of the last rows, which are written again
    seen = []
    bank = open_bank(request(40), tmp_path, batch=4, progress=lambda done, total: seen.append(done))
    assert seen == [36, 40] and np.array_equal(bank.targets, open_bank(request(40), tmp_path / "whole", batch=4).targets)


@pytest.mark.parametrize("change", [
    dict(teacher="omnidata 9"), dict(cut=0.5), dict(identity={}), dict(arrays=("state.w",), files=("state.w.npy",))])
def test_a_manifest_that_says_something_else_by_now_is_refused(tmp_path, change):
    path = open_bank(request(), tmp_path).folder / "manifest.json"
    about = json.loads(path.read_text())
    for name, value in change.items():
        about[name] = {k: v for k, v in about[name].items() if k not in value} if isinstance(value, tuple) else value
    path.write_text(json.dumps(about))
    with pytest.raises(probes.BankError, match=r"manifest.json was altered since it was written; delete .* to rebuild it"):
        open_bank(request(), tmp_path)


def test_a_bank_of_before_manifests_had_a_digest_is_read_where_it_is_the_one_asked_for(tmp_path):
    bank = open_bank(request(), tmp_path)
    path, about = bank.folder / "manifest.json", {k: v for k, v in bank.manifest.items() if k != "sha256"}
    path.write_text(json.dumps(about))
    assert np.array_equal(open_bank(request(), tmp_path, progress=lambda *_: pytest.fail("built again")).targets, bank.targets)
    path.write_text(json.dumps({**about, "identity": {**about["identity"], "first_seed": 8}}))
    with pytest.raises(probes.BankError, match="manifest.json was altered"):
        open_bank(request(), tmp_path)


def test_a_bank_is_read_through_once_a_process(tmp_path, monkeypatch):
    folder, read, original = open_bank(request(), tmp_path).folder, [], _bank.file_sha256
    monkeypatch.setattr(_bank, "file_sha256", lambda path: read.append(path.name) or original(path))
    for written, again in ((4e9, 3), (1e9, 0)):             # of what is being written, the time does not tell yet whether
        for path in folder.glob("*.npy"):                   # it is the same the next time
            os.utime(path, (written, written))
        open_bank(request(), tmp_path)
        read.clear()
        assert len(open_bank(request(), tmp_path)) == 20 and len(read) == again
    altered(folder / "target.npy")
    with pytest.raises(probes.BankError, match="target.npy was truncated or altered"):
        open_bank(request(), tmp_path)
