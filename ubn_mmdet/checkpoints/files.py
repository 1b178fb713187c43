"""Reading and writing checkpoint files."""

import io
import os
from pathlib import Path

import torch

from ..files import write_whole

WRAPPER_PREFIX = 'module.'


def read_checkpoint(path: str | os.PathLike, trust: bool = False) -> dict:
    """``{'state_dict': ..., 'meta': ...}`` of a file that is either or a bare state dict.

    Args:
        path: The file.
        trust: Unpickle objects of any kind; otherwise only tensors and plain containers.

    Raises:
        ValueError: If there is no state dict in it.
        pickle.UnpicklingError: If it needs ``trust``.
    """
    content = torch.load(path, map_location='cpu', weights_only=not trust)
    if not isinstance(content, dict):
        raise ValueError(f'{path} holds a {type(content).__name__}, not a state dict')
    state = content.get('state_dict', content)
    others = [key for key, value in state.items() if not torch.is_tensor(value)]
    if others or not state:
        raise ValueError(f'{path} has no state dict: {others[:3]} are not tensors')
    state = {key.removeprefix(WRAPPER_PREFIX): value for key, value in state.items()}
    checkpoint = {'state_dict': state}
    if 'meta' in content:
        checkpoint['meta'] = content['meta']
    return checkpoint


def write_checkpoint(path: str | os.PathLike, checkpoint: dict) -> None:
    """Write a new file, whole or not at all.

    Raises:
        FileExistsError: If the file is there.
    """
    check_new(path)
    stream = io.BytesIO()
    torch.save(checkpoint, stream)
    write_whole(path, stream.getvalue())


def check_new(path: str | os.PathLike) -> None:
    """Raise FileExistsError if there is a file ``path``: before long work, too."""
    if Path(path).exists():
        raise FileExistsError(f'{path} exists already: name a new file')
