"""Blob path templates: what they match, what they fill, and which are refused."""

from __future__ import annotations

import pytest

from scoring_runtime.errors import ConfigurationError
from scoring_runtime.settings.settings import Settings
from scoring_runtime.triggers.blob_paths import (
    BlobPaths,
    EveryFile,
    Template,
    blob_paths,
    error_path,
    refuse_shared_documents,
)


def template(text: str, setting: str = "BLOB_INPUT_PATH") -> Template:
    return Template(setting, text).compile()


def paths(**settings: str) -> BlobPaths:
    environ = {f"BLOB_{name.upper()}_PATH": value for name, value in settings.items()}
    return blob_paths(Settings.from_environ(environ))


# --- files of every type --------------------------------------------------------------------------


def test_why_a_file_is_not_read() -> None:
    """A setting is named only where it would help: a name that says no type is taken for JSON."""
    setting = (
        "its type is read only when a setting says so, such as BLOB_INPUT_PATH=input/{blobname}"
    )
    cannot = "a model without a script cannot read"
    parquet = "application/vnd.apache.parquet (scoring-runtime batch --input FILE reads it)"
    for has_script, name, why in (
        (True, "a.parquet", f"{setting}.parquet"),
        (True, "a.part", f"{setting}.part"),
        (False, "a.part", f"{setting}.part"),
        (False, "a.parquet", f"{cannot} {parquet}"),
        (False, "a.png", f"{cannot} image/png"),
    ):
        assert EveryFile(has_script).match(name) is None
        assert EveryFile(has_script).why_not(name) == why


# --- matching -------------------------------------------------------------------------------------

MATCHES = [
    ("input/{blobname}.json", "sample_input.json", {"blobname": "sample_input"}),
    ("input/{blobname}.json", ".json.json", {"blobname": ".json"}),
    ("input/{blobname}.json", "a b%20#?&+é漢😀.json", {"blobname": "a b%20#?&+é漢😀"}),
    ("input/{blobname}.json", "line\nend.json", {"blobname": "line\nend"}),
    ("input/{blobname}.json", ".json", None),
    ("input/{blobname}.json", "a.JSON", None),
    ("input/{blobname}.json", "a.jsonx", None),
    ("input/{blobname}.json", "a.json\n", None),
    ("/input/{blobname}.json", "a.json", {"blobname": "a"}),
    # The first takes as much as it can.
    ("input/{folder}/{name}", "a/b/c", {"folder": "a/b", "name": "c"}),
    ("input/{folder}/{name}", "a", None),
    ("input/{name}.{ext}", "a.b.c", {"name": "a.b", "ext": "c"}),
    (
        "input/{folder}/{name}.{ext}",
        "2026/11/x.y.csv",
        {"folder": "2026/11", "name": "x.y", "ext": "csv"},
    ),
    ("input/{a}{b}", "xyz", {"a": "xy", "b": "z"}),
    ("input/in-{name}.json", "out-a.json", None),
    # Braces of the name itself.
    ("input/{{{name}}}.json", "{a}.json", {"name": "a"}),
    ("input/{{{name}}}.json", "a.json", None),
    # What has a meaning in a pattern has none here.
    ("input/a.b+(c)[d]*-{name}", "a.b+(c)[d]*-e", {"name": "e"}),
    ("input/a.b+(c)[d]*-{name}", "aab(c)d-e", None),
    ("input/plain.json", "plain.json", {}),
]


@pytest.mark.parametrize(("text", "name", "values"), MATCHES)
def test_a_template_matches_whole_names_and_the_first_placeholder_takes_most(text, name, values):
    """Filling in what was matched gives the name again."""
    found = template(text)
    assert found.match(name) == values
    assert values is None or found.fill(values) == name


@pytest.mark.parametrize(
    ("text", "container", "names", "prefix"),
    [
        ("input/{blobname}.json", "input", ["blobname"], ""),
        ("$root/{name}", "$root", ["name"], ""),
        ("abc/a/b-{x}/{y_1}", "abc", ["x", "y_1"], "a/b-"),
        ("0-a-9/{{{_}}}", "0-a-9", ["_"], "{"),
        (f"{'c' * 63}/plain", "c" * 63, [], "plain"),
    ],
)
def test_the_parts_of_a_template(text, container, names, prefix):
    found = template(text)
    assert (found.container, found.names, found.prefix) == (container, names, prefix)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "no name after the container"),
        ("input", "no name after the container"),
        ("{container}/{name}", "'{container}' cannot be a container"),
        ("Input/{name}", "'Input' cannot be a container"),
        ("in--put/{name}", "'in--put' cannot be a container"),
        (f"{'c' * 64}/{{name}}", "cannot be a container"),
        ("//input/{name}", "'' cannot be a container"),
        ("input/{name", "a brace is not closed or not opened"),
        ("input/{}", "{} is not a placeholder name"),
        ("input/{rand-guid}", "{rand-guid} is not a placeholder name"),
        ("input/{name}/{name}", "a placeholder stands in it twice"),
        ("input/{metadata}", "{metadata} is the host's own"),
    ],
)
def test_a_wrong_template_is_refused_with_setting_value_and_reason(text, why):
    with pytest.raises(ConfigurationError) as caught:
        template(text)
    message = str(caught.value)
    assert message.startswith(f"BLOB_INPUT_PATH has the value {text!r}, which is not allowed: ")
    assert why in message
    assert message.endswith("(environment variable: BLOB_INPUT_PATH)")


