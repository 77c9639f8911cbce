"""Cost of portable files: time and bytes against the same codec with entropy networks in float32.

    python benchmarks/decode_cost.py [--models elic2022 tinylic] [--full] [--size 384] [--image kodim01.png]

The reference does not write portable files: its entropy networks run in float32, means are not rounded, and no close
call is recorded or checked. Both codecs run alternately in one process on the same weights, which are random. Latents
are scaled to a standard deviation of 2: a random network that reads much larger ones predicts means of thousands, whose
margins of close calls are as much wider, and its bytes say nothing about trained networks. Times are the least of the
repetitions, in seconds of processor time. Compare the ratios.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lic_train.data.decode.images import read_image
from lic_train.entropy import bottleneck, coder, gaussian, precision
from lic_train.files.bitstream import decode, encode
from lic_train.models.base import Codec
from tests.conftest import make_varied_codec
from tests.tiny import picture

FINGERPRINT = bytes(8)
# About half of the shipped widths.
MODERATE: dict[str, dict[str, object]] = {
    "bmshj2018_factorized": {"N": 64, "M": 96},
    "bmshj2018_hyperprior": {"N": 64, "M": 96},
    "mbt2018_mean": {"N": 64, "M": 96},
    "mbt2018": {"N": 64, "M": 96},
    "cheng2020_anchor": {"N": 64},
    "cheng2020_attn": {"N": 64},
    "elic2022": {"N": 96, "M": 160, "groups": [8, 8, 16, 32, 96]},
    "cwam": {"N": 96},
    "tinylic": {"N": 64, "M": 160},
    "iblic": {"N": 64, "M": 160},
    "iblic_tiny": {"N": 64, "M": 160},
    "stf": {"N": 32, "Z": 96, "widths": [112, 88, 64, 32], "slices": 8, "support": 4},
    "wacnn": {"N": 96, "M": 160, "widths": [112, 88, 64, 32]},
    "stfpp": {"N": 32, "C": 16, "Z": 96, "widths": [112, 88, 64, 32], "slices": 8, "support": 4},
    "gaacnn": {"M": 24, "N": 48, "widths": [24, 48]},
    "invcompress": {"N": 64, "enhancement_width": 32},
    "qres_vae": {"N": 48, "depths": [2, 2, 2, 2, 2]},
    "gcab_gmm": {"N": 64, "M": 96, "head_widths": [192, 160]},
    "tcm": {"N": 64, "M": 160, "Z": 96, "attention": 64, "widths": [112, 64]},
    "dcae": {"stages": [48, 72, 128], "depths": [1, 2, 4], "M": 160, "Z": 96, "entries": 64, "widths": [112, 64]},
}
SPREAD = 2.0
# Steps per unit of means that are in effect not rounded.
FINE = 2.0**40


@contextmanager
def reference() -> Iterator[None]:
    """Context in which codecs compute and code as before files were portable."""

    def in_float32(method: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return lambda *args: method(*args).float()

    def rounded(self: object, values: np.ndarray, steps: Any) -> np.ndarray:
        return np.rint(values * steps).astype(np.int64)

    def decide(self: gaussian.GaussianConditional, coder: Any, scales: Tensor, means: Tensor | None = None) -> Any:
        indexes, means = present_decide(self, coder, scales, means)
        return indexes, means.to(scales)

    density, present_decide = bottleneck.EntropyBottleneck, gaussian.GaussianConditional._decide
    with ExitStack() as patches:
        for part, name, value in (
            (precision, "_float64", lambda *parts: nullcontext()),
            (density, "quantize", in_float32(density.quantize)),
            (density, "decompress", in_float32(density.decompress)),
            (coder.SymbolEncoder, "round", rounded),
            (coder.SymbolDecoder, "round", rounded),
            (gaussian.GaussianConditional, "_decide", decide),
            (gaussian, "STEPS_PER_UNIT", FINE),
        ):
            patches.enter_context(mock.patch.object(part, name, value))
        yield


def with_usual_latents(model: Codec) -> Codec:
    """Scale every latent to the standard deviation `SPREAD`, measured on the first picture that the model codes."""
    for source, _ in model.latents().values():
        factors: list[Tensor] = []

        def scaled(module: object, inputs: object, latent: Tensor, factors: list[Tensor] = factors) -> Tensor:
            if not factors:
                factors.append(SPREAD / latent.std())
            return latent * factors[0]

        source.register_forward_hook(scaled)
    return model


def best(calls: list[Callable[[], object]], repeat: int) -> list[float]:
    """Return the least processor time of each call, which alternate ``repeat`` times."""
    times = []
    for _ in range(repeat):
        row = []
        for call in calls:
            started = time.process_time()
            call()
            row.append(time.process_time() - started)
        times.append(row)
    return [min(column) for column in zip(*times, strict=True)]


def measure(name: str, widths: dict[str, object], x: Tensor, repeat: int) -> dict[str, Any]:
    """Return times in seconds and bytes of ``name`` for the picture ``x`` (3, H, W), present and reference."""
    model = with_usual_latents(make_varied_codec(name, widths))
    present = encode(model, x, FINGERPRINT)
    with reference():
        before = encode(model, x, FINGERPRINT)

    def decode_reference() -> None:
        with reference():
            decode(model, before, FINGERPRINT)

    now, then = best([lambda: decode(model, present, FINGERPRINT), decode_reference], repeat)
    sizes = len(present), len(before)
    return {"model": name, "decode": now, "decode_reference": then, "bytes": sizes[0], "bytes_reference": sizes[1]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=list(MODERATE), choices=list(MODERATE), metavar="MODEL")
    parser.add_argument("--full", action="store_true", help="shipped widths instead of moderate ones")
    parser.add_argument("--size", type=int, default=384, help="side of the generated picture in pixels")
    parser.add_argument("--image", type=Path, help="picture file in place of the generated one")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="file for the numbers")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    console = Console()
    pixels = read_image(args.image) if args.image else picture(args.size, args.size)
    x = pixels.float() / 255
    rows = []
    for name in args.models:
        row = measure(name, {} if args.full else MODERATE[name], x, args.repeat)
        rows.append(row)
        ratio, growth = row["decode"] / row["decode_reference"], row["bytes"] / row["bytes_reference"] - 1
        console.print(f"{name}: decode {ratio:.2f} times, bytes {100 * growth:+.3f} %")
    table = Table(title=f"{x.shape[2]}x{x.shape[1]} pixels, {args.threads} threads")
    for column in ("model", "decode s", "reference", "ratio", "bytes", "reference", "%"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        decode_s, reference_s, now, before = list(row.values())[1:]
        growth = f"{100 * (now / before - 1):+.3f}"
        table.add_row(
            row["model"], f"{decode_s:.2f}", f"{reference_s:.2f}", f"{decode_s / reference_s:.2f}",
            f"{now:,}", f"{before:,}", growth,
        )  # fmt: skip
    console.print(table)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
