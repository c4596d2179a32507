"""``requirements.txt`` of a context, and whether pip finds what it names."""

from __future__ import annotations

import ast
import io
import os
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from scoring_runtime.errors import PackagingError
from scoring_runtime.packaging import resolution
from scoring_runtime.packaging.environment.names import name_of
from scoring_runtime.packaging.environment.pip import from_packages
from scoring_runtime.packaging.model_files import from_path
from scoring_runtime.packaging.requirements import (
    models_environment,
    requirements_text,
    runtime_requirements,
)
from scoring_runtime.packaging.specification import Environment, PackagedModel, Specification
from tests.models_for_tests import other_version

REPOSITORY = Path(__file__).parents[2]
PACKAGE = REPOSITORY / "scoring_runtime"
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
TRIGGERS = ("http", "blob", "service_bus")
KINDS = ("scikit-learn", "onnx", "mlflow")


def lines_of(text: str) -> list[str]:
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def specified(**others: object) -> Specification:
    return Specification(entry_script=Path("score.py"), **others)  # type: ignore[arg-type]


def model(name: str = "m", kind: str = "scikit-learn", **libraries: str) -> PackagedModel:
    named = {each.replace("_", "-"): version for each, version in libraries.items()}
    return PackagedModel(name, 1, Path(name), kind=kind, libraries=named)


# --- what the runtime needs -----------------------------------------------------------------------


def test_the_ranges_are_those_of_the_project() -> None:
    extras = {each for lines in PROJECT["optional-dependencies"].values() for each in lines}
    known = {*extras, *PROJECT["dependencies"], "pyyaml>=6"}
    ours = {
        line
        for target in ("functions", "standalone")
        for line in runtime_requirements(target, TRIGGERS, script=True, kinds=KINDS)
    }
    assert ours - known == set()


def test_what_the_core_needs_is_in_every_list() -> None:
    lines = lines_of((REPOSITORY / "requirements.txt").read_text(encoding="utf-8"))
    assert set(PROJECT["dependencies"]) <= set(lines)
    for target in ("functions", "standalone"):
        found = runtime_requirements(target, (), script=False)
        assert set(PROJECT["dependencies"]) <= set(found)


@pytest.mark.parametrize(
    ("target", "triggers", "extra"),
    [
        ("standalone", ("http",), "server"),
        ("standalone", ("blob",), "blob"),
        ("functions", ("http",), "functions"),
        ("functions", ("service_bus",), "servicebus"),
    ],
)
def test_a_trigger_brings_its_whole_extra(
    target: str, triggers: tuple[str, ...], extra: str
) -> None:
    found = runtime_requirements(target, triggers, script=False)
    assert set(PROJECT["optional-dependencies"][extra]) <= set(found)


BASE = ["numpy>=1.26", *PROJECT["dependencies"]]
SCRIPT = ["inference-schema>=1.7", "joblib>=1.3"]
HOST = {
    "functions": ["azure-functions>=1.21,<3"],
    "standalone": [
        "httptools>=0.6",
        "uvicorn>=0.30",
        "uvloop>=0.19; platform_system != 'Windows'",
        "watchfiles>=1.0",
    ],
}


@pytest.mark.parametrize("target", ["functions", "standalone"])
def test_a_script_behind_http_needs_little(target: str) -> None:
    needed = [*BASE, *HOST[target], "redis>=5.1"]
    assert list(runtime_requirements(target, ("http",), script=False)) == sorted(needed)
    found = runtime_requirements(target, ("http",), script=True)
    assert list(found) == sorted([*needed, *SCRIPT])


_MODULES = {
    "azure.functions": "azure-functions",
    "azure.identity": "azure-identity",
    "azure.servicebus": "azure-servicebus",
    "azure.storage": "azure-storage-blob",
    "azure.core": "",
}


def _imports(path: Path, top: bool) -> Iterator[str]:
    """Absolute names imported by a file: at its top only, or in its functions too."""
    package = ["scoring_runtime", *path.relative_to(PACKAGE).parent.parts]
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in tree.body if top else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            start = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{start}.{each.name}" for each in node.names)


def _file(name: str) -> Path | None:
    parts = name.split(".")[1:]
    for end in (len(parts), len(parts) - 1):
        path = PACKAGE.joinpath(*parts[:end]).with_suffix(".py")
        if parts[:end] and path.is_file():
            return path
    return None


