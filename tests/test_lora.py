"""Adapters: on the right modules, alive, and back on the base they were trained on, alone."""

import json
import os

import pytest
import torch
from family_facts import KINDS, fresh, tiny
from obvious import native_forward
from peft import LoraConfig, PeftModel, get_peft_model
from PIL import Image

from headimpact import files
from headimpact.adapters import lora, servers
from headimpact.errors import InputError
from headimpact.tiny import bases
from headimpact.vlm import loading
from headimpact.vlm.base import Vlm
from headimpact.vlm.families import FAMILIES

SETTINGS = lora.LoraSettings(rank=2, alpha=4, targets=("q_proj", "k_proj", "v_proj"))
LAYERS = [3, 1]
PICTURE = Image.new("RGB", (128, 96), (90, 120, 30))


def header(base: Vlm) -> dict:
    facts = {"base_digest": base.digest, "base_settings": dict(base.settings)}
    return {"base": "tiny", "source": base.source, "layers": LAYERS, **facts}


def stir(peft_model: PeftModel) -> None:
    """What training would do: every lora_B moves away from zero."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in peft_model.named_parameters():
            if "lora_B" in name:
                weight.copy_(torch.randn(weight.shape, generator=generator))


def logits(base: Vlm) -> torch.Tensor:
    encoded = base.encode_image(PICTURE)
    return native_forward(base, base.tokenize(base.caption("red circle"), encoded.grid), encoded).logits[0]


kinds = pytest.mark.parametrize("folders", KINDS, indirect=True)


@pytest.fixture(scope="module", params=FAMILIES)
def folders(request, tmp_path_factory):
    """A base, one of the same shapes with other weights, an adapter of the first, and what it answers."""
    root = tmp_path_factory.mktemp(request.param)
    for name, seed in (("base", 0), ("other", 1)):
        bases.save(fresh(request.param, seed), root / name)
    base = loading.load(str(root / "base"), device="cpu", dtype="float32")
    original = logits(base)
    peft_model = lora.attach(base, LAYERS, SETTINGS, seed=5)
    stir(peft_model)
    lora.save(peft_model, root / "adapter", header(base))
    return root, original, logits(base)


@kinds
def test_an_adapter_comes_back_as_it_was(folders):
    root, original, adapted = folders
    assert (adapted - original).abs().max() > 0.01
    base = loading.load(str(root / "base"), device="cpu", dtype="float32")
    peft_model = lora.load(base, root / "adapter")
    assert torch.equal(logits(base), adapted)
    assert lora.adapted_modules(peft_model) == sorted(base.projections(LAYERS, SETTINGS.targets))
    with lora.disabled(peft_model):
        assert torch.equal(logits(base), original)
    assert torch.equal(logits(base), adapted)


def test_a_server_finds_a_module_for_every_tensor(folders):
    root, *_ = folders
    fit = servers.fit(loading.skeleton(str(root / "base")), root / "adapter")
    assert (fit.in_base, fit.on_server, fit.max_rank, fit.problems) == (fit.tensors, fit.tensors, 8, ())
    assert fit.tensors == 2 * len(loading.skeleton(str(root / "base")).projections(LAYERS, SETTINGS.targets))


def state_of(base: Vlm) -> dict[str, tuple[str, bytes]]:
    """Every module of a base by name: of what type, and the bytes of its own weights."""
    return {
        name: (
            f"{type(module)} {list(vars(module))}",
            b"".join(p.detach().numpy().tobytes() for p in module.parameters(recurse=False)),
        )
        for name, module in base.model.named_modules()
    }


@kinds
def test_a_base_is_what_it_was_when_its_adapter_is_gone(folders):
    root, original, adapted = folders
    base = loading.load(str(root / "base"), device="cpu", dtype="float32")
    logits(base)  # transformers hooks itself into a vision tower when it runs for the first time
    before = state_of(base)
    for seed, layers in ((5, LAYERS), (6, LAYERS[:1])):  # PEFT warns where an adapter is there already
        peft_model = lora.attach(base, layers, SETTINGS, seed=seed)
        stir(peft_model)
        assert not torch.equal(logits(base), original)
        lora.detach(peft_model)
        assert state_of(base) == before
        assert torch.equal(logits(base), original)
    peft_model = lora.attach(base, LAYERS, SETTINGS, seed=5)
    stir(peft_model)
    assert torch.equal(logits(base), adapted)


def test_peft_alone_loads_it(folders):
    """The base through transformers and the adapter through PEFT, nothing of this project but the inputs."""
    root, _, adapted = folders
    base = loading.load(str(root / "base"), device="cpu", dtype="float32")
    encoded = base.encode_image(PICTURE)
    inputs = base.native_inputs(base.tokenize(base.caption("red circle"), encoded.grid), encoded)
    plain = type(base.model).from_pretrained(root / "base", dtype=torch.float32, attn_implementation="eager")
    model = PeftModel.from_pretrained(plain, str(root / "adapter"))
    with torch.inference_mode():
        torch.testing.assert_close(model(**inputs).logits[0], adapted, atol=1e-4, rtol=0)


@kinds
def test_another_base_of_the_same_shapes_is_refused_with_both_digests(folders):
    root, _, _ = folders
    base = loading.load(str(root / "base"), device="cpu", dtype="float32")
    other = loading.load(str(root / "other"), device="cpu", dtype="float32")
    assert base.digest != other.digest
    with pytest.raises(InputError, match=f"{base.digest[:12]}.*not on .*{other.digest[:12]}"):
        lora.load(other, root / "adapter")
    assert not lora.adapted_modules(other.model)


@kinds
def test_another_config_of_the_same_weights_is_refused_with_its_name(folders):
    root, *_ = folders
    config = root / "base" / "config.json"
    before = config.read_text()
    content = json.loads(before)
    try:
        config.write_text(json.dumps(content | {"transformers_version": "0"}))  # says who wrote it, and no more
        lora.load(loading.load(str(root / "base"), device="cpu", dtype="float32"), root / "adapter")
        content["text_config"]["rms_norm_eps"] = 10.0
        config.write_text(json.dumps(content))
        with pytest.raises(InputError, match=r"with another config\.json than .*base has now"):
            lora.load(loading.load(str(root / "base"), device="cpu", dtype="float32"), root / "adapter")
    finally:
        config.write_text(before)


@pytest.fixture(scope="module")
def base() -> Vlm:
    return tiny("idefics3")


@pytest.fixture
def changeable() -> Vlm:
    """The same, to be changed."""
    return fresh("idefics3")


def test_who_may_read_a_base_and_an_adapter_is_what_the_umask_says(changeable, tmp_path):
    before = os.umask(0o027)
    try:
        bases.save(changeable, tmp_path / "base")
        lora.save(lora.attach(changeable, LAYERS, SETTINGS, seed=5), tmp_path / "adapter", header(changeable))
    finally:
        os.umask(before)
    for name in ("base", "adapter"):
        assert {oct(path.stat().st_mode)[-3:] for path in (tmp_path / name).iterdir()} == {"640"}


def test_the_saved_files_are_the_same_in_every_process_and_place(changeable, tmp_path):
    """Adapters are compared by their bytes: no set's order, no folder of this machine."""
    changeable.model.name_or_path = "/somewhere/on/this/machine"
    changeable.source, changeable.revision = "owner/name", "abc"
    lora.save(lora.attach(changeable, range(4), SETTINGS, seed=5), tmp_path / "adapter", header(changeable))
    names = sorted(path.name for path in (tmp_path / "adapter").iterdir())
    assert names == ["adapter_config.json", "adapter_model.safetensors", "header.json"]
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert config["target_modules"] == sorted(changeable.projections(range(4), SETTINGS.targets))
    assert (config["base_model_name_or_path"], config["revision"]) == ("owner/name", "abc")
    assert (config["r"], config["lora_alpha"], config["lora_dropout"], config["bias"]) == (2, 4, 0, "none")
    assert "this/machine" not in json.dumps(config)


