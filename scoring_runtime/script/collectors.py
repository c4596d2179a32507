"""What old scripts collect data with: rows that go to CSV files, in the folders of Azure ML.

Columns, folders and what is returned are those of azureml-monitoring 0.1.0a21
(``azureml/monitoring/modeldatacollector.py``) and azureml-ai-monitoring 1.0.0
(``azureml/ai/monitoring/collector.py``). Where nothing keeps what is collected, it is taken and
goes nowhere.
"""

from __future__ import annotations

import csv
import io
import re
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from time import time
from typing import Any, NamedTuple

from ..models import folder as models
from ..settings.settings import Settings
from ..telemetry.logs import request_id, script_log

Rows = Sequence[Sequence[Any]]
Keep = Callable[[str, Sequence[str], Rows], object]
_UNKNOWN, _NO_WORKSPACE = "default", "default/default/default"
_MINUTES_A_DAY = 60 * 24
_NO_FOLDER = re.compile(r"[^\w.$@ +-]|^\.+$")


class Place(NamedTuple):
    """Where rows go, and what the folders are called."""

    keep: Keep
    """Takes a path with ``/``, the names of the columns, and rows."""
    workspace: str
    service: str
    versions: Mapping[str, str]
    """The newest version of a model, by its name."""

    @classmethod
    def of(cls, settings: Settings, keep: Keep) -> Place:
        """By the variables that Azure ML sets; what is not known is called ``default``."""
        environ = settings.environ
        parts = (
            environ.get("AZUREML_ARM_SUBSCRIPTION", ""),
            environ.get("AZUREML_ARM_RESOURCEGROUP", ""),
            environ.get("AZUREML_ARM_WORKSPACE_NAME", "") or settings.workspace_name,
        )
        service = settings.service_name if "service_name" in settings.sources else _UNKNOWN
        folder = Path(settings.model_dir) if settings.model_dir else None
        there = models.registered(folder) if folder is not None and folder.is_dir() else []
        versions = {each.name: str(each.version) for each in there}
        return cls(keep, "/".join(each or _UNKNOWN for each in parts).lower(), service, versions)


_place: Place | None = None


def use(place: Place | None) -> None:
    """Have what is collected go there from now on; None: nowhere."""
    global _place
    _place = place


