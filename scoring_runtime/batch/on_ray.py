"""The workers of a batch as tasks of Ray, for those who have a cluster.

Each task of Ray Data's ``map_batches`` is a worker as in a process: it claims what is free. Input
and output have to be in the same place on every node.
Source: https://docs.ray.io/en/latest/data/api/doc/ray.data.Dataset.map_batches.html
"""

from __future__ import annotations

import asyncio
import os
import pickle
import sys
from functools import partial
from typing import Any

from ..errors import ConfigurationError
from .crew import Crew, kept_signals
from .job import Job
from .work import score, worked


def hire(crew: Crew, job: Job) -> None:
    """Have the job done by as many tasks as it has workers.

    Raises:
        ConfigurationError: Ray is not installed.
    """
    try:
        import ray
    except ModuleNotFoundError:
        raise ConfigurationError(
            "--engine ray needs Ray, which is not installed: pip install 'scoring-runtime[ray]'"
        ) from None
    count = job.settings.worker_count
    # By the packages of this process: tasks begin with those of the cluster.
    there = {"env_vars": {"PYTHONPATH": os.pathsep.join(sys.path)}}
    with kept_signals():  # Ray has a SIGTERM of its own
        ray.init(ignore_reinit_error=True, runtime_env=there)
    numbers = ray.data.range(count, override_num_blocks=count)
    given: dict[str, Any] = {"fn_args": (pickle.dumps(job),), "batch_size": 1}
    given["compute"] = ray.data.TaskPoolStrategy(size=count)
    function: Any = scored_by_one
    for row in numbers.map_batches(function, **given).iter_rows():
        for message in pickle.loads(row["told"]):
            crew.told(*message)
        if row["code"]:
            crew.end(int(row["code"]), str(row["why"]))


def scored_by_one(numbers: dict[str, Any], pickled: bytes) -> dict[str, list[Any]]:
    """A worker's part of the job; in a task of Ray."""
    job: Job = pickle.loads(pickled)
    told: list[Any] = []

    def send(message: tuple[Any, ...]) -> None:
        told.extend([message[1:]] if message[0] == "told" else [])

    with asyncio.Runner() as runner:
        code, why = worked(job, partial(score, job, int(numbers["id"][0]), send), runner)
    return {"told": [pickle.dumps(told)], "code": [code], "why": [why]}
