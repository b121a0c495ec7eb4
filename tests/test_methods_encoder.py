"""The method `encoder`: tiny networks in transformers' own files, on the smallest generator."""
import json
import shutil

import pytest
import safetensors.torch
import torch
from families import FAMILIES
from methods import Shelf, drawn, emitted, fit, loss
from tiny import SMALL

import adapters
import probes
from adapters._encoder import Encoder
from adapters._encoder_files import EMBEDDED, read_encoder
from generators._download import OfflineError
from generators.checkpoints import CheckpointError

SHELF = Shelf()
KINDS = ("Dinov2", "Dinov2WithRegisters", "DINOv3ViT")


@pytest.fixture
def made():
    yield SHELF("stylegan2")
    SHELF.clear()


def write(folder, kind="Dinov2WithRegisters", image_size=32, seed=0, **more):
    """A folder as transformers writes it: 2 layers, width 32, patches of 4 pixels."""
    import transformers

    extra = {} if kind == "Dinov2" else dict(num_register_tokens=2)
    extra |= dict(intermediate_size=64) if kind == "DINOv3ViT" else {}
    torch.manual_seed(seed)
    config = getattr(transformers, f"{kind}Config")(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, patch_size=4,
                                                    image_size=image_size, **extra, **more)
    getattr(transformers, f"{kind}Model")(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write(tmp_path_factory.mktemp("encoder"), seed=7)


def build(generator, folder, name="a", rank=2, **options):
    return adapters.build("encoder", generator, name, None, dict(model=str(folder), **options), rank=rank, seed=1)


def changed(folder, target, **fields):
    shutil.copytree(folder, target)
    about = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(json.dumps({**about, **fields}))
    return target


@pytest.mark.parametrize("kind", KINDS)
def test_it_learns_off_is_the_base_and_saved_is_loaded(kind, made, tmp_path):
    generator, pairs = made
    before = drawn(generator, pairs)
    place = write(tmp_path / kind, kind)
    adapter = build(generator, place)
    # Per layer four projections of 32 -> 32 at rank 2; a head of 32 -> 3 · 4².
    assert adapter.size == 2 * 4 * 2 * (32 + 32) + 48 * 32 + 48 and adapter.output_space == "pixels"
    assert len(adapter.parameters()) == 2 * 4 * 2 + 2 and adapter.site_names == []
    assert torch.equal(emitted(adapter, pairs), torch.zeros(2, 3, 32, 32))
    frozen = {k: v.clone() for k, v in adapter.network.state_dict().items() if ".lora_" not in k}
    first = loss(adapter, pairs)
    fit(adapter, pairs, 25, 0.01)
    assert loss(adapter, pairs) < 0.5 * first
    state = adapter.network.state_dict()
    assert all(torch.equal(state[k], v) for k, v in frozen.items()) and torch.equal(drawn(generator, pairs), before)
    assert not any(p.requires_grad for p in (*adapter.network.parameters(), *adapter.parameters().values()))
    tensors, about = adapter.file()
    json.dumps(about)
    assert about["rank"] == 2 and about["alpha"] == 2.0 and about["encoder_sha256"] == adapter._encoder.digest.hex()
    assert sum(v.numel() for v in tensors.values()) == adapter.size + 32        # the encoder itself is not in the file
    again = build(generator, place, "b")
    again.load_file(safetensors.torch.load(safetensors.torch.save({k: v.contiguous() for k, v in tensors.items()})))
    assert torch.equal(emitted(again, pairs), emitted(adapter, pairs))


def test_gradients_reach_the_lora_and_nothing_else(made, folder):
    generator, pairs = made
    adapter = build(generator, folder)
    torch.nn.init.normal_(adapter.head.weight, generator=torch.Generator().manual_seed(0))
    with adapter.active(train=True):
        adapter.regress(*pairs.batch(slice(0, 2)))[0].square().mean().backward()
    reached = {k for k, v in adapter.parameters().items() if v.grad is not None and v.grad.abs().max() > 0}
    # W_u is zero at the start, so that W_l has no gradient yet; all the others have.
    assert reached == {k for k in adapter.parameters() if "lora_A" not in k}
    own = {id(v) for v in adapter.parameters().values()}
    assert all(v.grad is None for v in (*adapter.network.parameters(), *generator.network.parameters()) if id(v) not in own)


def test_each_patch_draws_its_own_pixels(made, folder):
    """What goes in where comes out there: a head that copies one channel, against the tokens themselves."""
    generator, pairs = made
    adapter = build(generator, folder)
    image = generator.image(pairs.state(slice(0, 2)))
    with torch.no_grad():
        adapter.head.weight[17, 5] = 1.0            # channel 1, row 0, column 1 of a patch of 4
        said = adapter.say(image)
        mean, std = (torch.tensor(v)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
        tokens = adapter.network(pixel_values=((image + 1) / 2 - mean) / std).last_hidden_state
    assert tokens.shape == (2, 1 + 2 + 64, 32)      # the class token and two registers first
    torch.testing.assert_close(said[:, 1, 0::4, 1::4], tokens[:, 3:, 5].view(2, 8, 8))
    said[:, 1, 0::4, 1::4] = 0
    assert not said.any()


@pytest.mark.parametrize(("trained_on", "height", "width", "patches", "wanted"), [
    (32, 32, 32, None, (8, 8)), (32, 64, 96, None, (8, 12)), (32, 17, 31, None, (8, 15)), (32, 17, 31, 3, (3, 5)),
    (96, 32, 32, None, (14, 14)),                       # not fewer than 14, where it was trained on more
    (96, 80, 123, None, (20, 31)), (96, 400, 100, None, (96, 24))])
def test_pictures_of_any_size(trained_on, height, width, patches, wanted, made, tmp_path):
    adapter = build(made[0], write(tmp_path / "e", "Dinov2", trained_on), **(dict(patches=patches) if patches else {}))
    assert adapter.grid(height, width) == wanted
    torch.nn.init.ones_(adapter.head.bias)
    with torch.no_grad():
        torch.testing.assert_close(adapter.say(torch.zeros(1, 3, height, width)), torch.ones(1, 3, height, width))


def test_its_own_normalisation_counts(made, folder, tmp_path):
    other = shutil.copytree(folder, tmp_path / "other")
    (other / "preprocessor_config.json").write_text(json.dumps(dict(image_mean=[0.1, 0.2, 0.3], image_std=[1, 2, 3])))
    assert read_encoder(str(other)).mean == (0.1, 0.2, 0.3) and read_encoder(str(other)).std == (1, 2, 3)
    assert read_encoder(str(folder)).mean[0] == 0.485 and read_encoder(str(folder)).digest != read_encoder(str(other)).digest
    (other / "preprocessor_config.json").write_text(json.dumps(dict(image_std=[1, 0, 1])))
    with pytest.raises(CheckpointError, match=r"image_std=\[1, 0, 1\], expected three numbers above 0"):
        read_encoder(str(other))


def test_another_encoder_is_refused(made, folder, tmp_path):
    generator, _ = made
    kept = build(generator, folder).state()
    moved = shutil.copytree(folder, tmp_path / "moved")
    build(generator, moved, "b").load_state(kept)           # the same weights elsewhere
    for name, other, options in (("c", write(tmp_path / "other", seed=1), {}),
                                 ("d", changed(folder, tmp_path / "eps", layer_norm_eps=0.1), {}),
                                 ("e", folder, dict(weights="random"))):
        with pytest.raises(ValueError, match="is not the encoder this adapter was trained on .sha256 [0-9a-f]{12}, expected"):
            build(generator, other, name, **options).load_state(kept)
    with pytest.raises(ValueError, match="its weights do not fit"):
        build(generator, folder, "f", rank=3).load_state(kept)


def test_random_weights_are_the_same_network_untrained(made, folder):
    generator, pairs = made
    own, fresh, again, other = (build(generator, folder, n, weights=w) for n, w in (
        ("a", "pretrained"), ("b", "random"), ("c", "random:0"), ("d", "random:1")))
    names = own.network.state_dict()
    assert all(fresh.network.state_dict()[k].shape == v.shape for k, v in names.items() if ".lora_" not in k)
    place = "encoder.layer.1.mlp.fc1.weight"
    assert torch.equal(fresh.network.state_dict()[place], again.network.state_dict()[place])
    assert not torch.equal(fresh.network.state_dict()[place], other.network.state_dict()[place])
    assert not torch.equal(fresh.network.state_dict()[place], names[place]) and own.size == fresh.size
    again.load_state(fresh.state())
    with pytest.raises(ValueError, match="is not the encoder"):
        other.load_state(fresh.state())


def test_nothing_of_a_configuration_but_numbers_gets_through(made, folder, tmp_path):
    hostile = changed(folder, tmp_path / "hostile", auto_map={"AutoModel": "x.Y"}, _attn_implementation="owner/kernel",
                      attn_implementation="owner/kernel", num_labels=10**9, transformers_weights="../../x")
    (hostile / "x.py").write_text("raise SystemExit")
    encoder = read_encoder(str(hostile))
    assert encoder.network.config._attn_implementation in ("sdpa", "eager")
    assert encoder.digest == read_encoder(str(folder)).digest


@pytest.mark.parametrize(("fields", "message"), [
    (dict(model_type="vit"), "is a 'vit', expected one of dinov2, dinov2_with_registers, dinov3_vit"),
    (dict(hidden_size="32"), "hidden_size='32', expected a number, 1 or more"),
    (dict(hidden_size=1 << 30), "hidden_size=1073741824, expected a number"),
    (dict(qkv_bias=1), "qkv_bias=1, expected true or false"), (dict(num_hidden_layers=3), "encoder.layer.2.* is missing"),
    (dict(hidden_act="exec"), "transformers cannot build this network .KeyError"),
    (dict(quantization_config=dict(bits=4)), "its weights are quantised")])
def test_configurations_that_are_none(fields, message, folder, tmp_path):
    with pytest.raises(ValueError, match=message):
        read_encoder(str(changed(folder, tmp_path / "e", **fields)))


def test_what_cannot_be_had_is_said(made, folder, tmp_path, monkeypatch):
    generator, _ = made
    for options, message in ((dict(model="scene"), "model: 'scene' is neither scenes, a folder, nor owner/model"),
                             (dict(weights="rand"), "weights: expected 'pretrained', 'random' or 'random:SEED', got 'rand'"),
                             (dict(patches=0), "patches: expected a whole number from 1 to 256, got 0")):
        with pytest.raises(ValueError, match=message):
            adapters.build("encoder", generator, "a", None, options)
    with pytest.raises(ValueError, match="rank: expected at least 1, got 0"):
        build(generator, folder, rank=0)
    monkeypatch.setitem(EMBEDDED, "scenes", tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="lacks its encoder 'scenes'.*zoo.train_encoder"):
        read_encoder("scenes")
    (tmp_path / "model.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{}")
    with pytest.raises(CheckpointError, match="has no config.json"):
        read_encoder(str(tmp_path))
    shutil.copy(folder / "config.json", tmp_path)
    with pytest.raises(CheckpointError, match="truncated or not a .safetensors"):
        read_encoder(str(tmp_path))

    def away(*_, **__):
        raise ConnectionError("no route")

    monkeypatch.setattr("huggingface_hub.HfApi.list_repo_files", away)
    with pytest.raises(OfflineError, match="(?s)dinov2-nowhere could not be fetched: no route.*give that as model"):
        read_encoder("facebook/dinov2-nowhere")
    assert not adapters.names_on(generator)


def test_weights_in_several_files_are_one_network(folder, tmp_path):
    state = safetensors.torch.load_file(folder / "model.safetensors")
    names = sorted(state)
    shutil.copy(folder / "config.json", tmp_path)
    files = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, keys in files.items():
        safetensors.torch.save_file({k: state[k] for k in keys}, tmp_path / file)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(
        dict(weight_map={k: file for file, keys in files.items() for k in keys})))
    assert read_encoder(str(tmp_path)).digest == read_encoder(str(folder)).digest
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match="lists model-00002-of-00002.safetensors, which is not there"):
        read_encoder(str(tmp_path))


