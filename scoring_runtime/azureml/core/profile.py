"""``azureml.core.profile``: what a model needs, measured on this machine.

The model is served by the standalone host in a process of its own and asked one input after the
other; memory and processor time are that process's.
"""

from __future__ import annotations

import math
import re
import time
import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from ...errors import LocalServiceError
from ...local_services.service import LocalService, deploy
from ...models.model import Model
from ...packaging.specification import STANDALONE
from ..exceptions import WebserviceException, as_webservice_exceptions
from .inference_config import InferenceConfig, specification_of
from .webservice import body_of

if TYPE_CHECKING:
    import psutil

CPU_BOUNDS, MEMORY_BOUNDS = (0.1, 3.5), (0.1, 15.0)
"""Of azureml-core: cores, and GB."""
_ROOM = 1.25
_LEAST_QUERIES, _GB = 20, 1024**3
_PERCENTILES = {"50": 0.5, "90": 0.9, "95": 0.95, "99": 0.99, "999": 0.999}
_DETAILS = frozenset((
    "state", "error", "description", "createdTime", "requestedCpu", "requestedMemoryInGB",
    "recommendedCpu", "recommendedMemoryInGB", "maxUtilizedCpu", "maxUtilizedMemoryInGB",
    "measuredQueriesPerSecond", "totalQueries", "successQueries", "successRate",
    "averageLatencyInMs", *(f"latencyPercentile{each}InMs" for each in _PERCENTILES),
))  # fmt: skip
_SUCCEEDED, _FAILED = "Succeeded", "Failed"


class ModelProfile:
    """What was measured; made by ``Model.profile``.

    ``recommended_cpu`` are the cores that it kept busy while it was asked without a pause,
    ``recommended_memory`` is its peak in GB and a quarter more; both are rounded up to tenths.
    """

    def __init__(self, workspace: object, name: str, measured: Mapping[str, Any]) -> None:
        self.workspace, self.name = workspace, name
        self._measured = dict(measured)

    def __getattr__(self, name: str) -> Any:
        """The old attributes: ``recommended_memory`` is ``recommendedMemoryInGB``."""
        words = name.removesuffix("_memory") + "_memory_in_gb" if name.endswith("_memory") else name
        key = re.sub(r"_(\d+|.)", lambda found: found[1].capitalize(), words).replace("Gb", "GB")
        measured = self.__dict__.get("_measured", {})
        if key not in _DETAILS and key not in measured:
            raise AttributeError(f"'ModelProfile' object has no attribute {name!r}")
        return measured.get(key)

    def wait_for_completion(self, show_output: bool = False) -> None:
        """Nothing to wait for; warns if it failed, or some inputs did."""
        if show_output:
            print(self.state)
        if self.error:
            warnings.warn(str(self.error["message"]), UserWarning, stacklevel=2)

    wait_for_profiling = wait_for_completion

    def get_details(self) -> dict[str, Any]:
        """What was measured and is recommended, by the old names; milliseconds, GB, cores."""
        return {name: value for name, value in self.serialize().items() if value is not None}

    def serialize(self) -> dict[str, Any]:
        """All of it, as JSON has it."""
        return {"name": self.name, **self._measured}


def profile(
    workspace: object,
    profile_name: str,
    models: Sequence[Model],
    inference_config: InferenceConfig | None,
    input_dataset: Any,
    cpu: float | None = None,
    memory_in_gb: float | None = None,
    description: str | None = None,
) -> ModelProfile:
    """Serve models here, ask them all inputs, at least 20 times, and measure.

    Args:
        workspace: kept.
        profile_name: kept as its name.
        models: those that are served.
        inference_config: script and environment; None for models that need none.
        input_dataset: a list of inputs, or a table whose only column has bodies of requests.
        cpu: the most cores to recommend, 0.1 to 3.5.
        memory_in_gb: the most that may be used, 0.1 to 15; above it there is an ``error``.
        description: kept.

    Raises:
        WebserviceException: ``cpu``, ``memory_in_gb`` or ``input_dataset`` is not allowed; a
            model that cannot be served gives a profile whose state is ``Failed``.
    """
    specification = specification_of(models, inference_config, STANDALONE)
    _check("cpu", cpu, CPU_BOUNDS)
    _check("memory_in_gb", memory_in_gb, MEMORY_BOUNDS)
    inputs = _inputs(input_dataset)
    about = {
        "description": description,
        "createdTime": datetime.now(UTC).isoformat(timespec="seconds"),
        "requestedCpu": cpu,
        "requestedMemoryInGB": memory_in_gb,
    }
    with TemporaryDirectory() as folder, as_webservice_exceptions(), ExitStack() as afterwards:
        try:
            service = deploy(Path(folder), "profiled", specification)
            afterwards.callback(service.delete)
            service.wait()
            found = _measured(service, inputs, cpu, memory_in_gb)
        except LocalServiceError as error:
            found = {"state": _FAILED, "error": {"message": str(error)}}
    return ModelProfile(workspace, profile_name, {**about, **found})


