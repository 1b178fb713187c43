"""A process of its own that runs the steps of the code that it finds."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from .layer_steps import SHAPES, layer_launches, layer_memory, layer_steps
from .timing import Step, seconds_of

DETECTOR = 'Mask R-CNN R50, backbone and neck'


class Worker:
    """A process that runs the steps of one commit when it is asked to."""

    def __init__(self, tree: Path, device: torch.device) -> None:
        self._process = subprocess.Popen(
            [sys.executable, '-W', 'ignore', '-m', 'benchmarks.worker', str(device)],
            cwd=tree,
            env=os.environ | {'PYTHONPATH': str(tree)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, *question: object) -> Any:
        """The answer to a question of :func:`serve`.

        Raises:
            RuntimeError: If the process ended; it has printed why.
        """
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps(question) + '\n')
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f'the process failed at {question}')
        return json.loads(answer)

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()


def serve(device: torch.device) -> None:
    """Answer questions on the standard input, a json line each, until it ends."""
    answers = os.fdopen(os.dup(1), 'w')
    os.dup2(2, 1)  # what libraries print is no answer
    steps: dict[str, Step] = {}
    for line in sys.stdin:
        what, *arguments = json.loads(line)
        answer: Any
        if what == 'prepare':
            steps = _steps(arguments[0], device)
            answer = list(steps)
        elif what == 'seconds':
            name, calls = arguments
            answer = seconds_of(steps[name], calls, device)
        elif what == 'memory':
            answer = layer_memory(SHAPES[arguments[0]], device)
        else:
            answer = layer_launches(device)
        answers.write(json.dumps(answer) + '\n')
        answers.flush()


def _steps(case: str, device: torch.device) -> dict[str, Step]:
    if case != DETECTOR:
        return layer_steps(SHAPES[case], device)
    from .detector_steps import R50, feature_steps  # the rest needs no toolbox

    return feature_steps(R50, device)


if __name__ == '__main__':
    serve(torch.device(sys.argv[1]))
