"""Processes of this machine that are the ranks of one gloo process group."""

import contextlib
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


class RankError(RuntimeError):
    """A rank has failed; the message has its traceback."""


@contextlib.contextmanager
def rank_processes(
    size: int, function: Callable, *arguments: object
) -> Iterator[Callable[[float | None], bool]]:
    """Run ``function(rank, *arguments)`` on ranks; leaving the context ends them.

    Args:
        size: How many.
        function: Of a module, as it has to be pickled, like its arguments.
        arguments: The same for each rank.

    Yields:
        Waits for the ranks, for so many seconds or until they are done, and says whether
        they are. It raises ``RankError`` as soon as one fails.
    """
    with TemporaryDirectory() as folder:
        store = str(Path(folder, 'store'))
        context = mp.start_processes(
            _work,
            (size, store, function, arguments),
            nprocs=size,
            join=False,
            daemon=True,
            start_method='spawn',
        )

        def wait(seconds: float | None = None) -> bool:
            try:
                return context.join(seconds)
            except (mp.ProcessRaisedException, mp.ProcessExitedException) as error:
                raise RankError(f'rank {error.error_index} failed: {error}') from None

        try:
            yield wait
        finally:
            for process in context.processes:
                process.kill()
                process.join()


@contextlib.contextmanager
def process_group(
    rank: int, size: int, store: str, seconds: int = 300
) -> Iterator[None]:
    """The process group that meets at the file ``store``.

    A rank that keeps the others waiting in a collective for so many ``seconds`` fails.
    """
    torch.set_num_threads(1)
    dist.init_process_group(
        'gloo',
        init_method=f'file://{store}',
        rank=rank,
        world_size=size,
        timeout=timedelta(seconds=seconds),
    )
    yield
    # Not after an error: the others would fail of it before this rank is known to.
    dist.destroy_process_group()


def _work(
    rank: int,
    size: int,
    store: str,
    function: Callable,
    arguments: tuple,
) -> None:
    with process_group(rank, size, store):
        function(rank, *arguments)
