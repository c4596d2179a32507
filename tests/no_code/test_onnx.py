"""ONNX models without a script: their answers are onnxruntime's own, to the bit."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from skl2onnx import to_onnx
from sklearn.linear_model import LogisticRegression

from scoring_runtime import ScoringRequest, Settings
from scoring_runtime.errors import ModelUnusable, RunFailed, SchemaMismatch
from scoring_runtime.messages import ScoringResponse
from scoring_runtime.no_code.onnx import OnnxModel, session_options
from scoring_runtime.scoring.model_call import ModelInvocation
from scoring_runtime.values.content import Rows, Spec, Tensors
from tests.models_for_tests import answers

SETTINGS = Settings()
FLOAT, INT64, STRING = TensorProto.FLOAT, TensorProto.INT64, TensorProto.STRING
Value = Any  # (name, element type, shape), or what onnx.helper makes


def value(each: Value) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(*each) if isinstance(each, tuple) else each


def model_of(
    nodes: Sequence[Any],
    inputs: Sequence[Value],
    outputs: Sequence[Value],
    constants: Mapping[str, NDArray[Any]] | None = None,
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "graph",
        [value(each) for each in inputs],
        [value(each) for each in outputs],
        [numpy_helper.from_array(each, name) for name, each in (constants or {}).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def echo(kind: int, *shapes: Any) -> onnx.ModelProto:
    """Each input, ``x0``, ``x1``, … comes back as ``y0``, ``y1``, …"""
    numbered = list(enumerate(shapes))
    return model_of(
        [helper.make_node("Identity", [f"x{n}"], [f"y{n}"]) for n, _ in numbered],
        [(f"x{n}", kind, shape) for n, shape in numbered],
        [(f"y{n}", kind, shape) for n, shape in numbered],
    )


def saved(model: onnx.ModelProto, folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def own_answer(path: Path, given: Mapping[str, Any]) -> list[Any]:
    """What onnxruntime gives, asked directly."""
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    found: list[Any] = session.run(None, dict(given))
    return found


def answer_of(response: ScoringResponse) -> Any:
    assert isinstance(response.body, bytes)
    return json.loads(response.body)


def asked(body: Any, kind: str = "application/json") -> ScoringRequest:
    given = body if isinstance(body, bytes) else json.dumps(body).encode()
    return ScoringRequest(given, ((b"content-type", kind.encode()),))


def as_npy(values: NDArray[Any]) -> bytes:
    out = io.BytesIO()
    np.save(out, values)
    return out.getvalue()


def assert_same(answer: Any, expected: NDArray[Any]) -> None:
    """The JSON answer is the array: every bit of each number, in the same nesting."""
    if expected.dtype.kind == "O":
        assert answer == expected.tolist()
        return
    made = np.array(answer, dtype=expected.dtype)
    assert made.shape == expected.shape
    assert made.tobytes() == expected.tobytes()


def scored(model: OnnxModel, body: Any, kind: str = "application/json") -> Any:
    invocation = ModelInvocation(model, "m", "1", Settings())
    return answer_of(invocation(asked(body, kind)))


# --- datatypes ------------------------------------------------------------------------------------


# ONNX's element type → V2's datatype, and values that reach the ends of it.
KINDS: Mapping[str, tuple[int, list[Any]]] = {
    "BOOL": (TensorProto.BOOL, [[True, False], [False, True]]),
    "UINT8": (TensorProto.UINT8, [[0, 255], [1, 128]]),
    "UINT16": (TensorProto.UINT16, [[0, 65535], [1, 2]]),
    "UINT32": (TensorProto.UINT32, [[0, 2**32 - 1], [1, 2]]),
    "UINT64": (TensorProto.UINT64, [[0, 2**64 - 1], [2**53 + 1, 2]]),
    "INT8": (TensorProto.INT8, [[-128, 127], [0, -1]]),
    "INT16": (TensorProto.INT16, [[-(2**15), 2**15 - 1], [0, -1]]),
    "INT32": (TensorProto.INT32, [[-(2**31), 2**31 - 1], [0, -1]]),
    "INT64": (TensorProto.INT64, [[-(2**63), 2**63 - 1], [2**53 + 1, -1]]),
    "FP16": (TensorProto.FLOAT16, [[0.1, 65504.0], [-0.0, 6e-8]]),
    "FP32": (TensorProto.FLOAT, [[0.1, 3.4028234e38], [-0.0, 1e-45]]),
    "FP64": (TensorProto.DOUBLE, [[0.1, 1.7976931348623157e308], [-0.0, 5e-324]]),
    "BYTES": (TensorProto.STRING, [["", "grün"], ["日本", 'a"b\n']]),
}


@pytest.mark.parametrize("datatype", KINDS)
def test_every_datatype_comes_through_whole_in_every_format(datatype, tmp_path):
    kind, values = KINDS[datatype]
    path = saved(echo(kind, ["N", 2]), tmp_path / "model")
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    given = np.array(values, dtype=dtype)
    flat = [value for row in values for value in row]
    infer = {"inputs": [{"name": "x0", "datatype": datatype, "shape": [2, 2], "data": flat}]}
    requests = {
        "list": asked(values),
        "data": asked({"data": values}),
        "inputs by name": asked({"inputs": {"x0": values}}),
        "table": asked({"dataframe_split": {"columns": ["a", "b"], "data": values}}),
        "npy": asked(
            as_npy(given.astype("U") if datatype == "BYTES" else given), "application/x-npy"
        ),
        "V2": asked(infer),
    }
    if datatype not in ("BYTES", "BOOL"):
        text = "a,b\n" + "".join(f"{one!r},{other!r}\n" for one, other in values)
        requests["csv"] = asked(text.encode(), "text/csv")
    (expected,) = own_answer(path, {"x0": given})
    assert OnnxModel(path, SETTINGS).inputs == (Spec("x0", datatype, (-1, 2)),)
    responses = answers(path.parent, list(requests.values()))
    for name, response in zip(requests, responses, strict=True):
        answer = answer_of(response)
        if name in ("inputs by name", "table"):
            answer = answer["predictions"]
        if name == "V2":
            (output,) = answer["outputs"]
            assert (output["name"], output["datatype"], output["shape"]) == ("y0", datatype, [2, 2])
            answer = np.array(output["data"], dtype=dtype).reshape(2, 2)
            answer = answer.tolist() if datatype == "BYTES" else answer
        assert_same(answer, expected)


def test_booleans_and_text_in_csv(tmp_path):
    table = b"a,b\ntrue,0\nFalse,1\n"
    path = saved(echo(TensorProto.BOOL, ["N", 2]), tmp_path / "model")
    assert scored(OnnxModel(path, SETTINGS), table, "text/csv") == [[True, False], [False, True]]
    numbers = b"1,0\n0,1\n"
    assert scored(OnnxModel(path, SETTINGS), numbers, "text/csv") == [[True, False], [False, True]]
    path = saved(echo(STRING, ["N", 2]), tmp_path / "model")
    assert scored(OnnxModel(path, SETTINGS), table, "text/csv") == [["true", "0"], ["False", "1"]]
    empty = b'a,b\n"",x\n'
    assert scored(OnnxModel(path, SETTINGS), empty, "text/csv") == [["", "x"]]


# --- inputs and outputs ---------------------------------------------------------------------------


def test_several_inputs_and_outputs_by_name(tmp_path):
    """With fixed, free and no dimensions, of different datatypes."""
    model = model_of(
        [
            helper.make_node("Mul", ["a", "factor"], ["product"]),
            helper.make_node("ReduceSum", ["b", "axis"], ["sum"]),
            helper.make_node("Identity", ["text"], ["said"]),
        ],
        [("a", FLOAT, ["N", 3]), ("factor", FLOAT, []), ("b", INT64, [2, "M"]),
         ("text", STRING, [None])],
        [("product", FLOAT, ["N", 3]), ("sum", INT64, [2, 1]), ("said", STRING, [None])],
        {"axis": np.array([1])},
    )  # fmt: skip
    path = saved(model, tmp_path / "model")
    served = OnnxModel(path, SETTINGS)
    assert served.inputs == (
        Spec("a", "FP32", (-1, 3)),
        Spec("factor", "FP32", ()),
        Spec("b", "INT64", (2, -1)),
        Spec("text", "BYTES", (-1,)),
    )
    assert served.outputs == (
        Spec("product", "FP32", (-1, 3)),
        Spec("sum", "INT64", (2, 1)),
        Spec("said", "BYTES", (-1,)),
    )
    assert not served.tabular
    assert served.example == {
        "inputs": {"a": [[0.0, 0.0, 0.0]], "factor": 0.0, "b": [[0], [0]], "text": [""]}
    }
    assert scored(served, served.example)["predictions"]["product"] == [[0.0, 0.0, 0.0]]
    given = {"a": [[0.1, 0.2, 0.3]], "factor": 0.7, "b": [[1, 2], [3, 4]], "text": ["x", "y", "z"]}
    kinds = {"a": np.float32, "factor": np.float32, "b": np.int64, "text": object}
    expected = own_answer(path, {name: np.array(given[name], kinds[name]) for name in given})
    answer = scored(served, {"inputs": {**given, "factor": [0.7]}})["predictions"]
    assert list(answer) == ["product", "sum", "said"]
    for one, other in zip(answer.values(), expected, strict=True):
        assert_same(one, other)


def test_inputs_of_one_value_a_row_are_the_columns_of_a_table(tmp_path):
    model = model_of(
        [helper.make_node("Add", ["a", "b"], ["y"]), helper.make_node("Identity", ["c"], ["z"])],
        [("a", FLOAT, ["N", 1]), ("b", FLOAT, ["N", 1]), ("c", STRING, ["N"])],
        [("y", FLOAT, ["N", 1]), ("z", STRING, ["N"])],
    )
    served = OnnxModel(saved(model, tmp_path / "model"), SETTINGS)
    assert served.tabular
    assert served.example == {"data": [{"a": 0.0, "b": 0.0, "c": ""}]}
    records = [{"c": "one", "b": 2, "a": 1}, {"a": 3, "c": "two", "b": 0.5}]
    expected = {"y": [[3.0], [3.5]], "z": ["one", "two"]}
    assert scored(served, {"data": records}) == expected
    assert scored(served, {"dataframe_records": records}) == {"predictions": expected}
    assert scored(served, {"data": [[1, 2, "one"], [3, 0.5, "two"]]}) == expected
    assert scored(served, b"b,c,a\n2,one,1\n0.5,two,3\n", "text/csv") == expected
    assert scored(served, {"inputs": {"a": [1, 3], "b": [[2], [0.5]], "c": ["one", "two"]}}) == {
        "predictions": expected
    }


@pytest.mark.parametrize(
    ("shape", "body", "expected"),
    [
        ([], {"data": 2.5}, 2.5),
        ([], {"data": [2.5]}, 2.5),
        (None, {"data": [[1, 2], [3, 4]]}, [[1, 2], [3, 4]]),
        (["N"], {"data": 1}, [1]),
        (["N", 1], {"data": [1, 2]}, [[1], [2]]),
        ([None, "M", 1, 2], {"data": [[[[1, 2]], [[3, 4]]]]}, [[[[1, 2]], [[3, 4]]]]),
        ([0, 2], {"inputs": {"x0": []}}, None),
    ],
    ids=str,
)
def test_shapes(shape, body, expected, tmp_path):
    """Fixed and free lengths, scalars, and a rank that the model leaves open."""
    served = OnnxModel(saved(echo(FLOAT, shape), tmp_path / "model"), SETTINGS)
    if expected is None:
        with pytest.raises(SchemaMismatch, match=r"shape \[0\]; expected is \[0, 2\] of FP32"):
            scored(served, body)
        return
    answer = scored(served, body)
    assert answer in (expected, {"predictions": expected})


def classifier() -> tuple[Any, NDArray[np.float32]]:
    random = np.random.default_rng(4)
    values = random.normal(size=(30, 3)).astype(np.float32)
    kinds = np.array(["low", "mid", "top"], dtype=object)[np.arange(30) % 3]
    return LogisticRegression().fit(values, kinds), values


def test_zipmap_gives_a_probability_for_each_class(tmp_path):
    model, values = classifier()
    path = saved(to_onnx(model, values[:1]), tmp_path / "model")
    labels, probabilities = own_answer(path, {"X": values[:4]})
    assert isinstance(probabilities, list)
    served = OnnxModel(path, SETTINGS)
    names = [spec.name for spec in served.outputs]
    assert scored(served, values[:4].tolist()) == dict(
        zip(names, (labels.tolist(), probabilities), strict=True)
    )
    matrix = np.array([list(each.values()) for each in probabilities])
    flat = values[:4].reshape(-1).tolist()
    answer = scored(
        served,
        {"inputs": [{"name": "X", "datatype": "FP32", "shape": [4, 3], "data": flat}]},
    )
    first, second = answer["outputs"]
    assert (first["datatype"], first["data"]) == ("BYTES", labels.tolist())
    assert (second["datatype"], second["shape"]) == ("FP64", [4, 3])
    assert second["data"] == matrix.reshape(-1).tolist()
    assert served.outputs[1] == Spec(names[1], "FP64", (-1, -1))


def test_classes_that_are_numbers_are_names_in_json(tmp_path):
    values = np.array([[0.0], [1.0], [2.0], [3.0]], np.float32)
    model = LogisticRegression().fit(values, [0, 0, 1, 1])
    path = saved(to_onnx(model, values[:1]), tmp_path / "model")
    labels, (row,) = own_answer(path, {"X": values[:1]})
    answer = scored(OnnxModel(path, SETTINGS), [[0.0]])
    assert list(answer.values()) == [labels.tolist(), [{str(k): p for k, p in row.items()}]]


def test_a_sequence_is_a_list_of_arrays(tmp_path):
    model = model_of(
        [helper.make_node("SplitToSequence", ["x", "sizes"], ["y"], axis=1)],
        [("x", FLOAT, ["N", 3])],
        [helper.make_tensor_sequence_value_info("y", FLOAT, None)],
        {"sizes": np.array([1, 2])},
    )
    path = saved(model, tmp_path / "model")
    answer = scored(OnnxModel(path, SETTINGS), [[1, 2, 3], [4, 5, 6]])
    assert answer == [[[1.0], [4.0]], [[2.0, 3.0], [5.0, 6.0]]]


def test_initialisers_that_may_be_overridden_are_inputs_that_need_not_be_given(tmp_path):
    """By name in JSON and V2; rows, CSV and JSON Lines feed the inputs proper."""
    model = model_of(
        [helper.make_node("Mul", ["x", "factor"], ["y"])],
        [("x", FLOAT, ["N", 2]), ("factor", FLOAT, [1])],
        [("y", FLOAT, ["N", 2])],
        {"factor": np.array([3], np.float32)},
    )
    served = OnnxModel(saved(model, tmp_path / "model"), SETTINGS)
    assert served.inputs == (Spec("x", "FP32", (-1, 2)), Spec("factor", "FP32", (1,), True))
    assert served.example == {"data": [[0.0, 0.0]]}
    assert scored(served, {"data": [[1, 2]]}) == [[3.0, 6.0]]
    assert scored(served, b"a,b\n1,2\n", "text/csv") == [[3.0, 6.0]]
    assert scored(served, b'{"a": 1, "b": 2}\n', "application/x-ndjson") == [[3.0, 6.0]]
    assert scored(served, {"inputs": {"x": [[1, 2]]}}) == {"predictions": [[3.0, 6.0]]}
    both = {"inputs": {"x": [[1, 2]], "factor": [5]}}
    assert scored(served, both) == {"predictions": [[5.0, 10.0]]}
    tensors = [
        {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]},
        {"name": "factor", "datatype": "FP32", "shape": [1], "data": [7]},
    ]
    assert scored(served, {"inputs": tensors})["outputs"][0]["data"] == [7.0, 14.0]
    with pytest.raises(SchemaMismatch, match=r"Expected: 'x', 'factor'\.$"):
        scored(served, {"inputs": {"factor": [1]}})


def test_optional_tensors_may_be_left_out(tmp_path):
    """``optional(tensor(float))``: what onnxruntime gives with and without it."""
    kind = helper.make_tensor_type_proto(FLOAT, [None])
    optional = helper.make_value_info("x", helper.make_optional_type_proto(kind))
    node = helper.make_node("OptionalHasElement", ["x"], ["there"])
    model = model_of([node], [optional], [("there", TensorProto.BOOL, [])])
    served = OnnxModel(saved(model, tmp_path / "model"), SETTINGS)
    assert served.inputs == (Spec("x", "FP32", (-1,), True),)
    assert served.predict(Rows([1.0]), {}, "").tolist() is True
    assert served.predict(Tensors({}), {}, "").tolist() is False


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"1\n2\n", "text/csv"),
        (b"[1]\n[2]\n", "application/x-ndjson"),
        (b'{"dataframe_split": {"columns": ["v"], "data": [[1], [2]]}}', "application/json"),
        (as_npy(np.array([[1], [2]])), "application/x-npy"),
    ],
)
def test_one_column_feeds_an_input_without_rows(body, kind, tmp_path):
    """The one input has the shape [N]: a column is what formats of rows make of it."""
    served = OnnxModel(saved(echo(FLOAT, ["N"]), tmp_path / "model"), SETTINGS)
    answer = scored(served, body, kind)
    assert answer in ([1.0, 2.0], {"predictions": [1.0, 2.0]})
    with pytest.raises(SchemaMismatch, match=r"Unknown inputs: 'a', 'b'\. Expected: 'x0'\.$"):
        scored(served, b"a,b\n1,2\n", "text/csv")


def test_the_outputs_that_v2_declares_are_those_it_answers(tmp_path):
    """Datatype and dimensions of single values and of lists of tensors, which V2 does not know."""
    pair = helper.make_node("SequenceConstruct", ["x", "x"], ["pair"])
    total = helper.make_node("ReduceSum", ["x"], ["total"], keepdims=0)
    kind = helper.make_sequence_type_proto(helper.make_tensor_type_proto(FLOAT, ["N"]))
    outputs = [helper.make_value_info("pair", kind), ("total", FLOAT, [])]
    model = model_of([pair, total], [("x", FLOAT, ["N"])], outputs)
    served = OnnxModel(saved(model, tmp_path / "model"), SETTINGS)
    assert served.outputs == (Spec("pair", "FP32", (-1,)), Spec("total", "FP32", (-1,)))
    tensor = {"name": "x", "datatype": "FP32", "shape": [2], "data": [1, 2]}
    pair_out, total_out = scored(served, {"inputs": [tensor]})["outputs"]
    assert [pair_out[key] for key in ("datatype", "shape")] == ["FP32", [2, 2]]
    assert [total_out[key] for key in ("datatype", "shape", "data")] == ["FP32", [1], [3.0]]


def test_a_locale_that_is_not_there_says_how_to_install_it(tmp_path):
    """Text models of skl2onnx compare by a locale; C.UTF-8 is everywhere."""

    def normaliser(locale: str) -> Path:
        node = helper.make_node(
            "StringNormalizer", ["x"], ["y"], case_change_action="LOWER", locale=locale
        )
        model = model_of([node], [("x", STRING, ["N"])], [("y", STRING, ["N"])])
        return saved(model, tmp_path / "model")

    with pytest.raises(ModelUnusable, match=r"zz_ZZ\.UTF-8.* apt-get install locales && localedef"):
        OnnxModel(normaliser("zz_ZZ.UTF-8"), SETTINGS)
    assert scored(OnnxModel(normaliser("C.UTF-8"), SETTINGS), ["ÄB"]) == ["äb"]


def test_external_data_are_read_from_beside_the_model(tmp_path):
    weights = np.arange(64, dtype=np.float32).reshape(8, 8)
    model = model_of(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        [("x", FLOAT, ["N", 8])],
        [("y", FLOAT, ["N", 8])],
        {"w": weights},
    )
    (tmp_path / "model").mkdir()
    path = tmp_path / "model" / "model.onnx"
    onnx.save_model(
        model, str(path), save_as_external_data=True, location="weights.bin", size_threshold=1
    )
    assert sorted(os.listdir(path.parent)) == ["model.onnx", "weights.bin"]
    (response,) = answers(path.parent, [asked([[1.0] * 8])])
    assert answer_of(response) == weights.sum(axis=0)[np.newaxis].tolist()


def test_an_input_that_no_format_can_carry_makes_no_model(tmp_path):
    model = model_of(
        [helper.make_node("SequenceAt", ["x", "at"], ["y"])],
        [helper.make_tensor_sequence_value_info("x", FLOAT, None), ("at", INT64, [])],
        [("y", FLOAT, None)],
    )
    said = r"^model.onnx has the input 'x' of type seq\(tensor\(float\)\), which no format can "
    said += r"carry\. Possible: tensor\(bool\), .*, tensor\(string\)\. Write an entry script for "
    with pytest.raises(ModelUnusable, match=said):
        OnnxModel(saved(model, tmp_path / "model"), SETTINGS)


# --- what an operator refuses ---------------------------------------------------------------------


def test_an_index_out_of_range_is_the_clients_fault(tmp_path):
    model = model_of(
        [helper.make_node("Gather", ["table", "x"], ["y"])],
        [("x", INT64, ["N"])],
        [("y", FLOAT, ["N"])],
        {"table": np.array([0.5, 1.5], np.float32)},
    )
    served = OnnxModel(saved(model, tmp_path / "model"), SETTINGS)
    assert scored(served, [1, 0]) == [1.5, 0.5]
    with pytest.raises(SchemaMismatch, match=r"idx=7 must be within .* \(at the operator Gather\)"):
        scored(served, [7])


def test_lengths_that_agree_are_not_blamed(tmp_path):
    model = model_of(
        [helper.make_node("GatherElements", ["a", "b"], ["y"])],
        [("a", FLOAT, ["N"]), ("b", INT64, ["N"])],
        [("y", FLOAT, ["N"])],
    )
    served = OnnxModel(saved(model, tmp_path / "model"), SETTINGS)
    with pytest.raises(SchemaMismatch) as caught:
        scored(served, {"inputs": {"a": [1, 2], "b": [0, 9]}})
    assert str(caught.value) == (
        "The model refuses the input: GatherElements op: Out of range value in index tensor (at "
        "the operator GatherElements)."
    )


def test_memory_that_is_not_there_is_not_the_clients_fault(tmp_path):
    """It may be scored elsewhere, or later."""
    model = model_of(
        [helper.make_node("Expand", ["x", "shape"], ["y"])],
        [("x", FLOAT, [1]), ("shape", INT64, [2])],
        [("y", FLOAT, [None, None])],
    )
    served = OnnxModel(saved(model, tmp_path / "model"), SETTINGS)
    assert scored(served, {"inputs": {"x": [2], "shape": [1, 2]}}) == {"predictions": [[2.0, 2.0]]}
    with pytest.raises(RunFailed) as caught:
        scored(served, {"inputs": {"x": [2], "shape": [2**20, 2**30]}})
    assert "Failed to allocate memory" in str(caught.value.__cause__)


# --- settings -------------------------------------------------------------------------------------


LEVEL, MODE = "graph_optimization_level", "execution_mode"
LEVELS, MODES = ort.GraphOptimizationLevel, ort.ExecutionMode


@pytest.mark.parametrize(
    ("options", "attribute", "expected"),
    [
        (Settings(), LEVEL, LEVELS.ORT_ENABLE_ALL),
        (Settings(onnx_optimization="disabled"), LEVEL, LEVELS.ORT_DISABLE_ALL),
        (Settings(onnx_optimization="basic"), LEVEL, LEVELS.ORT_ENABLE_BASIC),
        (Settings(onnx_optimization="extended"), LEVEL, LEVELS.ORT_ENABLE_EXTENDED),
        (Settings(onnx_intra_op_threads=3, worker_count=8), "intra_op_num_threads", 3),
        (Settings(), "inter_op_num_threads", 1),
        (Settings(), MODE, MODES.ORT_SEQUENTIAL),
        (Settings(onnx_inter_op_threads=2), "inter_op_num_threads", 2),
        (Settings(onnx_inter_op_threads=2), MODE, MODES.ORT_PARALLEL),
        (Settings(onnx_inter_op_threads=0), MODE, MODES.ORT_PARALLEL),
    ],
)
def test_options_reach_the_session(options, attribute, expected):
    made = session_options(options)
    assert getattr(made, attribute) == expected
    assert made.get_session_config_entry("session.intra_op.allow_spinning") == "0"


def test_threads_are_as_many_as_processors_shared_by_the_processes(monkeypatch):
    monkeypatch.setattr("scoring_runtime.settings.processors.processors", lambda: 7)
    threads = [session_options(Settings(worker_count=n)).intra_op_num_threads for n in (1, 2, 7, 9)]
    assert threads == [7, 3, 1, 1]


@pytest.mark.parametrize(
    ("setting", "value", "attribute", "expected"),
    [
        ("SCORING_ONNX_INTRA_OP_THREADS", "2", "intra_op_num_threads", 2),
        ("SCORING_ONNX_INTER_OP_THREADS", "3", "inter_op_num_threads", 3),
        ("SCORING_ONNX_OPTIMIZATION", "disabled", LEVEL, LEVELS.ORT_DISABLE_ALL),
        ("WORKER_COUNT", "4096", "intra_op_num_threads", 1),
    ],
)
def test_settings_reach_the_session(setting, value, attribute, expected, tmp_path, monkeypatch):
    """From the environment's variable to the options that onnxruntime itself is given."""
    made: list[Any] = []
    real = ort.InferenceSession

    def watched(path: str, how: Any, providers: Any) -> Any:
        made.append(how)
        return real(path, how, providers=providers)

    monkeypatch.setattr(ort, "InferenceSession", watched)
    path = saved(echo(FLOAT, ["N", 2]), tmp_path / "model")
    answers(path.parent, [asked([[1, 2]])], **{setting: value})
    assert [getattr(each, attribute) for each in made] == [expected]


def test_the_provider_is_the_cpu_unless_the_settings_say_otherwise(tmp_path):
    path = saved(echo(FLOAT, ["N", 2]), tmp_path / "model")
    OnnxModel(path, Settings(onnx_providers=("CPUExecutionProvider",)))
    with pytest.raises(ModelUnusable) as caught:
        OnnxModel(path, Settings(onnx_providers=("TPU", "CPUExecutionProvider", "NPU")))
    assert str(caught.value) == (
        "SCORING_ONNX_PROVIDERS names TPU, NPU, which this onnxruntime does not have. It has: "
        f"{', '.join(ort.get_available_providers())}."
    )
