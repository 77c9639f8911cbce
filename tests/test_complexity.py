"""Parameters and multiply-adds against the specifications, the counter against hand counts, timing, command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch
from rich.console import Console
from torch import nn

from lic_train.complexity.__main__ import main
from lic_train.complexity.count import count_macs, count_parameters, count_quantiles, inside, multiply_adds, on_meta
from lic_train.complexity.measure import (
    PHASES,
    MeasurementError,
    Phase,
    _in_fresh_process,
    measure,
    measure_phase,
    repeat,
)
from lic_train.complexity.options import read_options
from lic_train.complexity.results import DEFINITIONS, FORMAT, Complexity, Cost, Macs, counted, load, save, timed
from lic_train.complexity.table import count_table, time_table
from lic_train.entropy.bottleneck import EntropyBottleneck
from lic_train.errors import ConfigError, DataError
from lic_train.models.base import Codec
from tests.conftest import ROOT, SMALL, small_config
from tests.tiny import HYPERPRIOR

# ---- numbers of the specifications: the shipped conf/model at full width, on the meta device ----

WIDE = {"g_a": 3_505_664, "g_s": 3_505_347, "h_a": 2_396_736}
CONTEXT = {128: 819_456 + 451_697, 192: 1_843_584 + 1_017_344, 320: 5_120_640 + 2_822_257}
Z = {128: 7_808, 192: 11_712, 320: 19_520}  # the factorised density
# Overrides; parameters; G multiply-adds at 256x256 and at 768x512, with all known digits.
SPECIFIED = [
    (
        "model=bmshj2018_factorized",
        {"total": 2_998_147, "g_a": 1_493_312, "g_s": 1_493_123, "entropy_bottleneck": Z[192]},
        ("5.528092672", "33.17"),
    ),
    (
        "model=bmshj2018_factorized lambda=0.0483",
        {"total": 7_030_531, "g_a": 3_505_664, "g_s": 3_505_347, "entropy_bottleneck": Z[320]},
        ("12.280922112", "73.69"),
    ),
    (
        "model=bmshj2018_hyperprior",
        {"total": 5_075_843, "g_a": 1_493_312, "g_s": 1_493_123, "h_a": 1_040_768, "h_s": 1_040_832},
        ("5.706874880", "34.24"),
    ),
    (
        "model=bmshj2018_hyperprior lambda=0.0483",
        {"total": 11_816_323, **WIDE, "h_s": 2_396_864},
        ("12.711493632", "76.27"),
    ),
    (
        "model=mbt2018_mean",
        {"total": 7_028_003, "g_a": 1_493_312, "g_s": 1_493_123, "h_a": 1_040_768, "h_s": 2_992_992},
        ("5.970591744", "35.82"),
    ),
    ("model=mbt2018_mean lambda=0.025", {"total": 17_561_699, **WIDE, "h_s": 8_142_240}, ("13.474332672", "80.85")),
    (
        "model=mbt2018",
        {
            "total": 14_130_467,
            "g_a": 2_891_136,
            "g_s": 2_890_947,
            "h_a": 2_175_552,
            "h_s": 3_300_192,
            "context": CONTEXT[192],
        },
        ("13.214941184", "79.29"),
    ),
    (
        "model=mbt2018 lambda=0.025",
        {"total": 25_504_596, **WIDE, "h_s": 8_142_240, "context": CONTEXT[320], "entropy_bottleneck": Z[192]},
        ("15.506895360", "93.04"),
    ),
    (
        "model=cheng2020_anchor",
        {
            "total": 11_833_149,
            "g_a": 1_857_664,
            "g_s": 5_228_812,
            "h_a": 737_920,
            "h_s": 2_729_792,
            "context": CONTEXT[128],
        },
        ("27.959259648", "167.76"),
    ),
    (
        "model=cheng2020_anchor lambda=0.013",
        {"total": 26_598_956, "g_a": 4_175_040, "g_s": 11_750_796, "h_a": 1_659_840, "h_s": 6_140_640},
        ("62.691737600", "376.15"),
    ),
    (
        "model=cheng2020_attn",
        {"total": 13_183_293, "g_a": 2_532_736, "g_s": 5_903_884, "h_a": 737_920, "h_s": 2_729_792},
        ("30.882689536", "185.30"),
    ),
    (
        "model=cheng2020_attn lambda=0.013",
        {"total": 29_631_788, "g_a": 5_691_456, "g_s": 13_267_212, "h_a": 1_659_840, "h_s": 6_140_640},
        ("69.269454848", "415.62"),
    ),
    ("model=elic2022", {"total": 32_074_200}, (None, None)),
    # 1.34 G below the specified 105.9 G: coarse tokens are projected once, before overlapping patches are taken.
    (
        "model=cwam",
        {
            "total": 62_606_362,
            "g_a": 16_490_211,
            "g_s": 16_489_894,
            "h_a": 4_609_600,
            "h_s": 17_054_240,
            "context": CONTEXT[320],
            "entropy_bottleneck": Z[320],
        },
        ("104.55", None),
    ),
    # 384 quantiles that the authors' density does not have; 1.57 * 5/11 of the specified 212.27 G are masked taps.
    (
        "model=gaacnn model.reparameterize=false model.mean_shift=trainable",
        {
            "total": 86_053_590 + 384,
            "g_a": 24_046_642,
            "h_a": 14_991_156,
            "h_s": 16_319_090,
            "p_net": 2_655_744,
            "g_s": 27_332_917,
            "entropy_bottleneck": 5_504 + 384,
            "context": 702_537,
        },
        ("211.6", None),
    ),
    (
        "model=gcab_gmm",
        {
            "total": 5_834_830,
            "g_a": 1_500_299,
            "g_s": 1_493_123,
            "h_a": 1_040_768,
            "h_s": 1_040_832,
            "context": 752_000,
            "entropy_bottleneck": Z[128],
        },
        ("5.904275456", "35.425622016"),
    ),
    (
        "model=tinylic",
        {
            "total": 28_338_211,
            "g_a": 7_108_144,
            "h_a": 2_074_416,
            "h_s": 2_627_824,
            "g_s": 7_107_827,
            "context": 7_355_381 + 847_308 + 1_205_599,
            "entropy_bottleneck": Z[192],
        },
        (None, "170.75"),
    ),
    (
        "model=tcm",
        {
            "total": 76_568_148,
            "g_a": 7_787_896,
            "g_s": 21_099_588,
            "h_a": 3_168_584,
            "h_s": 2 * 8_397_704,
            "context": 27_704_960,
            "entropy_bottleneck": Z[192],
        },
        ("121.008", "726.0"),
    ),
    (
        "model=dcae",
        {
            "total": 119_400_351,
            "g_a": 13_637_598,
            "g_s": 13_637_281,
            "h_a": 2_936_358,
            "h_s": 2 * 2_936_486,
            "context": 44_693_390 + 2 * 12_628_000 + 13_273_120 + 81_920,
            "entropy_bottleneck": Z[192],
        },
        ("63.352", "378.804"),
    ),
    # The specified total at N = 128, 67,733,713,792, is 384 above the sum of its own rows.
    (
        "model=invcompress",
        {
            "total": 43_264_827,
            "flow": 37_215_108,
            "enhancement": 313_987,
            "restoration": 313_987,
            "g_a": 337_536,
            "g_s": 337_536,
            "h_a": 737_920,
            "h_s": 2_729_792,
            "context": 451_697 + 819_456,
            "entropy_bottleneck": Z[128],
        },
        ("67.733713408", "406.40"),
    ),
    (
        "model=qres_vae",
        {"total": 34_036_602, "g_a": 15_867_072, "top_down": 18_169_530 - 9_264, "g_s": 9_264},
        ("23.220682752", "139.32"),
    ),
    # g_a, g_s, h_a, h_s, 61 weights for each of 24 densities, and the context, counted by hand: four stages of 32
    # channels with three 3x3 convolutions, and 96 channels.
    (
        "model=demo",
        {
            "total": 263_840 + 263_715 + 54_872 + 92_032 + 24 * 61 + 120_160,
            "context": (65 * 48 + 3 * 113 * 48)
            + 4 * (49 * 48 + 49 * 64)
            + 4 * (9 * 32 * 48 + 48)
            + 241 * 48
            + 49 * 240,
        },
        (None, None),
    ),
    ("model=stf", {"total": 99_855_639}, ("33.498", "200.99")),
    ("model=wacnn", {"total": 75_235_779}, ("34.435", "206.6")),
    ("model=stfpp", {"total": 103_313_770}, (None, "294.95")),
    ("model=iblic", {"total": 32_391_238}, (None, "336.63")),
    ("model=iblic_tiny", {"total": 29_366_150}, (None, "183.80")),
    ("model=stf", {"total": 99_855_639, "context": 61_926_336}, ("33.498", "200.99")),
    ("model=wacnn", {"total": 75_235_779, "context": 46_283_040}, ("34.435", "206.6")),
    ("model=stfpp", {"total": 103_313_770}, (None, "294.95")),
]
SIZES = ((256, 256), (512, 768))


@pytest.mark.parametrize(("overrides", "parameters", "giga"), SPECIFIED, ids=[row[0] for row in SPECIFIED])
def test_counts_equal_the_specification(overrides, parameters, giga):
    codec = on_meta(read_options(overrides.split())[1].model)
    found = count_parameters(codec)
    assert {name: found[name] for name in parameters} == parameters
    assert sum(found.values()) == 2 * found["total"]
    for size, expected in zip(SIZES, giga, strict=True):
        if expected is None:
            continue
        macs = count_macs(codec, *size)
        digits = len(expected.partition(".")[2])
        assert f"{macs['total'] / 1e9:.{digits}f}" == expected
        assert sum(macs.values()) == 2 * macs["total"]
        assert macs.keys() == found.keys()
        assert macs.get("entropy_bottleneck", 0) == 0


def test_every_model_has_a_specified_count():
    counted = {overrides.split()[0].removeprefix("model=") for overrides, *_ in SPECIFIED}
    assert counted == set(SMALL)


def test_density_has_three_quantiles_per_channel():
    codec = on_meta(HYPERPRIOR)
    assert count_quantiles(codec) == 3 * 8
    assert count_parameters(codec)["entropy_bottleneck"] == 61 * 8


# ---- the counter against hand counts ----


@pytest.mark.parametrize(
    ("module", "shape", "expected"),
    [
        (nn.Conv2d(3, 8, 5, stride=2, padding=2), (1, 3, 16, 16), 8 * 8 * (8 * 3 * 25)),
        (nn.Conv2d(4, 6, 3, padding=1, groups=2), (2, 4, 5, 7), 2 * 5 * 7 * (6 * 2 * 9)),
        (nn.ConvTranspose2d(3, 8, 5, 2, 2, 1), (1, 3, 8, 8), 8 * 8 * (8 * 3 * 25)),  # at its 8x8 input positions
        (nn.Linear(10, 4), (7, 10), 7 * 40),
        (nn.PReLU(3), (1, 3, 9, 9), 0),
    ],
)
def test_hand_counts(module, shape, expected):
    assert multiply_adds(module.to("meta"), shape)[""] == expected


class Pieces(Codec):
    """1x1 convolutions in a list of lists, which is not called, and a product and a parameter of the codec itself."""

    downsampling_factor = 4

    def __init__(self) -> None:
        super().__init__()
        self.nets = nn.ModuleList(nn.ModuleList([nn.Conv2d(3, 3, 1)]) for _ in range(2))
        self.twice = nn.Sequential(nn.Conv2d(3, 3, 1))
        self.entropy_bottleneck = EntropyBottleneck(3)
        self.mix = nn.Parameter(torch.zeros(3, 3))

    def forward(self, x):
        for (net,) in self.nets:
            x = net(x)
        x = self.twice(self.twice(x))
        z_hat, _ = self.entropy_bottleneck(x)
        likelihoods = self.entropy_bottleneck.likelihood(z_hat)
        return {"x_hat": self.mix @ z_hat.flatten(2), "likelihoods": {"z": likelihoods}}


def test_lists_repeated_calls_and_work_of_the_codec_itself():
    codec = Pieces().to("meta")
    of_one = 9 * 8 * 12  # 1x1 convolution of 3 channels over 7 x 10 pixels, padded to 8 x 12
    expected = {"nets": 2 * of_one, "twice": 2 * of_one, "entropy_bottleneck": 0, "itself": of_one}
    assert count_macs(codec, 7, 10) == {"total": 5 * of_one, **expected}
    assert count_parameters(codec) == {"total": 228, "nets": 24, "twice": 12, "entropy_bottleneck": 183, "itself": 9}
    assert inside({"": 9, "a": 5, "a.b": 3, "ab": 1}, "a") == 5


def test_counting_does_not_change_the_density():
    density = EntropyBottleneck(3).to("meta")
    assert multiply_adds(density, (1, 3, 4, 4))[""] == 0
    assert "likelihood" not in vars(density)


# ---- options ----


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ("model=cwan", ["cwan", "cwam"]),
        ("model=cwam,mbt2018", ["expected: one model", "cwam,mbt2018"]),
        ("model.n=3", ["model.n", "model.N"]),
        ("variants=iblic_module", ["iblic_modules"]),
        ("size=768", ["size", "such as 768x512", "768"]),
        ("size=0x512", ["size", "'0x512'"]),
        ("size=99999x99999", ["size", "pixels"]),
        ("device=meta", ["device", "cpu, cuda", "'meta'"]),
        ("device=cuda:99", ["device", "this machine", "'cuda:99'"]),
        ("time=maybe", ["time", "'maybe'"]),
        ("lambda=0", ["lambda", "above 0"]),
        ("name=a/b", ["name", "'a/b'"]),
        ("+speed=1", ["speed", "no such key"]),
        ("model.N=[", ["The value of model.N cannot be read"]),
        ("cwam", ["KEY=VALUE", "'cwam'"]),
    ],
)
def test_invalid_option_raises(overrides, words):
    with pytest.raises(ConfigError) as caught:
        read_options([overrides])
    assert all(word in str(caught.value) for word in words), str(caught.value)


@pytest.mark.parametrize("override", ["model.N=33", "model.N=abc", "+model.speed=1"])
def test_configuration_that_builds_no_model_raises(override):
    _, options = read_options(["model=cwam", override])
    with pytest.raises(ConfigError, match="model: "):
        on_meta(options.model)


def test_file_name_contains_model_and_name():
    assert read_options(["model=iblic_tiny"])[1].output.as_posix() == "outputs/complexity/iblic_tiny.json"
    name, options = read_options(["model=mbt2018", "name=2", "size=640x480", "lambda=0.025"])
    assert (name, options.output.name, options.size, options.model["M"]) == (
        "mbt2018",
        "mbt2018_2.json",
        (480, 640),
        320,
    )


# ---- time and memory ----


def test_repeat_warms_up_and_stops_within_the_budget(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("lic_train.complexity.measure.time.perf_counter", lambda: now[0])

    def takes(seconds):
        def action():
            now[0] += seconds
            return now[0]

        return action

    assert repeat(takes(1.0), budget=4.5, most=9)[0] == [1.0] * 4
    assert len(repeat(takes(0.01), budget=4.5, most=9)[0]) == 1 + 9
    now[0] = 0.0
    assert repeat(takes(3.0), budget=4.5, most=9) == ([3.0], 3.0)


@pytest.mark.parametrize(("seconds", "expected"), [([9.0, 1.0, 2.0, 4.0], (2000.0, 3)), ([9.0], (9000.0, 0))])
def test_warm_up_counts_only_if_it_is_the_only_run(monkeypatch, seconds, expected):
    monkeypatch.setattr("lic_train.complexity.measure.repeat", lambda action: (seconds, action()))
    phase, _ = measure_phase("forward", HYPERPRIOR, 64, 64, "cpu", b"")
    assert (phase.milliseconds, phase.runs) == expected


def test_encoded_bytes_are_decoded_in_another_process():
    encoded, data = measure_phase("encode", HYPERPRIOR, 100, 130, "cpu", b"")
    assert data.startswith(b"LIC1")
    assert encoded.milliseconds > 0
    decoded, nothing = _in_fresh_process("decode", HYPERPRIOR, 100, 130, "cpu", data)
    assert nothing == b""
    assert decoded.runs >= 1
    # The last convolution alone reads 8 channels of 64 x 96 floats and writes 3 of 128 x 192.
    assert 4 * (8 * 64 * 96 + 3 * 128 * 192) < decoded.peak_bytes < 2**30


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")
def test_phases_on_a_gpu():
    phases = measure(HYPERPRIOR, 100, 130, "cuda")
    assert all(phase.milliseconds > 0 and phase.peak_bytes > 4 * 3 * 128 * 192 for phase in phases.values())


def test_phase_that_fails_raises(monkeypatch):
    class Dies:
        def __init__(self, *_):
            pass

        def __enter__(self):
            raise RuntimeError("not enough memory\nfor this")

        def __exit__(self, *_):
            pass

    monkeypatch.setattr("lic_train.complexity.measure.Workers", Dies)
    with pytest.raises(
        MeasurementError, match=r"encode cannot be measured(.|\n)*got: not enough memory\n.*smaller size"
    ):
        _in_fresh_process("encode", HYPERPRIOR, 64, 64, "cpu", b"")


# ---- the result ----


def small() -> Complexity:
    codec = on_meta(HYPERPRIOR)
    macs = [Macs.model_validate({"height": 64, "width": 128, **count_macs(codec, 64, 128)})]
    return complexity("small", HYPERPRIOR, count_parameters(codec), count_quantiles(codec), macs, {"device": "cpu"})


def complexity(model, config, parameters, quantiles, macs, environment) -> Complexity:
    return Complexity(
        format=FORMAT,
        model=model,
        config=config,
        parameters=parameters,
        quantiles=quantiles,
        macs=macs,
        environment=environment,
        definitions=DEFINITIONS,
    )


def test_result_is_read_back_unchanged(tmp_path):
    plain = small()
    phases = {name: Phase(1.5, runs, 2**20) for name, runs in (("forward", 3), ("encode", 0), ("decode", 1))}
    for result in (plain, timed(plain, 64, 128, "cpu", phases)):
        save(tmp_path / "a" / "small.json", result)
        again = load(tmp_path / "a" / "small.json")
        assert again == result
        save(tmp_path / "b.json", again)
        assert (tmp_path / "b.json").read_bytes() == (tmp_path / "a" / "small.json").read_bytes()
    content = json.loads((tmp_path / "a" / "small.json").read_text())
    assert (content["format"], content["peak_bytes"], content["time"]["forward_ms"]) == (1, 2**20, 1.5)
    assert {"parameters", "macs", "time", "peak_bytes"} <= content["definitions"].keys()


def test_reader_ignores_unknown_fields_and_checks_known_ones(tmp_path):
    save(tmp_path / "small.json", small())
    content = json.loads((tmp_path / "small.json").read_text())
    (tmp_path / "small.json").write_text(json.dumps({**content, "later": {"release": 2}}))
    assert load(tmp_path / "small.json") == small()
    for wrong in ({"macs": [{"height": 64, "width": 128}]}, {"parameters": {"total": -1}}, {"config": None}):
        (tmp_path / "small.json").write_text(json.dumps({**content, **wrong}))
        with pytest.raises(DataError, match=f"got: {next(iter(wrong))}"):
            load(tmp_path / "small.json")


def test_costs_are_those_of_the_papers_size(tmp_path):
    plain = small()
    macs = [Macs(height=512, width=768, total=7, g_a=7), *plain.macs]
    save(tmp_path / "a.json", plain)
    save(tmp_path / "b.json", plain.model_copy(update={"model": "b", "macs": macs}))
    (tmp_path / "c.json").write_text("{")
    parameters = plain.parameters["total"]
    assert counted(tmp_path) == [
        Cost("small", HYPERPRIOR, parameters, None, None),
        Cost("b", HYPERPRIOR, parameters, 7, None),
    ]


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"format": 2}', '{"format": 1, "model": 3}', "[" * 100_000, '{"format": 1, "x": NaN}']
)
def test_foreign_file_raises(tmp_path, content):
    path = tmp_path / "small.json"
    path.write_text(content)
    with pytest.raises(DataError, match="does not contain the complexity of a model"):
        load(path)


def test_tables_fit_80_columns():
    console = Console(width=80, record=True)
    codec = on_meta(small_config("iblic"))
    parameters = count_parameters(codec)
    macs = [Macs.model_validate({"height": h, "width": w, **dict.fromkeys(parameters, 10**12)}) for h, w in SIZES]
    machine = {"processor": "A Processor With a Long Name @ 2.70 GHz", "threads": 64}
    result = complexity("iblic", small_config("iblic"), parameters, 144, macs, machine)
    phases = {name: Phase(12345.6, 0, 2**34) for name in ("forward", "encode", "decode")}
    console.print(count_table(result))
    console.print(time_table(timed(result, 512, 768, "cpu", phases)))
    text = console.export_text()
    assert f"{parameters['total']:,}" in text
    assert "first run" in text
    assert "…" not in text


# ---- the command line ----


def test_command_counts_and_writes(tmp_path):
    path = tmp_path / "tiny.json"
    overrides = ["model=mbt2018_mean", "model.N=8", "model.M=8", "size=640x480", "time=false", f"output={path}"]
    command = [sys.executable, "-W", "ignore", "-m", "lic_train.complexity", *overrides]
    environment = os.environ | {"COLUMNS": "80", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=tmp_path, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    result = load(path)
    assert [(macs.width, macs.height) for macs in result.macs] == [(256, 256), (640, 480)]
    assert f"{result.parameters['total']:,}" in done.stdout
    assert str(path) in done.stdout
    assert result.time is None
    # 480 rows are padded to 512: five times 256x256.
    assert result.macs[1].total == 5 * result.macs[0].total


def test_command_times_the_model(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("lic_train.complexity.__main__.measure", lambda *_: dict.fromkeys(PHASES, Phase(2.5, 4, 2**20)))
    main(["model=mbt2018_mean", "model.N=8", "model.M=8", "size=64x64", f"output={tmp_path / 'tiny.json'}"])
    time = load(tmp_path / "tiny.json").time
    assert (time.decode_ms, time.decode_runs, time.width, time.device) == (2.5, 4, 64, "cpu")
    assert "4 runs" in capsys.readouterr().out


def test_command_writes_a_table_of_variants(tmp_path, capsys):
    rows = "[{name: narrow, paper: 0.001, model: {M: 8}}, {name: wide, paper: null, model: {N: 16}}]"
    overrides = ["model=mbt2018_mean", "model.N=8", "variants=iblic_modules", "variants.unseen=[h_a]"]
    main([*overrides, f"variants.rows={rows}", "variants.size=64x64", f"variants.output={tmp_path / 'table.json'}"])
    narrow, wide = json.loads((tmp_path / "table.json").read_text())["rows"]
    assert [(row["model"]["N"], row["model"]["M"]) for row in (narrow, wide)] == [(8, 8), (16, 8)]  # rows add up
    assert narrow["macs"] < wide["macs"]
    assert narrow["parameters"] < wide["parameters"]
    assert (narrow["paper_macs"], wide["paper_macs"]) == (10**6, None)
    h_a = 4 * 4 * 8 * 8 * 9 + (2 * 2 + 1) * 8 * 8 * 25
    # g_s and the first two layers of h_s are transposed convolutions of stride 2: a profiler counts them four times.
    transposed = 8 * 8 * 25 * (4 * 4 + 8 * 8 + 16 * 16 + 32 * 32 * 3 // 8) + 8 * 8 * 25 * (1 + 4 * 1.5)
    assert narrow["profiler_macs"] == narrow["macs"] - h_a + 3 * transposed
    assert "wide" in capsys.readouterr().out


def test_command_prints_errors_without_traceback(capsys):
    assert main(["model=cwam", "size=large"]) == 2
    assert "size: expected width x height in pixels" in capsys.readouterr().err
