"""Detection of the death of a process of a run, on any machine and during any collective operation.

Every process holds a TCP connection to the first one. The kernel closes it when a process ends for any reason, so the
others notice at once. The collective backend does not always: NCCL waits for its watchdog, which is the timeout of the
process group. Processes that end in a regular way announce it before.

Threads watch the connections, so a call of C code that holds the global interpreter lock delays the detection until it
returns. PyTorch releases the lock while it waits for other processes or for a device.
"""

from __future__ import annotations

import os
import secrets
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta

import torch.distributed as dist

from lic_train.errors import TrainingError
from lic_train.system.screen import reason, say, say_error
from lic_train.training import followers
from lic_train.training.callbacks.interrupt import Interrupted

_KEY = "presence"  # of the store: port and token of the first process
_FAREWELL = b"."
_CONNECTING = timedelta(minutes=1)
# A machine without power closes no connection: after 15 s of silence, three questions without an answer.
_KEEP_ALIVE = {"TCP_KEEPIDLE": 15, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}


@contextmanager
def watched(rank: int, world: int, address: str, store: dist.Store) -> Iterator[None]:
    """End this process if another one of the job ends during the block, except in a regular way.

    The first process prints an error and ends with its exit code, the others end with 1 if the first one has ended.
    Before that, they wait a few seconds for an error that was raised in all of them. Leaving the block is regular, also
    by a signal; leaving it by another exception is not.

    Args:
        rank: global rank of this process.
        world: number of processes.
        address: address of the first process.
        store: of the job.
    """
    connections = _Connections()
    if rank == 0:
        _accept(connections, world, store)
    else:
        _connect(connections, rank, address, store)
    regular = True
    try:
        yield
    except Exception as error:
        regular = isinstance(error, Interrupted)
        raise
    finally:
        connections.close(regular)


class _Connections:
    """The connections of this process, each with a thread that waits for its end."""

    def __init__(self) -> None:
        self._open: list[socket.socket] = []
        self._over = threading.Event()

    def watch(self, peer: socket.socket, lost: Callable[[], None]) -> None:
        """Call ``lost`` if the connection ends without an announcement."""
        self._open.append(peer)
        threading.Thread(target=self._wait, args=(peer, lost), daemon=True).start()

    def keep(self, server: socket.socket) -> None:
        """Close a socket without a peer at the end."""
        self._open.append(server)

    def close(self, regular: bool) -> None:
        """Close all connections; a regular end is announced."""
        self._over.set()
        for each in self._open:
            with suppress(OSError):
                if regular:
                    each.sendall(_FAREWELL)
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)  # ends the threads that wait for them
            each.close()

    def _wait(self, peer: socket.socket, lost: Callable[[], None]) -> None:
        with suppress(OSError):
            if peer.recv(1) == _FAREWELL:
                return
        # After an error in all processes, each reports its own after `GRACE`.
        if not self._over.wait(2 * followers.GRACE):
            lost()


def _accept(connections: _Connections, world: int, store: dist.Store) -> None:
    """Accept the connections of all other processes, in a thread."""
    dual = socket.has_dualstack_ipv6()
    server = socket.create_server(
        ("", 0), family=socket.AF_INET6 if dual else socket.AF_INET, dualstack_ipv6=dual, backlog=world
    )
    connections.keep(server)
    token = secrets.token_hex(16)
    store.set(_KEY, f"{server.getsockname()[1]} {token}")
    threading.Thread(target=_answer, args=(connections, server, token.encode()), daemon=True).start()


def _answer(connections: _Connections, server: socket.socket, token: bytes) -> None:
    while True:
        try:
            peer, _ = server.accept()
        except OSError:  # closed
            return
        with suppress(OSError, ValueError):
            peer.settimeout(_CONNECTING.total_seconds())
            # Without a buffer, which could also take the farewell of a process that ends at once.
            with peer.makefile("rb", buffering=0) as lines:
                given, _, rank = lines.readline(100).strip().partition(b" ")
            if given == token:
                _keep_alive(peer)
                connections.watch(peer, _Lost(int(rank)))
                continue
        peer.close()


def _connect(connections: _Connections, rank: int, address: str, store: dist.Store) -> None:
    port, token = store.get(_KEY).decode().split()
    try:
        peer = socket.create_connection((address, int(port)), _CONNECTING.total_seconds())
        peer.sendall(f"{token} {rank}\n".encode())
    except OSError as error:
        say(f"Process {rank} cannot watch the first process on {address}:{port} ({reason(error)}).", "yellow")
        return
    _keep_alive(peer)
    connections.watch(peer, lambda: os._exit(1))


def _keep_alive(peer: socket.socket) -> None:
    peer.settimeout(None)
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEP_ALIVE.items():
        if option := getattr(socket, name, None):  # they have other names on other systems
            peer.setsockopt(socket.IPPROTO_TCP, option, value)


class _Lost:
    """Ends the first process because another one has ended."""

    def __init__(self, rank: int) -> None:
        self.rank = rank

    def __call__(self) -> None:
        error = TrainingError(
            f"Process {self.rank} of this run ended.",
            expected="all processes of a run until its end",
            got="the error message of that process above or in its log, if it wrote one",
            to_do="run the same command again, which continues from the newest checkpoint",
        )
        say_error(error)
        os._exit(error.exit_code)
