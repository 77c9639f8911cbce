"""Time, bytes and memory of the mixture coder for latents similar to those of one Kodak photograph.

    python benchmarks/mixture_coder.py [--threads 2] [--repeat 3] [--reference]

``--reference`` also runs CompressAI's GaussianMixtureConditional at the middle rate: 10 seconds each way and 1.4 GB.
"""

from __future__ import annotations

import argparse
import time
import tracemalloc
from collections.abc import Callable

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from lic_train.entropy.mixture import GaussianMixture

# y of a 768x512 picture at M = 192: 294,912 symbols.
M, HEIGHT, WIDTH, K = 192, 32, 48, 3
# Median scale of an element; the table shows the bits per symbol.
RATES = {"low": 0.05, "middle": 0.2, "high": 0.5, "very high": 2.0}


def draw(typical: float) -> tuple[Tensor, list[Tensor]]:
    """Return y (1, M, h, w) and its mixtures (1, K, M, h, w); scales vary by e between channels, by e/2 inside them."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    shape = (1, K, M, HEIGHT, WIDTH)
    scales = typical * torch.exp(normal(1, 1, M, 1, 1) + 0.5 * normal(1, 1, M, HEIGHT, WIDTH) + 0.3 * normal(*shape))
    means = 1.5 * scales * normal(*shape)
    weights = torch.softmax(1.5 * normal(*shape), dim=1)
    chosen = torch.multinomial(weights.movedim(1, -1).flatten(0, -2), 1, generator=generator).view(
        1, 1, M, HEIGHT, WIDTH
    )
    mean, scale = means.gather(1, chosen), scales.clamp(min=0.11).gather(1, chosen)
    return (mean + scale * normal(1, 1, M, HEIGHT, WIDTH))[:, 0], [weights, means, scales]


def seconds(call: Callable[[], object], repeat: int) -> float:
    """Return the time of the fastest of ``repeat`` calls."""
    times = []
    for _ in range(repeat):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return min(times)


def peak_megabytes(call: Callable[[], object]) -> float:
    """Return the peak of the memory that NumPy and Python allocate during a call."""
    tracemalloc.start()
    call()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak / 2**20


def overhead(string: bytes, ideal: float) -> str:
    """Format the excess over the ideal size; it includes 12 bytes for a checksum and the coder's last two words."""
    return f"{len(string) - ideal:+.0f} B, {100 * (len(string) / ideal - 1):+.3f} %"


def measure(name: str, typical: float, repeat: int) -> tuple[str, ...]:
    y, params = draw(typical)
    mixture = GaussianMixture().eval()
    ideal = -float(mixture(y, *params)[1].double().log2().sum()) / 8
    string = mixture.compress(y, *params)
    assert torch.equal(mixture.decompress(string, *params), y.round())
    encode = seconds(lambda: mixture.compress(y, *params), repeat)
    decode = seconds(lambda: mixture.decompress(string, *params), repeat)
    memory = max(
        peak_megabytes(lambda: mixture.compress(y, *params)),
        peak_megabytes(lambda: mixture.decompress(string, *params)),
    )
    over = overhead(string, ideal)
    bits = f"{8 * ideal / y.numel():.2f}"
    return name, bits, f"{len(string):,}", over, f"{encode:.2f}", f"{decode:.2f}", f"{memory:.0f}"


def measure_reference(typical: float) -> tuple[str, ...]:
    from compressai.entropy_models import GaussianMixtureConditional

    y, params = draw(typical)
    model = GaussianMixtureConditional(K=K)
    weights, means, scales = (p.flatten(1, 2) for p in params)
    ideal = -float(GaussianMixture().eval()(y, *params)[1].double().log2().sum()) / 8
    started = time.perf_counter()
    (string, maximum, flags), rounded = model.compress(y, scales.clamp(min=0.11), means, weights)
    encoded = time.perf_counter()
    y_hat = model.decompress(string, maximum, flags, scales.clamp(min=0.11), means, weights)
    decoded = time.perf_counter()
    assert torch.equal(y_hat.float(), rounded.float())
    over = overhead(string, ideal)
    times = f"{encoded - started:.2f}", f"{decoded - encoded:.2f}"
    return "reference", f"{8 * ideal / y.numel():.2f}", f"{len(string):,}", over, *times, ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--reference", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    table = Table(title=f"{M * HEIGHT * WIDTH:,} symbols, {K} components, {args.threads} threads")
    for column in ("rate", "bits", "bytes", "over the ideal", "enc s", "dec s", "MB"):
        table.add_column(column, justify="right", no_wrap=True)
    for name, typical in RATES.items():
        table.add_row(*measure(name, typical, args.repeat))
    if args.reference:
        table.add_row(*measure_reference(RATES["middle"]))
    Console().print(table)


if __name__ == "__main__":
    main()
