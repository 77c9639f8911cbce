"""Order, windows, reflection and the endless stream are pure functions of their keys."""

from __future__ import annotations

import hashlib
import io
import itertools

import numpy as np
import pytest
import torch
from PIL import Image

from lic_train.data.decode.images import decode
from lic_train.data.stream.crops import (
    Sample,
    Window,
    centre_window,
    cut,
    key,
    order,
    random_window,
    replacement,
    splitmix64,
)
from lic_train.data.stream.draws import Shuffled
from lic_train.data.stream.loader import MAX_ATTEMPTS, CropLoader, StreamSampler, training_crops, validation_crops
from lic_train.errors import DataError


class Pictures:
    """A source of random images in memory; None is a damaged file."""

    def __init__(self, sizes: list[tuple[int, int] | None]) -> None:
        chance = np.random.default_rng(0)
        self.files = [b"damaged" if size is None else _png(chance, *size) for size in sizes]

    def __len__(self) -> int:
        return len(self.files)

    def read(self, index: int) -> bytes:
        return self.files[index]

    def name(self, index: int) -> str:
        return f"picture{index}"


def _png(chance: np.random.Generator, height: int, width: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(chance.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(file, "PNG")
    return file.getvalue()


def take(loader, count):
    return list(itertools.islice(iter(loader), count))


# ---- random numbers


def test_splitmix64_equals_published_values():
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    assert splitmix64(1234567, 4).tolist() == published


def test_splitmix64_uses_64_bit_arithmetic():
    def slow(state: int) -> int:
        z = (state + 0x9E3779B97F4A7C15) % 2**64
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
        return z ^ (z >> 31)

    for state in (0, 1, 2**63, 2**64 - 1, 0xDEADBEEF):
        states = [(state + i * 0x9E3779B97F4A7C15) % 2**64 for i in range(5)]
        assert splitmix64(state, 5).tolist() == [slow(s) for s in states]


def test_keys_depend_on_every_part_and_on_their_order():
    keys = [key(*parts) for parts in itertools.product(range(6), repeat=3)]
    assert len(set(keys)) == 6**3
    assert key(-1, 5) != key(1, 5)


def test_order_is_a_different_permutation_for_each_epoch_and_seed():
    orders = [order(50, seed, epoch).tolist() for seed in range(3) for epoch in range(3)]
    assert all(sorted(one) == list(range(50)) for one in orders)
    assert len({tuple(one) for one in orders}) == 9
    # A change of this order would change the data of every resumed run.
    assert order(8, 0, 0).tolist() == [6, 1, 7, 3, 4, 2, 0, 5]


def test_every_item_is_first_equally_often():
    firsts = np.bincount([order(5, 0, epoch)[0] for epoch in range(2000)], minlength=5)
    assert abs(firsts - 400).max() < 5 * np.sqrt(2000 * 0.2 * 0.8)


# ---- windows


def test_random_windows_are_uniform_and_half_are_flipped():
    windows = [random_window((20, 18), 16, Sample(e, i), 0, seed=3, flip=True) for e in range(60) for i in range(60)]
    tops = np.bincount([w.top for w in windows], minlength=5)
    lefts = np.bincount([w.left for w in windows], minlength=3)
    assert len(tops) == 5
    assert len(lefts) == 3
    assert abs(tops - 720).max() < 5 * np.sqrt(720)
    assert abs(lefts - 1200).max() < 5 * np.sqrt(1200)
    assert abs(sum(w.flip for w in windows) - 1800) < 5 * 30


def test_windows_depend_only_on_seed_epoch_item_and_attempt():
    def one(epoch=1, item=2, attempt=0, seed=3):
        return random_window((5000, 5000), 16, Sample(epoch, item), attempt, seed=seed, flip=True)

    assert one() == one()
    others = [one(), one(epoch=2), one(item=1), one(attempt=1), one(seed=4)]
    assert len(set(others)) == 5
    assert not random_window((50, 50), 16, Sample(0, 0), 0, seed=3, flip=False).flip
    assert one() == Window(1623, 1413, flip=False)


def test_flip_option_does_not_change_the_position():
    for item in range(20):
        with_flip = random_window((90, 80), 16, Sample(0, item), 0, seed=0, flip=True)
        without = random_window((90, 80), 16, Sample(0, item), 0, seed=0, flip=False)
        assert with_flip[:2] == without[:2]


def test_windows_contain_small_photographs_completely():
    for item in range(200):
        top, left, *_ = random_window((3, 30), 16, Sample(0, item), 0, seed=0, flip=False)
        assert -13 <= top <= 0
        assert 0 <= left <= 14


def test_centre_window():
    assert centre_window((20, 31), 16, Sample(0, 0), 0) == Window(2, 7, flip=False)
    assert centre_window((10, 16), 16, Sample(0, 0), 0) == Window(-3, 0, flip=False)


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (1, 40), (5, 50), (16, 16), (40, 17), (15, 16)])
def test_cut_equals_a_slice_of_the_reflection_padded_photograph(size):
    pixels = np.random.default_rng(1).integers(0, 256, (*size, 3), dtype=np.uint8)
    padded = np.pad(pixels, ((16, 16), (16, 16), (0, 0)), mode="reflect")
    for item in range(10):
        top, left, *_ = random_window(size, 16, Sample(0, item), 0, seed=9, flip=False)
        expected = padded[16 + top : 32 + top, 16 + left : 32 + left]
        got = cut(Image.fromarray(pixels), Window(top, left, flip=bool(item % 2)), 16)
        assert np.array_equal(got, expected.transpose(2, 0, 1))


