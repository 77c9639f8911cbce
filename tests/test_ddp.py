"""Distributed training: two processes give the losses, validation and weights of one, and end together."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch.distributed as dist
from lightning.pytorch.strategies import DDPStrategy
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

from lic_train.config.compose import compose
from lic_train.config.run import checked
from lic_train.system import relaunch
from lic_train.system.interrupts import INTERRUPTED
from lic_train.training import followers, presence, ranks, setup
from lic_train.training.callbacks.interrupt import GracefulStop, Interrupted
from tests.small_runs import (
    Forked,
    assert_equal_state,
    column,
    command_line,
    in_ranks,
    last_checkpoint,
    make_photographs,
    overrides,
    run_here,
)
from tests.test_golden_losses import train_only

DDP = ("trainer=ddp", "trainer.devices=2", "validate.bitstreams=3")
FAST = "recipe.stages=[{name: main, share: 1, lr: 1.0e-3}]"  # six steps change the losses noticeably


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine photographs, three of them for validation: two for one process, one for the other."""
    return make_photographs(tmp_path_factory.mktemp("data") / "photographs")


def train_and_report(command: list[str]) -> dict[str, Any]:
    """Train in this process and check that its environment is restored; return weights and images per step."""
    kept: dict[str, Any] = {}
    make_module, step = setup.make_module, setup.LitCodec.training_step

    def keep(*arguments: Any) -> Any:
        kept["module"] = make_module(*arguments)
        return kept["module"]

    def counted(self: Any, batch: Any, batch_idx: int) -> Any:
        kept["images"] = len(batch["x"])
        return step(self, batch, batch_idx)

    setup.make_module, setup.LitCodec.training_step = keep, counted  # type: ignore[assignment, method-assign]
    before = dict(os.environ)
    assert run_here(command) == 0
    assert dict(os.environ) == before
    assert not dist.is_initialized()
    weights = {name: value.clone().numpy() for name, value in kept["module"].state_dict().items()}
    return {"weights": weights, "images": kept["images"]}


def in_two(command: list[str], folder: Path) -> list[dict[str, Any]]:
    folder.mkdir()
    return [rank.result() for rank in in_ranks(lambda: train_and_report(command), folder)]


