"""Ctrl-C, SIGTERM and SIGUSR1 in every phase of a command, and worker processes that never outlive it."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lic_train.errors import DataError, LicError
from lic_train.system.command import command, errors_without_traceback
from lic_train.system.interrupts import Stopped, ending_on_signals, stopping_on_signals
from lic_train.system.processes import Workers
from tests.conftest import ROOT

CODES = [(signal.SIGINT, 130), (signal.SIGTERM, 130), (signal.SIGUSR1, 75)]


def until(condition: Callable[[], object], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the expected state was not reached"
        time.sleep(0.02)


def start(code: str, *arguments: str) -> subprocess.Popen[str]:
    """A Python process in a group of its own, to which a terminal would send Ctrl-C."""
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, process_group=0, cwd=ROOT,
    )  # fmt: skip


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


# ---- one process


@pytest.mark.parametrize(("number", "code"), CODES)
def test_signal_during_imports_ends_with_one_line(number: signal.Signals, code: int, tmp_path: Path) -> None:
    """A module of the command that swallows every exception is being imported."""
    (tmp_path / "slow.py").write_text(
        "import os, sys, time\nfor attempt in range(10):\n    try:\n"
        "        print('importing', flush=True)\n        time.sleep(60)\n"
        "    except BaseException:\n        pass\n"
    )
    process = start(
        """
        import sys
        from lic_train import cli
        sys.path.insert(0, sys.argv[1])
        cli.COMMANDS["slow"] = cli.Command("", "slow")
        cli.main(["slow"])
        """,
        str(tmp_path),
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "importing\n"
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    assert process.returncode == code
    assert error.strip() == f"Stopped by {number.name}."


def test_python_m_has_the_handlers_before_its_imports() -> None:
    process = start(
        """
        import signal, sys
        sys.argv[0] = "-m"  # as the interpreter sets it while it imports the packages of the command
        import lic_train
        signal.raise_signal(signal.SIGUSR1)
        """
    )
    _, error = process.communicate(timeout=60)
    assert (process.returncode, error.strip()) == (75, "Stopped by SIGUSR1.")


@pytest.mark.parametrize(("number", "code"), CODES)
def test_signal_in_a_command_gives_one_line(
    number: signal.Signals, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    @command("the same command continues")
    def main(argv: object = None) -> int:
        try:
            signal.raise_signal(number)
        except Exception:
            pytest.fail("a file reader would catch it")
        return 0

    before = signal.getsignal(number)
    assert main([]) == code
    assert capsys.readouterr().err == f"warning: stopped by {number.name}; the same command continues\n"
    assert signal.getsignal(number) is before


def test_second_ctrl_c_ends_at_once_and_other_signals_may_be_repeated() -> None:
    process = start(
        """
        import signal
        from lic_train.system.interrupts import stopping_on_signals
        with stopping_on_signals():
            try:
                signal.raise_signal(signal.SIGINT)
            finally:
                signal.raise_signal(signal.SIGTERM)
                print("cleaning up", flush=True)
                signal.raise_signal(signal.SIGINT)
                print("not reached", flush=True)
        """
    )
    output, error = process.communicate(timeout=60)
    assert (process.returncode, output, error.strip()) == (130, "cleaning up\n", "Stopped by SIGINT.")


def test_ignored_signals_remain_ignored_and_handlers_are_restored() -> None:
    before = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    try:
        with ending_on_signals(), stopping_on_signals():
            signal.raise_signal(signal.SIGUSR1)
        with pytest.raises(Stopped), stopping_on_signals():
            signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGUSR1, before)


# ---- errors of the system


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, ["results.json cannot be used.", "free space", "got: No space left on device"]),
        (errno.EROFS, ["results.json cannot be used.", "writable", "got: Read-only file system"]),
        (errno.EACCES, ["got: Permission denied", "permissions"]),
    ],
)
def test_system_error_has_the_layout_of_all_errors(
    number: int, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    @command()
    def main(argv: object = None) -> None:
        raise OSError(number, os.strerror(number), "results.json")

    assert main([]) == 2
    error = capsys.readouterr().err
    assert all(word in error for word in words), error
    assert [line.partition(":")[0] for line in error.splitlines()] == ["error", "expected", "got", "to do"]
    with pytest.raises(SystemExit) as ended, errors_without_traceback():
        main.__wrapped__()
    assert ended.value.code == 2


# ---- worker processes

POOL = """
    import os, signal, sys, time
    from pathlib import Path
    from lic_train.errors import LicError
    from lic_train.system.command import command
    from lic_train.system.processes import Workers

    folder = Path(sys.argv[1])

    def work(number):
        (folder / str(os.getpid())).touch()
        time.sleep(600)

    @command()
    def main(argv=None):
        with Workers(2, "fork", LicError("died")) as workers:
            list(workers.in_order(work, range(9)))

    sys.exit(main([]))
