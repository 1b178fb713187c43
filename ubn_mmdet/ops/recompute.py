"""Tells a repeated forward from a first one."""

import torch


def is_recomputation() -> bool:
    """Whether a backward is running: forward then repeats what has been done before.

    Activation checkpointing runs a forward a second time from inside the backward, in
    both of its modes; whatever a layer keeps of its inputs must not move again.
    """
    # A compiler traces forward and backward apart, and cannot trace this question.
    if torch.compiler.is_compiling():
        return False
    return torch._C._current_graph_task_id() != -1
