"""The file of a run's predictions."""

import gzip
import json
import os
from collections.abc import Sequence
from pathlib import Path

from ..files import write_whole

PREDICTIONS = 'predictions.json.gz'  # in the run's folder


def write_predictions(path: str | os.PathLike, predictions: Sequence[dict]) -> None:
    """Write a COCO results list, as compressed json."""
    text = json.dumps(predictions, separators=(',', ':'))
    write_whole(path, gzip.compress(text.encode(), mtime=0))


def read_predictions(path: str | os.PathLike) -> list[dict]:
    """Read what :func:`write_predictions` wrote."""
    return json.loads(gzip.decompress(Path(path).read_bytes()))