# ---- the stream


def test_stream_visits_every_item_once_per_epoch_across_batches():
    sampler = StreamSampler(Shuffled(7, seed=1), batch_size=4)
    stream = [sample for batch in itertools.islice(sampler, 7) for sample in batch]
    assert [sample.epoch for sample in stream] == [k // 7 for k in range(28)]
    for epoch in range(4):
        assert [s.item for s in stream if s.epoch == epoch] == order(7, 1, epoch).tolist()


def test_batch_larger_than_the_data_set():
    batch = StreamSampler(Shuffled(3, seed=0), batch_size=8).batch(0)
    assert [sample.epoch for sample in batch] == [0, 0, 0, 1, 1, 1, 2, 2]


@pytest.mark.parametrize("start", [0, 1, 4, 5, 1000])
def test_later_start_equals_skipping_batches(start):
    whole = list(itertools.islice(StreamSampler(Shuffled(10, 2), 6), 0, start + 3))
    assert list(itertools.islice(StreamSampler(Shuffled(10, 2), 6, start=start), 3)) == whole[start:]


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_are_disjoint_and_complete(world):
    whole = StreamSampler(Shuffled(10, seed=0), batch_size=6)
    ranks = [StreamSampler(Shuffled(10, 0), 6, rank=rank, world=world) for rank in range(world)]
    for number in range(8):
        shares = [rank.batch(number) for rank in ranks]
        assert {len(share) for share in shares} == {6 // world}
        assert sorted(itertools.chain(*shares)) == sorted(whole.batch(number))


def test_stream_sampler_has_no_length():
    with pytest.raises(TypeError):
        len(StreamSampler(Shuffled(10, 0), 2))


SIZES = [(20, 24), None, (9, 40), (16, 16), (33, 17)]


def loader(workers, start=0, small="reflect", sizes=SIZES, **options):
    source = Pictures(sizes)
    crops = training_crops(source, 16, seed=4, small=small, **options)
    return CropLoader(crops, StreamSampler(Shuffled(len(source), 4), 3, start), workers, pin_memory=False)


def same(one, other):
    tensors = all(torch.equal(one[key], other[key]) for key in ("x", "flip"))
    return tensors and one["failures"] == other["failures"] and one["small"] == other["small"]


@pytest.mark.parametrize("small", ["reflect", "skip"])
def test_batches_do_not_depend_on_workers_or_start(small):
    alone = take(loader(0, small=small), 12)
    assert alone[0]["x"].shape == (3, 3, 16, 16)
    assert alone[0]["x"].dtype == torch.uint8
    assert all(same(a, b) for a, b in zip(alone, take(loader(2, small=small), 12), strict=True))
    for workers in (0, 2):  # after 3 * 3 samples, in the second epoch
        resumed = take(loader(workers, start=3, small=small), 9)
        assert all(same(a, b) for a, b in zip(alone[3:], resumed, strict=True))
    assert len({batch["x"].sum().item() for batch in alone}) == 12


def test_pixels_equal_those_of_earlier_versions():
    digest = hashlib.sha256()
    for batch in take(loader(0), 12):
        mirrored = torch.where(batch["flip"].view(-1, 1, 1, 1), batch["x"].flip(3), batch["x"])
        digest.update(mirrored.contiguous().numpy().tobytes())
    assert digest.hexdigest() == "e5335e46364f25bcdb3ad32d6b95d4cac36092ee631c52bcf01b983c261ec657"


def test_crops_are_parts_of_their_photograph():
    source = Pictures([(20, 24), (33, 17)])
    crops = training_crops(source, 16, seed=0, flip=False)
    for epoch, item in itertools.product(range(5), range(2)):
        (got,) = crops.__getitems__([Sample(epoch, item)])["x"]
        places = (
            decode(source.read(item)).unfold(1, 16, 1).unfold(2, 16, 1).permute(1, 2, 0, 3, 4).reshape(-1, 3, 16, 16)
        )
        assert sum(torch.equal(place, got) for place in places) == 1


def test_factors_are_uniform_and_leave_positions_and_flips_alone():
    """The scale of a photograph of 1000 pixels can be read from the size that the window refers to."""
    windows = [
        random_window((1000, 2000), 256, Sample(0, i, c), 0, seed=3, flip=True, downscale=(0.6, 1.0))
        for i in range(2000)
        for c in range(2)
    ]
    heights, widths = np.array([window.scaled for window in windows]).T
    assert 600 <= heights.min() < 610
    assert 990 < heights.max() <= 1000
    assert abs(heights.mean() - 800) < 5 * 400 / np.sqrt(12 * len(heights))
    assert np.abs(widths - 2 * heights).max() <= 1
    tops = np.array([window.top for window in windows])
    assert (tops + 256 <= heights).all()
    assert abs(np.corrcoef(tops / (heights - 256), heights)[0, 1]) < 0.1
    unscaled = [random_window((1000, 2000), 256, Sample(0, i), 0, seed=3, flip=True) for i in range(2000)]
    assert [window.flip for window in windows[::2]] == [window.flip for window in unscaled]
    assert all(window.scaled is None for window in unscaled)


def test_no_photograph_becomes_smaller_than_the_crop():
    for item in range(100):
        options = {"seed": 0, "flip": False, "downscale": (0.5, 0.9)}
        assert random_window((256, 400), 256, Sample(0, item), 0, **options).scaled == (256, 400)
        assert random_window((200, 400), 256, Sample(0, item), 0, **options).scaled == (200, 400)
        assert min(random_window((300, 400), 256, Sample(0, item), 0, **options).scaled) in range(256, 271)


@pytest.mark.parametrize("suffix", ["PNG", "JPEG"])
def test_scaled_crop_is_a_part_of_the_scaled_photograph(suffix):
    noise = np.random.default_rng(2).integers(0, 256, (24, 30, 3), dtype=np.uint8)
    photograph = Image.fromarray(noise).resize((300, 240), Image.Resampling.BICUBIC)
    data = io.BytesIO()
    photograph.save(data, suffix)
    photograph = Image.open(data)

    class One(Pictures):
        def read(self, index: int) -> bytes:
            return data.getvalue()

    crops = training_crops(One([(240, 300)]), 64, seed=5, flip=False, downscale=(0.6, 1.0))
    for epoch in range(12):
        top, left, _, (height, width) = random_window(
            (240, 300), 64, Sample(epoch, 0), 0, seed=5, flip=False, downscale=(0.6, 1.0)
        )
        whole = np.asarray(photograph.resize((width, height), Image.Resampling.BICUBIC), dtype=np.int16)
        got = crops.__getitems__([Sample(epoch, 0)])["x"][0].permute(1, 2, 0).numpy().astype(np.int16)
        assert np.abs(got - whole[top : top + 64, left : left + 64]).max() <= 1


def test_small_photographs_are_reflected_or_skipped_and_counted():
    sizes = [(16, 16), (9, 40), (40, 9), (20, 20)]
    batches = take(loader(0, sizes=sizes), 4)  # 12 samples: each photograph three times
    assert sum(batch["small"] for batch in batches) == 6
    large_only = [(16, 16), (4, 4), (20, 20)]
    skipped = loader(0, small="skip", sizes=large_only)
    (batch,) = take(skipped, 1)
    assert batch["small"] >= 1
    assert batch["failures"] == []
    for number, sample in enumerate(StreamSampler(Shuffled(3, 4), 3).batch(0)):
        attempts = (replacement(sample, attempt, 3, 4) for attempt in range(MAX_ATTEMPTS))
        used = next((i, item) for i, item in enumerate(attempts) if item != 1)
        window = random_window(large_only[used[1]], 16, sample, used[0], seed=4, flip=True)
        source = Pictures(large_only)
        image = Image.open(io.BytesIO(source.read(used[1])))
        assert np.array_equal(batch["x"][number].numpy(), cut(image, window, 16))


def test_failures_contain_file_and_reason():
    failures = [failure for batch in take(loader(2), 10) for failure in batch["failures"]]
    assert len(failures) >= 6  # once in each of six epochs, and perhaps as a replacement
    assert {name for name, _ in failures} == {"picture1"}
    assert all("not an image" in reason for _, reason in failures)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(("sizes", "message"), [([None] * 40, "picture"), ([(4, 4)] * 5, "32 small photographs")])
def test_no_usable_photograph_raises(workers, sizes, message):
    with pytest.raises(DataError, match=message) as caught:
        take(loader(workers, small="skip", sizes=sizes), 1)
    assert "Traceback" not in str(caught.value)


def test_validation_crops_are_centre_crops():
    source = Pictures([(20, 24), (33, 17)])
    batch = validation_crops(source, 16, seed=0).__getitems__([Sample(0, 0), Sample(0, 1)])
    assert torch.equal(batch["x"][0], decode(source.read(0))[:, 2:18, 4:20])
    assert torch.equal(batch["x"][1], decode(source.read(1))[:, 8:24, 0:16])