def test_the_seed_alone_decides_the_first_weights(tmp_path):
    digests = []
    for name, seed, noise in (("one", 5, 1), ("two", 5, 2), ("three", 6, 1)):
        base = fresh("idefics3")
        torch.manual_seed(noise)
        state = torch.random.get_rng_state()
        lora.save(lora.attach(base, LAYERS, SETTINGS, seed), tmp_path / name, {})
        assert torch.equal(torch.random.get_rng_state(), state)
        digests.append(files.digest_folder(tmp_path / name))
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize("missing", ["header.json", "adapter_config.json", "adapter_model.safetensors"])
def test_a_folder_that_is_no_adapter_is_refused(changeable, tmp_path, missing):
    lora.save(lora.attach(changeable, LAYERS, SETTINGS, seed=5), tmp_path / "adapter", header(changeable))
    (tmp_path / "adapter" / missing).unlink()
    with pytest.raises(InputError, match=f"adapter is no adapter: it lacks {missing}"):
        lora.load(fresh("idefics3"), tmp_path / "adapter")


@pytest.mark.parametrize("damaged", ["header.json", "adapter_config.json", "adapter_model.safetensors"])
def test_a_damaged_adapter_is_refused(changeable, tmp_path, damaged):
    lora.save(lora.attach(changeable, LAYERS, SETTINGS, seed=5), tmp_path / "adapter", header(changeable))
    path = tmp_path / "adapter" / damaged
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(InputError, match=r"adapter in .* is damaged|(header|config)\.json is not valid JSON"):
        lora.load(fresh("idefics3"), tmp_path / "adapter")


