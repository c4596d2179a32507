"""``azureml_user.parallel_run``, which scripts of ParallelRunStep and batch endpoints import.

What its ``EntryScript`` has:
https://learn.microsoft.com/azure/machine-learning/how-to-debug-parallel-run-step
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from ..telemetry.logs import script_log


class EntryScript:
    """What a script is told of its run; everywhere the same object.

    ``working_dir`` is where the program was started, ``output_dir`` the output folder, which is
    there, ``input_dir`` the input; ``config`` holds the options of the run by name, such as
    ``mini_batch_size``.
    """

    working_dir = entry_script_dir = input_dir = output_dir = log_dir = "."
    agent_name = "agent000"
    config: Mapping[str, Any] = MappingProxyType({})
    _only: EntryScript | None = None

    def __new__(cls, *args: Any, **kwargs: Any) -> EntryScript:
        """The one that there is; a level of logging, which may be given, is that of the program."""
        if cls._only is None:
            cls._only = super().__new__(cls)
        return cls._only

    @property
    def logger(self) -> logging.Logger:
        """The script's logger."""
        return script_log


def describe(**said: Any) -> None:
    """Set attributes of :class:`EntryScript`, before a script is imported."""
    for name, value in said.items():
        setattr(EntryScript, name, value)
