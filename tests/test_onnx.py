"""ONNX export: networks equal to ours, and a decoder without lic_train and PyTorch that reads our files."""

from __future__ import annotations

import importlib.util
import json
import sys
import zlib

import numpy as np
import pytest
import torch
from torch import nn

from lic_train.codec.__main__ import main
from lic_train.codec.onnx import write_onnx
from lic_train.entropy.coder import SymbolEncoder
from lic_train.entropy.gaussian import gaussian_tables
from lic_train.errors import ConfigError
from lic_train.files.bitstream import decode, encode
from lic_train.files.checkpoint import Metadata, save_model
from tests.conftest import ROOT, make_varied_codec, small_config
from tests.tiny import FACTORIZED, make_codec, picture

onnxruntime = pytest.importorskip("onnxruntime", reason="the optional dependencies [onnx] are not installed")
pytest.importorskip("onnxscript", reason="the optional dependencies [onnx] are not installed")

from tests import onnx_reader  # noqa: E402

DECODABLE = ["bmshj2018_factorized", "bmshj2018_hyperprior", "mbt2018_mean", "gcab_gmm"]

pytestmark = pytest.mark.usefixtures("seeded_on_one_thread")


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Return a function from a name to a model, its fingerprint and its folder, exported once by the command."""
    made = {}

    def export(name):
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            model = make_varied_codec(name)
            identity = save_model(folder / "model.safetensors", model, small_config(name), {})
            assert main(["export", str(folder / "model.safetensors"), str(folder / "onnx"), "--onnx"]) == 0
            made[name] = model, identity, folder / "onnx"
        return made[name]

    return export


@pytest.mark.parametrize("name", DECODABLE)
def test_another_decoder_reads_our_files(exported, name):
    model, identity, folder = exported(name)
    latents = []
    handle = model.g_s.register_forward_pre_hook(lambda module, inputs: latents.append(inputs[0]))
    for seed, size in enumerate([(64, 64), (70, 150)]):
        data = encode(model, picture(*size, seed).float() / 255, identity)
        expected = decode(model, data, identity).numpy()
        read, x_hat = onnx_reader.read(folder, data)
        np.testing.assert_array_equal(read["y"].astype(np.float32), latents[-1].numpy())
        assert len(np.unique(read["y"])) > 5, "the latent must vary"
        np.testing.assert_allclose(x_hat, expected, atol=1e-5)
    handle.remove()


@pytest.mark.parametrize("name", ["mbt2018_mean", "gcab_gmm"])
def test_analysis_equals_ours(exported, name):
    model, _, folder = exported(name)
    x = picture(128, 192).float()[None] / 255
    with torch.no_grad():
        y, z = (part.numpy() for part in model._analyse(x))
    network = onnx_reader.Exported(folder)
    np.testing.assert_allclose(network.run("g_a", x.numpy())[0], y, atol=1e-4 * np.abs(y).max())
    np.testing.assert_allclose(network.run("h_a", y)[0], z, atol=1e-4 * np.abs(z).max())


def test_predictions_equal_ours_to_the_last_digits(exported):
    """The encoder's margin of close calls is 2.5e-10."""
    model, _, folder = exported("gcab_gmm")
    z_hat = model.entropy_bottleneck.quantize(3 * torch.randn(1, 16, 3, 2))
    with torch.no_grad():
        expected = model.context._parameters_of_y(model._psi(z_hat))
    for ours, theirs in zip(expected, onnx_reader.Exported(folder).run("h_s", z_hat.numpy()), strict=True):
        assert theirs.dtype == np.float64
        np.testing.assert_allclose(theirs, ours.numpy(), atol=1e-13, rtol=1e-13)


def test_context_of_several_steps_is_named_as_missing(exported):
    model, _, folder = exported("mbt2018")
    about = json.loads((folder / "codec.json").read_text())
    assert about["networks"] == ["g_a", "h_a", "h_s", "g_s"]
    assert list(about["missing"]) == ["context"]
    z_hat = model.entropy_bottleneck.quantize(3 * torch.randn(1, 8, 2, 3))
    with torch.no_grad():
        psi = model._psi(z_hat).numpy()
    (found,) = onnx_reader.Exported(folder).run("h_s", z_hat.numpy())
    np.testing.assert_allclose(found, psi, atol=1e-13)
    with pytest.raises(ValueError, match="context"):
        onnx_reader.read(folder, b"")


