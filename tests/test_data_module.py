"""Loaders as used by a Trainer: resume, devices, workers, damaged files, and the shipped configurations."""

from __future__ import annotations

import itertools
import os
import signal
from pathlib import Path

import lightning
import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from PIL import Image

from lic_train.data.decode.images import read_image
from lic_train.data.module import Photographs
from lic_train.data.sets.sources import folder
from lic_train.errors import ConfigError, DataError

CONF = Path(__file__).parents[1] / "conf"


@pytest.fixture
def photographs(tmp_path):
    """A folder of 11 training and 5 validation images."""
    chance = np.random.default_rng(0)
    for name in [f"train/{i:02d}.png" for i in range(11)] + [f"val/{i}.png" for i in range(5)]:
        path = tmp_path / "set" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(chance.integers(0, 256, (20 + len(name), 30, 3), dtype=np.uint8)).save(path)
    return tmp_path / "set"


def module(root: Path, **options) -> Photographs:
    defaults = {"crop": 16, "batch_size": 4, "num_workers": 0, "seed": 1}
    return Photographs(folder, root=str(root), **{**defaults, **options})


def take(loader, count):
    return list(itertools.islice(iter(loader), count))


def trace(batches) -> list[int]:
    """Return one number for the content of each batch after mirroring."""
    seen = [torch.where(batch["flip"].view(-1, 1, 1, 1), batch["x"].flip(3), batch["x"]).long() for batch in batches]
    return [int((x.flatten() * torch.arange(1, x.numel() + 1)).sum()) for x in seen]


