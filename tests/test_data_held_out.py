"""What is held out of a fit: whole scans and scenes, a fifth of each kind, chosen by names alone."""
from collections import Counter

import make_datasets as make
import numpy as np
import pytest

from probes.data import get_data
from probes.data._held_out import held_out_first


def images(scans, per_scan):
    """{names, groups, kinds} of scans indoors and twice as many outdoors."""
    found = [(f"{kind}/{scan}/{i}", str(scan), kind) for kind, count in (("indoors", scans), ("outdoor", 2 * scans))
             for scan in range(count) for i in range(per_scan)]
    return tuple(zip(*found, strict=True))


def test_whole_groups_and_a_fifth_of_each_kind():
    names, groups, kinds = images(20, 7)
    order, held = held_out_first(names, groups, kinds)
    assert sorted(order) == list(range(420)) and held == 84
    first, rest = ({(kinds[i], groups[i]) for i in part} for part in (order[:held], order[held:]))
    assert not first & rest
    assert Counter(kinds[i] for i in order[:held]) == {"indoors": 28, "outdoor": 56}
    assert len({(kinds[i], groups[i]) for i in order[held:held + 50]}) > 25         # a short fit sees many scans, not the first


def test_the_order_follows_from_the_names_alone():
    names, groups, kinds = images(20, 7)
    order, held = held_out_first(names, groups, kinds)
    turned = held_out_first(names[::-1], groups[::-1], kinds[::-1])
    assert [names[i] for i in order] == [names[::-1][i] for i in turned[0]] and turned[1] == held
    assert [names[i] for i in order[:3]] == ["indoors/5/2", "outdoor/5/6", "outdoor/5/0"]        # as on any other machine


@pytest.mark.parametrize("sizes, held", [([100], 20), ([50, 50], 50), ([99, 1], 1), ([300, 100], 100), ([10] * 10, 20)])
def test_groups_of_any_size(sizes, held):
    names = [f"{group}/{i}" for group, size in enumerate(sizes) for i in range(size)]
    groups = [name.partition("/")[0] for name in names]
    order, count = held_out_first(names, groups, [""] * len(names))
    assert count == held
    assert len(sizes) > 1 or order == list(range(100))              # one cannot be divided but in two


def test_diode_holds_out_scans_indoors_and_outdoors(tmp_path):
    names = [(kind, f"{scene:05d}_{scan:05d}_{kind}_{crop:03d}_010") for kind, scene in (("indoors", 19), ("outdoor", 22))
             for scan in range(100, 105) for crop in (0, 10)]
    make.diode(tmp_path, names=names, normals=False)
    data = get_data(tmp_path)
    assert data.first_training_index == 4 and data.training(100) == range(4, 20)
    held, taught = {data.group(i) for i in range(4)}, {data.group(i) for i in range(4, 20)}
    assert len(held) == 2 and len(taught) == 8 and not held & taught
    assert {group.split("/")[1] for group in held} == {"indoors", "outdoor"}
    assert all(data.sample_name(i).startswith(data.group(i)) for i in range(20))


def test_hypersim_holds_out_scenes(tmp_path):
    pytest.importorskip("h5py")
    make.hypersim(tmp_path, scenes=[f"ai_001_{i:03d}" for i in range(1, 6)], frames=2)
    data = get_data(tmp_path)
    assert (data.count, data.first_training_index) == (10, 2)
    assert len({data.group(i) for i in range(2)}) == 1 and data.group(0) not in {data.group(i) for i in range(2, 10)}


def test_nyu_holds_out_scenes_and_all_recordings_of_one(tmp_path):
    pytest.importorskip("h5py")
    pytest.importorskip("scipy")
    scenes = [f"{room}_000{number}{part}" for room in ("kitchen", "office") for number in (1, 2, 3) for part in "ab"]
    make.nyu(tmp_path / "named", count=12, scenes=scenes)
    data = get_data(f"nyu:{tmp_path / 'named'},split=all")
    assert data.first_training_index == 2 and data.group(0) == data.group(1)
    assert data.group(0) in {"kitchen_0001", "kitchen_0002", "kitchen_0003", "office_0001", "office_0002", "office_0003"}
    assert {scenes[int(data.sample_name(i)) - 1] for i in range(2)} == {f"{data.group(0)}a", f"{data.group(0)}b"}
    depth = make.room()[1]
    frame = int(data.sample_name(5)) - 1
    np.testing.assert_array_equal(data.sample(5, ("depth",)).maps["depth"][0], depth + frame)
    make.nyu(tmp_path / "plain", count=12)
    data = get_data(f"nyu:{tmp_path / 'plain'},split=all")
    assert [data.sample_name(i) for i in range(3)] == ["0001", "0002", "0003"] and data.first_training_index == 2


def test_a_manifest_may_say_what_belongs_together(tmp_path):
    make.beside(tmp_path, count=10)
    lines = [f"photo{i}.png,photo{i}-depth.npy,room{i // 2}" for i in range(10)]
    (tmp_path / "data.csv").write_text("\n".join(["image,depth,group", *lines]))
    data = get_data(tmp_path / "data.csv")
    assert data.first_training_index == 2 and data.group(0) == data.group(1) and not data.notes
    assert data.group(0) not in {data.group(i) for i in range(2, 10)}
    (tmp_path / "plain.csv").write_text("\n".join(["image,depth", *(line.rpartition(",")[0] for line in lines)]))
    data = get_data(tmp_path / "plain.csv")
    assert [data.sample_name(i) for i in range(10)] == [data.group(i) for i in range(10)] == [f"photo{i}" for i in range(10)]


def test_too_few_to_fit_on_is_said(tmp_path):
    make.beside(tmp_path, count=1)
    with pytest.raises(ValueError, match="maps:.* holds 1 image; a probe needs at least 10, a fifth of which are held out"):
        get_data(tmp_path).check_training()
    make.beside(tmp_path, count=10)
    assert get_data(tmp_path).check_training() is None and get_data("scenes").check_training() is None
