"""ONNX models by onnxruntime: providers, threads and optimisation from the settings."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ModelUnusable, SchemaMismatch
from ..settings.processors import threads_of
from ..settings.settings import Settings
from ..telemetry.logs import log
from ..values.arrays import of_plain_rows
from ..values.content import DATATYPES, Content, NoCodeModel, Rows, Spec
from ..values.inputs import tensors

# https://onnxruntime.ai/docs/reference/operators/: the element types as sessions name them, which
# numpy calls the same but for three.
_ELEMENTS = {"float32": "float", "float64": "double", "object": "string"}
_DATATYPES = {f"tensor({_ELEMENTS.get(each, each)})": name for each, name in DATATYPES.items()}
_TENSOR = re.compile(r"tensor\(\w+\)")  # alone, or in optional(…) or seq(…)
# Where in its source onnxruntime found the trouble: a file, and a function with its parameters.
_SOURCE = re.compile(
    r"\S+\.(?:cc|h):\d+ (?:[^()]*::[^()]*\([^()]*\) (?:\[with [^\]]*\] )?)?"
    r"|^\[ONNXRuntimeError\] : \d+ : \w+ : "
)
_AT_A_NODE = re.compile(
    r"^.*?while running (\S+) node\. .*?Status Message: (?:.*? was false\. )?(.*?)\.?$"
)
_NOT_THE_INPUT = re.compile(r"allocate memory|bad_alloc|out of memory|CUDA|CUDNN|CUBLAS|HIP|ROCM")
_EXAMPLES: Mapping[str, Any] = {"BOOL": False, "BYTES": "", "FP16": 0.0, "FP32": 0.0, "FP64": 0.0}


class OnnxModel(NoCodeModel):
    """An ONNX file.

    A single input takes rows. Several inputs of one value a row are the columns of a table. Inputs
    that need not be given, and initialisers that may be, are taken by name alone.

    Raises:
        ModelUnusable: onnxruntime cannot load it (the message says why: not ONNX, a newer opset,
            external data that is missing), or it has an input of a kind that cannot be sent.
    """

    platform = "onnxruntime_onnx"
    methods: tuple[str, ...] = ()
    params: Mapping[str, Collection[str]] | None = {}
    reads_text = False
    is_bound = False

    def __init__(self, path: Path, settings: Settings) -> None:
        self._session = session(path, settings)
        self._limits = limits = settings.limits
        self.inputs = tuple(_inputs(self._session, path))
        self.outputs = tuple(_output(each) for each in self._session.get_outputs())
        self._names = [spec.name for spec in self.outputs]
        self._optional = {spec.name for spec in self.inputs if spec.optional}
        needed = tuple(spec for spec in self.inputs if not spec.optional)
        self._fed = needed or self.inputs
        self.tabular = len(needed) > 1 and all(s.shape in ((-1,), (-1, 1)) for s in needed)
        self.example: Mapping[str, Any] = _example(self._fed, self.tabular)
        only = self._fed[0] if len(self._fed) == 1 and self._fed == self.inputs else None
        self.quick: Callable[[list[Any]], Any] | None = None
        if only is not None and len(only.shape) == 2 and only.datatype in ("FP32", "FP64"):
            name = only.name
            self.quick = of_plain_rows(only, limits, lambda rows: {name: rows})
        lists = any(each.type.startswith("seq(tensor") for each in self._session.get_outputs())
        free = all(each.shape[:1] == (-1,) for each in (*self._fed, *self.outputs))
        self.joins_rows = free and not lists
        self._refusals = _refusals()

    def given(self, content: Content, params: Mapping[str, Any]) -> tuple[Any, Any]:
        """The tensors by name; SchemaMismatch: names, datatypes or shapes are not the model's."""
        named = () if isinstance(content, Rows) else content[0]
        specs = self._fed if self._optional.isdisjoint(named) else self.inputs
        return tensors(content, specs, self._limits), params

    def call(self, given: Mapping[str, NDArray[Any]], params: Any, method: str) -> Any:
        """What the session gives for them: the only output's value, or all of them by name.

        Raises:
            SchemaMismatch: an operator cannot work with the values.
        """
        try:
            results = self._session.run(self._names, given)
        except self._refusals as error:
            blamed = isinstance(error, self._refusals[0]) or _AT_A_NODE.search(_said(error))
            if _NOT_THE_INPUT.search(str(error)) or not blamed:
                raise
            text = _AT_A_NODE.sub(r"\2 (at the operator \1)", _said(error)).rstrip(".")
            raise SchemaMismatch(f"The model refuses the input: {text}.") from error
        if len(results) == 1:
            return results[0]
        return dict(zip(self._names, results, strict=True))


def session(path: Path, settings: Settings) -> Any:
    """An ``onnxruntime.InferenceSession`` made as the settings say.

    Raises:
        ModelUnusable: see :class:`OnnxModel`.
    """
    try:
        import onnxruntime as ort
    except ModuleNotFoundError as error:
        raise ModelUnusable(
            f"{path.name} is an ONNX model, which needs onnxruntime: pip install "
            "'scoring-runtime[onnx]'."
        ) from error
    how = session_options(settings)
    providers = _providers(settings.onnx_providers, ort.get_available_providers())
    try:
        made = ort.InferenceSession(str(path), how, providers=providers)
    except Exception as error:
        raise ModelUnusable(_why(path, error)) from error
    log.info("ONNX model %s runs with %s", path.name, ", ".join(made.get_providers()))
    return made


