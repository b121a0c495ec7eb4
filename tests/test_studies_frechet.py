"""Fréchet distances: the arithmetic against torchmetrics, the detectors, and errors that say where weights go."""
import pytest
import torch
from families import FAMILIES
from torch import nn

from generators import card
from probes import frechet
from probes.frechet import DetectorError, Inception, InceptionDetector, ModuleDetector, frechet_distance, get_detector, measure
from probes.studies import StudyError


class Colours(nn.Module):
    """Six features of a picture: mean and spread of its colours."""

    num_features = 6

    def forward(self, x):
        return torch.cat([x.mean((2, 3)), x.std((2, 3))], 1)


def pictures(n, shift, seed):
    return (torch.randn(n, 3, 16, 16, generator=torch.Generator().manual_seed(seed)) * 0.3 + shift).clamp(-1, 1)


def test_the_distance_is_torchmetrics():
    from torchmetrics.image.fid import FrechetInceptionDistance

    real, drawn = pictures(200, 0.0, 0), pictures(300, 0.2, 1) * torch.tensor([1.0, 0.5, 0.8]).view(3, 1, 1)
    metric = FrechetInceptionDistance(feature=Colours(), input_img_size=(3, 16, 16), normalize=True)
    for batch, is_real in ((real, True), (drawn, False)):
        metric.update(batch, real=is_real)
    ours = frechet_distance(Colours()(real), Colours()(drawn))
    assert ours == pytest.approx(float(metric.compute()), rel=1e-5) and ours > 0.01


def test_equal_sets_are_no_distance_apart():
    for seed in range(5):
        same = torch.randn(50, 10, generator=torch.Generator().manual_seed(seed))
        assert 0 <= frechet_distance(same, same) < 1e-9


def test_measure_names_what_it_measured():
    generator = FAMILIES["stylegan2"][0]()
    found = measure(generator, get_detector(Colours()), samples=60, batch=25)
    assert found["detector"] == "Colours" and found["resize"] == "none" and found["samples"] == 60 and found["data"] == "scenes"
    assert found["value"] > 10 * found["real_against_real"] > 0
    again = measure(generator, ModuleDetector(Colours(), "colours of 8 px", size=8), samples=60, batch=60)
    assert again["resize"] == "bilinear with antialiasing to 8" and again["value"] != found["value"]
    assert measure(generator, get_detector(Colours()), samples=60, batch=60)["value"] == pytest.approx(found["value"], rel=1e-3)
    with pytest.raises(ValueError, match="6 images do not give the covariance of 6 features .Colours.; take at least 12"):
        measure(generator, get_detector(Colours()), samples=6)
    with pytest.raises(ValueError, match="driven by images"):
        measure(FAMILIES["stable-diffusion"][0](), get_detector(Colours()), samples=60)
    with pytest.raises(ValueError, match=r"expected a tensor \[N, D\]"):
        get_detector(nn.Flatten(0))(pictures(2, 0, 0))


def test_scenes_are_the_cards_detector():
    detector = get_detector("scenes")
    image = pictures(3, 0.0, 0)[:, :, :8, :8].repeat(1, 1, 8, 8)
    assert detector(image).shape == (3, 160) and detector(image * 9).equal(detector((image * 9).clamp(-1, 1)))
    assert detector.name == card("stylegan2-scenes")["frechet"]["detector"]
    assert frechet.scene_features([image[:1], image[1:]]).equal(torch.cat([detector(image[:1]), detector(image[1:])]))


def test_detectors_by_name():
    assert set(frechet.detectors()) == {"scenes", "inception", "dinov2"}
    for name in ("incepton", "scenes:x"):
        with pytest.raises(ValueError, match=f"detector: unknown name '{name}'"):
            get_detector(name)
    detector = get_detector("scenes")
    assert get_detector(detector) is detector


@pytest.fixture(scope="module")
def weights():
    torch.manual_seed(0)
    return Inception().state_dict()


def test_inception_is_as_published(weights):
    network = Inception()
    assert sum(p.numel() for p in network.parameters()) == 21_785_568
    assert weights["Mixed_6c.branch7x7dbl_4.conv.weight"].shape == (160, 160, 7, 1)
    assert weights["Mixed_7c.branch3x3dbl_3b.conv.weight"].shape == (384, 384, 3, 1)
    assert weights["Mixed_7b.branch_pool.bn.running_var"].shape == (192,) and network.Mixed_7c.pool == "max"