def _third_parties(*modules: str) -> set[str]:
    """What these modules and all they import at their tops need from elsewhere."""
    waiting, seen, found = [PACKAGE / each for each in modules], set[Path](), set[str]()
    while waiting:
        path = waiting.pop()
        if path in seen:
            continue
        seen.add(path)
        for name in _imports(path, top=True):
            inside = _file(name) if name.startswith("scoring_runtime") else None
            waiting += [inside] if inside else []
            if not name.startswith("scoring_runtime"):
                found.add(name)
    roots = {next((m for m in _MODULES if n.startswith(m)), n.split(".")[0]) for n in found}
    return {_MODULES.get(root, root) for root in roots if root not in _standard()} - {""}


def _standard() -> frozenset[str]:
    return frozenset({*sys.stdlib_module_names, "__future__"})


@pytest.mark.parametrize(
    ("target", "triggers", "modules"),
    [
        ("functions", ("http", "blob"), ["functions/app.py"]),
        ("functions", ("service_bus",), ["functions/app.py", "functions/service_bus.py"]),
        ("standalone", ("http",), ["standalone/serve.py", "standalone/worker.py"]),
        ("standalone", ("blob",), ["standalone/worker.py", "standalone/container.py"]),
        ("standalone", ("service_bus",), ["standalone/worker.py", "standalone/service_bus.py"]),
    ],
)
def test_everything_that_a_target_imports_is_installed(
    target: str, triggers: tuple[str, ...], modules: list[str]
) -> None:
    needed = _third_parties(*modules)
    installed = {name_of(each) for each in runtime_requirements(target, triggers, script=False)}
    assert {"orjson", "azure-functions" if target == "functions" else "uvicorn"} <= needed
    assert needed - installed == set()


# --- the text -------------------------------------------------------------------------------------


def test_the_whole_text() -> None:
    environment = from_packages(["nltk", "--extra-index-url https://example.org/simple", "Flask"])
    specification = Specification(
        triggers=("http", "blob"),
        models=(model(scikit_learn="1.3.2", joblib="1.3.1", numpy="1.26.4"),),
        environment=environment,
    )
    assert requirements_text(specification) == (
        "# What pip installs into the image.\n"
        "\n"
        "# Where pip looks.\n"
        "--extra-index-url https://example.org/simple\n"
        "\n"
        "# The runtime: target functions, triggers http, blob.\n"
        "azure-functions>=1.21,<3\n"
        "orjson>=3.10,<4\n"
        "pandas>=2\n"
        "prometheus-client>=0.20,<1\n"
        "redis>=5.1\n"
        "werkzeug>=3,<4\n"
        "\n"
        "# The models, by the versions that wrote them.\n"
        "joblib==1.3.1\n"
        "numpy==1.26.4\n"
        "scikit-learn==1.3.2\n"
        "\n"
        "# The environment of the package.\n"
        "Flask\n"
        "nltk\n"
    )


@pytest.mark.parametrize(
    ("line", "instead_of"),
    [
        ("NumPy==1.26.4", "numpy>=1.26"),
        ("inference-schema[numpy-support]", "inference-schema>=1.7"),
        ("joblib==1.2", "joblib>=1.3"),
        ("scikit_learn==1.4", "scikit-learn==1.3.2"),
        ('numpy<2; sys_platform == "linux"', "numpy>=1.26"),
    ],
)
def test_the_users_line_takes_the_place_of_ours(line: str, instead_of: str) -> None:
    models = (model(scikit_learn="1.3.2"),) if "scikit" in line else ()
    script = None if models else Path("score.py")
    plain = Specification(models=models, entry_script=script)
    given = replace(plain, environment=from_packages([line]))
    before, after = lines_of(requirements_text(plain)), lines_of(requirements_text(given))
    [written] = from_packages([line]).requirements
    assert instead_of in before
    assert sorted(after) == sorted([*({*before} - {instead_of}), written])


def test_what_the_runtime_cannot_do_without_stands_beside_the_users_line() -> None:
    """So that pip says when they exclude each other."""
    text = requirements_text(specified(environment=from_packages(["werkzeug==2.0"])))
    lines = [each for each in lines_of(text) if name_of(each) == "werkzeug"]
    assert lines == ["werkzeug>=3,<4", "werkzeug==2.0"]


