"""Crops per second of one CPU core, compared with CompressAI's example; both alternate in one run.

The reference is compressai.datasets.ImageFolder with RandomCrop and ToTensor; ours is the dataset in the workers of
training. Both run in this process, so that only CPU time counts; a round is every photograph once, in random order.
Machines are noisy: compare the ratio, a median over rounds. The time to open an index of 1.28 million photographs is
measured as well.

    python benchmarks/data.py [--data ../shared/data] [--rounds 5] [--photographs 40] [--decoder dali]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from statistics import median

import torch
from compressai.datasets import ImageFolder
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torchvision import transforms

from lic_train.data.archives.index import Index, Listing, Part
from lic_train.data.archives.indexed import Cache
from lic_train.data.archives.opening import open_source
from lic_train.data.prepare.__main__ import main as prepare
from lic_train.data.sets.sources import Source, folder
from lic_train.data.stream.buffer import BufferedLoader
from lic_train.data.stream.draws import APART, Shuffled, Spread
from lic_train.data.stream.loader import CropLoader, Crops, StreamSampler, training_crops
from lic_train.data.stream.on_device import to_floats

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
CROP, BATCH = 256, 8
IMAGENET = 1_281_167
OPEN = """
import sys, time, numpy
from lic_train.data.archives.index import Index
from pathlib import Path
def resident():
    fields = dict(line.split(":") for line in open("/proc/self/status"))
    return int(fields["VmRSS"].split()[0]) / 1000
before, began = resident(), time.perf_counter()
index = Index.open(Path(sys.argv[1]))
seconds = time.perf_counter() - began
for number in range(0, len(index), 100):
    index[number]
print(seconds, resident() - before)
"""

Round = Callable[[], int]  # makes some crops and returns their number


def batches_of(path: Iterator[object], count: int) -> Round:
    """Return a function that takes the next ``count`` batches of an endless pipeline."""

    def make() -> int:
        return sum(BATCH for _ in islice(path, count))

    return make


def theirs(files: list[Path], flat: Path) -> Iterator[object]:
    """Yield batches of floats as in CompressAI's example, which needs a flat root/train."""
    (flat / "train").mkdir(parents=True)
    for number, path in enumerate(files):
        (flat / "train" / f"{number:05d}{path.suffix}").symlink_to(path.resolve())
    pipeline = transforms.Compose([transforms.RandomCrop(CROP, pad_if_needed=True), transforms.ToTensor()])
    dataset = ImageFolder(str(flat), split="train", transform=pipeline)
    draws = Shuffled(len(dataset), seed=1)
    k = 0
    while True:
        yield torch.stack([dataset[draws(k + i).item] for i in range(BATCH)])
        k += BATCH


def ours(source: Source, crops_per_image: int = 1, floats: bool = False, decoder: str = "pillow") -> Iterator[object]:
    """Yield batches as in a worker; with ``floats``, including the conversion on the device."""
    crops, draws = training_crops(source, CROP, seed=1), Shuffled(len(source), seed=1)
    loader = loader_of(crops, draws, crops_per_image, decoder)
    for batch in loader:
        yield to_floats(batch["x"], batch["flip"], torch.channels_last) if floats else batch


def loader_of(crops: Crops, draws: Shuffled, crops_per_image: int, decoder: str) -> CropLoader:
    if decoder == "dali":
        from lic_train.data.stream.dali import DaliLoader

        return DaliLoader(crops, StreamSampler(draws, BATCH), 0, pin_memory=False)
    if crops_per_image == 1:
        return CropLoader(crops, StreamSampler(draws, BATCH), 0, pin_memory=False)
    stream = StreamSampler(Spread(draws, BATCH, crops_per_image, seed=1), BATCH)
    return BufferedLoader(crops, stream, crops_per_image, 0, pin_memory=False)


def tar_of_tars(files: list[Path], root: Path) -> Path:
    """Write a tar of tars like ImageNet, with one inner tar for eight photographs."""
    root.mkdir()
    classes = {f"n{i // 8:08d}": files[i : i + 8] for i in range(0, len(files), 8)}
    with tarfile.open(root / "ILSVRC2012_img_train.tar", "w") as outer:
        for wnid, members in classes.items():
            inner = root / f"{wnid}.tar"
            with tarfile.open(inner, "w") as tar:
                for path in members:
                    tar.add(path, arcname=f"{wnid}_{path.name}")
            outer.add(inner, arcname=inner.name)
            inner.unlink()
    return root / "ILSVRC2012_img_train.tar"


def prepared(files: list[Path], root: Path, kind: str) -> Source:
    """Return the tiles of the photographs, as written by ``lic data prepare``."""
    originals = root / "originals"
    if not originals.exists():
        (originals / "train").mkdir(parents=True)
        (originals / "val").mkdir()
        for number, path in enumerate(files):
            (originals / ("train" if number else "val") / path.name).symlink_to(path.resolve())
    assert prepare([str(originals), str(root / kind), "--format", kind, "--jobs", "2"]) == 0
    return folder(str(root / kind)).train


