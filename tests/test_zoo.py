"""Import of published weights: same picture and bits for CompressAI's models, layouts of the authors' files."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import compressai.models
import pytest
import torch
from compressai.entropy_models import EntropyBottleneck, GaussianConditional
from torch import Tensor, nn

from lic_train.errors import CheckpointError, ConfigError
from lic_train.files import bitstream
from lic_train.files.checkpoint import load_model, read_metadata, save_model
from lic_train.files.zoo.__main__ import main
from lic_train.files.zoo.network import shapes
from lic_train.files.zoo.published import facts, find
from lic_train.files.zoo.reading import present_name, read_weights
from lic_train.files.zoo.recognition import known_networks, recognise
from lic_train.files.zoo.take_over import take_over
from lic_train.models.base import build
from lic_train.report import cited
from tests.conftest import SHARED
from tests.golden_fill import key_table
from tests.tiny import FACTORIZED, make_codec, picture

GROUPS = (2, 2, 4, 4, 8)
MODELS: dict[str, tuple[str, type[nn.Module], dict[str, Any]]] = {
    "bmshj2018_factorized": ("FactorizedPrior", compressai.models.FactorizedPrior, {"N": 8, "M": 12}),
    "bmshj2018_hyperprior": ("ScaleHyperprior", compressai.models.ScaleHyperprior, {"N": 8, "M": 12}),
    "mbt2018_mean": ("MeanScaleHyperprior", compressai.models.MeanScaleHyperprior, {"N": 8, "M": 12}),
    "mbt2018": ("JointAutoregressive", compressai.models.JointAutoregressiveHierarchicalPriors, {"N": 8, "M": 12}),
    "cheng2020_anchor": ("Cheng2020Anchor", compressai.models.Cheng2020Anchor, {"N": 8}),
    "cheng2020_attn": ("Cheng2020Attention", compressai.models.Cheng2020Attention, {"N": 8}),
    "elic2022": ("ELIC", compressai.models.Elic2022Official, {"N": 8, "M": 20, "groups": GROUPS}),
}


def theirs(name: str) -> nn.Module:
    """Return CompressAI's model with random weights, solved medians and varied latents, ready to code."""
    torch.manual_seed(3)
    _, kind, arguments = MODELS[name]
    model = kind(**arguments).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter) * parameter.abs().mean())
        last = [layer for layer in model.g_a.modules() if isinstance(layer, nn.Conv2d)][-1]
        last.weight.mul_(30)
        for parameters in predictors(model):
            parameters.bias[: last.out_channels].add_(6)  # scales come first; outliers have no defined code length
    for part in model.modules():
        if isinstance(part, EntropyBottleneck):
            part.update(force=True, update_quantiles=True)
        elif isinstance(part, GaussianConditional):
            part.update_scale_table(torch.exp(torch.linspace(-2.2, 5.5, 64)), force=True)
    return model


def predictors(model: nn.Module) -> list[nn.Module]:
    """Return the last layers that predict the scales of y: one, or one per group of ELIC."""
    named = dict(model.named_modules())
    heads = [part for name, part in named.items() if name.endswith("entropy_parameters")] or [
        named.get("h_s", nn.Module())
    ]
    lasts = [[layer for layer in head.modules() if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)] for head in heads]
    return [layers[-1] for layers in lasts if layers]


def config(name: str, **more: Any) -> dict[str, Any]:
    kind, _, arguments = MODELS[name]
    return {"_target_": f"lic_train.models.{name}.{kind}", **arguments, **more}


def image() -> Tensor:
    return picture(256, 256)[None].float() / 255


@pytest.mark.parametrize("name", MODELS)
def test_imported_model_decodes_the_picture_of_compressai_with_its_bits(name: str, tmp_path: Path) -> None:
    model = theirs(name)
    path = tmp_path / "weights.pth.tar"
    torch.save(model.state_dict(), path)
    # ELIC's groups do not follow from its widths.
    codec, found = take_over([path], config(name) if name == "elic2022" else None)
    assert found.config == config(name)
    with torch.no_grad():
        coded = model.compress(image())
        picture_there = model.decompress(**coded)["x_hat"]
        out = codec(image())
    # Means are rounded to multiples of 2^-8 here, which also changes a few symbols near a boundary.
    difference = out["x_hat"].clamp(0, 1).sub(picture_there).abs()
    assert difference.mean() < 0.02 * picture_there.std()
    assert picture_there.std() > 0.01
    strings = _flat(coded["strings"])
    bits_there = 8 * sum(map(len, strings))
    bits = -sum(likelihoods.log2().sum() for likelihoods in out["likelihoods"].values())
    assert bits_there == pytest.approx(float(bits), rel=0.03, abs=64 * len(strings))  # each string ends with two words
    assert bits_there > 3000
    x = picture(97, 131)
    codec.update()
    data = bitstream.encode(codec, x.float() / 255, fingerprint=bytes(8))
    assert bitstream.decode(codec, data, fingerprint=bytes(8)).shape == x.shape