@pytest.mark.parametrize("position", [3, 30, -10])
def test_damaged_file_raises(exported, position):
    model, identity, folder = exported("bmshj2018_hyperprior")
    data = bytearray(encode(model, picture(64, 64).float() / 255, identity))
    data[position] ^= 1
    with pytest.raises(onnx_reader.Damaged):
        onnx_reader.read(folder, bytes(data))
    if position == -10:  # inside the last section; with a correct CRC-32 of the file its own checksum is wrong
        data[-4:] = zlib.crc32(data[:-4]).to_bytes(4, "little")
        with pytest.raises(onnx_reader.Damaged, match="section"):
            onnx_reader.read(folder, bytes(data))


def test_reader_follows_close_calls_and_decodes_escapes():
    rng = np.random.default_rng(0)
    values = rng.integers(-40, 40, 300) + 0.5
    symbols = rng.integers(-3, 4, 300).astype(np.int32)
    symbols[::7] = rng.integers(-(2**20), 2**20, len(symbols[::7]))
    indexes = rng.integers(0, 64, 300)
    encoder = SymbolEncoder()
    rounded = encoder.round(values / 256, 256.0)
    encoder.encode(symbols, indexes, gaussian_tables())
    tables = [(table.minimum, table.weights) for table in gaussian_tables()]
    section = onnx_reader.Section(encoder.finish(), 0.25)
    np.testing.assert_array_equal(section.round((values + rng.uniform(-1e-9, 1e-9, 300)) / 256, 256.0), rounded)
    np.testing.assert_array_equal(section.by_table(indexes, tables, 28), symbols)
    section.finish()


class Operators(nn.Module):
    """Float64 layers that the export replaces, all on one input."""

    def __init__(self) -> None:
        super().__init__()
        layers = [
            nn.Conv2d(6, 5, 5, stride=2, padding=2),
            nn.Conv2d(6, 5, 3, padding=1, bias=False),
            nn.Conv2d(6, 4, 1),
            nn.Conv2d(6, 4, (1, 3), stride=(2, 1)),
            nn.ConvTranspose2d(6, 5, 5, stride=2, padding=2, output_padding=1),
            nn.ConvTranspose2d(6, 5, 4, stride=3, padding=1),
            nn.ConvTranspose2d(6, 5, 3, padding=1),
            nn.ConvTranspose2d(6, 2, 1, stride=2),
            nn.LeakyReLU(0.2),
            nn.Softplus(),
        ]
        self.layers = nn.ModuleList(layers).double()

    def forward(self, x):
        return tuple(layer(40 * x if isinstance(layer, nn.Softplus) else x) for layer in self.layers)


def test_float64_operators_equal_those_of_pytorch():
    from lic_train.codec.onnx_operators import FLOAT64

    model = Operators().eval()
    sizes = ({2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC},)
    with torch.no_grad():
        program = torch.export.export(model, (torch.zeros(1, 6, 7, 8).double(),), dynamic_shapes=sizes, strict=False)
        traced = torch.onnx.export(program, dynamo=True, custom_translation_table=FLOAT64, verbose=False)
    content = traced.model_proto
    assert not {"Conv", "ConvTranspose", "LeakyRelu", "Softplus"} & {node.op_type for node in content.graph.node}
    session = onnxruntime.InferenceSession(content.SerializeToString())
    for size in [(7, 8), (11, 6)]:
        x = torch.randn(1, 6, *size).double()
        found = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        for ours, theirs in zip(model(x), found, strict=True):
            expected = ours.detach().numpy()
            assert theirs.shape == expected.shape
            assert np.abs(theirs - expected).max() <= 1e-15 * max(1, np.abs(expected).max())


def test_reader_imports_neither_pytorch_nor_this_package():
    source = (ROOT / "tests/onnx_reader.py").read_text(encoding="utf-8")
    imported = [line.split()[1].split(".")[0] for line in source.splitlines() if line.startswith(("import", "from"))]
    others = {"constriction", "numpy", "onnxruntime", "safetensors"}
    assert set(imported) - set(sys.stdlib_module_names) == others


def test_missing_packages_are_one_error(monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    metadata = Metadata(tmp_path, FACTORIZED, {}, b"")
    with pytest.raises(ConfigError, match=r"needs onnx and onnxscript(?s:.*)pip install 'lic-train\[onnx\]'"):
        write_onnx(make_codec(), metadata, tmp_path / "out")
    assert not (tmp_path / "out").exists()