def test_target_modules_are_full_names_layer_by_layer(base):
    assert base.projections([2, 0], ["q_proj", "v_proj"]) == [
        "model.text_model.layers.0.self_attn.q_proj",
        "model.text_model.layers.0.self_attn.v_proj",
        "model.text_model.layers.2.self_attn.q_proj",
        "model.text_model.layers.2.self_attn.v_proj",
    ]


def test_parameters(base, changeable):
    """A projection of 96 x 96 at rank 2 has 2 * (96 + 96) adapter parameters; two layers have six of them."""
    before = sum(parameter.numel() for parameter in base.model.parameters())
    counts = lora.count_parameters(lora.attach(changeable, LAYERS, SETTINGS, seed=0))
    assert counts == lora.Parameters(before + 6 * 2 * (96 + 96), 6 * 2 * (96 + 96))
    assert lora.Parameters(total=4000, trainable=10).percent == 0.25


@pytest.mark.parametrize(
    ("layers", "count", "rank", "expected"),
    [
        (12, 12, 8, [8] * 12),
        (12, 3, 8, [2] * 12),
        (3, 1, 5, [1, 2, 2]),
        (12, 4, 8, [2, 3, 3, 2, 3, 3, 2, 3, 3, 2, 3, 3]),
        (4, 1, 2, [0, 1, 0, 1]),
    ],
)
def test_ranks_of_all_layers_on_the_budget_of_a_few(layers, count, rank, expected):
    ranks = lora.spread(layers, count, rank)
    assert [ranks.get(layer, 0) for layer in range(layers)] == expected
    assert sum(ranks.values()) == count * rank
    assert 0 not in ranks.values()