def test_through_fit(folder, tmp_path):
    generator = FAMILIES["stylegan2"][0]()
    about = dict(method="encoder", method_options=dict(model=str(folder), patches=4), controls=[])
    probe = probes.fit(generator, out=str(tmp_path), **about, **{**SMALL, "steps": 12})
    assert isinstance(probe.adapter, Encoder) and probe.record["method"]["rank"] == 2 and probe.record["method"]["alpha"] == 2.0
    assert probe.record["method"]["scope"] is None and probe.record["method"]["parameters"] == probe.adapter.size
    loaded = probes.load(tmp_path, generator)
    assert torch.equal(loaded.predict([5]).map, probe.predict([5]).map) and loaded.adapter.grid(32, 32) == (4, 4)
    with pytest.raises(ValueError, match="scope: method 'encoder' has no scope"):
        probes.fit(generator, out=str(tmp_path / "x"), scope="affine", **about, **SMALL)


def test_a_folder_is_known_by_its_whole_path(folder, tmp_path, monkeypatch):
    generator = FAMILIES["stylegan2"][0]()
    monkeypatch.chdir(folder.parent)
    probes.fit(generator, out=str(tmp_path / "run"), method="encoder", method_options=dict(model=folder.name, patches=4),
               controls=[], **SMALL)
    monkeypatch.chdir(tmp_path)
    assert probes.load(tmp_path / "run", generator).adapter.options == dict(model=str(folder.resolve()), patches=4)


