"""The onnx flavour of MLflow models, on onnxruntime alone.

What ``mlflow.onnx._OnnxModelWrapper`` does: a table gives a table and arrays give arrays, by the
names of the outputs, and doubles become singles where the model takes singles.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ModelUnusable, SchemaMismatch
from ..telemetry.logs import log
from ..values.content import DATATYPES
from .mlflow_signature import Signature, Tensor, brief

_DEFAULT_PROVIDERS = ["CUDAExecutionProvider", "CPUExecutionProvider"]


class OnnxPyfunc:
    """A session that takes and gives what the onnx flavour does.

    Args:
        path: the ``.onnx`` file; external data is looked for beside it.
        flavour: the section ``onnx`` of MLmodel; its session options and providers are used.
        make_options: makes ``onnxruntime.SessionOptions`` for all that is not recorded there.

    Raises:
        ModelUnusable: onnxruntime cannot load it; the message says why.
    """

    def __init__(
        self,
        path: Path,
        flavour: Mapping[str, Any],
        make_options: Callable[[], Any] | None = None,
    ) -> None:
        import onnxruntime

        options = make_options() if make_options else onnxruntime.SessionOptions()

        try:
            _use_recorded(options, flavour.get("onnx_session_options") or {})
            providers = _providers(path, flavour.get("providers"))
            session = onnxruntime.InferenceSession(str(path), options, providers=providers)
        except Exception as error:  # onnxruntime's errors have no base class of their own
            raise ModelUnusable(
                f"{path} cannot be loaded by onnxruntime {onnxruntime.__version__}: {_said(error)}"
            ) from error
        self.implied = _tensors_of(session)
        self._session = session
        self._inputs = {each.name: each.type for each in session.get_inputs()}
        self._outputs = [each.name for each in session.get_outputs()]

    def __call__(self, data: Any, params: Mapping[str, Any]) -> Any:
        feed = {name: self._cast(name, array) for name, array in self._feed(data).items()}
        try:
            results = self._session.run(self._outputs, feed)
        except Exception as error:
            raise SchemaMismatch(f"The model refuses the input: {_said(error)}") from error
        if isinstance(data, dict | np.ndarray):
            return dict(zip(self._outputs, results, strict=True))
        flat = {
            name: np.asarray(each).reshape(-1)
            for name, each in zip(self._outputs, results, strict=True)
        }
        return type(data).from_dict(flat)

    def _feed(self, data: Any) -> dict[str, Any]:
        if isinstance(data, dict):
            return data
        names = list(self._inputs)
        if len(names) == 1:
            return {names[0]: data if isinstance(data, np.ndarray) else data.to_numpy()}
        missing = names if isinstance(data, np.ndarray) else set(names) - set(data.columns)
        if missing:
            raise SchemaMismatch(
                f"The model takes the inputs {', '.join(names)} by name; the input lacks "
                f"{', '.join(sorted(missing))}."
            )
        return {name: data[name].to_numpy() for name in names}

    def _cast(self, name: str, array: Any) -> Any:
        wanted = self._inputs.get(name)
        single = wanted == "tensor(float)" and array.dtype == np.float64
        return array.astype(np.float32) if single else array


def _said(error: Exception) -> str:
    """The sentence in an error of onnxruntime, without the C++ function it comes from."""
    return brief(ValueError(re.sub(r"/onnxruntime_src/\S+:\d+ .*?\) (?=[A-Z])", "", str(error))))


def _use_recorded(options: Any, recorded: Mapping[str, Any]) -> None:
    from onnxruntime import ExecutionMode, GraphOptimizationLevel

    for name in ("inter_op_num_threads", "intra_op_num_threads"):
        if recorded.get(name):
            setattr(options, name, recorded[name])
    mode = str(recorded.get("execution_mode") or "").upper()
    if mode in ("SEQUENTIAL", "PARALLEL"):
        options.execution_mode = getattr(ExecutionMode, f"ORT_{mode}")
    if mode == "PARALLEL" and options.inter_op_num_threads == 1:
        # With one thread onnxruntime takes the mode back.
        options.inter_op_num_threads = 2
    if level := recorded.get("graph_optimization_level"):
        options.graph_optimization_level = GraphOptimizationLevel(level)
    for key, value in (recorded.get("extra_session_config") or {}).items():
        options.add_session_config_entry(key, value)


def _providers(path: Path, recorded: Any) -> list[Any]:
    from onnxruntime import get_available_providers

    listed = [recorded] if isinstance(recorded, str) else recorded or _DEFAULT_PROVIDERS
    wanted = [tuple(each) if isinstance(each, list) else each for each in listed]
    available = get_available_providers()
    usable = [each for each in wanted if _provider_name(each) in available]
    missing = [_provider_name(each) for each in wanted if each not in usable]
    if missing and wanted != _DEFAULT_PROVIDERS:
        log.warning("%s asks for %s, which this onnxruntime does not have", path, missing)
    return usable or ["CPUExecutionProvider"]


def _provider_name(entry: Any) -> str:
    return str(entry[0] if isinstance(entry, tuple) and entry else entry)


_ORT_TYPES = {"float": "float32", "double": "float64", "string": "object", "bool": "bool"}


def _tensors_of(session: Any) -> Signature:
    inputs, outputs = (
        tuple(_tensor_of(each) for each in listed)
        for listed in (session.get_inputs(), session.get_outputs())
    )
    return Signature(tensors=inputs, outputs=outputs)


def _tensor_of(node: Any) -> Tensor:
    kind = str(node.type).removeprefix("tensor(").removesuffix(")")
    dtype = _ORT_TYPES.get(kind, kind)
    shape = tuple(length if isinstance(length, int) else -1 for length in node.shape or ())
    return Tensor(node.name, np.dtype(dtype if dtype in DATATYPES else "object"), shape)
