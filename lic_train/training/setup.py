"""What a checked configuration is turned into: the data, the Trainer, and the table that tells it all at the start."""

from __future__ import annotations

import errno
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from lightning.fabric.plugins.environments import LightningEnvironment
from lightning.pytorch.loggers import Logger
from lightning.pytorch.strategies import DDPStrategy
from rich import get_console
from rich.table import Table

from lic_train.config.resolvers import quality
from lic_train.config.run import RunConfig
from lic_train.data.module import Photographs
from lic_train.data.sets import manifest
from lic_train.errors import ConfigError, TrainingError
from lic_train.models.base import Codec, build
from lic_train.runs import layout
from lic_train.runs.claim import ResumeState, claim
from lic_train.runs.load import load_run
from lic_train.runs.same import differences
from lic_train.system.memory import keep_freed_memory
from lic_train.system.screen import is_first_process, reason, ruled_table
from lic_train.training.callbacks.checkpoints import AtomicCheckpointIO, Checkpoints
from lic_train.training.callbacks.data_watch import DataWatch
from lic_train.training.callbacks.ema import WeightAveraging
from lic_train.training.callbacks.guard import NonFiniteGuard
from lic_train.training.callbacks.hours import DeviceHours
from lic_train.training.callbacks.interrupt import GracefulStop, stopping_at_once
from lic_train.training.callbacks.pictures import Pictures
from lic_train.training.callbacks.progress import ProgressBar
from lic_train.training.callbacks.rate_distortion import RateDistortion
from lic_train.training.callbacks.rows import Rows
from lic_train.training.environment import about_this_process, record
from lic_train.training.loggers import build_loggers, finish
from lic_train.training.module import LitCodec
from lic_train.training.ranks import joined


@contextmanager
def claim_directory(config: RunConfig, data: Photographs) -> Iterator[ResumeState]:
    """Bring the processes of the run together; the first one takes the directory and notes what the run is made of.

    Raises:
        ConfigError: the directory is not writable, in use, or holds a run with another configuration.
        DataError: it holds a run on other photographs.
        TrainingError: another process of the run ended.
    """
    overrides = list(HydraConfig.get().overrides.task)  # of this job; the command line may be a whole sweep
    trainer = config.trainer
    stopped, full = stopping_at_once(), _full_disk_told(Path(config.output))
    with stopped, full, joined(trainer.devices, trainer.num_nodes, trainer.accelerator, overrides) as ranks:
        _check_that_all_are_equal(ranks.gather("configuration", config.plain()))
        processes = ranks.gather("process", about_this_process(ranks.rank, overrides))
        if ranks.is_first:
            with claim(Path(config.output), config.plain(), config.fresh, overrides) as run:
                if not run.finished:
                    keep_manifest(run, data)
                    record(run.run_dir, processes)
                ranks.gather("run", run.plain())
                yield run
        else:
            yield ResumeState.from_plain(ranks.gather("run", {})[0])


@contextmanager
def _full_disk_told(run_dir: Path) -> Iterator[None]:
    """Whatever was being written when the disk was full: files are replaced whole, so the run can go on from them.

    Raises:
        TrainingError: the disk is full, or the file larger than this process may write.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise TrainingError(
            f"A file of {run_dir} could not be written.\nexpected: a disk with free space\ngot: {reason(error)}\n"
            "what to do: make room and run the same command again, which continues from the newest checkpoint"
        ) from error


def _check_that_all_are_equal(configurations: list[dict[str, Any]]) -> None:
    """No process may ever train another lambda, whoever started it."""
    first = configurations[0]
    for rank, other in enumerate(configurations):
        if found := differences(first, other):
            raise ConfigError(
                f"Process {rank} was started with another configuration.\nexpected: that of process 0\n"
                "got (process 0 -> this one):\n  "
                + "\n  ".join(map(str, found))
                + "\nwhat to do: start all with one command"
            )


def keep_manifest(run: ResumeState, data: Photographs) -> None:
    """Note what the photographs are; a run that goes on must go on with those that it began with."""
    path = run.run_dir / manifest.NAME
    if run.checkpoint is not None and path.exists():
        manifest.require_same(path, data.manifest())
    else:
        manifest.write(path, data.manifest())


@contextmanager
def loggers(config: RunConfig, run: ResumeState) -> Iterator[list[Logger]]:
    """The run's loggers, closed with an exit code that tells a crash from a success; the first process has them all."""
    if not is_first_process():
        yield []
        return
    tags = [config.model_name, config.distortion, f"lambda={config.lmbda:g}", config.data_name]
    group = config.group or config.model_name
    active = build_loggers(
        config.logger["kind"], run.run_dir, config=config.plain(), group=group, tags=tags, resume_step=run.step
    )
    code = 1
    try:
        yield active
        code = 0
    finally:
        finish(active, code)