def csv_of(rows: Iterable[Sequence[Any]]) -> bytes:
    """Lines of CSV (RFC 4180), each of which is a line of the file."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(
        [
            each.replace("\n", " ").replace("\r", " ") if isinstance(each, str) else each
            for each in row
        ]
        for row in rows
    )
    return text.getvalue().encode("utf-8", "replace")


@cache
def say_once(what: str) -> None:
    """That nothing is kept of what this package collects."""
    script_log.warning(
        "%s is not installed here: the script goes on, and nothing is collected or sent. "
        "SCORING_RECORD keeps it as files.",
        what,
    )


class ModelDataCollector:
    """``azureml.monitoring.ModelDataCollector``: rows of a model's inputs or predictions.

    Args:
        model_name: of the model.
        designation: ``inputs``, ``predictions``, ``labels``, ``signals`` or ``general``.
        feature_names: names of the columns; else those of a frame, or 0, 1, …
        workspace: ``subscription/resource group/workspace``.
        webservice_name: of the service.
        model_version: of the model.
        identifier: what ``designation`` was called before 0.1.0a16.
    """

    def __init__(
        self,
        model_name: str = _UNKNOWN,
        designation: str = _UNKNOWN,
        feature_names: Iterable[object] | None = None,
        workspace: str = "",
        webservice_name: str = _UNKNOWN,
        model_version: object = _UNKNOWN,
        *_: object,
        identifier: str = "",
        **__: object,
    ) -> None:
        designation = identifier or designation
        self._designation = "general" if designation == _UNKNOWN else designation
        self._names = None if feature_names is None else [str(each) for each in feature_names]
        self._model, self._version = str(model_name), str(model_version)
        self._service = webservice_name
        self._workspace = "" if workspace == _NO_WORKSPACE else workspace

    def collect(self, input_data: Any = None, user_correlation_id: str = "") -> Any:
        """Keep rows; of ``inputs`` the result is what ``add_correlations`` takes, else None.

        Args:
            input_data: a pandas or Spark frame, a numpy array of one or two dimensions, a list of
                rows, or one row. What cannot be read is not kept, and the log says so.
            user_correlation_id: begins the id that joins them with other data.
        """
        if _place is None:
            say_once("azureml-monitoring (ModelDataCollector)")
            return None
        correlations = None
        if self._designation == "inputs":
            made = str(uuid.uuid4())
            id_ = f"{user_correlation_id}-{made}" if user_correlation_id else made
            correlations = self.correlations(_place, id_)
        try:
            self.keep(_place, input_data, correlations or {})
        except Exception as error:
            script_log.warning("Not collected: %s: %s", type(error).__name__, error)
        return correlations

    def add_correlations(self, input_data: Any = None, correlations: Any = None) -> Any:
        """The data with the columns that ``collect`` of the inputs has returned."""
        return _Correlated(input_data, correlations) if correlations else input_data

    def correlations(self, place: Place, id_: str) -> dict[str, Any]:
        """The columns that join rows of one request."""
        model, version, service, workspace = self._known(place)
        return {
            "$aml_dc_correlation_id": id_,
            "$aml_dc_scoring_timestamp": datetime.now(UTC).replace(tzinfo=None).isoformat(),
            "$aml_dc_boundary": _MINUTES_A_DAY,
            "$aml_workspace": workspace,
            "$aml_service_name": service,
            "$aml_model_name": model,
            "$aml_model_version": version,
            "$aml_request_id": request_id.get(),
        }

    def keep(self, place: Place, data: Any, correlations: Mapping[str, Any]) -> None:
        """Have the rows written; raises what reading the data raises."""
        if isinstance(data, _Correlated):
            data, correlations = data
        names, rows = _table(data)
        names = names or self._names or [str(at) for at in range(max(map(len, rows), default=0))]
        width, ends = len(names), [*correlations.values()]
        fitted = [[*row[:width], *[""] * (width - len(row)), *ends] for row in rows]
        place.keep(self._path(place), [*names, *correlations], fitted)

    def _known(self, place: Place) -> tuple[str, str, str, str]:
        version, service = self._version, self._service
        version = place.versions.get(self._model, version) if version == _UNKNOWN else version
        service = place.service if service == _UNKNOWN else service
        return self._model, version, service, self._workspace or place.workspace

    def _path(self, place: Place) -> str:
        model, version, service, workspace = self._known(place)
        day = datetime.now(UTC).strftime("%Y/%m/%d").split("/")
        parts = (*workspace.split("/"), service, model, version, self._designation, *day)
        return "/".join(("modeldata", *map(_as_folder, parts), "data.csv"))


class _Correlated(NamedTuple):
    """Data with what joins it to other data."""

    data: Any
    correlations: Mapping[str, Any]


class BasicCorrelationContext:
    """``azureml.ai.monitoring.context.BasicCorrelationContext``: an id that joins two data sets."""

    def __init__(
        self, id: str | None = None, timestamp: int | None = None, headers: Any = None
    ) -> None:
        self._id, self._headers = id or str(uuid.uuid4()), headers or {}
        self._timestamp = timestamp or int(time())

    def get_id(self) -> str:
        """The id."""
        return self._id

    def get_timestamp(self) -> int:
        """When it was made, in seconds since 1970."""
        return self._timestamp

    def get_headers(self) -> Any:
        """What the script has given it, by name."""
        return self._headers


class Collector:
    """``azureml.ai.monitoring.Collector``: rows of a collection, such as ``model_inputs``.

    Args:
        name: of the collection, which is the designation of the folder.
        on_error: called with what keeps data from being collected; without it the log has it.
    """

    def __init__(
        self, name: str = _UNKNOWN, on_error: Callable[[Exception], Any] | None = None
    ) -> None:
        self._on_error = on_error
        self._rows = ModelDataCollector(designation=name)

    def collect(self, data: Any = None, correlation_context: Any = None) -> Any:
        """Keep a frame, or what else has rows; the result is the context for what belongs to it."""
        context = correlation_context or BasicCorrelationContext()
        if _place is None:
            say_once("azureml-ai-monitoring (Collector)")
            return context
        try:
            self._rows.keep(_place, data, self._rows.correlations(_place, context.get_id()))
        except Exception as error:
            if self._on_error is None:
                script_log.warning("Not collected: %s: %s", type(error).__name__, error)
            else:
                self._on_error(error)
        return context


def _table(data: Any) -> tuple[list[str] | None, list[list[Any]]]:
    """The names of a table's columns, where it has them, and its rows, copied."""
    data = data.toPandas() if hasattr(data, "toPandas") else data
    if hasattr(data, "columns") and hasattr(data, "itertuples"):
        rows = [list(row) for row in data.itertuples(index=False, name=None)]
        return [str(each) for each in data.columns], rows
    if isinstance(data, Mapping):
        return [str(each) for each in data], [list(data.values())]
    data = _plain(data)
    row = [_plain(each) for each in data] if isinstance(data, list | tuple) else [data]
    if row and all(isinstance(each, list | tuple) for each in row):
        return None, [list(each) for each in row]
    return None, [row]


def _plain(value: Any) -> Any:
    """Of arrays, series and their values."""
    return value.tolist() if hasattr(value, "tolist") else value


def _as_folder(name: str) -> str:
    """A part of a path that stays in its folder."""
    return _NO_FOLDER.sub("_", str(name).strip())[:200] or _UNKNOWN