@pytest.mark.parametrize(
    ("marker", "applies"),
    [
        ('python_version < "3.9"', False),
        ('sys_platform == "win32"', False),
        ('python_version >= "3.13"', True),
    ],
)
def test_a_line_that_does_not_apply_in_the_image_takes_no_place(marker: str, applies: bool) -> None:
    environment = replace(from_packages([f"numpy<2; {marker}"]), python="3.13")
    text = requirements_text(specified(environment=environment))
    assert ("numpy>=1.26" not in lines_of(text)) is applies


@pytest.mark.parametrize(
    ("packages", "wanted"),
    [([], ["onnxruntime==1.17.0"]), (["onnxruntime-gpu"], ["onnxruntime-gpu"])],
)
def test_a_model_is_loaded_by_the_version_that_wrote_it(
    packages: list[str], wanted: list[str]
) -> None:
    models = (model("a", "onnx", onnxruntime="1.17.0+cpu", onnx="1.15.0"), model("b", "onnx"))
    specification = Specification(models=models, environment=from_packages(packages))
    found = lines_of(requirements_text(specification))
    assert [line for line in found if "onnx" in line] == wanted


@pytest.mark.parametrize(
    ("line", "written"),
    [
        ("Scikit_Learn", "Scikit_Learn==1.3.2"),
        ("scikit-learn[alldeps]", "scikit-learn[alldeps]==1.3.2"),
        ('numpy; python_version >= "3.9"', 'numpy==1.26.4; python_version >= "3.9"'),
        ("scikit-learn!=1.5.0", "scikit-learn!=1.5.0"),
        ("pandas", "pandas"),
    ],
)
@pytest.mark.parametrize("script", [None, Path("score.py")], ids=["no script", "script"])
def test_a_line_without_a_version_is_held_to_that_of_the_model(
    line: str, written: str, script: Path | None
) -> None:
    specification = Specification(
        models=(model(scikit_learn="1.3.2+local", numpy="1.26.4"),),
        entry_script=script,
        environment=from_packages([line]),
    )
    found = lines_of(requirements_text(specification))
    assert [each for each in found if name_of(each) == name_of(written)] == [written]


@pytest.mark.parametrize(
    ("models", "lines", "wanted"),
    [
        (
            [model("a", scikit_learn="1.3.2"), model("b", scikit_learn="1.4.0")],
            ["scikit-learn"],
            ["scikit-learn"],
        ),
        (
            [model("a", "mlflow", scikit_learn="1.3.2", mlflow="1.30.0")],
            ["mlflow", "scikit-learn"],
            ["mlflow", "scikit-learn==1.3.2"],
        ),
        ([model("a", "onnx", onnx="1.15.0")], ["onnx"], ["onnx"]),
    ],
    ids=["two versions", "mlflow", "not pinned"],
)
def test_lines_are_held_to_one_version_or_none(
    models: list[PackagedModel], lines: list[str], wanted: list[str]
) -> None:
    """Two versions cannot be had, and mlflow loads the models of older ones."""
    given = specified(models=tuple(models), environment=from_packages(lines))
    found = lines_of(requirements_text(given))
    names = {name_of(line) for line in wanted}
    assert sorted(each for each in found if name_of(each) in names) == wanted


@pytest.mark.parametrize(
    ("script", "user", "there", "gone"),
    [
        (False, [], ["scikit-learn==1.3.2", "joblib>=1.3", "numpy<2"], ["numpy=="]),
        (True, ["pillow"], ["scikit-learn==1.3.2", "joblib>=1.3", "numpy<2"], ["numpy=="]),
        (True, ["scikit-learn==1.5.1"], ["scikit-learn==1.5.1"], ["1.3.2", "numpy<2"]),
        (True, ["numpy==1.26.4"], ["scikit-learn==1.3.2", "numpy==1.26.4"], ["numpy<2"]),
    ],
)
def test_what_a_pickle_says_is_required(
    script: bool, user: list[str], there: list[str], gone: list[str], tmp_path: Path
) -> None:
    wanted = from_path("m", 1, other_version(tmp_path / "m.pkl"))
    asked = specified(models=(wanted,), environment=from_packages(user))
    text = requirements_text(asked if script else replace(asked, entry_script=None))
    assert {*there} <= {*text.splitlines()}
    assert not [each for each in gone if each in text]


