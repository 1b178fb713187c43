"""Processes of this machine that are the ranks of one process group."""

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
) -> Iterator[mp.ProcessContext]:
    """Run ``function(rank, *arguments)`` on ranks; leaving the context ends them.

    Args:
        size: How many.
        function: Of a module, as it has to be pickled, like its arguments.
        arguments: The same for each rank.

    Yields:
        PyTorch's own context: ``join(seconds)`` waits until the ranks are done.

    Raises:
        RankError: From a ``join`` within the context, as soon as a rank fails.
    """
    with TemporaryDirectory() as folder:
        context = mp.start_processes(
            _work,
            (size, str(Path(folder, 'store')), function, arguments),
            nprocs=size,
            join=False,
            daemon=True,
            start_method='spawn',
        )
        try:
            yield context
        except (mp.ProcessRaisedException, mp.ProcessExitedException) as error:
            raise RankError(f'rank {error.error_index} failed: {error}') from None
        finally:
            for process in context.processes:
                process.kill()
                process.join()


@contextlib.contextmanager
def process_group(
    rank: int, size: int, store: str, seconds: int = 300, backend: str = 'gloo'
) -> Iterator[None]:
    """The process group of ``backend`` that meets at the file ``store``.

    A rank that keeps the others waiting in a collective for so many ``seconds`` fails.
    """
    torch.set_num_threads(1)
    dist.init_process_group(
        backend,
        init_method=f'file://{store}',
        rank=rank,
        world_size=size,
        timeout=timedelta(seconds=seconds),
    )
    yield
    # Not after an error: the others would fail of it before this rank is known to.
    dist.destroy_process_group()


def _work(
    rank: int, size: int, store: str, function: Callable, arguments: tuple
) -> None:
    with process_group(rank, size, store):
        function(rank, *arguments)
