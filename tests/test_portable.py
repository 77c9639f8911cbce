"""Files that decode although the decoder's float64 values differ in the last digits."""

from __future__ import annotations

import copy
import pickle
from contextlib import nullcontext

import constriction
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lic_train.entropy import decisions, float64_kernels, precision
from lic_train.entropy.close_calls import DIFFERENCE, CloseCallReader, CloseCallWriter
from lic_train.entropy.coder import SymbolDecoder, SymbolEncoder
from lic_train.entropy.gaussian import GaussianConditional, check_tables, gaussian_tables, scale_table
from lic_train.entropy.mixture import GaussianMixture
from lic_train.entropy.slices import SliceContext
from lic_train.errors import BitstreamError, CheckpointError, LicError
from lic_train.files.bitstream import decode, encode
from lic_train.files.checkpoint import add_tables, load_checkpoint, load_model, save_model
from lic_train.layers.graph_attention import GraphAttention
from lic_train.models.base import build
from tests.conftest import SMALL, make_varied_codec
from tests.tiny import FACTORIZED, HYPERPRIOR, make_codec, picture, save_checkpoint

NOISE = 1e-11
# Networks that decide nothing in the bitstream.
FREE = ("g_a", "g_s", "h_a", "entropy_bottleneck", "extract", "enhance", "assemble", "compensate")
CROPS = 2  # of each model; 50 of each, 1,000 in all, were exact when they were run once

pytestmark = pytest.mark.usefixtures("seeded_on_one_thread")


# ---- rounding ----


def near_boundaries(count: int, distance: float, seed: int = 0) -> np.ndarray:
    """Return values of which every third is ``distance`` or less from a half integer."""
    rng = np.random.default_rng(seed)
    values = rng.uniform(-50, 50, count)
    values[::3] = rng.integers(-50, 50, len(values[::3])) + 0.5 + rng.uniform(-distance, distance, len(values[::3]))
    return values


@pytest.mark.parametrize("steps", [1.0, 256.0])
def test_disturbed_decoder_rounds_as_the_encoder(steps):
    values = near_boundaries(3000, 0.9 * DIFFERENCE * steps) / steps
    disturbed = values + np.random.default_rng(1).uniform(-0.9, 0.9, 3000) * DIFFERENCE
    assert (np.rint(values * steps) != np.rint(disturbed * steps)).sum() > 200, "a decoder without a record is wrong"
    writer = CloseCallWriter()
    parts = [writer.round(part, steps) for part in np.split(values, [0, 1, 17, 2000])]
    np.testing.assert_array_equal(np.concatenate(parts), np.rint(values * steps))
    reader = CloseCallReader(writer.finish() + b"the rest of the string")
    parts = [reader.round(part, steps) for part in np.split(disturbed, [5, 1600])]
    reader.finish()
    np.testing.assert_array_equal(np.concatenate(parts), np.rint(values * steps))
    assert reader.size == len(writer.finish())


def test_values_away_from_boundaries_have_a_record_of_one_byte():
    writer = CloseCallWriter()
    writer.round(np.arange(1e5) + 0.49, 1.0)
    assert writer.finish() == b"\0"


def test_record_matches_the_documentation():
    writer = CloseCallWriter()
    values = np.zeros(200)
    values[[0, 3, 199]] = 1.5 + 1e-12, 1.5 - 1e-12, -0.5 - 1e-12
    np.testing.assert_array_equal(writer.round(values, 1.0)[[0, 3, 199]], [2, 1, -1])
    # Distances 1, 3 and 196, twice, plus 1 for the value that was rounded up; 392 = 3 * 128 + 8.
    assert writer.finish() == bytes([3, 6, 0x88, 3, 0])


def test_large_values_have_a_relative_margin():
    values = np.array([4e8 + 0.45, -4e8 + 0.55])
    writer = CloseCallWriter()
    rounded = writer.round(values, 1.0)
    reader = CloseCallReader(writer.finish())
    np.testing.assert_array_equal(reader.round(values + np.array([0.08, -0.08]), 1.0), rounded)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (b"", "cut short"),
        (b"\x03", "cut short"),
        (b"\x83", "cut short"),
        (b"\x01\x00", "do not increase"),
        (b"\x83\x00\x00", "too many bytes"),
        (b"\xff" * 9 + b"\x01\x00", "too many bytes"),
        (b"\xff" * 8 + b"\x7f" + b"\xff" * 8 + b"\x7f\x00", "too large"),
    ],
)
def test_invalid_record_raises(record, message):
    with pytest.raises(BitstreamError, match=f"(?s)entropy-coded section is damaged.*{message}"):
        CloseCallReader(record)