def test_layers_with_ranks_of_their_own_train_as_much_as_one_with_all_and_come_back(changeable, base, tmp_path):
    ranks = {0: 1, 2: 1, 3: 2}
    peft_model = lora.attach(changeable, list(ranks), SETTINGS, 0, ranks)
    adapters = {n: m for n, m in peft_model.named_modules() if isinstance(m, lora.LoraLayer)}
    for name, module in adapters.items():
        (layer,) = (layer for layer in ranks if f".layers.{layer}." in name)
        assert module.r["default"] == ranks[layer]
        assert module.scaling["default"] == SETTINGS.alpha / SETTINGS.rank
    one = lora.attach(fresh("idefics3"), [0, 3], SETTINGS, 0)
    assert lora.count_parameters(peft_model).trainable == lora.count_parameters(one).trainable
    stir(peft_model)
    lora.save(peft_model, tmp_path / "adapter", header(base))
    again = fresh("idefics3")
    lora.load(again, tmp_path / "adapter")
    assert torch.equal(logits(again), logits(changeable))


def test_adapter_weights_are_float32_on_a_base_of_half_precision(changeable):
    changeable.model.to(torch.bfloat16)
    peft_model = lora.attach(changeable, LAYERS, SETTINGS, seed=0)
    trained = {p.dtype for p in peft_model.parameters() if p.requires_grad}
    assert trained == {torch.float32}
    assert {p.dtype for p in peft_model.parameters() if not p.requires_grad} == {torch.bfloat16}


def test_a_layer_that_does_not_exist_is_refused(changeable):
    with pytest.raises(InputError, match="Layer 99 of tiny idefics3 has no attention"):
        lora.attach(changeable, [1, 99], SETTINGS, seed=0)


# ---- liveness


@pytest.fixture
def adapted(changeable) -> tuple[PeftModel, list[str]]:
    peft_model = lora.attach(changeable, LAYERS, SETTINGS, seed=0)
    return peft_model, changeable.projections(LAYERS, SETTINGS.targets)


def test_a_trained_adapter_is_alive(adapted):
    peft_model, names = adapted
    stir(peft_model)
    lora.check_liveness(peft_model, names, changed_logits=1e-3)


def test_an_adapter_that_was_never_trained_is_refused(adapted):
    with pytest.raises(lora.DeadAdapterError, match=r"^6 lora_B matrices .*layers\.1\.self_attn\.q_proj\.lora_B"):
        lora.check_liveness(*adapted, changed_logits=1.0)


def test_a_single_matrix_that_never_moved_is_named(adapted):
    peft_model, names = adapted
    stir(peft_model)
    still = next(w for n, w in peft_model.named_parameters() if "layers.3.self_attn.v_proj.lora_B" in n)
    torch.nn.init.zeros_(still)
    with pytest.raises(lora.DeadAdapterError, match=r"^1 lora_B .*layers\.3\.self_attn\.v_proj\.lora_B"):
        lora.check_liveness(peft_model, names, changed_logits=1.0)


@pytest.mark.parametrize("change", [0.0, float("nan")])
def test_logits_that_do_not_change_are_refused(adapted, change):
    peft_model, names = adapted
    stir(peft_model)
    with pytest.raises(lora.DeadAdapterError, match="does not change the logits"):
        lora.check_liveness(peft_model, names, changed_logits=change)


def test_other_modules_than_meant_are_refused_by_name(changeable):
    """PEFT's own way to choose layers adapts the vision tower, too."""
    config = LoraConfig(r=2, target_modules=list(SETTINGS.targets), layers_to_transform=LAYERS)
    peft_model = get_peft_model(changeable.model, config)
    stir(peft_model)
    names = changeable.projections(LAYERS, SETTINGS.targets)
    with pytest.raises(lora.DeadAdapterError, match=r"extra \['model\.vision_model.*missing \[\]"):
        lora.check_liveness(peft_model, names, changed_logits=1.0)


def test_missing_modules_are_refused_by_name(adapted):
    peft_model, names = adapted
    stir(peft_model)
    more = [*names, "model.text_model.layers.2.self_attn.q_proj"]
    with pytest.raises(lora.DeadAdapterError, match=r"extra \[\], missing \['model.text_model.layers.2"):
        lora.check_liveness(peft_model, more, changed_logits=1.0)
