"""Building the parts of a run from its configuration, and printing the summary at the start."""

from __future__ import annotations

import errno
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning as L
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from lightning.fabric.plugins.environments import LightningEnvironment
from lightning.pytorch.loggers import Logger
from lightning.pytorch.strategies import DDPStrategy
from rich import get_console
from rich.text import Text

from lic_train.config.resolvers import quality
from lic_train.config.run import RunConfig
from lic_train.data.module import Photographs
from lic_train.data.sets import manifest
from lic_train.errors import ConfigError, TrainingError
from lic_train.layers.klt import best_gain, start_as_klt
from lic_train.models.base import Codec, build
from lic_train.runs import layout
from lic_train.runs.claim import ResumeState, claim
from lic_train.runs.load import check_start, load_run
from lic_train.runs.same import differences
from lic_train.system.interrupts import stopping_on_signals
from lic_train.system.memory import keep_freed_memory
from lic_train.system.screen import LiteralTable, is_first_process, reason, ruled_table
from lic_train.training.callbacks.checkpoints import AtomicCheckpointIO, Checkpoints
from lic_train.training.callbacks.data_watch import DataWatch
from lic_train.training.callbacks.ema import WeightAveraging
from lic_train.training.callbacks.guard import NonFiniteGuard
from lic_train.training.callbacks.hours import DeviceHours
from lic_train.training.callbacks.interrupt import GracefulStop
from lic_train.training.callbacks.pictures import Pictures
from lic_train.training.callbacks.progress import ProgressBar
from lic_train.training.callbacks.rate_distortion import RateDistortion
from lic_train.training.callbacks.rows import Rows
from lic_train.training.environment import about_this_process, record
from lic_train.training.lean_loop import NoProfiler, without_repeated_work
from lic_train.training.loggers import build_loggers, finish
from lic_train.training.module import LitCodec
from lic_train.training.precision import precision
from lic_train.training.ranks import joined


@contextmanager
def claim_directory(config: RunConfig, data: Photographs) -> Iterator[ResumeState]:
    """Connect the processes of the run; the first one claims the run directory and records data and environment.

    Raises:
        ConfigError: the directory is not writable, in use, or contains a run with another configuration.
        TrainingError: another process of the run ended.
    """
    overrides = list(HydraConfig.get().overrides.task)  # of this job; the command line may define a sweep
    trainer = config.trainer
    stopped, full = stopping_on_signals(), _full_disk_reported(Path(config.output))
    with stopped, full, joined(trainer.num_devices, trainer.num_nodes, trainer.accelerator, overrides) as ranks:
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
def _full_disk_reported(run_dir: Path) -> Iterator[None]:
    """Turn the OSError of a full disk into a TrainingError; files are replaced atomically, so the run can be resumed.

    Raises:
        TrainingError: the disk or the quota is full, or the file exceeds the size limit of the process.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise TrainingError(
            f"A file of {run_dir} could not be written.",
            expected="a disk with free space",
            got=reason(error),
            to_do="free disk space and run the same command again, which continues from the newest checkpoint",
        ) from error


def _check_that_all_are_equal(configurations: list[dict[str, Any]]) -> None:
    """Check that all processes have the same configuration.

    Raises:
        ConfigError: a process has another one.
    """
    first = configurations[0]
    for rank, other in enumerate(configurations):
        if found := differences(first, other):
            raise ConfigError(
                f"Process {rank} was started with another configuration.",
                expected="the configuration of process 0",
                got=f"(process 0 -> process {rank})\n" + "\n".join(map(str, found)),
                to_do="start all processes with the same command",
            )


def keep_manifest(run: ResumeState, data: Photographs) -> None:
    """Write the manifest of the photographs of a new run."""
    path = run.run_dir / manifest.NAME
    if run.checkpoint is None or not path.exists():
        manifest.write(path, data.manifest())


@contextmanager
def loggers(config: RunConfig, run: ResumeState) -> Iterator[list[Logger]]:
    """Yield the run's loggers, only in the first process; close them with exit code 0, or 1 after an error."""
    if not is_first_process():
        yield []
        return
    tags = [config.model_name, config.distortion, f"lambda={config.described_rate}", config.data_name]
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
    """Return the codec with the initial weights of the recipe, or with the weights of ``init_from``.

    Raises:
        ConfigError: the model's arguments are invalid or do not suit the recipe's initial weights, or ``init_from``
            contains another network.
    """
    torch.manual_seed(config.seed)
    try:
        model = build(config.network)
        if config.recipe.initial_weights == "klt":
            _start_as_klt(model, config.lmbda)
    except ValueError as error:
        raise ConfigError(f"model: {error}", to_do="change the model.* values") from error
    if config.init_from is not None:
        check_start(config.network, Path(config.init_from))
        start = load_run(Path(config.init_from))[0]
        if model.ladder and not start.ladder:
            model.reset_gains()
        model.load_state_dict({**model.state_dict(), **start.state_dict()})
    return model


def _start_as_klt(model: Codec, lmbda: float) -> None:
    """See `lic_train.layers.klt`. The gain units of a variable rate contain the factor of y, the weights do not."""
    g_a, g_s = model.latents().get("y", (torch.nn.Identity(), torch.nn.Identity()))
    if model.ladder is None:
        start_as_klt(g_a, g_s, best_gain(g_a, lmbda))
    else:
        start_as_klt(g_a, g_s)
        model.start_gains(best_gain(g_a, model.ladder.mean))