def _flat(strings: Any) -> list[bytes]:
    """Flatten the strings, which ELIC nests by group and pass."""
    return [strings] if isinstance(strings, bytes) else [string for part in strings for string in _flat(part)]


def old_names(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names of releases before 1.2, from a model inside DataParallel."""
    singular = {"matrices": "_matrix", "biases": "_bias", "factors": "_factor"}
    found = {}
    for name, tensor in weights.items():
        for plural, one in singular.items():
            name = name.replace(f"entropy_bottleneck.{plural}.", f"entropy_bottleneck.{one}")
        found[f"module.{name}"] = tensor
    return found


def test_checkpoint_of_the_example_script_with_old_names(tmp_path: Path) -> None:
    weights = theirs("mbt2018_mean").state_dict()
    torch.save(weights, tmp_path / "new.pth.tar")
    content = {"epoch": 3, "loss": torch.tensor(1.0), "state_dict": old_names(weights)}
    torch.save(content, tmp_path / "old.pth.tar", _use_new_zipfile_serialization=False)
    new, old = (take_over([tmp_path / f"{age}.pth.tar"])[0] for age in ("new", "old"))
    assert all(torch.equal(value, old.state_dict()[name]) for name, value in new.state_dict().items())


# ---- reading ----


@pytest.mark.parametrize("container", ["state_dict", "model_state_dict", "model", "net", "ema", None])
@pytest.mark.parametrize("prefix", ["", "module.", "model.", "net.", "_orig_mod.", "codec.", "module.model._orig_mod."])
def test_containers_and_prefixes_are_removed(container: str | None, prefix: str, tmp_path: Path) -> None:
    weights = {"g_a.0.weight": torch.ones(2), "h_s.model.weight": torch.zeros(3)}
    content: Any = {prefix + name: tensor for name, tensor in weights.items()}
    if container:
        content = {"epoch": 3, container: content, "optimizer": {"state": {0: {"step": torch.tensor(1.0)}}}}
    torch.save(content, tmp_path / "a.pt", _use_new_zipfile_serialization=prefix != "module.")
    assert {name: tensor.tolist() for name, tensor in read_weights([tmp_path / "a.pt"]).items()} == {
        "g_a.0.weight": [1, 1],
        "h_s.model.weight": [0, 0, 0],
    }


def test_averaged_weights_have_priority(tmp_path: Path) -> None:
    torch.save({"model": {"a": torch.zeros(1)}, "ema": {"module": {"a": torch.zeros(1)}}}, tmp_path / "odd.pt")
    torch.save({"model": {"a": torch.zeros(1)}, "ema": {"a": torch.ones(1)}}, tmp_path / "a.pt")
    assert read_weights([tmp_path / "a.pt"])["a"] == 1
    with pytest.raises(CheckpointError, match="does not contain weights"):
        read_weights([tmp_path / "odd.pt"])


@pytest.mark.parametrize(
    ("there", "here"),
    [
        ("entropy_bottleneck._matrix3", "entropy_bottleneck.matrices.3"),
        ("entropy_bottleneck._matrices.3", "entropy_bottleneck.matrices.3"),
        ("entropy_bottleneck._bias0", "entropy_bottleneck.biases.0"),
        ("factorized_entropy_func._bias.0", "factorized_entropy_func.biases.0"),
        ("factorized_entropy_func._factor.2", "factorized_entropy_func.factors.2"),
        ("module.g_a.0.downsample.weight", "g_a.0.skip.weight"),
        ("layers.0.downsample.reduction.weight", "layers.0.downsample.reduction.weight"),
        ("h_a._orig_mod.0.weight", "h_a.0.weight"),
    ],
)
def test_names_of_wrappers_and_earlier_releases(there: str, here: str) -> None:
    assert present_name(there) == here


@pytest.mark.parametrize("content", ["nothing", "garbage", "cut", "a list", "numbers", "code"])
def test_file_without_weights_raises(content: str, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth.tar"
    torch.save(make_codec(FACTORIZED).state_dict(), path)
    data = path.read_bytes()
    if content == "nothing":
        path.unlink()
    elif content in ("garbage", "cut"):
        path.write_bytes(b"\x80\x02" + bytes(range(256)) * 9 if content == "garbage" else data[: len(data) // 2])
    else:
        torch.save({"a list": [1, 2], "numbers": {"epoch": 3}, "code": Path("/")}[content], path)
    with pytest.raises(CheckpointError, match="does not contain weights"):
        take_over([path])


def test_no_flipped_bit_changes_a_weight(tmp_path: Path) -> None:
    """A flipped bit in a field of the zip file that nothing reads may be overlooked, one in a tensor never."""
    generator = torch.Generator().manual_seed(5)
    weights = {f"g_a.{layer}.weight": torch.randn(9, 9, 3, 3, generator=generator) for layer in range(3)}
    torch.save({"state_dict": weights}, tmp_path / "a.pth.tar")
    content = (tmp_path / "a.pth.tar").read_bytes()
    refused = 0
    for position in torch.randint(8 * len(content), (300,), generator=generator).tolist():
        damaged = bytearray(content)
        damaged[position // 8] ^= 1 << position % 8
        (tmp_path / "b.pth.tar").write_bytes(damaged)
        try:
            read = read_weights([tmp_path / "b.pth.tar"])
        except CheckpointError:
            refused += 1
        else:
            assert all(torch.equal(read[name], tensor) for name, tensor in weights.items()), position
    assert refused > 200
    (tmp_path / "b.pth.tar").write_bytes(content)
    assert read_weights([tmp_path / "b.pth.tar"]).keys() == weights.keys()


def test_a_tensor_in_two_files_raises(tmp_path: Path) -> None:
    for name in ("a.pt", "b.pt"):
        torch.save({"g_a.0.weight": torch.ones(2)}, tmp_path / name)
    with pytest.raises(CheckpointError, match=r"(?s)b\.pt contains a tensor twice.*got: g_a\.0\.weight"):
        read_weights([tmp_path / "a.pt", tmp_path / "b.pt"])


# ---- the authors' layouts, at small widths ----

# Model -> (tables of the authors' names, arguments of a small network).
LAYOUTS: dict[str, tuple[list[str], dict[str, Any]]] = {
    "cwam": (["cwam_n128"], {"N": 16}),
    "tinylic": (["tinylic"], {"N": 32, "M": 80}),
    "gaacnn": (["gaacnn_net_m192", "gaacnn_context_m192"], {"M": 16, "N": 8}),
}
MASKED = {
    "cwam": ("context_prediction", "context.context_prediction"),
    "tinylic": ("sc_transform_4", "context.spatial_context.1.0"),
    "gaacnn": ("conv1", "context.context_prediction"),
}


def small_config(name: str) -> dict[str, Any]:
    network = next(network for network in known_networks() if network.name == name)
    return {**network._config(), **LAYOUTS[name][1]}


def authors_file(name: str) -> dict[str, Tensor]:
    """Return the authors' tensors of a small network with random values, buffers and unused tensors included."""
    network = next(network for network in known_networks() if network.name == name)
    there = {key: shape for table in LAYOUTS[name][0] for key, shape in key_table(table).items()}
    names = network.renamed({}, {present_name(key): torch.zeros(1) for key in there}).theirs
    here = {key: name for name, key in names.items()}
    expected = shapes(small_config(name))
    torch.manual_seed(0)
    weights = {}
    for key, shape in there.items():
        found = expected.get(here.get(present_name(key), ""))
        weights[key] = torch.rand(shape_there(found, shape)) if found is not None else torch.rand(3)
        if key.endswith("running_mean"):
            weights[key.replace("running_mean", "num_batches_tracked")] = torch.tensor(7)
    weight = weights[f"{MASKED[name][0]}.weight"]
    mask = torch.ones_like(weight)
    mask.flatten(1)[:, weight[0].numel() // 2 :] = 0
    buffers = {"h_a.relative_position_index": torch.zeros(4, dtype=torch.int64), "gaussian.scale_table": torch.ones(0)}
    return {**weights, **buffers, f"{MASKED[name][0]}.mask": mask}


def shape_there(here: tuple[int, ...], table: tuple[int, ...]) -> tuple[int, ...]:
    """Return the small shape in the authors' layout: with their dimensions of size 1, or as one column."""
    sides = iter(side for side in here if side != 1)
    if len(here) == len(table):
        return here
    if len([side for side in here if side != 1]) == len([side for side in table if side != 1]):
        return tuple(1 if side == 1 else next(sides) for side in table)
    return (math.prod(here), 1)


@pytest.mark.parametrize("name", LAYOUTS)
def test_authors_file_is_recognised_and_taken_over(name: str, tmp_path: Path) -> None:
    weights = authors_file(name)
    torch.save({"state_dict": {f"module.{key}": tensor for key, tensor in weights.items()}}, tmp_path / "a.pth.tar")
    codec, found = take_over([tmp_path / "a.pth.tar"])
    assert found.config == small_config(name)
    state = codec.state_dict()
    there, here = MASKED[name]
    expected = (weights[f"{there}.weight"] * weights[f"{there}.mask"]).reshape(state[f"{here}.weight"].shape)
    assert torch.equal(state[f"{here}.weight"], expected)
    given = {present_name(key): tensor for key, tensor in weights.items()}
    for name_here, key in found.theirs.items():
        if name_here != f"{here}.weight" and not name_here.endswith(".quantiles"):
            assert torch.equal(state[name_here].flatten(), given[key].flatten()), key
    if name == "gaacnn":  # the file has no quantiles
        assert codec.aux_loss().item() < 1e-3 * codec.entropy_bottleneck.channels
    else:
        medians = weights["entropy_bottleneck.quantiles"][:, 0, 1]
        assert torch.equal(codec.entropy_bottleneck.medians.flatten(), medians)
        assert codec.aux_loss().item() > 1  # the medians of random weights are not those of the density
        save_model(tmp_path / "a.safetensors", codec, found.config, {})
        loaded, _ = load_model(tmp_path / "a.safetensors")
        assert torch.equal(loaded.entropy_bottleneck.medians.flatten(), medians)


def test_half_precision_gives_float32_weights(tmp_path: Path) -> None:
    full = authors_file("cwam")
    weights = {key: tensor.half() if tensor.is_floating_point() else tensor for key, tensor in full.items()}
    torch.save(weights, tmp_path / "a.pt")
    codec, _ = take_over([tmp_path / "a.pt"])
    assert {tensor.dtype for tensor in codec.state_dict().values()} == {torch.float32}
    assert torch.equal(codec.g_a[1].weight, weights["cnn.g_a.0.weight"].float())


def test_two_files_are_one_network(tmp_path: Path) -> None:
    weights = authors_file("gaacnn")
    context = {key: tensor for key, tensor in weights.items() if key.startswith("conv")}
    torch.save({key: tensor for key, tensor in weights.items() if key not in context}, tmp_path / "mse1.pkl")
    torch.save(context, tmp_path / "mse1p.pkl")
    assert recognise(read_weights([tmp_path / "mse1.pkl", tmp_path / "mse1p.pkl"])).config == small_config("gaacnn")
    with pytest.raises(CheckpointError, match=r"(?s)closest to gaacnn.*context\.\S+ is missing.*give all of them"):
        take_over([tmp_path / "mse1.pkl"])


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ("cwam_n192", {"N": 192}),
        ("cwam_n320", {"N": 320}),
        ("gaacnn_net_m320+gaacnn_context_m320", {"M": 320, "N": 128}),
        ("tinylic", {"N": 128, "M": 320}),
        ("tcm_n96", {"N": 96}),
        ("invcompress_n192", {"N": 192}),
        ("stf", {}),
        ("wacnn", {}),
        ("qres34m", {}),
        ("dcae", {}),
    ],
)
def test_published_widths_are_recognised(table: str, expected: dict[str, int]) -> None:
    paths = [SHARED.parent / "specs" / "keys" / f"{name}.tsv" for name in table.split("+")]
    if not paths[0].is_file():
        pytest.skip("the key tables are not next to the repository")
    name = {"qres34m": "qres_vae"}.get(table, table.partition("_")[0])
    if name not in {network.name for network in known_networks()}:
        pytest.skip(f"{name} is not here yet")
    rows = [line.split("\t") for path in paths for line in path.read_text().splitlines()[1:]]
    sizes = {key: () if shape == "scalar" else tuple(map(int, shape.split("x"))) for key, shape, *_ in rows}
    found = recognise({present_name(key): torch.zeros(()).expand(shape) for key, shape in sizes.items()})
    assert found.name == name
    assert expected.items() <= found.config.items()