def test_nothing_local_stands_beside_a_version_of_the_users() -> None:
    """They would have to fit each other; a name alone leaves all to the model."""
    wanted = model(**{"scikit-learn": "1.7.2", "joblib": "1.5.2", "numpy": "2.3.4"})
    pinned = from_packages(["scikit-learn==1.5.2", "numpy"])
    text = requirements_text(specified(models=(wanted,), environment=pinned))
    assert "numpy\n" in text and "joblib>=1.3\n" in text and "2.3.4" not in text
    free = requirements_text(specified(models=(wanted,), environment=from_packages(["numpy"])))
    assert "numpy==2.3.4\n" in free


@pytest.mark.parametrize(
    ("lines", "limited"),
    [
        (["scikit-learn==1.4.1.post1"], True),
        (["scikit-learn==1.4.2"], False),
        (["scikit-learn==1.3.*"], True),
        (["scikit-learn<1.4.2"], True),
        (["scikit-learn<=1.4.2"], False),
        (["scikit-learn>=1.2"], False),
        (["pandas[excel]==2.0.3; python_version >= '3.8'"], True),
        (["torch==2.2.2", "numpy>=1.24"], True),
        (["torch==2.2.2", "numpy<1.27"], False),
        (["requests==2.0"], False),
    ],
)
def test_wheels_that_were_built_for_numpy_1_get_it(lines: list[str], limited: bool) -> None:
    """As conda saw to; a numpy that the user decides stays."""
    text = requirements_text(specified(environment=from_packages(lines)))
    assert ("\nnumpy<2\n" in text) == limited


def test_models_of_different_versions_are_refused() -> None:
    models = (model("a", scikit_learn="1.3.2"), model("b", scikit_learn="1.4.0"))
    said = "of which an image has one: a:1 was written with scikit-learn==1.3.2, b:1 was written"
    with pytest.raises(PackagingError, match=said):
        requirements_text(Specification(models=models))
    decided = from_packages(["scikit-learn==1.4.0"])
    text = requirements_text(Specification(models=models, environment=decided))
    assert [line for line in lines_of(text) if "scikit" in line] == ["scikit-learn==1.4.0"]


def test_a_version_that_is_none_is_refused() -> None:
    said = r"m:1 says that it was written with scikit-learn 'new\\n-r x', which is no version\."
    with pytest.raises(PackagingError, match=said):
        requirements_text(Specification(models=(model(scikit_learn="new\n-r x"),)))


# --- MLflow ---------------------------------------------------------------------------------------

MLMODEL = """
flavors:
  python_function:
    env: {conda: conda.yaml, virtualenv: python_env.yaml}
    loader_module: mlflow.sklearn
    predict_fn: predict
    python_version: 3.12.1
  sklearn:
    sklearn_version: 1.3.2
mlflow_version: 2.12.1
"""
CONDA = "dependencies: [python=3.12.1, pip: [mlflow==2.12.1, scikit-learn==1.3.2]]"


def mlflow_model(folder: Path, mlmodel: str = MLMODEL, **files: str) -> PackagedModel:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "MLmodel").write_text(mlmodel, encoding="utf-8")
    for name, text in files.items():
        (folder / name.replace("_", ".")).write_text(text, encoding="utf-8")
    return PackagedModel("m", 1, folder, kind="mlflow")


def packages_of(model: PackagedModel) -> list[str]:
    text = requirements_text(Specification(models=(model,)))
    part = text.partition("# The models, by the versions that wrote them.\n")[2]
    return part.split("\n\n")[0].split()


def test_an_mlflow_model_brings_the_packages_of_its_folder(tmp_path: Path) -> None:
    model = mlflow_model(
        tmp_path,
        requirements_txt="mlflow==2.12.1\nscikit-learn==1.3.2\nscipy==1.11.4\n",
        conda_yaml=CONDA,
    )
    assert packages_of(model) == ["mlflow==2.12.1", "scikit-learn==1.3.2", "scipy==1.11.4"]
    text = requirements_text(Specification(models=(model,)))
    assert {"pandas>=2", "numpy>=1.26"} <= set(lines_of(text))
    assert "mlflow-skinny" not in text
    assert models_environment(Specification(models=(model,))).python == "3.12"