def test_record_that_does_not_fit_the_values_raises():
    writer = CloseCallWriter()
    writer.round(np.array([0.1, 0.5, 0.1]), 1.0)
    record = writer.finish()
    with pytest.raises(BitstreamError, match="not near a boundary"):
        CloseCallReader(record).round(np.array([0.1, 0.1, 0.1]), 1.0)
    reader = CloseCallReader(record)
    reader.round(np.array([0.1]), 1.0)
    with pytest.raises(BitstreamError, match="after the last value"):
        reader.finish()


@pytest.mark.parametrize("entry", [b"\x04\x00", b"\x05\x00", b"\x02\x00", b"\x00"])
def test_tampered_record_raises(entry):
    """Also where no symbol depends on the rounded value, as for the last mean."""
    model, y = GaussianConditional(), torch.tensor([3.0, -2.0])
    scales, means = torch.ones(2, dtype=torch.float64), torch.tensor([0.2, 0.5 / 256], dtype=torch.float64)
    string = model.compress(y, scales, means)
    assert string[:2] == b"\x08\x00", "position 3, rounded to the even number 0"
    assert torch.equal(model.decompress(string, scales, means), torch.tensor([3 + 51 / 256, -2.0]))
    damaged = entry + string[2:]
    if entry == b"\x00":  # the decoder's own rounding is that of the encoder
        assert torch.equal(model.decompress(damaged, scales, means), model.decompress(string, scales, means))
        means[1] += 1e-12
    with pytest.raises(BitstreamError, match="entropy-coded section"):
        model.decompress(damaged, scales, means)
    with pytest.raises(BitstreamError, match="entropy-coded section"):
        model.decompress(b"\x09\x00" + string[2:], scales, means)


@pytest.mark.parametrize("largest", [1.0, 8.0])
def test_grid_of_the_means_costs_less_than_a_thousandth_of_a_percent(largest):
    """Expected bits, exactly, with all means on the grid against all means as predicted; scales up to ``largest``."""
    bits = np.zeros(2)
    for scale, table in zip(scale_table(), gaussian_tables(), strict=True):
        if scale > largest:
            break
        symbols = torch.arange(table.minimum, table.minimum + table.size, dtype=torch.float64)
        # Every slot of the coder has at least 2^-24.
        lengths = -torch.from_numpy(table.weights / table.weights.sum()).clamp(min=2.0**-24).log2()
        for i, errors in enumerate((torch.zeros(1), (torch.arange(16) + 0.5) / 16 / 512)):
            edges = (symbols[:, None] + errors.double() - 0.5) / scale
            mass = torch.special.ndtr(edges + 1 / scale) - torch.special.ndtr(edges)
            expected = lengths[:-1] @ mass + lengths[-1] * (1 - mass.sum(dim=0))
            bits[i] += float(expected.mean())
    assert 0 < bits[1] / bits[0] - 1 < 1e-5


def test_string_without_close_calls_has_no_record():
    y = torch.tensor([3.0, -2.0, 0.0])
    string = GaussianConditional().compress(y, torch.ones(3, dtype=torch.float64))
    words = np.frombuffer(string[:-4], "<u4").astype(np.uint32)
    index = int(np.abs(np.log(scale_table())).argmin())
    decoder = constriction.stream.queue.RangeDecoder(words)
    table = gaussian_tables()[index]
    assert (decoder.decode(table.model, 3) + table.minimum).tolist() == y.tolist()


@pytest.mark.parametrize("close_calls", range(9))
def test_string_with_a_record_of_any_size_decodes(close_calls):
    """A record of 4 or 8 bytes is followed by one more, because the size of a string without one divides by 4."""
    model, y = GaussianConditional(), torch.arange(8.0)
    means = torch.tensor([0.5 / 256] * close_calls + [0.2] * (8 - close_calls), dtype=torch.float64)
    string = model.compress(y, torch.ones(8, dtype=torch.float64), means)
    assert (len(string) % 4 > 0) == (close_calls > 0)
    decoded = model.decompress(string, torch.ones(8, dtype=torch.float64), means + 1e-12)
    assert torch.equal(decoded, y + torch.tensor([0.0] * close_calls + [51 / 256] * (8 - close_calls)))