def _check(name: str, value: float | None, bounds: tuple[float, float]) -> None:
    if value is not None and not bounds[0] <= value <= bounds[1]:
        raise WebserviceException(
            f"{name} is {value}. Allowed: {bounds[0]} to {bounds[1]}, or None."
        )


def _inputs(dataset: Any) -> Sequence[bytes]:
    """One body a row: of a list, or of a table's only column, as the old service had it."""
    if hasattr(dataset, "to_pandas_dataframe"):
        dataset = dataset.to_pandas_dataframe()
    if hasattr(dataset, "columns"):
        if len(dataset.columns) != 1:
            raise WebserviceException(
                f"input_dataset has {len(dataset.columns)} columns; expected is one, with a "
                "request's body in each row."
            )
        dataset = [*dataset[dataset.columns[0]]]
    if isinstance(dataset, str | bytes | Mapping) or not hasattr(dataset, "__iter__"):
        raise WebserviceException(
            f"input_dataset is a {type(dataset).__name__}; expected is a list of inputs, or a "
            "table of one column."
        )
    found = [body_of(each) for each in dataset]
    if not found:
        raise WebserviceException("input_dataset has no rows: it takes at least one input.")
    return found


# --- measuring ------------------------------------------------------------------------------------


def _measured(
    service: LocalService, inputs: Sequence[bytes], cpu: float | None, memory: float | None
) -> dict[str, Any]:
    processes = _processes(service)
    peak, seconds, refused = 0.0, list[float](), list[str]()
    rounds = math.ceil(_LEAST_QUERIES / len(inputs))
    service.score(inputs[0])  # what is done once is not what each costs
    before, began = _processor_seconds(processes), time.perf_counter()
    for body in [*inputs] * rounds:
        start = time.perf_counter()
        answer = service.score(body)
        seconds.append(time.perf_counter() - start)
        if answer.status != 200:
            refused.append(f"{answer.status} {answer.body.decode(errors='replace')[:200]}")
        peak = max(peak, _memory(processes))
    busy = (_processor_seconds(processes) - before) / (time.perf_counter() - began)
    good = len(seconds) - len(refused)
    found = {
        "state": _SUCCEEDED if good else _FAILED,
        "error": _error(refused, len(seconds), peak, memory),
        "totalQueries": len(seconds),
        "successQueries": good,
        "successRate": good / len(seconds),
        "averageLatencyInMs": mean(seconds) * 1000,
        **{f"latencyPercentile{n}InMs": _quantile(seconds, q) for n, q in _PERCENTILES.items()},
        "measuredQueriesPerSecond": len(seconds) / sum(seconds),
        "maxUtilizedCpu": round(busy, 3),
        "maxUtilizedMemoryInGB": round(peak, 3),
    }
    if good:
        wanted = max(_tenths(busy), CPU_BOUNDS[0])
        found["recommendedCpu"] = min(wanted, cpu) if cpu else wanted
        found["recommendedMemoryInGB"] = max(_tenths(peak * _ROOM), MEMORY_BOUNDS[0])
    return found


def _error(
    refused: Sequence[str], total: int, peak: float, memory: float | None
) -> dict[str, str] | None:
    found = []
    if refused:
        found.append(f"{len(refused)} of {total} inputs were not answered 200, as: {refused[0]}")
    if memory is not None and peak > memory:
        found.append(f"memory_in_gb is {memory}, and {peak:.3f} GB were used: ask for more")
    return {"message": "; ".join(found)} if found else None


def _processes(service: LocalService) -> list[psutil.Process]:
    import psutil

    main = psutil.Process(service.record.process.pid)
    return [main, *main.children(recursive=True)]


def _processor_seconds(processes: Sequence[psutil.Process]) -> float:
    times = [each.cpu_times() for each in processes]
    return float(sum(each.user + each.system for each in times))


def _memory(processes: Sequence[psutil.Process]) -> float:
    """In GB; of Linux the peak, so that what a request has freed counts too."""
    return sum(_peak(each) for each in processes) / _GB


def _peak(process: psutil.Process) -> float:
    try:
        status = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii", errors="replace")
        return float(status.partition("VmHWM:")[2].split()[0]) * 1024
    except (OSError, IndexError, ValueError):
        return float(process.memory_info().rss)


def _quantile(values: Sequence[float], share: float) -> float:
    """In milliseconds; the nearest rank."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)] * 1000


def _tenths(value: float) -> float:
    return math.ceil(round(value, 6) * 10) / 10