class Watcher(lightning.LightningModule):
    """Trains one number and records a trace of its batches."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[int] = []
        self.validated: list[int] = []

    def training_step(self, batch, index):
        self.seen += trace([batch])
        return (self.weight - batch["x"].float().mean() / 255) ** 2

    def validation_step(self, batch, index):
        self.validated += trace([batch])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trainer(folder: Path, steps: int, accumulate: int = 1) -> lightning.Trainer:
    return lightning.Trainer(
        default_root_dir=folder,
        max_steps=steps,
        accumulate_grad_batches=accumulate,
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        val_check_interval=1000,
        check_val_every_n_epoch=None,
    )


# ---- resume


# Step 11 is the last step of an epoch: 44 samples are four times 11 photographs.
@pytest.mark.parametrize(("accumulate", "workers", "stop"), [(1, 0, 4), (2, 0, 4), (1, 2, 4), (1, 0, 11), (2, 2, 11)])
def test_resumed_trainer_gets_the_batches_of_an_uninterrupted_one(photographs, tmp_path, accumulate, workers, stop):
    steps = stop + 5

    def data(count=workers):
        return module(photographs, accumulate=accumulate, num_workers=count)

    whole, first, second = Watcher(), Watcher(), Watcher()
    trainer(tmp_path, steps, accumulate).fit(whole, data())
    stopped = trainer(tmp_path, stop, accumulate)
    stopped.fit(first, data())
    stopped.save_checkpoint(tmp_path / "stop.ckpt")
    trainer(tmp_path, steps, accumulate).fit(second, data(2 - workers), ckpt_path=tmp_path / "stop.ckpt")
    assert len(whole.seen) == steps * accumulate
    assert first.seen + second.seen == whole.seen
    assert torch.equal(second.weight, whole.weight)
    assert len(set(whole.seen)) == len(whole.seen)


def test_accumulation_and_devices_use_the_same_samples(photographs):
    def pictures(batches):
        return sorted(
            trace([{"x": b["x"][i : i + 1], "flip": b["flip"][i : i + 1]}])[0]
            for b in batches
            for i in range(len(b["x"]))
        )

    plain = [pictures(take(module(photographs).stream(step), 1)) for step in range(4)]
    halved = [pictures(take(module(photographs, accumulate=2).stream(2 * step), 2)) for step in range(4)]
    ranks = [
        pictures(take(module(photographs).stream(step, 0, 2), 1) + take(module(photographs).stream(step, 1, 2), 1))
        for step in range(4)
    ]
    assert plain == halved == ranks


def test_indivisible_batch_size_raises(photographs):
    data = module(photographs, batch_size=8, accumulate=3)
    with pytest.raises(ConfigError, match=r"multiple of 3 .*\ngot: 8\nto do: set batch_size to 6 or 9"):
        data.stream()
    with pytest.raises(ConfigError, match="set batch_size to 4"):
        module(photographs, batch_size=2).stream(world=4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"small": "drop"}, "reflect, skip"),
        ({"num_workers": -1}, "auto"),
        ({"num_workers": "many"}, "auto"),
        ({"crop": 0}, "crop"),
        ({"val_crops": 0}, "data.val_crops"),
    ],
)
def test_invalid_options_raise_in_setup(photographs, options, message):
    with pytest.raises(ConfigError, match=message):
        module(photographs, **options).setup("fit")


def test_workers_ignore_sigint(photographs):
    loader = module(photographs, num_workers=2).stream()
    batches = iter(loader)
    got = [next(batches), next(batches)]  # one from each worker, so both have started
    for worker in loader._iterator._workers:
        os.kill(worker.pid, signal.SIGINT)
    got += [next(batches) for _ in range(19)]
    assert trace(got) == trace(take(module(photographs).stream(), 21))


# ---- validation


def test_validation_batches_are_fixed(photographs):
    data = module(photographs, val_crops=4, val_batch=2)
    batches = list(data.val_dataloader())
    assert [len(batch["x"]) for batch in batches] == [2, 2]
    first = read_image(photographs / "val/0.png")
    top = (first.shape[1] - 16) // 2
    assert torch.equal(batches[0]["x"][0], first[:, top : top + 16, 7:23])
    assert trace(batches) == trace(module(photographs, val_crops=4, val_batch=2, seed=8).val_dataloader())
    assert sum(len(batch["x"]) for batch in module(photographs, val_crops=100).val_dataloader()) == 5


def test_trainer_validates(photographs, tmp_path):
    model, data = Watcher(), module(photographs)
    trainer(tmp_path, 1).validate(model, data, verbose=False)
    assert model.validated == trace(data.val_dataloader())


def test_whole_images_are_the_first_readable_ones(photographs):
    (photographs / "val/1.png").write_bytes(b"")
    images = module(photographs).whole_images(3)
    assert [name for name, _ in images] == ["val/0.png", "val/2.png", "val/3.png"]
    assert all(torch.equal(x, read_image(photographs / name)) for name, x in images)
    assert len(module(photographs).whole_images(99)) == 4


def test_note_is_printed_once(photographs, capsys):
    for path in (photographs / "val").iterdir():
        path.unlink()
    (photographs / "val").rmdir()
    data = module(photographs)
    data.setup("fit")
    data.setup("validate")
    assert capsys.readouterr().out.count("but no val") == 1


# ---- damaged files


def test_training_continues_with_one_damaged_file_and_stops_with_many(tmp_path):
    for i in range(40):
        Image.new("RGB", (20, 20), (i, i, i)).save(tmp_path / f"{i:02d}.png")
    (tmp_path / "07.png").write_bytes((tmp_path / "07.png").read_bytes()[:50])
    (tmp_path / "09.png").unlink()
    (tmp_path / "09.png").mkdir()  # a folder with the name of an image
    data = module(tmp_path)
    report = data.report(tmp_path / "run")
    for each in take(data.stream(), 30):
        report.add(each)
    assert (list(report.damaged), report.size) == (["07.png"], 39)
    for i in range(20, 30):
        (tmp_path / f"{i}.png").write_bytes(b"")
    with pytest.raises(DataError, match="Too many damaged"):
        list(map(report.add, take(data.stream(), 30)))


@pytest.mark.parametrize("workers", [0, 2])
def test_root_with_only_unreadable_files_raises(tmp_path, workers):
    for i in range(50):
        (tmp_path / f"{i}.png").write_bytes(b"nothing")
    with pytest.raises(DataError, match="not an image"):
        take(module(tmp_path, num_workers=workers).stream(), 1)


# ---- shipped configurations


def test_data_configurations_build_and_train(photographs, tmp_path):
    layouts = {"folder": photographs, "flickr": photographs / "train", "imagenet": tmp_path / "imagenet", "demo": None}
    (tmp_path / "imagenet/train").mkdir(parents=True)
    (tmp_path / "imagenet/train/n01440764").symlink_to(photographs / "train")
    assert {path.stem for path in (CONF / "data").glob("*.yaml")} == set(layouts)
    for name, root in layouts.items():
        loaded = OmegaConf.load(CONF / "data" / f"{name}.yaml")
        config = OmegaConf.create({"data": loaded.data if "data" in loaded else loaded, "validate": {"crops": 3}})
        config.data.root = str(root) if root else None
        if root:
            config.data.source.cache = str(tmp_path / "cache")
        data = instantiate(config.data, crop=16, batch_size=2, accumulate=1, seed=0)
        assert take(data.stream(), 1)[0]["x"].shape == (2, 3, 16, 16)
        assert data.val_crops == 3
        assert len(data.train) > len(data.val) > 0


@pytest.mark.parametrize("name", ["folder", "flickr", "imagenet"])
def test_missing_root_raises(name):
    loaded = OmegaConf.load(CONF / "data" / f"{name}.yaml")
    data = instantiate(loaded, crop=16, batch_size=2, accumulate=1, seed=0)
    assert data.val_crops == 64
    with pytest.raises(DataError, match=r"data\.root is not set"):
        data.setup("fit")


def test_eval_configurations_have_the_same_keys():
    configs = {path.stem: OmegaConf.load(path) for path in (CONF / "eval").glob("*.yaml")}
    assert set(configs) == {"heldout", "kodak", "clic", "tecnick", "folder"}
    assert all(set(config) == {"name", "root", "limit"} and config.name == stem for stem, config in configs.items())


def test_flickr_uses_the_split_of_the_paper(tmp_path):
    for i in range(200):
        (tmp_path / f"{i:03d}.jpg").write_bytes(b"")
    loaded = OmegaConf.load(CONF / "data/flickr.yaml")
    loaded.root = str(tmp_path)
    data = instantiate(loaded, crop=16, batch_size=2, accumulate=1, seed=0)
    assert [data.val.name(i) for i in range(len(data.val))] == ["198.jpg", "199.jpg"]
    assert (len(data.train), data.flip, data.small) == (198, False, "skip")