def test_means_at_boundaries_decode_only_with_the_record():
    generator = torch.Generator().manual_seed(0)
    model, y = GaussianConditional(), 3 * torch.randn(500, generator=generator)
    means = (torch.randint(-300, 300, (500,), generator=generator) + 0.5).double() / 256
    scales = torch.ones(500, dtype=torch.float64)
    string = model.compress(y, scales, means)
    disturbed = means * (1 + NOISE * torch.randn(500, generator=generator, dtype=torch.float64))
    decoded = model.decompress(string, scales, disturbed)
    assert torch.equal(decoded, model.decompress(string, scales, means))
    assert float((decoded - y).abs().max()) <= 0.5 + 1e-6
    without = b"\0" + string[CloseCallReader(string).size :]
    with pytest.raises(BitstreamError):
        model.decompress(without, scales, disturbed)


def test_mixtures_at_boundaries_decode():
    generator = torch.Generator().manual_seed(0)
    rng = np.random.default_rng(0)
    y = 3 * torch.randn(300, generator=generator)
    weights = torch.tensor(rng.integers(0, 1024, 300) + 0.5) / 4096
    weights = torch.stack([weights, 0.5 - weights, torch.full_like(weights, 0.5)], dim=1)
    scales = torch.from_numpy(0.11 * 2 ** ((rng.integers(0, 100, (300, 3)) + 0.5) / 16))
    means = torch.from_numpy(rng.integers(-9, 9, (300, 3)) + 1 / 512)
    mixture = GaussianMixture().eval()
    string = mixture.compress(y, weights, means, scales)
    for seed in range(3):
        torch.manual_seed(seed)
        disturbed = [p * (1 + NOISE * torch.randn_like(p)) for p in (weights, means, scales)]
        assert torch.equal(mixture.decompress(string, *disturbed), y.round())


# ---- codecs ----


def disturb(model) -> list[int]:
    """Multiply the output of every layer that decides by 1 + noise, different in every call; count the calls."""
    calls = [0]

    def hook(module, inputs, output):
        calls[0] += 1
        if isinstance(output, tuple):
            return tuple(hook(module, inputs, part) for part in output)
        return output * (1 + NOISE * torch.randn_like(output)) if output.dtype == torch.float64 else output

    for name, module in model.named_modules():
        if name and not name.startswith(FREE) and not list(module.children()):
            module.register_forward_hook(hook)
    return calls


@pytest.mark.parametrize("name", SMALL)
def test_disturbed_decoder_is_exact(name):
    """The disturbed decoder is a copy of a model that is ready to code.

    Symbols and rounded parameters are compared by the checksum. Latents that a network changes after they are coded are
    not rounded, so they can differ in the last digits of float32, in which g_s reads them.
    """
    model = make_varied_codec(name)
    changed = name == "qres_vae" or isinstance(getattr(model, "context", None), SliceContext)
    digits = {"rtol": 1e-6, "atol": 1e-6} if changed else {"rtol": 0, "atol": 0}
    disturbed = copy.deepcopy(model)
    calls = disturb(disturbed)
    seen = []
    disturbed.g_s.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    model.g_s.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    for seed in range(CROPS):
        x = picture(64, 64, seed)[None].float() / 255
        with torch.no_grad():
            coded = model.compress(x)
            expected = model(x)["x_hat"].clamp(0, 1)
            torch.testing.assert_close(disturbed.decompress(**coded)["x_hat"], expected, rtol=0, atol=1e-4 * changed)
        torch.testing.assert_close(seen[-1], seen[-2], **digits)
        assert seen[-1].unique().numel() > 5, "the latent must vary"
    assert calls[0] or name == "bmshj2018_factorized"


@pytest.mark.parametrize("name", ["mbt2018_mean", "stf", "dcae", "tcm", "qres_vae"])
def test_decoder_with_other_float64_convolutions_is_exact(name, monkeypatch):
    """The encoder uses the kernels of a CPU for maps of every size, the decoder PyTorch's, as on a GPU."""
    model = make_varied_codec(name)
    x = picture(64, 128)[None].float() / 255
    monkeypatch.setattr(float64_kernels, "LEAST_POSITIONS", 1)
    monkeypatch.setattr(float64_kernels, "LEAST_CHANNELS", 1)
    with torch.no_grad():
        coded = model.compress(x)
        expected = model(x)["x_hat"].clamp(0, 1)
        assert torch.equal(model.decompress(**coded)["x_hat"], expected)
        monkeypatch.setattr(precision, "Float64Kernels", nullcontext)
        torch.testing.assert_close(model.decompress(**coded)["x_hat"], expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["bmshj2018_factorized", "mbt2018", "gcab_gmm"])
def test_pickles_decode(name):
    model = make_varied_codec(name)
    x = picture(64, 64)[None].float() / 255
    with torch.no_grad():
        coded = model.compress(x)
        expected = model.decompress(**coded)["x_hat"]
        assert torch.equal(pickle.loads(pickle.dumps(model)).decompress(**coded)["x_hat"], expected)