def test_the_embedded_one(made):
    generator, pairs = made
    adapter = adapters.build("encoder", generator, "a", rank=8)
    assert adapter.network.config.model_type == "dinov2_with_registers" and adapter._encoder.others == 5
    # Four layers of four projections 128 -> 128, and a head to 3 · 8².
    assert adapter.size == 4 * 4 * 8 * (128 + 128) + 192 * 128 + 192 and adapter.grid(256, 256) == (8, 8)
    assert adapter.options == dict(model="scenes")
    place = EMBEDDED["scenes"]
    assert sum(f.stat().st_size for f in place.iterdir()) < 6e6
    card = json.loads((place / "card.json").read_text())
    assert card["parameters"] == sum(v.numel() for k, v in adapter.network.state_dict().items() if ".lora_" not in k)
    assert "scenes" in card["name"] and card["recipe"]["patch"] == 8 and card["linear_readout"]["trained"]
    said = {k: v["normal mean angular error (degrees)"] for k, v in card["linear_readout"].items() if k != "scenes"}
    assert said["trained"] < said["untrained"] and said["trained"] < said["patches"] < said["place alone"]


TINY = dict(size=16, patch=4, width=16, layers=1, heads=2, mlp_ratio=2, registers=2, decoder_width=8, batch=4, ema_steps=20)