@pytest.fixture(scope="module")
def single(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in one process."""
    folder = tmp_path_factory.mktemp("single")
    Forked(
        lambda: run_here(overrides(photographs, folder / "run", "validate.bitstreams=3", FAST)), folder / "log"
    ).result()
    return folder / "run"


@pytest.fixture(scope="module")
def double(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """The same run in two processes."""
    folder = tmp_path_factory.mktemp("double")
    return folder / "run", in_two(overrides(photographs, folder / "run", *DDP, FAST), folder / "ranks")


def printed_by_rank_0(folder: Path) -> str:
    """Return the output of the first process without trailing blanks; check that the other prints no summary."""
    assert "crops of" not in (folder / "rank_1.txt").read_text()
    return "".join(f"{line.rstrip()}\n" for line in (folder / "rank_0.txt").read_text().splitlines())


def assert_same_curve(a: Path, b: Path) -> None:
    for name in ("train/loss", "train/bpp", "train/mse", "train/psnr", "train/aux", "train/grad_norm", "val/loss"):
        assert column(a, name) == pytest.approx(column(b, name), rel=2e-5), name
    assert column(a, "val/loss")[0] != pytest.approx(column(a, "val/loss")[1], rel=1e-2)


def test_two_processes_equal_one_with_the_whole_batch(single: Path, double: tuple[Path, list[dict[str, Any]]]) -> None:
    assert [rank["images"] for rank in double[1]] == [2, 2]
    assert_same_curve(single, double[0])
    assert column(double[0], "train/lr") == column(single, "train/lr")
    assert "4 crops of 64 x 64 = 2 devices x 2\n" in printed_by_rank_0(double[0].parent / "ranks")


def test_micro_batches_equal_the_whole_batch(single: Path, photographs: Path, tmp_path: Path) -> None:
    Forked(lambda: run_here(overrides(photographs, tmp_path / "run", "accumulate=2", FAST)), tmp_path / "log").result()
    assert_same_curve(single, tmp_path / "run")


def test_both_processes_end_with_equal_weights(double: tuple[Path, list[dict[str, Any]]]) -> None:
    run, (first, second) = double
    saved = {name: value.numpy() for name, value in last_checkpoint(run)["state_dict"].items()}
    assert saved.keys() == first["weights"].keys() == second["weights"].keys()
    for name, value in saved.items():
        assert value.tobytes() == first["weights"][name].tobytes() == second["weights"][name].tobytes()


def test_validation_equals_that_of_one_process(single: Path, double: tuple[Path, list[dict[str, Any]]]) -> None:
    """Three images for two processes."""
    for name in ("val/loss", "val/bpp", "val/mse", "val/psnr", "val/bpp_file", "val/bpp_gap", "val/psnr_file"):
        assert column(double[0], name) == pytest.approx(column(single, name), rel=2e-5), name
    one, two = (json.loads((run / "eval" / "heldout.json").read_text()) for run in (single, double[0]))
    assert two["image_list_sha256"] == one["image_list_sha256"]


def stopped_at(step: int, command: list[str]) -> int:
    """Train in this process; only rank 1 receives the signal."""
    started = GracefulStop.on_train_batch_start

    def signalled(self: Any, trainer: Any, *arguments: Any) -> None:
        if trainer.global_rank == 1 and trainer.global_step == step:
            os.kill(os.getpid(), signal.SIGTERM)
        started(self, trainer, *arguments)

    GracefulStop.on_train_batch_start = signalled  # type: ignore[method-assign]
    return run_here(command)


def test_signal_to_one_process_stops_both_and_the_run_resumes(
    photographs: Path, double: tuple[Path, list[dict[str, Any]]], tmp_path: Path
) -> None:
    command = overrides(photographs, tmp_path / "run", *DDP, FAST)
    ranks = in_ranks(lambda: stopped_at(3, command), tmp_path)
    assert [rank.wait() for rank in ranks] == [INTERRUPTED, INTERRUPTED]
    assert "after step 4" in (tmp_path / "rank_0.txt").read_text()
    assert "Stopped" not in (tmp_path / "rank_1.txt").read_text()
    assert last_checkpoint(tmp_path / "run")["global_step"] == 4
    in_two(command, tmp_path / "again")
    assert_equal_state(tmp_path / "run", double[0])
    assert column(tmp_path / "run", "train/loss") == column(double[0], "train/loss")


def test_averaging_accumulation_and_bf16_with_an_empty_rank(photographs: Path, tmp_path: Path) -> None:
    more = (*DDP, "accumulate=2", "ema=0.5", "precision=bf16-mixed", "validate.crops=1", "validate.bitstreams=1")
    first, second = in_two(overrides(photographs, tmp_path / "run", *more), tmp_path / "ranks")
    assert first["images"] == 1
    assert "4 crops of 64 x 64 = 2 devices x 2 micro-batches x 1\n" in printed_by_rank_0(tmp_path / "ranks")
    assert all(value.tobytes() == second["weights"][name].tobytes() for name, value in first["weights"].items())
    assert last_checkpoint(tmp_path / "run")["weight_averaging"]
    # One image: the validation batch of rank 1 is empty, and it codes no image.
    for name in ("val/psnr", "val/bpp_file"):
        assert np.isfinite(column(tmp_path / "run", name)).tolist() == [True, True]


def test_loss_term_of_one_stage_only(photographs: Path, tmp_path: Path) -> None:
    """Like IB-LIC's enhancement term."""
    first = "{name: first, share: 1/2, lr: 1.0e-4, loss: {bpp: 1, distortion: 1, feature_enhancement: 1}}"
    stages = f"recipe.stages=[{first}, {{name: last, share: 1/2, lr: 1.0e-4}}]"
    more = ("model=iblic_tiny", "model.N=32", "model.M=80", "batch_size=2", "steps=4", "validate.crops=1", stages)
    in_two(overrides(photographs, tmp_path / "run", *DDP[:2], *more), tmp_path / "ranks")
    assert column(tmp_path / "run", "train/feature_enhancement_weight") == [1, 1, 0, 0]


def order_of_events(command: list[str]) -> list[str]:
    """Train in this process; return the beginning of each all-reduce and each gradient of the first layer, in order."""
    events: list[str] = []
    distributed, make_module = setup._distributed, setup.make_module

    def in_small_buckets() -> DDPStrategy:
        strategy = distributed()
        strategy._ddp_kwargs["bucket_cap_mb"] = 0.01  # the small network would be one bucket
        configure = strategy.configure_ddp

        def configured() -> None:  # Lightning registers hooks on a GPU only
            configure()
            strategy.model.register_comm_hook(None, noted)  # type: ignore[operator, union-attr]

        strategy.configure_ddp = configured  # type: ignore[method-assign]
        return strategy

    def noted(state, bucket):  # DDP checks annotations, which are strings in this file
        events.append(f"all-reduce {bucket.index()}")
        return allreduce_hook(None, bucket)

    def watched(*arguments: Any) -> setup.LitCodec:
        module = make_module(*arguments)
        first: Any = module.model.g_a
        first[0].weight.register_post_accumulate_grad_hook(lambda _: events.append("first layer"))
        return module

    setup._distributed, setup.make_module = in_small_buckets, watched
    train_only(checked(compose(command)))
    return events


def test_gradients_are_averaged_during_the_backward_pass(photographs: Path, tmp_path: Path) -> None:
    command = overrides(photographs, tmp_path / "run", *DDP[:2], "steps=3", "validate.crops=1", FAST)
    for rank in in_ranks(lambda: order_of_events(command), tmp_path):
        # DDP puts the gradients into buckets, in the order in which they arrive, after the first step.
        first_step, *others = " ".join(rank.result()).split("all-reduce 0")[1:]
        assert first_step.strip() == ""
        for step in others:
            before, after = step.split("first layer")
            assert before.count("all-reduce") > 1
            assert after.count("all-reduce") == 1  # of the bucket that contains the gradient of this layer


def test_different_weights_raise(photographs: Path, tmp_path: Path) -> None:
    def train_separately() -> int:
        setup._distributed = lambda: Separate()  # type: ignore[assignment]
        return run_here(overrides(photographs, tmp_path / "run", *DDP))

    ranks = in_ranks(train_separately, tmp_path)
    assert [rank.wait() for rank in ranks] == [2, 2]
    assert "different weights" in (tmp_path / "rank_0.txt").read_text()


class Separate(DDPStrategy):
    """A strategy that does not average the gradients."""

    def configure_ddp(self) -> None:
        pass


def fails_in_rank_1(step: int, command: list[str]) -> int:
    """Train in this process; in one step of rank 1 the loss is infinite and its gradient finite."""
    original = setup.LitCodec.training_step

    def training_step(self: Any, batch: Any, batch_idx: int) -> Any:
        loss = original(self, batch, batch_idx)
        return loss + float("inf") if (self.global_rank, self.global_step) == (1, step) else loss

    setup.LitCodec.training_step = training_step  # type: ignore[method-assign]
    return run_here(command)


def test_non_finite_loss_of_one_process_stops_both_before_its_step(photographs: Path, tmp_path: Path) -> None:
    """In bf16; the flags are read two steps later, before a validation."""
    more = (*DDP[:2], "precision=bf16-mixed", "trainer.log_every=10", "validate.every=4", "checkpoint.every=100")
    command = overrides(photographs, tmp_path / "run", *more, "validate.crops=1", "eval.limit=1", FAST)
    ranks = in_ranks(lambda: fails_in_rank_1(2, command), tmp_path)
    assert [rank.wait() for rank in ranks] == [2, 2]
    assert "stopped at step 2" in (tmp_path / "rank_0.txt").read_text()
    reports = [json.loads(path.read_text()) for path in sorted((tmp_path / "run").rglob("report.json"))]
    assert [report["rank"] for report in reports] == [0, 1]
    assert [report["terms"]["loss"] == "inf" for report in reports] == [False, True]
    saved = last_checkpoint(tmp_path / "run")
    assert saved["global_step"] == 2
    assert all(state["step"] == 2 for state in saved["optimizer_states"][0]["state"].values())


def test_different_configurations_raise(photographs: Path, tmp_path: Path) -> None:
    def train_own_lambda() -> int:
        return run_here(
            overrides(photographs, tmp_path / "run", *DDP, f"lambda=0.0{1 + int(os.environ['LOCAL_RANK'])}")
        )

    ranks = in_ranks(train_own_lambda, tmp_path)
    assert [rank.wait() for rank in ranks] == [2, 2]
    assert "lambda: 0.01 -> 0.02" in (tmp_path / "rank_0.txt").read_text()
    assert not (tmp_path / "run").exists()


# --- python train.py -------------------------------------------------------------------------------------------------


def test_processes_of_a_sweep_train_the_same_lambda(photographs: Path, tmp_path: Path) -> None:
    """Sequential jobs in one process: Lightning alone would start the whole sweep in every rank."""
    more = ("steps=2", "validate.crops=1", "lambda=0.01,0.02", "hydra/launcher=basic")
    command = overrides(photographs, tmp_path / "lambda_${lambda}", *DDP[:2], *more)
    done = subprocess.run([*command_line(command), "-m"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for lmbda in ("0.01", "0.02"):
        run = tmp_path / f"lambda_{lmbda}"
        processes = json.loads((run / "environment.json").read_text())["processes"]
        assert [process["rank"] for process in processes] == [0, 1]
        assert all(f"lambda={lmbda}" in process["overrides"] for process in processes)
        assert len({process["pid"] for process in processes}) == 2
        assert len(column(run, "train/loss")) == 2
        assert last_checkpoint(run)["run_config"]["lambda"] == float(lmbda)
        assert (run / "finished.json").exists()


def is_alive(pid: int) -> bool:
    """Return whether the process is running; a zombie is not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until(condition: Any, seconds: float = 300) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.05)


@pytest.mark.parametrize("victim", [0, 1])
def test_both_processes_end_if_one_is_killed(photographs: Path, tmp_path: Path, victim: int) -> None:
    run = tmp_path / "run"
    command = overrides(photographs, run, *DDP[:2], "steps=100000", "validate.every=100000")
    first = Forked(lambda: run_here(command), tmp_path / "log")  # the other process is a real train.py
    try:
        wait_until(lambda: (run / "metrics.csv").exists() or not first.process.is_alive())
        pids = [process["pid"] for process in json.loads((run / "environment.json").read_text())["processes"]]
        assert pids[0] == first.process.pid
        os.kill(pids[victim], signal.SIGKILL)
        assert first.wait() == (-signal.SIGKILL if victim == 0 else 2)
        wait_until(lambda: not is_alive(pids[1]), 60)
    finally:
        first.kill()
    if victim == 1:
        assert "ended by SIGKILL" in (tmp_path / "log").read_text()


def hang_without_the_other() -> None:
    """Act as a first process in a collective operation that never ends; the other process failed before it."""
    relaunch.TRAIN = ("-c", "raise SystemExit(3)")
    followers.LOOK, followers.GRACE = 0.1, 0.1
    followers.Followers(1, [])
    time.sleep(300)


def test_process_that_waits_for_a_failed_one_ends(tmp_path: Path) -> None:
    first = Forked(lambda: hang_without_the_other(), tmp_path / "log")
    assert first.wait() == 2
    assert "ended with exit code 3" in (tmp_path / "log").read_text()


def hang_in_a_call(rank: int, ready: Path) -> None:
    """Join a job as one process that a scheduler started, then wait for ever in C code, deaf to signals.

    This stands for a collective operation of NCCL, which does not notice that another process has ended.
    """
    followers.GRACE = 0.1
    with ranks.joined(2, 1, "cpu", []):
        signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 32))
        (ready / str(rank)).touch()
        one, _other = socket.socketpair()
        one.recv(1)


def in_a_job(tmp_path: Path, function: Callable[[int], None]) -> list[Forked]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    variables = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [
        Forked(lambda rank=rank: function(rank), tmp_path / f"log_{rank}", {**variables, "LOCAL_RANK": str(rank)})
        for rank in range(2)
    ]


@pytest.mark.parametrize("victim", [0, 1])
def test_process_that_hangs_ends_if_another_one_is_killed(tmp_path: Path, victim: int) -> None:
    (tmp_path / "ready").mkdir()
    both = in_a_job(tmp_path, lambda rank: hang_in_a_call(rank, tmp_path / "ready"))
    try:
        wait_until(lambda: len(list((tmp_path / "ready").iterdir())) == 2)
        both[victim].kill()
        wait_until(lambda: not both[1 - victim].process.is_alive(), 20)
        assert both[1 - victim].wait() == (1 if victim == 0 else 2)
    finally:
        for each in both:
            each.kill()
    assert ("Process 1 of this run ended." in (tmp_path / "log_0").read_text()) == (victim == 1)


def leave(rank: int, reason: BaseException | None) -> None:
    """Leave a job as its second process; the first one stays a while longer."""
    followers.GRACE = 0.1
    store = dist.TCPStore("127.0.0.1", int(os.environ["MASTER_PORT"]), 2, rank == 0, wait_for_workers=False)
    with presence.watched(rank, 2, "127.0.0.1", store):
        if rank == 0:
            time.sleep(3)
        elif reason is not None:
            store.wait(["presence"])
            raise reason


@pytest.mark.parametrize(
    ("reason", "code"), [(None, 0), (SystemExit(75), 0), (Interrupted(15, 3, Path("x")), 0), (ValueError("odd"), 2)]
)
def test_only_an_irregular_end_of_one_process_ends_the_other(
    tmp_path: Path, reason: BaseException | None, code: int
) -> None:
    first, second = in_a_job(tmp_path, lambda rank: leave(rank, reason))
    second.wait()
    assert first.wait() == code, (tmp_path / "log_0").read_text()


def test_farewell_right_after_the_greeting_is_a_regular_end(monkeypatch: pytest.MonkeyPatch) -> None:
    lost: list[int] = []
    monkeypatch.setattr(followers, "GRACE", 0.05)
    monkeypatch.setattr(presence, "_Lost", lambda rank: lambda: lost.append(rank))
    store = dist.HashStore()
    with presence.watched(0, 3, "127.0.0.1", store):
        port, token = store.get("presence").decode().split()
        for rank, end in ((1, b"."), (2, b"")):
            with socket.create_connection(("127.0.0.1", int(port))) as peer:
                peer.sendall(f"{token} {rank}\n".encode() + end)
        wait_until(lambda: lost)
    assert lost == [2]


def start_one_that_lets_no_thread_run(ready: Path) -> None:
    code = (
        "import ctypes, pathlib, sys; from lic_train.training import followers; followers.end_with_the_launcher();"
        "pathlib.Path(sys.argv[1]).touch(); ctypes.PyDLL(None).pause()"
    )
    environment = {**os.environ, followers.LAUNCHER: str(os.getpid())}
    child = subprocess.Popen([sys.executable, "-c", code, str(ready)], env=environment)
    ready.with_suffix(".pid").write_text(str(child.pid))
    time.sleep(300)


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel of Linux kills it")
def test_process_that_lets_no_thread_run_ends_with_its_launcher(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    launcher = Forked(lambda: start_one_that_lets_no_thread_run(ready), tmp_path / "log")
    wait_until(ready.exists)
    time.sleep(0.2)  # until it has called pause
    launcher.kill()
    child = int(ready.with_suffix(".pid").read_text())
    try:
        wait_until(lambda: not is_alive(child), 20)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