def paths_of(data: Path, home: Path, count: int, decoder: str) -> dict[str, dict[str, tuple[Iterator[object], int]]]:
    """Return every pipeline of each collection and its number of batches per round; the reference is first."""
    small = sorted((data / "imagenet_sample" / "train").rglob("*.JPEG"))
    large = sorted((data / "photos").iterdir())
    large = large[:: max(len(large) // count, 1)][: count // BATCH * BATCH]
    tiles = {kind: prepared(large, home / "tiles", kind) for kind in ("ppm", "webp", "png")}
    result = {}
    for name, files in (("ImageNet", small), ("large", large)):
        place, once = home / name, -(-len(files) // BATCH)
        place.mkdir()
        for number, path in enumerate(files):
            (place / f"{number:05d}{path.suffix}").symlink_to(path.resolve())
        archive = open_source(str(tar_of_tars(files, home / f"{name}_tar")), Cache())
        paths = {
            "ImageFolder + RandomCrop + ToTensor": (theirs(files, home / f"{name}_theirs"), once),
            "folder": (ours(open_source(str(place), Cache())), once),
            "tar of tars": (ours(archive), once),
            "tar of tars, and floats made on the same core": (ours(archive, floats=True), once),
        }
        if decoder == "dali":
            paths["tar of tars, DALI on the CPU"] = (ours(archive, decoder="dali"), once)
        size = sum(path.stat().st_size for path in files) / len(files) / 1e3
        result[f"{len(files)} photographs ({name}), {size:.0f} kB on average"] = paths
    four = ours(archive, crops_per_image=4)
    for _ in range(APART):  # fills the buffer of waiting crops
        next(four)
    paths |= {
        "tar of tars, 4 crops of each photograph": (four, 4 * once),
        "tiles of 384, raw (ppm)": (ours(tiles["ppm"]), 8 * once),
        "tiles of 384, raw, and floats made on the same core": (ours(tiles["ppm"], floats=True), 8 * once),
        "tiles of 384, lossless WebP": (ours(tiles["webp"]), 4 * once),
        "tiles of 384, PNG": (ours(tiles["png"]), 4 * once),
    }
    return result


def measure(paths: dict[str, tuple[Iterator[object], int]], rounds: int, title: str) -> dict[str, dict[str, float]]:
    """Return crops per second of CPU time, and the ratio to the first pipeline of the same round: medians."""
    makers = {name: batches_of(path, count) for name, (path, count) in paths.items()}
    rates: dict[str, list[float]] = {name: [] for name in makers}
    for maker in makers.values():
        maker()
    for _ in track(range(rounds), title, transient=True):
        for name, maker in makers.items():
            began = time.process_time()
            made = maker()
            rates[name].append(made / (time.process_time() - began))
    first = next(iter(rates.values()))
    return {
        name: {"crops_per_second": median(found), "ratio": median(a / b for a, b in zip(found, first, strict=True))}
        for name, found in rates.items()
    }


def measure_index(home: Path) -> dict[str, float]:
    """Measure opening the index of ImageNet's training photographs in a new process."""
    listing = Listing()
    for i in range(IMAGENET):
        listing.add(b"n%08d/n%08d_%05d.JPEG" % (i // 1282, i // 1282, i % 1282), 0, i * 110_592, 110_000)
    Index.of(listing, [Part("ILSVRC2012_img_train.tar", 1, 1)]).save(home / "large.index")
    command = [sys.executable, "-c", OPEN, str(home / "large.index")]
    runs = [subprocess.run(command, capture_output=True, text=True, check=True).stdout.split() for _ in range(5)]
    seconds, megabytes = (median(float(run[i]) for run in runs) for i in (0, 1))
    return {"seconds": seconds, "resident_mb": megabytes, "file_mb": (home / "large.index").stat().st_size / 1e6}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=SHARED, help="folder with imagenet_sample/train and photos")
    parser.add_argument("--rounds", type=int, default=5, help="number of rounds")
    parser.add_argument("--photographs", type=int, default=40, help="number of large photographs, a multiple of 8")
    parser.add_argument("--decoder", choices=["pillow", "dali"], default="pillow", help="dali: measure DALI as well")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    console, results = Console(), {}
    with tempfile.TemporaryDirectory() as temporary:
        home = Path(temporary)
        for title, paths in paths_of(arguments.data, home, arguments.photographs, arguments.decoder).items():
            results[title] = measure(paths, arguments.rounds, title)
            table = Table("pipeline", "crops per CPU-second", "ratio", title=title, title_justify="left")
            table.columns[1].justify = table.columns[2].justify = "right"
            for name, row in results[title].items():
                table.add_row(name, f"{row['crops_per_second']:,.0f}", f"{row['ratio']:.2f}")
            console.print(table)
        results["index of 1,281,167 photographs"] = measure_index(home)
    console.print_json(json.dumps(results))


if __name__ == "__main__":
    main()
