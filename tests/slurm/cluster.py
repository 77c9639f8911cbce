"""A real Slurm with two virtual nodes on this machine, with its own ports and files; stopped after the tests."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

PROGRAMS = ("setpriv", "munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol", "srun")
SECONDS = 180.0  # time limit for the start
END_WITH_US = ("setpriv", "--pdeathsig", "TERM")  # stops the daemons however this process ends

# config_overrides: the nodes may have more processors than the machine.
# cred_expire: delay in seconds before a requeued job starts; the default is two minutes.
# batch_sched_delay, sched_min_interval: a job starts as soon as a node is free.
CONFIGURATION = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmctldPidFile={folder}/slurmctld.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdSpoolDir={folder}/spool.%n
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmdLogFile={folder}/slurmd.%n.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=batch_sched_delay=0,sched_min_interval=0,sched_interval=1,bf_interval=1
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
GresTypes=gpu
KillWait=2
ReturnToService=2
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=2 RealMemory=4000 Gres=gpu:2
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=2 RealMemory=4000 Gres=gpu:2
PartitionName=debug Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP
"""

# Any device file can be used.
GPUS = "NodeName=n[1-2] Name=gpu File=/dev/null\nNodeName=n[1-2] Name=gpu File=/dev/zero\n"


def why_not() -> str | None:
    """Return the reason why Slurm cannot be started here; None if it can."""
    if missing := [name for name in PROGRAMS if shutil.which(name) is None]:
        return f"Slurm is not installed (no {', '.join(missing)}): apt-get install slurm-wlm munge"
    return None if os.geteuid() == 0 else "only root can start Slurm's daemons"


@contextmanager
def started(folder: Path) -> Iterator[None]:
    """Run Slurm and set SLURM_CONF for its commands. Configuration, state and logs are in ``folder``."""
    (folder / "state").mkdir(parents=True)
    key, configuration = folder / "munge.key", folder / "slurm.conf"
    key.write_bytes(secrets.token_bytes(128))
    key.chmod(0o400)
    host = socket.gethostname().partition(".")[0]
    configuration.write_text(CONFIGURATION.format(host=host, folder=folder, ports=free_ports(3)))
    (folder / "gres.conf").write_text(GPUS)
    munge = [f"--{name}={folder / f'munge.{name[:4]}'}" for name in ("log-file", "pid-file", "seed-file")]
    with ExitStack() as running:

        def start(*command: str) -> None:
            running.enter_context(daemon(command, folder / f"{command[0]}.out"))

        start("munged", "--foreground", "--force", f"--key-file={key}", f"--socket={folder}/munge.socket", *munge)
        wait_until((folder / "munge.socket").exists, folder)
        start("slurmctld", "-D", "-f", str(configuration))
        for node in ("n1", "n2"):
            start("slurmd", "-D", "-N", node, "-f", str(configuration))
        os.environ["SLURM_CONF"] = str(configuration)
        running.callback(os.environ.pop, "SLURM_CONF")
        wait_until(
            lambda: output_of("sinfo", "--noheader", "--Node", "--format=%T").split() == ["idle", "idle"], folder
        )
        yield
        output_of("scancel", "--user=root")  # jobs of a failed test
        output_of("scancel", "--user=root", "--signal=KILL")
        wait_until(lambda: not output_of("squeue", "--noheader"), folder)


@contextmanager
def daemon(command: Sequence[str], output: Path) -> Iterator[None]:
    """Run a daemon as a child of this process."""
    with output.open("ab") as file:
        process = subprocess.Popen(
            [*END_WITH_US, *command], stdin=subprocess.DEVNULL, stdout=file, stderr=file, process_group=0
        )
    try:
        yield
    finally:
        process.terminate()
        process.wait()


def free_ports(count: int) -> list[int]:
    with ExitStack() as taken:
        sockets = [taken.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def output_of(*command: str) -> str:
    """Return the output of a command; empty if it fails, as it does until the controller responds."""
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def wait_until(condition: Callable[[], bool], folder: Path) -> None:
    limit = time.monotonic() + SECONDS
    while not condition():
        logs = (path.read_text(errors="replace")[-2000:] for path in folder.glob("*.out"))
        assert time.monotonic() < limit, "\n".join(["Slurm does not respond", *logs])
        time.sleep(0.1)
