"""Processes of this machine that are the ranks of a gloo process group."""

import traceback
from collections.abc import Callable, Sequence
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

PATIENCE = timedelta(minutes=5)  # with a rank that does not come to a collective


class RankError(RuntimeError):
    """A rank has failed; the message has its traceback."""


class RankProcesses:
    """A process group whose ranks wait for tasks; leaving the context ends them.

    Args:
        size: How many.
        serve: ``serve(rank, *arguments)``, called once in each process, returns what the
            process does with a task. A function of a module, as it has to be pickled.
        arguments: For ``serve``.
    """

    def __init__(self, size: int, serve: Callable, arguments: Sequence[Any]) -> None:
        context = mp.get_context('spawn')
        self._folder = TemporaryDirectory()
        store = str(Path(self._folder.name, 'store'))
        self._connections: list[Connection] = []
        self._processes = []
        for rank in range(size):
            ours, theirs = context.Pipe()
            process = context.Process(
                target=_work,
                args=(rank, size, store, theirs, serve, arguments),
                daemon=True,
            )
            process.start()
            theirs.close()  # theirs alone then, so that its end is seen
            self._connections.append(ours)
            self._processes.append(process)

    def __enter__(self) -> 'RankProcesses':
        """Wait until all ranks are ready.

        Raises:
            RankError: If one cannot be.
        """
        try:
            self.receive()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def send(self, tasks: Sequence[Any]) -> None:
        """Give each rank its task."""
        for connection, task in zip(self._connections, tasks, strict=True):
            connection.send(task)

    def receive(self) -> None:
        """Wait until all ranks are done.

        Raises:
            RankError: As soon as one fails. The others may then wait for it forever: the
                group is of no more use.
        """
        waiting = {
            connection: rank for rank, connection in enumerate(self._connections)
        }
        while waiting:
            for ready in wait(list(waiting)):
                assert isinstance(ready, Connection)
                rank = waiting.pop(ready)
                try:
                    error = ready.recv()
                except EOFError:
                    error = 'its process has ended'
                if error:
                    raise RankError(f'rank {rank} failed: {error}')

    def close(self) -> None:
        """End the processes."""
        for process in self._processes:
            process.kill()
            process.join()
        self._folder.cleanup()


def _work(
    rank: int,
    size: int,
    store: str,
    connection: Connection,
    serve: Callable,
    arguments: Sequence[Any],
) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        'gloo',
        init_method=f'file://{store}',
        rank=rank,
        world_size=size,
        timeout=PATIENCE,
    )
    try:
        run = serve(rank, *arguments)
        connection.send(None)
        while True:
            run(connection.recv())
            connection.send(None)
    except EOFError:
        return  # the parent has gone
    except Exception as error:
        connection.send(f'{error!r}\n{traceback.format_exc()}')