# ---- tables ----


def one_ulp_up(function):
    """Return ``function`` with results that are larger by one unit in the last place, as from another library."""

    def other(*args, **kwargs):
        result = function(*args, **kwargs)
        return torch.nextafter(result, torch.full_like(result, torch.inf))

    return other


@pytest.fixture
def saved(tmp_path):
    model = make_codec(HYPERPRIOR)
    identity = save_model(tmp_path / "model.safetensors", model, HYPERPRIOR, {})
    x = picture(40, 50).float() / 255
    return (
        tmp_path / "model.safetensors",
        encode(model, x, identity),
        decode(model, encode(model, x, identity), identity),
    )


def test_machine_with_another_exponential_decodes(saved, monkeypatch):
    path, data, expected = saved
    for module, name in ((F, "softplus"), (torch, "sigmoid"), (torch, "tanh")):
        monkeypatch.setattr(module, name, one_ulp_up(getattr(module, name)))
    model, metadata = load_model(path)
    assert torch.equal(decode(model, data, metadata.fingerprint), expected)


def test_loading_uses_the_stored_tables(saved, monkeypatch):
    path, data, expected = saved

    def no_bisection(*args):
        raise AssertionError("the tables were computed again")

    monkeypatch.setattr("lic_train.entropy.bottleneck.EntropyBottleneck._bisect", no_bisection)
    model, metadata = load_model(path)
    assert torch.equal(decode(model, data, metadata.fingerprint), expected)
    with model.ready_to_code():  # as in evaluation
        assert torch.equal(decode(model, data, metadata.fingerprint), expected)
    assert save_model(path, model, HYPERPRIOR, {}) == metadata.fingerprint


def test_saving_does_not_change_a_model_in_training(tmp_path):
    model = build(HYPERPRIOR).train()
    before = copy.deepcopy(model.state_dict())
    identity = save_model(tmp_path / "x.safetensors", model, HYPERPRIOR, {})
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    loaded, metadata = load_model(tmp_path / "x.safetensors")
    assert metadata.fingerprint == identity
    solved = loaded.entropy_bottleneck.quantiles
    assert not torch.equal(solved, before["entropy_bottleneck.quantiles"])
    model.eval().update()
    assert torch.equal(solved, model.entropy_bottleneck.quantiles)


def test_checkpoint_contains_the_tables_of_the_averaged_weights(tmp_path, monkeypatch):
    raw, average = make_codec(HYPERPRIOR, seed=1), make_codec(HYPERPRIOR, seed=2)
    averages = {f"model.{name}": parameter.detach() for name, parameter in average.named_parameters()}
    content = {"state_dict": {f"model.{name}": value for name, value in raw.state_dict().items()}}
    content["weight_averaging"] = averages
    before = copy.deepcopy(raw.state_dict())
    add_tables(content, raw)
    assert all(torch.equal(value, before[name]) for name, value in raw.state_dict().items())
    path = tmp_path / "x.ckpt"
    tables = content["coding_tables"]
    save_checkpoint(path, raw, HYPERPRIOR, 3, weight_averaging=averages, coding_tables=tables)
    monkeypatch.delattr("lic_train.entropy.bottleneck.EntropyBottleneck._bisect")
    loaded, _ = load_checkpoint(path)
    expected = average.coding_tables()
    assert expected.keys() == loaded.coding_tables().keys()
    assert all(torch.equal(values, expected[name]) for name, values in loaded.coding_tables().items())


def test_kept_medians_are_stored(tmp_path):
    model = build(FACTORIZED).eval()
    with torch.no_grad():
        model.entropy_bottleneck.quantiles[:, :, 1] = 0.25
    model.update(keep_medians=True)
    save_model(tmp_path / "x.safetensors", model, FACTORIZED, {})
    loaded, _ = load_model(tmp_path / "x.safetensors")
    assert torch.equal(loaded.entropy_bottleneck.quantiles, model.entropy_bottleneck.quantiles)
    assert bool((loaded.entropy_bottleneck.medians == 0.25).all())
    x = picture(32, 32)[None].float() / 255
    with torch.no_grad():
        assert torch.equal(loaded.decompress(**model.compress(x))["x_hat"], model(x)["x_hat"].clamp(0, 1))