# ---- errors ----


def changed(problem: str) -> dict[str, Tensor]:
    """Return CWAM's authors' file with one problem."""
    weights = authors_file("cwam")
    if problem == "too many":
        weights["cnn.g_a.9.weight"] = torch.ones(3)
    elif problem == "too few":
        del weights["cnn.g_a.0.bias"]
    elif problem == "another shape":
        weights["cnn.g_a.2.weight"] = torch.ones(16, 16, 3, 3)
    elif problem == "not finite":
        weights["h_a.2.bias"][1] = torch.inf
    return weights


@pytest.mark.parametrize(
    ("problem", "message"),
    [
        ("too many", r"(?s)closest to cwam with N=16.*\n  cnn\.g_a\.9\.weight is unknown"),
        ("too few", r"(?s)closest to cwam with N=16.*\n  g_a\.1\.bias is missing"),
        (
            "another shape",
            r"(?s)closest to cwam with N=16.*\n  cnn\.g_a\.2\.weight \(here g_a\.3\.weight\): expected shape "
            r"\(16, 16, 5, 5\), got \(16, 16, 3, 3\)\nto do",
        ),
        ("not finite", r"NaN or infinity in h_a\.2\.bias"),
    ],
)
def test_a_wrong_tensor_is_named(problem: str, message: str, tmp_path: Path) -> None:
    torch.save(changed(problem), tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=message):
        take_over([tmp_path / "a.pt"])