def test_the_recipe_reads_images_alone_and_ends_the_same_however_often_it_is_killed(tmp_path, monkeypatch):
    from probes.data.scenes._store import write_store
    from zoo import train_encoder

    data = str(write_store(tmp_path / "scenes", 1_000_000, 12, 16))
    read, steps, real = [], [], train_encoder.real_batch

    class Killed(BaseException):
        pass

    def watched(store, *rest):
        own = type(store).batch
        store.batch = lambda name, picks: read.append(name) or own(store, name, picks)
        steps.append(1)
        if len(steps) == 103:
            raise Killed
        return real(store, *rest)

    def train(out, recipe=TINY, steps=110):
        train_encoder.main(data, str(tmp_path / out), steps, train_encoder.Recipe(**recipe), "cpu", 0.0, 12, 4)
        return tmp_path / out

    straight = train("straight")
    monkeypatch.setattr(train_encoder, "real_batch", watched)
    with pytest.raises(Killed):
        train("broken")
    broken = train("broken")
    assert len(steps) == 102 + 1 + 10 and set(read) == {"image"}         # taken up at step 100
    names = ("model.safetensors", "config.json", "preprocessor_config.json")
    assert all((broken / name).read_bytes() == (straight / name).read_bytes() for name in names)
    cards = [json.loads((place / "card.json").read_text()) for place in (straight, broken)]
    same = ("loss", "curve", "linear_readout", "images", "parameters")
    assert [cards[0][k] for k in same] == [cards[1][k] for k in same] and cards[0]["images"] == 440
    assert read_encoder(str(broken)).mean == (0.5, 0.5, 0.5) and read_encoder(str(broken)).side == 4
    for more, message in ((dict(steps=120), "steps: the stored training is of 110 steps"),
                          (dict(recipe={**TINY, "width": 32}), "recipe: the stored training has another width")):
        with pytest.raises(ValueError, match=message):
            train("broken", **more)