def make_module(config: RunConfig, model: Codec) -> LitCodec:
    """Return the LightningModule of ``model``."""
    return LitCodec(
        model,
        config.make_recipe(),
        model_config=config.network,
        seed=config.seed,
        compile=config.compile,
        channels_last=config.channels_last,
        bitstreams=config.validate_.bitstreams,
    )


def make_data(config: RunConfig) -> Photographs:
    """Return the data module, set up: a missing or empty data set is reported before anything is written.

    Raises:
        DataError: the data set is missing or empty.
    """
    data = instantiate(
        config.data, crop=config.crop, batch_size=config.batch_size, accumulate=config.accumulate, seed=config.seed
    )
    assert isinstance(data, Photographs)
    data.setup()
    return data


def make_trainer(config: RunConfig, run: ResumeState, active: list[Logger], data: Photographs) -> L.Trainer:
    """Return a Trainer that counts steps, not epochs: the training stream is endless."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # `show_start` prints a better summary
    # Logged values are already means over all processes, and srun is optional.
    for message in (".*sync_dist=True", "The `srun` command"):
        warnings.filterwarnings("ignore", message=message)
    run_dir = run.run_dir
    every = min(config.validate_.every, config.steps)
    name = f"{config.model_name}, lambda {config.described_rate}"
    callbacks: list[L.Callback] = [
        DataWatch(run_dir),
        DeviceHours(),
        NonFiniteGuard(run_dir),
        Pictures(run_dir / layout.PICTURES, lambda: data.whole_images(1)),
        RateDistortion(run_dir / layout.PICTURES, name, config.eval.name),
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
        devices=config.trainer.num_devices,
        num_nodes=config.trainer.num_nodes,
        strategy=_distributed() if config.trainer.num_devices * config.trainer.num_nodes > 1 else "auto",
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
        profiler=NoProfiler(),
        # `joined` has started the processes, and Lightning's Slurm plugin would requeue with checkpoints of its own.
        plugins=[AtomicCheckpointIO(), LightningEnvironment()],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=run_dir,
    )
    if trainer.strategy.root_device.type == "cpu":
        keep_freed_memory()
    return without_repeated_work(trainer)


def _distributed() -> DDPStrategy:
    """Return DDP without a search for unused parameters: every parameter gets a gradient in every step of every stage.

    If a stage drops a loss term, as in IB-LIC, the layers of that term still contribute to x_hat. Buffers are broadcast
    from the first process, which saves them. Gradients are averaged while the backward pass computes the others.
    static_graph is off: the loss changes between stages, and without a search for unused parameters it saves nothing.
    """
    return DDPStrategy(find_unused_parameters=False, gradient_as_bucket_view=True)


def _split(batch: int, devices: int, accumulate: int) -> str:
    """Return the parts of a step's batch, for example " = 2 devices x 3 micro-batches x 4"; "" if it has one part."""
    parts = {"devices": devices, "micro-batches": accumulate}
    factors = [f"{number} {what}" for what, number in parts.items() if number > 1]
    return " = " + " x ".join([*factors, str(batch // (devices * accumulate))]) if factors else ""


def show_start(config: RunConfig, model: Codec, trainer: L.Trainer, data: Photographs) -> None:
    """Print model, data, device, output directory and stages, in the first process."""
    if not is_first_process():
        return
    about = LiteralTable(show_header=False, box=None, padding=(0, 1))
    about.add_column()
    about.add_column(overflow="fold")
    arguments = ", ".join(f"{key}={value}" for key, value in config.model.items() if key != "_target_")
    parameters = sum(parameter.numel() for parameter in model.parameters())
    levels = len(config.rate.lambdas or ())
    rate = f"{levels} levels" if levels else f"quality {quality(config.lmbda, config.distortion)} of 8"
    batch = f"{config.batch_size} crops of {config.crop} x {config.crop}"
    photographs = f"{len(data.train):,} training and {len(data.val):,} validation"
    for key, value in (
        ("model", f"{config.model_name}({arguments}), {parameters:,} parameters"),
        ("lambda", f"{config.described_rate} ({config.distortion}, {rate})"),
        ("data", f"{photographs} photographs, {data.place}"),
        *((f"  {kind}", text) for kind, text in data.rows),
        ("batch", batch + _split(config.batch_size, trainer.world_size, config.accumulate)),
        ("device", f"{trainer.strategy.root_device}, {trainer.precision}{', compiled' if config.compile else ''}"),
        ("output", config.output),
    ):
        about.add_row(Text(key, "bold"), value)
    stages = ruled_table("stage", "steps", "learning rate", "loss")
    for row in config.make_recipe().table():
        stages.add_row(*row)
    console = get_console()
    console.print(about, stages)
    if config.steps < config.recipe.steps / 100:
        console.print(
            f"[bold yellow]Smoke run:[/] {config.steps:,} of the recipe's {config.recipe.steps:,} steps test the setup "
            "but do not train a usable model. Full recipe: data=imagenet data.root=..."
        )