"""


@pytest.fixture
def pool(tmp_path: Path):
    """A command whose two workers compute, and the process ids of the workers."""
    process = start(POOL, str(tmp_path))
    until(lambda: len(list(tmp_path.iterdir())) == 2)
    yield process, [int(path.name) for path in tmp_path.iterdir()]
    process.kill()
    process.communicate()


def test_ctrl_c_of_a_terminal_ends_the_workers_without_a_traceback(pool) -> None:
    process, workers = pool
    os.killpg(process.pid, signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert (process.returncode, error) == (130, "warning: stopped by SIGINT\n")
    until(lambda: not any(map(is_running, workers)))


def test_two_ctrl_c_leave_no_process(pool) -> None:
    process, workers = pool
    os.killpg(process.pid, signal.SIGINT)
    os.killpg(process.pid, signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert len(error.strip().splitlines()) <= 2
    until(lambda: not any(map(is_running, workers)))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_workers_end_with_their_parent(pool, number: signal.Signals) -> None:
    process, workers = pool
    process.send_signal(number)
    process.communicate(timeout=60)
    until(lambda: not any(map(is_running, workers)))


def test_results_are_in_order_and_tasks_are_read_as_needed() -> None:
    read: list[int] = []

    def tasks():
        for number in range(30):
            read.append(number)
            yield number

    with Workers(2, "fork", LicError("died")) as workers:
        results = workers.in_order(_square, tasks())
        assert next(results) == 0
        assert len(read) <= 6
        assert [0, *results] == [number**2 for number in range(30)]


def _square(number: int) -> int:
    return number**2


def test_killed_worker_is_the_given_error() -> None:
    died = DataError("A process died.", to_do="use fewer --jobs")
    with pytest.raises(DataError, match="use fewer"), Workers(2, "fork", died) as workers:
        list(workers.in_order(_die, range(4)))


def _die(number: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


# ---- the start of W&B

WANDB = """
    import sys, time
    import wandb
    from lic_train import train

    start = wandb.init

    def slow(*arguments, **options):
        run = start(*arguments, **options)
        print("started", flush=True)
        time.sleep(600)
        return run

    wandb.init = slow
    sys.exit(train.main(sys.argv[1:]))
"""


def children(pid: int) -> list[int]:
    found = [int(number) for number in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return [*found, *(below for child in found for below in children(child))]


def test_ctrl_c_during_the_start_of_wandb_leaves_no_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The service of W&B is running, and wandb.init has not returned."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    process = start(
        WANDB, "model=mbt2018_mean", "model.N=8", "model.M=12", "crop=64", "logger=wandb", "trainer.accelerator=cpu",
        "data.num_workers=0", f"output={tmp_path}/run",
    )  # fmt: skip
    assert process.stdout is not None
    assert any(line == "started\n" for line in process.stdout), process.communicate()
    service = [pid for pid in children(process.pid) if b"wandb" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    assert service
    os.killpg(process.pid, signal.SIGINT)
    _, error = process.communicate(timeout=120)
    assert (process.returncode, error) == (130, "warning: stopped by SIGINT; the same command continues the run\n")
    until(lambda: not any(map(is_running, service)))
