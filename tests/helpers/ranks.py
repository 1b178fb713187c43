"""Runs a function on several gloo processes at once."""

import pickle
import traceback
from collections.abc import Callable
from pathlib import Path

import torch.multiprocessing as mp

from ubn_mmdet.rank_processes import process_group


class Ranks:
    """A process group of ``size`` waiting processes."""

    def __init__(self, size: int, folder: Path) -> None:
        context = mp.get_context('spawn')
        self.size = size
        self._tasks = [context.Queue() for _ in range(size)]
        self._results = context.Queue()
        self._calls = 0
        self._processes = [
            context.Process(
                target=_work,
                args=(rank, size, str(folder / f'store{size}'), tasks, self._results),
                daemon=True,
            )
            for rank, tasks in enumerate(self._tasks)
        ]
        for process in self._processes:
            process.start()

    def run(self, function: Callable, each: list) -> list:
        """``function(each[rank])`` on every rank; the results in the ranks' order.

        Fails with the traceback of the first rank to raise.
        """
        self._calls += 1
        for tasks, argument in zip(self._tasks, each, strict=True):
            tasks.put(pickle.dumps((self._calls, function, argument)))
        results = {}
        while len(results) < self.size:
            call, rank, result, error = pickle.loads(self._results.get(timeout=120))
            if call != self._calls:
                continue  # from a rank that came after another had failed
            if error:
                raise AssertionError(f'rank {rank} failed:\n{error}')
            results[rank] = result
        return [results[rank] for rank in range(self.size)]

    def close(self) -> None:
        """Let the processes go."""
        for tasks in self._tasks:
            tasks.put(None)
        for process in self._processes:
            process.join(10)
            process.kill()


def _work(rank: int, size: int, store: str, tasks: mp.Queue, results: mp.Queue) -> None:
    with process_group(rank, size, store, seconds=60):
        while (task := tasks.get()) is not None:
            call, function, argument = pickle.loads(task)
            try:
                answer = (call, rank, function(argument), None)
            except Exception:
                answer = (call, rank, None, traceback.format_exc())
            results.put(pickle.dumps(answer))
