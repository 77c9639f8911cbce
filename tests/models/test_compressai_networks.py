"""Parameter counts and multiply-adds of the networks that CompressAI ships, measured there; on the meta device."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from lic_train.models.base import build

# model, class, (N, M), parameters, multiply-adds of one 256x256 forward (convolutions, GDN's 1x1 product, context with
# all 25 taps; the densities are not counted)
COUNTS = [
    ("bmshj2018_factorized", "FactorizedPrior", (128, 192), 2_998_147, 5_528_092_672),
    ("bmshj2018_factorized", "FactorizedPrior", (192, 320), 7_030_531, 12_280_922_112),
    ("bmshj2018_hyperprior", "ScaleHyperprior", (128, 192), 5_075_843, 5_706_874_880),
    ("bmshj2018_hyperprior", "ScaleHyperprior", (192, 320), 11_816_323, 12_711_493_632),
    ("mbt2018_mean", "MeanScaleHyperprior", (128, 192), 7_028_003, 5_970_591_744),
    ("mbt2018_mean", "MeanScaleHyperprior", (192, 320), 17_561_699, 13_474_332_672),
    ("mbt2018", "JointAutoregressive", (192, 192), 14_130_467, 13_214_941_184),
    ("mbt2018", "JointAutoregressive", (192, 320), 25_504_596, 15_506_895_360),
    ("cheng2020_anchor", "Cheng2020Anchor", (128,), 11_833_149, 27_959_259_648),
    ("cheng2020_anchor", "Cheng2020Anchor", (192,), 26_598_956, 62_691_737_600),
    ("cheng2020_attn", "Cheng2020Attention", (128,), 13_183_293, 30_882_689_536),
    ("cheng2020_attn", "Cheng2020Attention", (192,), 29_631_788, 69_269_454_848),
    ("elic2022", "ELIC", (192, 320), 32_074_200, None),
]


def on_meta(name: str, cls: str, widths: tuple[int, ...]):
    arguments = dict(zip(("N", "M"), widths, strict=False))
    return build({"_target_": f"lic_train.models.{name}.{cls}", **arguments}).to("meta")


@pytest.mark.parametrize(("name", "cls", "widths", "parameters", "macs"), COUNTS)
def test_parameter_count(name, cls, widths, parameters, macs):
    assert sum(p.numel() for p in on_meta(name, cls, widths).parameters()) == parameters


@pytest.mark.parametrize(("name", "cls", "widths", "parameters", "macs"), [row for row in COUNTS if row[4]])
def test_multiply_adds(name, cls, widths, parameters, macs):
    model = on_meta(name, cls, widths).train()
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        model(torch.rand(1, 3, 256, 256))
    counts = counter.get_flop_counts()["Global"]
    convolutions = sum(flops for op, flops in counts.items() if "convolution" in str(op))
    assert convolutions // 2 == macs