def test_without_requirements_the_conda_file_is_read(tmp_path: Path) -> None:
    """And without both, what MLmodel says of versions."""
    with_conda = mlflow_model(tmp_path / "a", conda_yaml=CONDA)
    assert packages_of(with_conda) == ["mlflow==2.12.1", "scikit-learn==1.3.2"]
    with_none = mlflow_model(tmp_path / "b")
    assert packages_of(with_none) == ["mlflow==2.12.1", "scikit-learn==1.3.2"]


CODE = ("loader_module: mlflow.sklearn", "loader_module: mlflow.pyfunc.model")
WITH_CODE = ("predict_fn: predict", "predict_fn: predict\n    code: code")


@pytest.mark.parametrize(
    ("line", "change", "wanted"),
    [
        ("mlflow==3.1.4", ("", ""), "mlflow-skinny==3.1.4"),
        ("mlflow-skinny==3.1.4", ("", ""), "mlflow-skinny==3.1.4"),
        ("mlflow==3.1.4", CODE, "mlflow==3.1.4"),
        ("mlflow==3.1.4", WITH_CODE, "mlflow==3.1.4"),
        ("mlflow[extras]==3.1.4", ("", ""), "mlflow[extras]==3.1.4"),
        ("mlflow==2.10.0", ("", ""), "mlflow==2.10.0"),
        ("mlflow==1.30.0", ("", ""), "mlflow-skinny>=3,<4"),
    ],
)
def test_mlflow_is_named_without_its_tracking_server_where_that_is_enough(
    tmp_path: Path, line: str, change: tuple[str, str], wanted: str
) -> None:
    """A model that is code may import any part of it, and so may a script; an mlflow of a time
    before this runtime's gives way to the range; the user's takes the place of all."""
    model = mlflow_model(tmp_path, MLMODEL.replace(*change), requirements_txt=f"{line}\n")
    alone = Specification(models=(model,))

    def mlflow_of(specification: Specification) -> list[str]:
        lines = lines_of(requirements_text(specification))
        return [each for each in lines if each.startswith("mlflow")]

    assert mlflow_of(alone) == [wanted]
    assert mlflow_of(replace(alone, entry_script=Path("score.py"))) == [line]
    for own in ("mlflow==3.9", "mlflow-skinny==3.9"):
        assert mlflow_of(replace(alone, environment=from_packages([own]))) == [own]


def test_wheels_of_an_mlflow_model_are_told(tmp_path: Path) -> None:
    """Those that ``mlflow.models.utils.add_libraries_to_model`` put beside it."""
    wheel = tmp_path / "wheels" / "six-1.0-py3-none-any.whl"
    wheel.parent.mkdir()
    wheel.write_bytes(b"")
    model = mlflow_model(tmp_path, requirements_txt=f"wheels/{wheel.name}\n")
    assert packages_of(model) == [f"./wheels/{wheel.name}"]
    assert models_environment(Specification(models=(model,))).wheels == (wheel,)


