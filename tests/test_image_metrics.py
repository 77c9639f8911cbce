"""Further metrics of an evaluation: values of torchmetrics, result file, tables, missing weights."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
import torchmetrics.functional.image as functional
from rich.console import Console
from torchmetrics.functional.image import dists
from torchmetrics.image import LearnedPerceptualImagePatchSimilarity
from torchvision import models
from torchvision.models.vgg import cfgs, make_layers

from lic_train.data.decode.images import save_png
from lic_train.errors import ConfigError
from lic_train.evaluate.__main__ import main
from lic_train.evaluate.bench import Settings
from lic_train.evaluate.image_metrics import METRICS, _loaded, check_names, compare, definitions, prepare
from lic_train.evaluate.results import Result
from lic_train.evaluate.run import evaluate_run
from lic_train.evaluate.table import overview, table
from lic_train.files.bitstream import decode
from lic_train.rd.metrics import to_8bit
from lic_train.runs.load import load_run
from tests.tiny import HYPERPRIOR, make_run, picture

CPU = torch.device("cpu")
WITHOUT_WEIGHTS = tuple(name for name, metric in METRICS.items() if metric.weights is None)
DIRECT = {  # torchmetrics called directly: decoded and original in [0, 1]
    "ssim": lambda decoded, original: functional.structural_similarity_index_measure(decoded, original, data_range=1.0),
    "vif": lambda decoded, original: functional.visual_information_fidelity(255 * decoded, 255 * original),
    "uqi": functional.universal_image_quality_index,
    "scc": functional.spatial_correlation_coefficient,
    "sam": functional.spectral_angle_mapper,
    "ergas": functional.error_relative_global_dimensionless_synthesis,
    "rmse_sw": functional.root_mean_squared_error_using_sliding_window,
}


@pytest.fixture
def _no_cached_networks():
    _loaded.cache_clear()
    yield
    _loaded.cache_clear()


@pytest.fixture
def _no_network(monkeypatch, tmp_path, _no_cached_networks):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # a port on which nothing listens


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("run")
    make_run(path, config=HYPERPRIOR)
    return path


def pair(height: int = 97, width: int = 131) -> tuple[torch.Tensor, torch.Tensor]:
    """Original and distorted image (3, H, W) in [0, 1] without black pixels."""
    x = picture(height, width).clamp(min=20).float() / 255
    return x, (x + 0.03 * torch.randn(x.shape, generator=torch.Generator().manual_seed(1))).clamp(0.05, 1)


@pytest.mark.parametrize("name", WITHOUT_WEIGHTS)
def test_values_equal_torchmetrics_on_8_bit_images(name):
    x, x_hat = pair()
    expected = DIRECT[name](to_8bit(x_hat)[None] / 255, to_8bit(x)[None] / 255)
    assert compare([name], x, x_hat, CPU) == {name: pytest.approx(float(expected), rel=1e-6)}


@pytest.mark.parametrize("name", WITHOUT_WEIGHTS)
def test_direction_and_smallest_size_are_as_stated(name):
    x, x_hat = pair()
    same, different = compare([name], x, x, CPU)[name], compare([name], x, x_hat, CPU)[name]
    assert (same > different) == (METRICS[name].better == "higher")
    side = METRICS[name].min_side
    small = [image[:, :side, :side] for image in (x, x_hat)]
    assert compare([name], *small, CPU)[name] is not None
    if side > 1:
        smaller = [image[:, : side - 1, :side] for image in (x, x_hat)]
        assert compare([name], *smaller, CPU) == {name: None}


def test_undefined_value_is_none():
    black = torch.zeros(3, 50, 50)
    assert compare(["sam", "rmse_sw"], black, black, CPU) == {"sam": None, "rmse_sw": 0.0}


@pytest.mark.usefixtures("_no_cached_networks")
def test_lpips_equals_torchmetrics(monkeypatch):
    alexnet = models.alexnet
    monkeypatch.setattr(models, "alexnet", lambda weights: alexnet(weights=None))  # random weights, without a download
    x, x_hat = pair()
    torch.manual_seed(0)
    value = compare(["lpips"], x, x_hat, CPU)["lpips"]
    torch.manual_seed(0)
    direct = LearnedPerceptualImagePatchSimilarity(net_type="alex", normalize=True)
    assert value == pytest.approx(float(direct(to_8bit(x_hat)[None] / 255, to_8bit(x)[None] / 255)), rel=1e-5)
    assert compare(["lpips"], x, x, CPU)["lpips"] == pytest.approx(0, abs=1e-6)
    side = METRICS["lpips"].min_side
    assert compare(["lpips"], x[:, :side, :side], x_hat[:, :side, :side], CPU)["lpips"] is not None
    assert compare(["lpips"], x[:, : side - 1], x_hat[:, : side - 1], CPU)["lpips"] is None


@pytest.mark.usefixtures("_no_cached_networks")
def test_dists_equals_torchmetrics(monkeypatch):
    features = make_layers(cfgs["D"], batch_norm=False)
    monkeypatch.setattr(dists, "vgg16", lambda weights: SimpleNamespace(features=features))  # random weights
    x, x_hat = pair()
    direct = functional.deep_image_structure_and_texture_similarity(to_8bit(x_hat)[None] / 255, to_8bit(x)[None] / 255)
    assert compare(["dists"], x, x_hat, CPU)["dists"] == pytest.approx(float(direct.detach()), rel=1e-5)
    assert compare(["dists"], x, x, CPU)["dists"] == pytest.approx(0, abs=1e-6)


def test_result_file_and_tables_contain_the_metrics(run):
    images = [("large", picture(60, 70, 1)), ("dot", picture(1, 1, 3))]
    result = evaluate_run(run, images, "more", settings=Settings(panels=0, metrics=("ssim", "ergas", "vif")))
    stored = json.loads((run / "eval" / "more.json").read_text())
    assert stored == result
    codec, metadata = load_run(run)
    x_hat = decode(codec, (run / "eval" / "more" / "large.lic").read_bytes(), metadata.fingerprint)
    large, dot = stored["rows"]
    decoded, original = to_8bit(x_hat)[None] / 255, to_8bit(images[0][1][None].float() / 255) / 255
    assert large["ssim"] == pytest.approx(float(DIRECT["ssim"](decoded, original)), rel=1e-4)
    assert large["vif"] == pytest.approx(float(DIRECT["vif"](decoded, original)), rel=1e-4)
    assert (dot["ssim"], dot["vif"]) == (None, None)
    assert stored["mean"]["ssim"] is None
    assert stored["mean"]["ergas"] == pytest.approx((large["ergas"] + dot["ergas"]) / 2)
    assert definitions(["ssim", "ergas", "vif"]).items() <= stored["definitions"].items()
    assert "higher is better; null if a side is below 41 pixels" in stored["definitions"]["vif"]
    assert stored["environment"]["torchmetrics"]
    assert Result.model_validate(stored).rows[0].psnr == large["psnr"]
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(table(result))
    console.print(overview([("a/run", result), ("b/run", result)]))
    lines = [line.split() for line in console.export_text().splitlines()]
    assert lines.count(["picture", "ssim", "vif", "ergas"]) == 1
    assert ["large", f"{large['ssim']:.4f}", f"{large['vif']:.4f}", f"{large['ergas']:.4f}"] in lines
    assert ["dot", "-", "-", f"{dot['ergas']:.4f}"] in lines
    assert ["b/run", "more", "-", "-", f"{stored['mean']['ergas']:.4f}"] in lines


def test_tables_of_all_metrics_fit_80_columns(run):
    images = [("a_very_long_name_of_a_photograph", picture(60, 70, 1))]
    result = evaluate_run(run, images, "all", settings=Settings(panels=0, metrics=WITHOUT_WEIGHTS))
    mean = {**result["mean"], **dict.fromkeys(METRICS, 1234.5)}
    result = {**result, "mean": mean, "rows": [{**result["rows"][0], **dict.fromkeys(METRICS, 1234.5)}]}
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(table(result))
    console.print(overview([("cwam/cwam/lambda_0.0067", result)]))
    text = console.export_text()
    assert all(text.count(f" {name} ") == 2 or text.count(f" {name}\n") == 2 for name in METRICS)
    assert text.count("1234.5000") == 3 * len(METRICS)


def test_command_line_accepts_lists_of_metrics(run, tmp_path, capsys):
    save_png(tmp_path / "a.png", picture(45, 50))
    for given in ("metrics=ssim,sam", "metrics=[ssim,sam]", "metrics=ssim"):
        assert main([str(run), "eval=folder", f"eval.root={tmp_path}", "eval.name=list", "panels=0", given]) == 0
        row = json.loads((run / "eval" / "list.json").read_text())["rows"][0]
        assert row["ssim"] > 0
        assert ("sam" in row) == ("sam" in given)
        assert "ssim" in capsys.readouterr().out


def test_unknown_metric_raises_with_the_nearest_names():
    with pytest.raises(ConfigError, match=r"got: 'lpisp'\nto do: did you mean lpips"):
        check_names(["ssim", "lpisp"])
    with pytest.raises(ConfigError, match="PSNR and MS-SSIM are always measured"):
        prepare(["psnr"])
    with pytest.raises(ConfigError, match="named twice"):
        check_names(["ssim", "ssim"])


@pytest.mark.usefixtures("_no_network")
@pytest.mark.parametrize(
    ("name", "file"),
    [("lpips", "alexnet-owt-7be5be79.pth"), ("dists", "vgg16-397923af.pth")],
)
def test_missing_weights_raise_before_any_image_is_coded(run, tmp_path, capsys, name, file):
    save_png(tmp_path / "a.png", picture(45, 50))
    assert main([str(run), "eval=folder", f"eval.root={tmp_path}", f"eval.name={name}", f"metrics={name}"]) == 2
    error = capsys.readouterr().err
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    assert f"metrics: the weights of {name} cannot be loaded." in error
    assert f"expected: {file} in {folder}" in error
    assert "urlopen error" in error
    assert f"/{file} on another machine and copy it to that folder" in error
    assert not (run / "eval" / name).exists()


@pytest.mark.usefixtures("_no_network")
def test_missing_weights_raise_before_processes_start(run):
    with pytest.raises(ConfigError, match="cannot be loaded"):
        evaluate_run(run, [("dot", picture(1, 1))], "parallel", settings=Settings(jobs=2, metrics=("lpips",)))
    assert not (run / "eval" / "parallel").exists()


@pytest.mark.usefixtures("_no_network")
def test_damaged_weights_raise(tmp_path):
    path = tmp_path / "torch" / "hub" / "checkpoints" / "alexnet-owt-7be5be79.pth"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"cut short")
    with pytest.raises(ConfigError, match="replaces a damaged file"):
        prepare(["lpips"])