def make_model(config: RunConfig) -> Codec:
    """The codec with weights drawn from the seed, or taken from ``init_from``.

    Raises:
        ConfigError: the model refuses its arguments, or ``init_from`` holds another network.
    """
    torch.manual_seed(config.seed)
    try:
        model = build(config.model)
    except ValueError as error:
        raise ConfigError(f"model: {error}") from error
    if config.init_from is not None:
        donor, _ = load_run(Path(config.init_from))
        try:
            model.load_state_dict(donor.state_dict())
        except RuntimeError as error:
            raise ConfigError(f"init_from: {config.init_from} holds another network: {error}") from error
    return model


def make_module(config: RunConfig, model: Codec) -> LitCodec:
    """The LightningModule around ``model``."""
    return LitCodec(
        model,
        config.make_recipe(),
        model_config=config.model,
        seed=config.seed,
        compile=config.compile,
        channels_last=config.channels_last,
        bitstreams=config.validate_.bitstreams,
    )


def make_data(config: RunConfig) -> Photographs:
    """The photographs; a missing or empty data set is reported here, before anything is written."""
    data = instantiate(
        config.data, crop=config.crop, batch_size=config.batch_size, accumulate=config.accumulate, seed=config.seed
    )
    assert isinstance(data, Photographs)
    data.setup()
    return data


def make_trainer(config: RunConfig, run: ResumeState, active: list[Logger], data: Photographs) -> L.Trainer:
    """A Trainer that counts steps, not epochs: the training stream is endless."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # the start table says it better
    for told in (
        ".*sync_dist=True",
        "The `srun` command",
    ):  # what is logged is of all processes; srun may but need not be
        warnings.filterwarnings("ignore", message=told)
    run_dir = run.run_dir
    every = min(config.validate_.every, config.steps)
    callbacks: list[L.Callback] = [
        DataWatch(run_dir),
        DeviceHours(),
        NonFiniteGuard(run_dir),
        Pictures(run_dir / layout.PICTURES, lambda: data.whole_images(1)),
        RateDistortion(run_dir / layout.PICTURES, f"{config.model_name}, lambda {config.lmbda:g}", config.eval.name),
        Rows(),
        Checkpoints(
            run_dir / layout.CHECKPOINTS,
            every=config.checkpoint.every,
            keep=config.checkpoint.keep,
            run_config=config.plain(),
        ),
        *([WeightAveraging(config.ema)] if config.ema is not None else []),
        ProgressBar(batch_size=config.batch_size),
        GracefulStop(),
    ]
    trainer = L.Trainer(
        accelerator=config.trainer.accelerator,
        devices=config.trainer.devices,
        num_nodes=config.trainer.num_nodes,
        strategy=_distributed() if config.trainer.devices * config.trainer.num_nodes > 1 else "auto",
        precision=precision(config.precision, config.trainer.accelerator),
        max_steps=config.steps,
        max_epochs=-1,
        val_check_interval=every * config.accumulate,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        accumulate_grad_batches=config.accumulate,
        log_every_n_steps=min(config.trainer.log_every, config.steps),
        logger=active,
        callbacks=callbacks,
        # The processes are there, see `joined`; and Lightning's own requeueing by Slurm would write other checkpoints.
        plugins=[AtomicCheckpointIO(), LightningEnvironment()],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=run_dir,
    )
    if trainer.strategy.root_device.type == "cpu":
        keep_freed_memory()
    return trainer


def _distributed() -> DDPStrategy:
    """Every parameter of every model gets a gradient in every step of every stage, so nothing need be searched for.

    Where a stage drops a loss term, as IB-LIC's does, the layers of that term still are on the way to x_hat. Buffers
    follow the first process: batch statistics are what it saves. A static graph would not bear a change of the loss.
    """
    return DDPStrategy(find_unused_parameters=False, gradient_as_bucket_view=True)


def precision(option: str, accelerator: str) -> Literal["32-true", "bf16-mixed"]:
    """Lightning's name for ``option``; "auto" takes bf16-mixed where the hardware computes in it."""
    if option != "auto":
        return "bf16-mixed" if option == "bf16-mixed" else "32-true"
    if accelerator != "cpu" and torch.cuda.is_available():
        has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        has_bf16 = _computes_in_bf16(torch.cpu.get_capabilities())
    return "bf16-mixed" if has_bf16 else "32-true"