@pytest.mark.parametrize(
    ("text", "said"),
    [("- a", " is no MLmodel file, as mlflow writes it."), ("a: [", ", line 1 is not YAML: ")],
)
def test_a_damaged_mlflow_model_is_named(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(PackagingError) as raised:
        requirements_text(Specification(models=(mlflow_model(tmp_path, text),)))
    assert str(raised.value).startswith(f"{tmp_path / 'MLmodel'}{said}")


# --- pip ------------------------------------------------------------------------------------------


def make_wheel(folder: Path, name: str, version: str, *requires: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{version}-py3-none-any.whl"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    metadata += "".join(f"Requires-Dist: {each}\n" for each in requires)
    wheel = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    with zipfile.ZipFile(path, "w") as archive:
        for file, text in (("METADATA", metadata), ("WHEEL", wheel), ("RECORD", "")):
            archive.writestr(f"{name}-{version}.dist-info/{file}", text)
    return path


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package index in a folder, the only one that pip knows."""
    simple = tmp_path / "simple"
    simple.mkdir()
    only(monkeypatch, simple.as_uri())
    for name, version, *others in (
        ("alpha", "1.0"),
        ("alpha", "2.0"),
        ("beta", "1.0", "alpha<2"),
        ("gamma", "1.0", "missing-one>=3"),
    ):
        make_wheel(simple / name, name, version, *others)
    for folder in simple.iterdir():
        links = "".join(f'<a href="{each.name}">{each.name}</a>' for each in folder.glob("*.whl"))
        (folder / "index.html").write_text(f"<!DOCTYPE html><html>{links}</html>")
    return simple


def only(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", address)
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "")
    monkeypatch.setenv("PIP_FIND_LINKS", "")


def test_packages_that_there_are_pass(index: Path, tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path / "here", "own", "1.0", "alpha")
    text = f"# ours\n--pre\nbeta\nalpha>=1\n./wheels/{wheel.name}\n"
    assert resolution.check(text, "", [wheel]) == ()


@pytest.mark.parametrize(
    ("requirements", "message"),
    [
        ("absent-one\n", "No matching distribution found for absent-one."),
        ("gamma\n", "No matching distribution found for missing-one>=3."),
        (
            "alpha==2.0\nbeta\n",
            "conflicting dependencies: The user requested alpha==2.0; beta 1.0 depends on alpha<2.",
        ),
    ],
)
def test_packages_that_cannot_be_installed_are_named(
    index: Path, requirements: str, message: str
) -> None:
    with pytest.raises(PackagingError) as raised:
        resolution.check(requirements)
    assert str(raised.value).startswith("The packages cannot be installed: ")
    assert str(raised.value).endswith(message)


def make_source(index: Path, name: str, version: str) -> None:
    """A package of the index that has to be built, which fails."""
    folder = index / name
    folder.mkdir()
    root = f"{name}-{version}"
    with tarfile.open(folder / f"{root}.tar.gz", "w:gz") as archive:
        for path, text in (("setup.py", "raise SystemExit(1)\n"), ("pyproject.toml", BACKEND)):
            about = tarfile.TarInfo(f"{root}/{path}")
            about.size = len(text)
            archive.addfile(about, io.BytesIO(text.encode()))
    (folder / "index.html").write_text(f'<html><a href="{root}.tar.gz">{root}.tar.gz</a></html>')


BACKEND = '[build-system]\nrequires = []\nbuild-backend = "absent"\nbackend-path = ["."]\n'


@pytest.mark.parametrize(
    ("python", "image", "why"),
    [
        (
            "",
            f"{sys.version_info.major}.{sys.version_info.minor}",
            "",
        ),
        ("3.99", "3.99", "No matching distribution found for raw==1.0"),
    ],
    ids=["this Python", "another"],
)
def test_a_package_without_a_wheel_is_warned_about_with_advice(
    index: Path, python: str, image: str, why: str
) -> None:
    make_source(index, "raw", "1.0")
    [said] = resolution.check("raw==1.0\n", python)
    start = "It could not be checked whether the packages can be installed: "
    assert said.startswith(start) and why in said
    assert f". Name a version that has a wheel for Python {image}, which the image has; " in said


def test_a_damaged_wheel_is_refused(index: Path, tmp_path: Path) -> None:
    wheel = tmp_path / "own-1.0-py3-none-any.whl"
    wheel.write_bytes(b"no zip")
    with pytest.raises(PackagingError) as raised:
        resolution.check(f"./wheels/{wheel.name}\n", "", [wheel])
    assert "own" in str(raised.value)


def test_without_network_there_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, "http://me:pass@127.0.0.1:9/simple")
    [said] = resolution.check("six\n")
    assert said.endswith(": the package index cannot be reached, or refuses to answer.")


def test_a_pip_that_takes_too_long_is_a_warning(index: Path) -> None:
    [said] = resolution.check("alpha\n", timeout=0.01)
    assert said.endswith("can be installed: pip has not answered within 0.01 s.")


@pytest.mark.parametrize("target", ["functions", "standalone"])
@pytest.mark.parametrize(
    ("name", "value", "extra"),
    [
        ("SCORING_ENTRA_TENANT", "11111111-2222-3333-4444-555555555555", "entra"),
        ("SCORING_RECORD", "https://account.blob.core.windows.net/records", "blob"),
        ("SCORING_RECORD", "/records", ""),
        ("SCORING_RECORD_CONNECTION", "Records", "blob"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318", "otel"),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://collector:4318/v1/traces", "otel"),
    ],
)
def test_a_setting_brings_the_extra_without_which_it_does_nothing(
    target: str, name: str, value: str, extra: str
) -> None:
    wanted = specified(target=target, triggers=("http",))
    before = set(lines_of(requirements_text(wanted)))
    said = replace(wanted, environment=Environment(variables={name: value}))
    after = set(lines_of(requirements_text(said)))
    needed = PROJECT["optional-dependencies"][extra] if extra else []
    assert after - before == set(needed)