def test_inception_from_a_file(weights, tmp_path):
    path = tmp_path / "inception.pth"
    torch.save({**weights, "fc.weight": torch.zeros(1008, 2048), "fc.bias": torch.zeros(1008)}, path)
    detector = get_detector(f"inception:{path}")
    features = detector(pictures(2, 0.0, 0))
    assert features.shape == (2, 2048) and features.isfinite().all() and (features[0] - features[1]).abs().max() > 0
    assert "299" in detector.resize and "2048" in detector.name
    torch.save({k: v for k, v in weights.items() if not k.startswith("Mixed_7c")}, path)
    with pytest.raises(DetectorError, match="has no Mixed_7c.branch1x1.bn.bias .and 44 more"):
        InceptionDetector(path)
    torch.save({k: v[:1] if k == "Mixed_5b.branch1x1.conv.weight" else v for k, v in weights.items()}, path)
    with pytest.raises(DetectorError, match="other shapes: size mismatch for Mixed_5b.branch1x1.conv.weight"):
        InceptionDetector(path)
    torch.save([1, 2], path)
    with pytest.raises(DetectorError, match="no dictionary of weights"):
        InceptionDetector(path)
    torch.jit.script(nn.ReLU()).save(path)
    with pytest.raises(DetectorError, match="TorchScript file is a program and is not run"):
        InceptionDetector(path)
    with pytest.raises(DetectorError, match="is not there; give inception:FILE"):
        InceptionDetector(tmp_path / "none.pth")


def test_inception_without_weights_says_where_to_put_them(monkeypatch, cache):
    from probes.frechet import _inception

    monkeypatch.setattr(_inception, "URL", "http://127.0.0.1:9/weights.pth")
    with pytest.raises(DetectorError, match="put pt_inception-2015-12-05-6726825d.pth of http.*checkpoints/pt_") as error:
        get_detector("inception")
    assert str(cache) in str(error.value) and "inception:FILE" in str(error.value)


def test_dinov2_from_a_folder(tmp_path):
    from transformers import Dinov2Config, Dinov2Model, ViTConfig, ViTModel

    config = Dinov2Config(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=14, mlp_ratio=2)
    network = Dinov2Model(config).eval()
    network.save_pretrained(tmp_path / "dino")
    detector = get_detector(f"dinov2:{tmp_path / 'dino'}")
    image = pictures(2, 0.0, 0)
    assert detector(image).shape == (2, 16) and "224" in detector.resize and "class token (16)" in detector.name
    grey = torch.zeros(1, 3, 224, 224)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.no_grad():
        wanted = network(pixel_values=((0.5 - mean) / std).view(1, 3, 1, 1).expand(1, 3, 224, 224)).pooler_output
    torch.testing.assert_close(detector(grey), wanted)
    other = ViTModel(ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=28,
                               patch_size=14))
    other.save_pretrained(tmp_path / "vit")
    with pytest.raises(DetectorError, match="is a vit, no DINOv2"):
        get_detector(f"dinov2:{tmp_path / 'vit'}")
    with pytest.raises(DetectorError, match="neither a folder.*give a folder: dinov2:FOLDER"):
        get_detector(f"dinov2:{tmp_path / 'nothing'}")


def test_distances_are_of_a_fingerprint_and_a_digest(tmp_path, monkeypatch):
    from probes.studies import _distances

    measured, network = [], torch.nn.Linear(2, 2)

    class Built:
        driven_by, fingerprint = "noise", "f1"

    def measure(built, detector):
        measured.append(detector.digest)
        return dict(value=float(len(measured)), detector="d", samples=10)

    monkeypatch.setattr(frechet, "measure", measure)
    monkeypatch.setattr(_distances.generators, "load", lambda name: Built)
    row = dict(status="ok", weights="pretrained", generator="g")

    def value():
        distances = _distances.Distances(tmp_path, network)
        distances.open()
        return [distances.beside(row)["frechet"] for _ in range(2)]

    assert value() == [1, 1] == value()
    control = row | dict(generator="stylegan2-scenes", weights="random:0")       # what was never trained is not that far away
    for distances in (_distances.Distances(tmp_path, network), _distances.Distances(tmp_path)):
        distances.open()
        assert distances.beside(control) == control and distances.beside(control | dict(weights="pretrained"))["frechet"] > 0
    Built.fingerprint = "f2"                            # another checkpoint under the same name
    assert value() == [2, 2]
    with torch.no_grad():
        network.weight += 1                             # another detector under the same name
    assert value() == [3, 3] and measured[0] == measured[1] != measured[2]
    Built.fingerprint = "f3"
    monkeypatch.setattr(frechet, "measure", lambda built, detector: (_ for _ in ()).throw(ValueError("draws no rooms")))
    distances = _distances.Distances(tmp_path, network)
    with pytest.warns(UserWarning, match="g has no Fréchet distance: draws no rooms"):
        assert distances.beside(row) == row                 # its fit is a row all the same
    assert distances.beside(row) == row                     # and that is said once
    for damaged in ("{", "[]", '{"g": 3}', '{"g": {"value": 1}}'):
        (tmp_path / "frechet.json").write_text(damaged)
        with pytest.raises(StudyError, match="frechet.json is damaged; remove it"):
            value()