def _computes_in_bf16(cpu: Mapping[str, Any]) -> bool:
    """Whether bf16 convolutions are the faster ones: measured 2 times fp32 on AMD's AVX512-BF16, 0.5 on Intel's."""
    return bool(cpu.get("amx_bf16")) or (bool(cpu.get("avx512_bf16")) and "AMD" in cpu.get("cpu_name", ""))


def _split(batch: int, devices: int, accumulate: int) -> str:
    """How the batch of a step is made up, for example " = 2 devices x 3 micro-batches x 4"; nothing if it is whole."""
    parts = {"devices": devices, "micro-batches": accumulate}
    told = [f"{number} {what}" for what, number in parts.items() if number > 1]
    return " = " + " x ".join([*told, str(batch // (devices * accumulate))]) if told else ""


def show_start(config: RunConfig, model: Codec, trainer: L.Trainer, data: Photographs) -> None:
    """Print what will be trained, on what, for how long, and where it goes; in the first process."""
    if not is_first_process():
        return
    about = Table(show_header=False, box=None, padding=(0, 1))
    about.add_column()
    about.add_column(overflow="fold")
    arguments = ", ".join(f"{key}={value}" for key, value in config.model.items() if key != "_target_")
    parameters = sum(parameter.numel() for parameter in model.parameters())
    rung = quality(config.lmbda, config.distortion)
    batch = f"{config.batch_size} crops of {config.crop} x {config.crop}"
    photographs = f"{len(data.train):,} training and {len(data.val):,} validation"
    for key, value in (
        ("model", f"{config.model_name}({arguments}), {parameters:,} parameters"),
        ("lambda", f"{config.lmbda:g} ({config.distortion}, quality {rung} of 8)"),
        ("data", f"{photographs} photographs, {data.place}"),
        ("batch", batch + _split(config.batch_size, trainer.world_size, config.accumulate)),
        ("device", f"{trainer.strategy.root_device}, {trainer.precision}{', compiled' if config.compile else ''}"),
        ("output", config.output),
    ):
        about.add_row(f"[bold]{key}", value)
    stages = ruled_table("stage", "steps", "learning rate", "loss")
    for row in config.make_recipe().table():
        stages.add_row(*row)
    console = get_console()
    console.print(about, stages)
    if config.steps < config.recipe.steps / 100:
        console.print(
            f"[bold yellow]Smoke run:[/] {config.steps:,} of the recipe's {config.recipe.steps:,} steps show that "
            "everything works and train nothing worth using. The recipe in full: data=imagenet data.root=..."
        )