def session_options(settings: Settings) -> Any:
    """The ``onnxruntime.SessionOptions`` for them; 0 threads are as many as processors."""
    import onnxruntime as ort

    how = ort.SessionOptions()
    wanted = settings.onnx_optimization
    level = "DISABLE_ALL" if wanted == "disabled" else f"ENABLE_{wanted.upper()}"
    how.graph_optimization_level = getattr(ort.GraphOptimizationLevel, f"ORT_{level}")
    shared = threads_of(settings.worker_count)
    how.intra_op_num_threads = settings.onnx_intra_op_threads or shared
    how.inter_op_num_threads = settings.onnx_inter_op_threads
    if settings.onnx_inter_op_threads != 1:
        how.execution_mode = ort.ExecutionMode.ORT_PARALLEL
    # Waiting threads that spin take the processor from the event loop.
    how.add_session_config_entry("session.intra_op.allow_spinning", "0")
    how.log_severity_level = 4  # what it raises is told anyway
    return how


def _providers(wanted: Sequence[str], there: list[str]) -> list[str]:
    if not wanted:
        return ["CPUExecutionProvider"]
    missing = [name for name in wanted if name not in there]
    if missing:
        raise ModelUnusable(
            f"SCORING_ONNX_PROVIDERS names {', '.join(missing)}, which this onnxruntime does not "
            f"have. It has: {', '.join(there)}."
        )
    return list(wanted)


def _said(error: Exception) -> str:
    """The error's text in one line, without the places in onnxruntime's own source."""
    return _SOURCE.sub("", " ".join(str(error).split()))[:600]


# What is in the text of an error → what to do; the first that fits.
_ADVICE = {
    "opset|IR version|ir_version": "Export it for an older opset, or install a newer onnxruntime.",
    "(?i)external data path does not exist|GetFileLength": (
        "Its external data file is missing: put it beside the model, under the same name."
    ),
    "(?i)external initializer.*out of bounds": (
        "Its external data file is shorter than the model says: copy it again."
    ),
    "(?i)external": "Its external data must be in a file beside the model.",
    "not a registered function": (
        "It has operators that onnxruntime does not: write an entry script that registers them."
    ),
    "locale": (
        "Its text is compared by the rules of a locale that is not installed (Debian: apt-get "
        "install locales && localedef -i en_US -f UTF-8 en_US.UTF-8); or export the model with "
        "the locale C.UTF-8."
    ),
    "File doesn't exist": "There is no such file.",
    "Protobuf|No graph was found": "The file was cut short, or is of another kind: copy it again.",
}


def _why(path: Path, error: Exception) -> str:
    text = re.sub(f"^Load model from {re.escape(str(path))} (?:failed:)?", "", _said(error))
    advice = next((each for sign, each in _ADVICE.items() if re.search(sign, text)), "")
    return f"onnxruntime cannot load {path}: {text.rstrip('.')}. {advice}".rstrip()


def _refusals() -> tuple[type[Exception], ...]:
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    return (state.InvalidArgument, state.Fail, state.RuntimeException)


def _inputs(session: Any, path: Path) -> Iterator[Spec]:
    for each in session.get_inputs():
        spec = _spec(each, path)
        yield spec._replace(optional=each.type.startswith("optional("))
    for each in session.get_overridable_initializers():
        yield _spec(each, path)._replace(optional=True)


def _spec(each: Any, path: Path) -> Spec:
    kind = re.sub(r"^optional\((.*)\)$", r"\1", each.type)
    if kind not in _DATATYPES:
        raise ModelUnusable(
            f"{path.name} has the input {each.name!r} of type {each.type}, which no format can "
            f"carry. Possible: {', '.join(_DATATYPES)}. Write an entry script for this model."
        )
    return Spec(each.name, _DATATYPES[kind], _shape(each.shape))


def _output(each: Any) -> Spec:
    """As V2 answers it, which knows no single values: without dimensions it has one, of any
    length; so has a list of tensors, of whose shapes the session tells nothing."""
    if each.type.startswith("seq(map("):  # ZipMap: class → probability, for each row
        return Spec(each.name, "FP64", (-1, -1))
    inner = _TENSOR.search(each.type)
    datatype = _DATATYPES.get(inner[0] if inner else "", "BYTES")
    return Spec(each.name, datatype, _shape(each.shape) or (-1,))


def _shape(shape: Any) -> tuple[int, ...]:
    return tuple(each if isinstance(each, int) and each >= 0 else -1 for each in shape or ())


def _example(inputs: Sequence[Spec], tabular: bool) -> dict[str, Any]:
    if tabular:
        return {"data": [{spec.name: _EXAMPLES.get(spec.datatype, 0) for spec in inputs}]}
    if len(inputs) == 1:
        return {"data": _zeros(inputs[0])}
    return {"inputs": {spec.name: _zeros(spec) for spec in inputs}}


def _zeros(spec: Spec) -> Any:
    shape = [1 if length < 0 else length for length in spec.shape]
    return np.full(shape, _EXAMPLES.get(spec.datatype, 0), dtype=object).tolist()