HOSTILE = {
    "missing": lambda t: t.pop("size"),
    "foreign": lambda t: t.update(other=t["size"]),
    "dtype": lambda t: t.update(weights=t["weights"].long()),
    "channels": lambda t: t.update(minimum=t["minimum"][1:]),
    "nan": lambda t: t["quantiles"].fill_(float("nan")),
    "huge median": lambda t: t["quantiles"].fill_(1e30),
    "negative size": lambda t: t["size"].fill_(-5),
    "huge size": lambda t: t["size"].fill_(2**31 - 1),
    "minimum": lambda t: t["minimum"].fill_(1),
    "low minimum": lambda t: t["minimum"].fill_(-(2**31)),
    "cut short": lambda t: t.update(weights=t["weights"][:-1]),
    "negative": lambda t: t["weights"].neg_(),
    "zero": lambda t: t["weights"].zero_(),
    "large": lambda t: t["weights"].fill_(2**31 - 1),
}


@pytest.mark.parametrize("change", HOSTILE.values(), ids=HOSTILE)
def test_hostile_tables_raise(change):
    bottleneck = make_codec(FACTORIZED).entropy_bottleneck
    tables = bottleneck.coding_tables()
    bottleneck.use_tables(tables)
    change(tables)
    with pytest.raises(CheckpointError, match="coding tables of a factorised density are not valid"):
        bottleneck.use_tables(tables)


def test_tables_of_another_model_raise():
    model = make_codec(FACTORIZED)
    with pytest.raises(CheckpointError, match="tables of nothing"):
        model.use_tables({})


def test_another_mathematical_library_raises():
    tables = [table.weights.copy() for table in gaussian_tables()]
    tables[7][3] += 1
    with pytest.raises(LicError, match=r"other coding tables\.\nexpected: tables with CRC-32"):
        check_tables(tables, 0)


def test_coder_checks_rounded_values_that_no_symbol_depends_on():
    encoder = SymbolEncoder()
    encoder.round(np.array([1.0]), 1.0)
    string = encoder.finish()
    decoder = SymbolDecoder(string)
    decoder.round(np.array([2.0]), 1.0)
    with pytest.raises(BitstreamError, match="another checksum"):
        decoder.finish()


def test_edges_of_a_graph_follow_the_record():
    """A third of the products of two nodes are zero in exact arithmetic."""
    generator = torch.Generator().manual_seed(0)
    nodes = torch.randn(1, 40, 6, generator=generator, dtype=torch.float64)
    for node in range(2, 40, 3):
        axis = nodes[0, node - 1]
        nodes[0, node] -= (nodes[0, node] @ axis) / (axis @ axis) * axis
    for adjacency in ("sign", "rownorm"):
        graph = GraphAttention(6, adjacency).eval()
        with decisions.recorded() as record:
            expected = graph.edges(nodes)
        string = record.finish() + b"the rest"
        flipped = 0
        for seed in range(20):
            noise = torch.randn(nodes.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
            disturbed = nodes * (1 + NOISE * noise)
            flipped += int((graph.edges(disturbed) != expected).sum())
            with decisions.followed(string) as reader:
                assert torch.equal(graph.edges(disturbed), expected)
            assert string[reader.size :] == b"the rest"
        assert flipped > 50, "a decoder without a record is wrong"
        with pytest.raises(BitstreamError, match="close calls"), decisions.followed(string):
            graph.edges(-nodes.flip(1) + 3)


def test_nodes_that_are_zero_cost_nothing():
    with decisions.recorded() as record:
        edges = GraphAttention(6, "sign").eval().edges(torch.zeros(1, 50, 6, dtype=torch.float64))
    assert torch.equal(edges[0], torch.eye(50, dtype=torch.bool))
    assert record.finish() == b"\0"


def test_files_whose_edges_are_close_calls_decode():
    model = make_varied_codec("gaacnn")

    def orthogonal(module, inputs):
        """Make the second node orthogonal to the first one, up to the last digits."""
        x = inputs[0].clone()
        first, second = x[0, :, 0, 0], x[0, :, 0, 1]
        x[0, :, 0, 1] = second - (second @ first) / (first @ first) * first
        return (x * (1 + module.noise * torch.randn_like(x)),)

    model.h_s.graph.noise = 0.0
    model.h_s.graph.register_forward_pre_hook(orthogonal)
    disturbed = copy.deepcopy(model)
    disturbed.h_s.graph.noise = NOISE
    with torch.no_grad():
        for seed in range(3):
            x = picture(64, 64, seed)[None].float() / 255
            coded = model.compress(x)
            assert coded["strings"][0][0] != 0, "a close call"
            expected = model.decompress(**coded)["x_hat"]
            assert torch.equal(disturbed.decompress(**coded)["x_hat"], expected)