def test_the_autoencoder_sees_what_is_shown_and_nothing_else():
    from zoo import train_encoder

    recipe, rng = train_encoder.Recipe(**TINY), torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    network = train_encoder.MaskedAutoencoder(recipe)
    image, order = torch.rand(3, 3, 16, 16, generator=rng) * 2 - 1, torch.rand(3, 16, generator=rng).argsort(1)
    own = network.encoder.embeddings
    for value in (own.cls_token, own.register_tokens):
        torch.nn.init.normal_(value, generator=rng)
    cut = train_encoder.patches(image, 4)
    torch.testing.assert_close(train_encoder.pixels(cut, 4), image, rtol=0, atol=0)
    everything = torch.arange(16).expand(3, -1)
    torch.testing.assert_close(network.embed(cut, everything), own(image), atol=1e-5, rtol=1e-5)
    assert network.visible == 4 and network(image, order).shape == ()
    said = {}
    handle = network.leave.register_forward_hook(lambda module, given, out: said.__setitem__(len(said), out.detach()))
    network(image, order)
    mixed = cut.clone()
    mixed.scatter_(1, order[:, 4:, None].expand(-1, -1, 48), torch.rand(3, 12, 48, generator=rng))
    network(train_encoder.pixels(mixed, 4), order)
    handle.remove()
    assert torch.equal(said[0], said[1])                    # other pixels where nothing was shown


def test_a_linear_map_is_read_off_exactly():
    from zoo import train_encoder

    rng = torch.Generator().manual_seed(0)
    normal = torch.nn.functional.normalize(torch.randn(40, 3, 8, 8, generator=rng), dim=1)
    depth = torch.rand(40, 1, 8, 8, generator=rng) + 1
    scenes = dict(image=torch.cat([normal, depth.log()], 1), normal=normal, depth=depth)
    train, test = ({k: v[part] for k, v in scenes.items()} for part in (slice(0, 30), slice(30, 40)))
    told = train_encoder.readout(lambda image: train_encoder.patches(image, 2), train, test, 2, 1e-9)
    assert told["normal mean angular error (degrees)"] < 0.1 and told["depth RMS (m)"] < 1e-3
    alone = train_encoder.readout(None, train, test, 2)
    assert alone["normal mean angular error (degrees)"] > 60 and 0.2 < alone["depth RMS (m)"] < 0.4
