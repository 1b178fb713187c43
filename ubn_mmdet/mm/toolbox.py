"""Checks of the installed toolbox: none yet."""


def mmengine_problem():
    return None