# --- the three paths ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "name", "documents"),
    [
        (
            {},
            "sample_input.json",
            ("output/sample_input_out.json", "output/sample_input_error.json"),
        ),
        (
            {"input": "in-box/{folder}/{n}.{ext}", "output": "out-box/{folder}/{n}.{ext}.txt"},
            "a/b/c.d.csv",
            ("out-box/a/b/c.d.csv.txt", "out-box/a/b/c.d.csv_error.txt"),
        ),
        (
            {"output": "results/{blobname}", "error": "errors/why/{blobname}.{blobname}"},
            "a.json",
            ("results/a", "errors/why/a.a"),
        ),
    ],
)
def test_documents_of_an_input(settings, name, documents):
    found = paths(**settings)
    assert found.documents("/") is None
    named = found.documents(name)
    assert named is not None
    assert (
        f"{found.output.container}/{named.output}",
        f"{found.error.container}/{named.error}",
    ) == documents


@pytest.mark.parametrize(
    ("output", "error"),
    [
        ("output/{blobname}_out.json", "output/{blobname}_error.json"),
        ("output/{blobname}.csv", "output/{blobname}_error.csv"),
        ("output/{blobname}_out", "output/{blobname}_error.json"),
        ("output/{blobname}.{ext}", "output/{blobname}.{ext}_error.json"),
        ("output/v1.0/{blobname}", "output/v1.0/{blobname}_error.json"),
        ("output/{blobname}_out.tar.gz", "output/{blobname}_out.tar_error.gz"),
    ],
)
def test_the_error_path_follows_the_output_path(output, error):
    assert error_path(Settings.from_environ({"BLOB_OUTPUT_PATH": output})) == error


@pytest.mark.parametrize(
    ("settings", "setting", "why"),
    [
        ({"input": "input/one.json"}, "INPUT", "it has no placeholder, such as {blobname}"),
        (
            {"output": "output/{name}"},
            "OUTPUT",
            "{name} is not in BLOB_INPUT_PATH, whose placeholders are {blobname}",
        ),
        ({"error": "error/{a}{blobname}{b}"}, "ERROR", "{a}, {b} is not in BLOB_INPUT_PATH"),
        (
            {"output": "input/{blobname}_out.json"},
            "OUTPUT",
            "what is written there would be an input again "
            "(BLOB_INPUT_PATH is input/{blobname}.json)",
        ),
        ({"error": "input/bad/{blobname}.json"}, "ERROR", "would be an input again"),
        (
            {"error": "output/{blobname}_out.json"},
            "ERROR",
            "output and error documents would have the same name",
        ),
    ],
)
def test_paths_that_do_not_fit_together_are_refused(settings, setting, why):
    with pytest.raises(ConfigurationError) as caught:
        paths(**settings)
    assert str(caught.value).startswith(f"BLOB_{setting}_PATH has the value ")
    assert why in str(caught.value)


@pytest.mark.parametrize(
    "settings",
    [
        {"output": "input/{blobname}.txt", "error": "input/{blobname}.err"},
        {"input": "data/in/{n}.json", "output": "data/out/{n}.json", "error": "data/bad/{n}.json"},
        {"output": "output/{blobname}/{blobname}.json"},
        {"error": "errors/{blobname}_out.json"},
        {"output": "output/{blobname}_error.json"},
    ],
)
def test_one_container_may_hold_all_when_documents_are_no_inputs(settings):
    """And the error path by default is never the output path."""
    found = paths(**settings)
    refuse_shared_documents(found)
    values = {name: "a" for name in found.input.names}
    made = {f"{each.container}/{each.fill(values)}" for each in (found.output, found.error)}
    assert len(made) == 2


@pytest.mark.parametrize(
    ("settings", "setting", "left_out"),
    [
        (
            {"input": "input/{a}/{b}", "output": "output/{a}/{b}", "error": "error/{b}"},
            "ERROR",
            "{a}",
        ),
        ({"input": "input/{a}/{b}", "output": "output/all.json"}, "OUTPUT", "{a}, {b}"),
        ({"output": "output/{{blobname}}"}, "OUTPUT", "{blobname}"),
    ],
)
def test_a_placeholder_left_out_is_refused_where_the_document_is_the_receipt(
    settings, setting, left_out
):
    """Two inputs would share a document, and would be scored again for ever."""
    found = paths(**settings)
    with pytest.raises(ConfigurationError) as caught:
        refuse_shared_documents(found)
    assert f"{left_out} of BLOB_INPUT_PATH is left out" in str(caught.value)
    assert f"(environment variable: BLOB_{setting}_PATH)" in str(caught.value)


# --- a watched folder without a pattern -----------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "stem", "with_script"),
    [
        ("a.json", "a", "a"),
        ("sub/a.CSV", "sub/a.CSV", "sub/a.CSV"),
        ("a.npy", "a.npy", "a.npy"),
        ("a.csv.json", "a.csv.json", "a.csv.json"),
        ("a.png.json", "a.png", "a.png.json"),
        ("a.PNG", None, "a.PNG"),
        ("a.txt", None, "a.txt"),
        ("a.docx", None, None),
        ("json", None, None),
    ],
)
def test_files_of_a_type_that_is_read_have_names_of_their_own(name, stem, with_script):
    environ = {"BLOB_INPUT_FOLDER": "in"}
    for has_script, expected in ((False, stem), (True, with_script)):
        found = blob_paths(Settings.from_environ(environ), has_script=has_script)
        named = found.documents(name)
        assert (named and named.output) == (expected and f"{expected}_out.json")
        assert (named and named.error) == (expected and f"{expected}_error.json")
