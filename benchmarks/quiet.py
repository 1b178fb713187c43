"""Keeping the toolbox quiet where nobody reads its log."""

from mmengine.logging import MMLogger


def hide_initialisation(name: str) -> None:
    """Log warnings alone: the toolbox would tell how it initialises every parameter."""
    if not MMLogger.check_instance_created(name):
        MMLogger.get_instance(name, log_level='WARNING')