def test_unknown_network_names_the_closest_model_and_the_first_difference() -> None:
    weights = dict(build({"_target_": "lic_train.models.mbt2018.JointAutoregressive", "N": 8, "M": 12}).state_dict())
    weights["g_s.0.weight"] = torch.ones(12, 8, 7, 7)
    with pytest.raises(CheckpointError, match=r"(?s)one of .*cwam.*closest to mbt2018 with N=8, M=12.*g_s\.0\.weight"):
        recognise(weights)
    with pytest.raises(CheckpointError, match=r"(?s)closest to bmshj2018.*g_a\.0\.bias is missing.*more"):
        recognise({"layer1.weight": torch.ones(3), "g_a.0.weight": torch.ones(8, 3, 5, 5)})


def test_weights_of_another_model_or_width_than_the_given_one_raise(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth.tar"
    torch.save(theirs("mbt2018_mean").state_dict(), path)
    with pytest.raises(CheckpointError, match=r"g_a\.0\.weight: expected .*\(16, 3, 5, 5\), got .*\(8, 3, 5, 5\)"):
        take_over([path], config("mbt2018_mean", N=16))
    with pytest.raises(CheckpointError, match="those of another model"):
        take_over([path], config("bmshj2018_factorized"))
    with pytest.raises(ConfigError, match=r"(?s)cannot be imported for .*iblic.*one of .*cwam"):
        take_over([path], {"_target_": "lic_train.models.iblic.IBLIC", "N": 32, "M": 80})
    with pytest.raises(ConfigError, match=r"N: expected a positive multiple of 16"):
        take_over([path], {"_target_": "lic_train.models.cwam.CWAM", "N": 13})


# ---- the command, and published results ----


def test_command_line_writes_a_model_with_its_lambda(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(theirs("bmshj2018_factorized").state_dict(), tmp_path / "a.pth.tar")
    out = tmp_path / "a.safetensors"
    main([str(tmp_path / "a.pth.tar"), str(out), "lambda=0.013"])
    codec, metadata = load_model(out)
    assert metadata.extra == {"lambda": 0.013, "distortion": "mse", "source": "a.pth.tar"}
    assert codec(image())["x_hat"].shape == (1, 3, 256, 256)
    printed = capsys.readouterr().out.replace("\n", " ")
    assert "bmshj2018_factorized with N=8, M=12: recognised from the names and shapes of" in printed
    assert "--quality-from NAME selects one: bmshj2018-factorized-prior-1," in printed
    assert metadata.fingerprint.hex() in printed


@pytest.mark.parametrize("named_by", ["file", "folder", "option", "nothing"])
def test_published_result_is_found_by_name(named_by: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = "bmshj2018-factorized-prior-3"
    folder = tmp_path / (f"exp_{name}_mse" if named_by == "folder" else "exp") / "checkpoints"
    folder.mkdir(parents=True)
    path = folder / (f"{name}-5c6f152b.pth.tar" if named_by == "file" else "checkpoint.pth.tar")
    torch.save(make_codec(FACTORIZED).state_dict(), path)
    out = tmp_path / "out.safetensors"
    main([str(path), str(out), *(["--quality-from", name] if named_by == "option" else [])])
    printed = capsys.readouterr().out
    extra = read_metadata(out).extra
    if named_by == "nothing":
        assert "published" not in extra
        assert "lambda" not in extra
        assert "lambda is not known" in printed
        return
    assert extra["lambda"] == 0.0067
    published = {key: extra["published"][key] for key in ("name", "set", "bpp", "psnr")}
    assert published == {"name": name, "set": "kodak", "bpp": 0.288, "psnr": 29.62}
    assert extra["published"]["options"] == {"padding": "zero_centred", "multiple": 64, "psnr": "float"}
    assert f"published as {name}: kodak 0.288 bpp 29.62 dB" in printed


def test_unknown_published_name_lists_the_known_ones(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(make_codec(FACTORIZED).state_dict(), tmp_path / "a.pt")
    assert main([str(tmp_path / "a.pt"), str(tmp_path / "a.safetensors"), "--quality-from", "q5"]) == 2
    assert "bmshj2018-factorized-prior-1, bmshj2018-factorized-prior-2" in capsys.readouterr().err.replace("\n", " ")


@pytest.mark.parametrize(
    ("model", "arguments", "word", "name", "lmbda"),
    [
        ("cwam", {"N": 128}, "mse_00975.pth.tar", "mse_00975", 0.00975),
        ("cwam", {"N": 128}, "mse_009750.pth.tar", None, None),
        ("stf", {}, "stf_0018_best.pth.tar", "stf_0018", 0.0018),
        ("tcm", {"N": 64}, "0.0025.pth.tar", "0.0025", 0.0025),
        ("tcm", {"N": 64}, "0.013.pth..tar", "0.013", 0.013),
        ("tcm", {"N": 128}, "0.013.pth..tar", None, None),
        ("tcm", {"N": 128}, "0.05.pth.tar", "0.05", 0.05),
        ("qres_vae", {}, "qres34m-lmb128.pt", "lmb128", 0.03408),
        ("invcompress", {"N": 128}, "mse_q2_checkpoint.pth.tar", "mse_q2", None),
    ],
)
def test_names_of_published_files(model: str, arguments: Any, word: str, name: str | None, lmbda: float | None) -> None:
    found = find({"_target_": f"lic_train.models.{model}.X", **arguments}, [Path("/x") / word], None)
    assert (found and found.result.name, found and found.lmbda) == (name, lmbda)


def test_ms_ssim_results_are_found_by_the_distortion() -> None:
    config, path = {"_target_": "lic_train.models.tinylic.TinyLIC"}, [Path("q3.pth.tar")]
    mse, similarity = find(config, path, None), find(config, path, "ms_ssim")
    assert mse is not None
    assert similarity is not None
    assert (mse.result.described, similarity.result.described) == ("0.310 bpp 32.37 dB", "0.244 bpp MS-SSIM 0.9780")


def test_published_results_are_the_cited_ones() -> None:
    curves = {curve.key: curve for curve in cited.curves("kodak")}
    compared = set()
    for model, groups in facts().items():
        curve = curves.get(model) or curves.get(f"{model}_cited")
        if curve is None:
            continue
        compared.add(model)
        rows = [row for group in groups if group.distortion == "mse" for row in group.rows]
        assert [row[2] for row in rows] == pytest.approx([point.bpp for point in curve.points], rel=6e-3), model
        assert [row[3] for row in rows] == pytest.approx([point.psnr for point in curve.points], abs=6e-3), model
    assert compared >= {"stf", "wacnn", "qres_vae", "invcompress", "cwam", "tinylic", "mbt2018", "cheng2020_attn"}
