"""The environment of a package: conda's and pip's files, and inferenceconfig.json."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scoring_runtime.errors import PackagingError
from scoring_runtime.packaging.environment import inference_config
from scoring_runtime.packaging.environment.conda import from_conda, from_conda_document
from scoring_runtime.packaging.environment.names import name_of
from scoring_runtime.packaging.environment.pip import from_packages, from_requirements, merged
from scoring_runtime.packaging.specification import Environment

BUILD_A_WHEEL = "build a wheel of it (pip wheel --no-deps …) and name that file."
WHEEL = "tool-1.0-py3-none-any.whl"
MCR = "mcr.microsoft.com/azureml/openmpi3.1.2-ubuntu18.04:20210615.v1"


def conda_of(*dependencies: object, **others: object) -> Environment:
    return from_conda_document({"dependencies": list(dependencies), **others}, "conda.yml")


def written(path: Path, content: object) -> Path:
    """The file with this content: bytes, a text, or a document as JSON."""
    if not isinstance(content, str | bytes):
        content = json.dumps(content)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


# --- conda → pip ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("conda", "pip"),
    [
        ("numpy", "numpy"),
        ("scikit-learn=1.3", "scikit-learn==1.3.*"),
        ("scikit-learn=1.3.*", "scikit-learn==1.3.*"),
        ("scikit-learn=1.3.2=py_0", "scikit-learn==1.3.2"),
        ("scikit-learn==1.3.2", "scikit-learn==1.3.2"),
        ("scikit-learn==1.3.2=py39h0_0", "scikit-learn==1.3.2"),
        ("scikit-learn 1.3.2 py_0", "scikit-learn==1.3.2"),
        ("scikit-learn = 1.3", "scikit-learn==1.3.*"),
        ("pandas >= 1.0, < 2", "pandas<2,>=1.0"),
        ("pandas>1.0,!=1.3.*", "pandas!=1.3.*,>1.0"),
        ("pandas>=1.0.*", "pandas>=1.0"),
        ("pandas=*=py_0", "pandas"),
        ("pandas[version='>=1.0,<2']", "pandas<2,>=1.0"),
        ("pandas[build=py_0]", "pandas"),
        ("conda-forge/linux-64::pandas", "pandas"),
        ("Pandas  # tables", "pandas"),
        ("pytorch=1.9.0=py3.8_cuda10.2", "torch==1.9.0"),
        ("opencv=4.5", "opencv-python-headless==4.5.*"),
        ("ruamel_yaml", "ruamel.yaml"),
        ("librosa", "librosa"),
    ],
)
def test_a_conda_dependency_is_asked_of_pip(conda: str, pip: str) -> None:
    assert conda_of(conda) == Environment(requirements=(pip,))


@pytest.mark.parametrize(
    "conda",
    [
        "cudatoolkit=11.1",
        "libgcc-ng=9.3.0",
        "_libgcc_mutex=0.1=main",
        "jpeg=9e",
        "r-base",
        "something-new=9e=h7f8727e_0",
    ],
)
def test_what_is_no_python_package_is_left_out_with_a_note(conda: str) -> None:
    [note] = conda_of(conda).notes
    assert conda_of(conda) == Environment(notes=(note,))
    assert note.startswith(f"Left out, for they are no Python packages: {conda.partition('=')[0]}.")


NEEDS = "is asked for, and this runtime needs one of 3.11, 3.12, 3.13"


@pytest.mark.parametrize(
    ("conda", "python", "note"),
    [
        ("python", "", ""),
        ("python=3.12.4", "3.12", ""),
        ("python=3.13.1=h955ad1f_0", "3.13", ""),
        ("python>=3.12,<3.14", "3.12", ""),
        ("python=3", "3.11", ""),
        ("python=3.8.13=haa1d7c7_0", "3.11", f"Python 3.8.13 {NEEDS}: 3.11 is taken."),
        ("python<3.9", "3.11", f"Python <3.9 {NEEDS}: 3.11 is taken."),
        ("python>=3.14", "3.13", f"Python >=3.14 {NEEDS}: 3.13 is taken."),
    ],
)
def test_python_is_the_one_asked_for_or_the_nearest(conda: str, python: str, note: str) -> None:
    """Old files go on to work: another version is a note, not an error."""
    assert conda_of(conda) == Environment(python=python, notes=(note,) if note else ())


def test_a_whole_conda_file_is_read(tmp_path: Path) -> None:
    written(tmp_path / WHEEL, b"")
    written(tmp_path / "more.txt", "nltk>=3\n")
    path = written(
        tmp_path / "conda.yml",
        f"""
name: project_environment
channels: [conda-forge, 'https://example.org/t/tk-123/channel']
dependencies:
  - python=3.12
  - pip=21.0
  - numpy=1.26
  - pip:
    - azureml-defaults>=1.0.45
    - azureml-contrib-functions
    - inference-schema[numpy-support]
    - -r more.txt
    - ./{WHEEL}
    - --extra-index-url https://example.org/simple
variables:
  EXAMPLE_ENV_VAR: EXAMPLE_VALUE
  THREADS: 2
prefix: /opt/conda
platforms: [linux-64]
""",
    )
    assert from_conda(path) == Environment(
        requirements=(
            "numpy==1.26.*",
            "inference-schema[numpy-support]",
            "nltk>=3",
            f"./wheels/{WHEEL}",
        ),
        options=("--extra-index-url https://example.org/simple",),
        python="3.12",
        variables={"EXAMPLE_ENV_VAR": "EXAMPLE_VALUE", "THREADS": "2"},
        wheels=(tmp_path / WHEEL,),
        notes=(
            "azureml-contrib-functions, azureml-defaults are left out: this runtime takes the "
            "place of that SDK.",
        ),
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", " is None; an object with keys is expected."),
        ("dependancies: [numpy]", " has the unknown key 'dependancies'; known are name,"),
        ("dependencies: numpy", ": dependencies is 'numpy'; a list is expected."),
        ("dependencies: [1.3]", ": dependencies[0] is 1.3; a text such as scikit-learn=1.3 is "),
        ("dependencies: [pip: numpy]", ": dependencies[0].pip is 'numpy'; a list is expected."),
        ("dependencies: ['@numpy']", ": dependencies[0]: '@numpy' is no conda dependency, such"),
        (
            "dependencies: ['numpy=1.3|1.4']",
            ": dependencies[0]: 'numpy=1.3|1.4' has a version that no Python package can have,",
        ),
        (
            "dependencies: ['https://me:pass@example.org/c::numpy']",
            ": dependencies[0]: 'https://***@example.org/c::numpy' holds credentials, which are ",
        ),
        ("variables: {DB_PASSWORD: x}", ": variables: DB_PASSWORD looks like a secret, and"),
        ("dependencies:\n- a\n  b: [\n", ", line 3 is not YAML: mapping values are not allowed "),
        (b"name: x\nb: \xff", ", line 2: this is not UTF-8."),
        ("\ufeffname: x".encode("utf-16-le"), " is in UTF-16, as PowerShell's > writes it: save"),
    ],
    ids=str,
)
def test_a_bad_conda_file_is_refused_in_one_sentence(
    tmp_path: Path, content: str | bytes, message: str
) -> None:
    path = written(tmp_path / "conda.yml", content)
    with pytest.raises(PackagingError) as raised:
        from_conda(path)
    assert str(raised.value).startswith(f"{path}{message}")
    assert str(raised.value).isprintable()


@pytest.mark.parametrize("read", [from_conda, from_requirements, inference_config.read])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, read: Any) -> None:
    large = written(tmp_path / "large.txt", b" " * ((10 << 20) + 1))
    told = {
        tmp_path / "none.yml": "does not exist.",
        tmp_path: "is no file.",
        large: "is larger than 10 MB; no description of an environment is.",
        Path("a\0b"): "does not exist.",
    }
    for path, message in told.items():
        with pytest.raises(PackagingError) as raised:
            read(path)
        assert str(raised.value) == f"{path} {message}"


def test_the_messages_say_what_to_install_without_pyyaml_and_packaging(tmp_path: Path) -> None:
    conda = written(tmp_path / "conda.yml", "name: x")
    code = (
        "import sys; sys.modules['yaml'] = sys.modules['packaging.requirements'] = None\n"
        "from pathlib import Path\n"
        "from scoring_runtime.errors import PackagingError\n"
        "from scoring_runtime.packaging.environment import conda, pip\n"
        "for call, given in ((conda.from_conda, Path(sys.argv[1])),"
        " (pip.from_packages, ['six'])):\n"
        "    try: call(given)\n"
        "    except PackagingError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(conda)], capture_output=True, text=True, timeout=60
    )
    install = 'pip install "scoring-runtime[package]"'
    assert done.stdout.splitlines() == [
        f"{conda} is YAML, and PyYAML is not installed: {install}",
        f"Requirements cannot be read, for packaging is not installed: {install}",
    ]


# --- pip ------------------------------------------------------------------------------------------


def test_a_requirements_file_is_read_with_those_it_includes(tmp_path: Path) -> None:
    written(tmp_path / WHEEL, b"")
    written(tmp_path / "limits" / "c.txt", "numpy<2  # old models\nother==1\n")
    written(tmp_path / "sub" / "more.txt", f"../{WHEEL}[fast]\n-c ../limits/c.txt\nNLTK\n")
    text = (
        "\ufeff# first\n"
        "-i https://example.org/simple --pre\n"
        "--extra-index-url=https://example.org/more\n"
        "numpy >= 1.20, \\\n    <3  # two lines\n"
        "scikit_learn[b, a]==1.3.* ; python_version<'4'\n"
        "tool @ https://example.org/tool-1.0-py3-none-any.whl#sha256=ab\n"
        "https://example.org/x/other_tool-2.0-py3-none-any.whl\n"
        "\n-rsub/more.txt\n"
        "numpy<3,>=1.20\n"
        "azureml-core\n"
    )
    assert from_requirements(written(tmp_path / "r.txt", text)) == Environment(
        requirements=(
            "numpy<3,>=1.20",
            'scikit_learn[a,b]==1.3.*; python_version < "4"',
            "tool @ https://example.org/tool-1.0-py3-none-any.whl#sha256=ab",
            "other_tool @ https://example.org/x/other_tool-2.0-py3-none-any.whl",
            f"./wheels/{WHEEL}[fast]",
            "NLTK",
            "numpy<2",
        ),
        options=(
            "--index-url https://example.org/simple",
            "--pre",
            "--extra-index-url https://example.org/more",
        ),
        wheels=(tmp_path / "sub" / ".." / WHEEL,),
        notes=(
            "azureml-core is left out: this runtime takes the place of that SDK.",
            "Constraints on packages that no requirement names are left out: other. Name those "
            "that matter as requirements.",
        ),
    )


FOLDER = f"is a folder or a source archive: {BUILD_A_WHEEL}"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("numpy=1.3", "'numpy=1.3' is no requirement of pip: Expected semicolon (after name with"),
        ("numpy pandas", "'numpy pandas' is no requirement of pip: Expected semicolon (after"),
        ("-e .", f"-e '.' installs from a folder, which an image has not: {BUILD_A_WHEEL}"),
        ("-e git+https://a.org/a", "the address 'git+https://a.org/a' does not say which package "),
        (".", f"'.' {FOLDER}"),
        ("folder/inside", f"'folder/inside' {FOLDER}"),
        ("tool @ file:///srv/tool-1.0.tar.gz", f"'file:///srv/tool-1.0.tar.gz' {FOLDER}"),
        ("t-1.0-py3-none-any.whl", "the wheel {folder}/t-1.0-py3-none-any.whl does not exist."),
        ("renamed.whl", "'renamed.whl' is not named as a wheel; a name such as package-1.0-py3-"),
        ("t-1-cp311-cp311-win32.whl", "the wheel t-1-cp311-cp311-win32.whl is for win32, and "),
        ("https://me:pass@a.org/t-1-py3-none-any.whl", "'https://***@a.org/t-1-py3-none-any.whl'"),
        ("t @ https://a.org/t.whl?sig=pass1234", "'t @ https://a.org/t.whl?sig=***' holds cred"),
        ("-i https://${TOKEN}@a.org/simple", "'-i https://***@a.org/simple' holds credentials, "),
        ("--index-url", "'--index-url' cannot be used here: argument --index-url/-i/--pypi-url: "),
        ("--index-url=", "--index-url needs one value, not ''."),
        ("--index-url ./simple", "--index-url is './simple'; an address that begins with https://"),
        ("--no-index", "'--no-index' cannot be used here: unrecognized arguments: --no-index."),
        ("numpy --global-option=x", "the option '--global-option=x' of a requirement cannot be"),
        ("-r", "'-r' cannot be used here: argument -r/--requirement: expected one argument. Known"),
        ("-r none.txt", "-r names {folder}/none.txt, which is not there."),
        ("-r https://a.org/r.txt", "-r names the address 'https://a.org/r.txt'; download it and "),
        ("-r r.txt", "includes itself."),
        ("--index-url 'https://a", '"--index-url \'https://a" cannot be used here: No closing'),
        ("t @ ftp://a.org/t", "the address 'ftp://a.org/t' begins with neither https:// nor git+"),
        ("num\x00py", "'num\\x00py' has a control character."),
    ],
)
def test_a_bad_requirement_is_refused_with_its_file_and_line(
    tmp_path: Path, line: str, message: str
) -> None:
    for name in ("renamed.whl", "t-1-cp311-cp311-win32.whl"):
        written(tmp_path / name, b"")
    (tmp_path / "folder" / "inside").mkdir(parents=True)
    path = written(tmp_path / "r.txt", f"# first\nsix\n{line}\n")
    with pytest.raises(PackagingError) as raised:
        from_requirements(path)
    place = f"{path} " if "itself" in message else f"{path}, line 3: "
    assert str(raised.value).startswith(place + message.replace("{folder}", str(tmp_path)))
    assert "pass" not in str(raised.value).replace("password", "")


# --- of the new command line ----------------------------------------------------------------------

CONDA = "name: env\ndependencies: [python=3.12, {pip: [pandas==2.2]}]\n"
DEPLOYED = {
    "$schema": "https://azuremlschemas.azureedge.net/latest/managedOnlineDeployment.schema.json",
    "endpoint_name": "e",
    "model": {"path": "../model/"},
    "code_configuration": {"code": "../src", "scoring_script": "score.py"},
    "environment_variables": {"A": "b"},
    "instance_count": 1,
}


@pytest.mark.parametrize(
    "environment", [{"conda_file": yaml.safe_load(CONDA), "image": "own:1"}, "env.yml"]
)
def test_a_deployment_is_followed(environment: object, tmp_path: Path) -> None:
    written(tmp_path / "src/score.py", "")
    written(tmp_path / "deploy/conda.yml", CONDA)
    written(tmp_path / "deploy/env.yml", "name: env\nconda_file: conda.yml\nimage: own:1\n")
    document = {**DEPLOYED, "environment": environment}
    path = written(tmp_path / "deploy/blue.yml", yaml.safe_dump(document))
    found = inference_config.read(path)
    assert found.entry_script.resolve() == tmp_path / "src/score.py"
    assert found.source_dir is not None and found.source_dir.resolve() == tmp_path / "src"
    assert found.environment == Environment(
        requirements=("pandas==2.2",),
        python="3.12",
        variables={"A": "b"},
        base_image="own:1",
        notes=(f"{path}: the model is not taken from here: name it with --model.",),
    )


def test_an_environment_of_the_workspace_is_named(tmp_path: Path) -> None:
    written(tmp_path / "src/score.py", "")
    document = {**DEPLOYED, "environment": "azureml:env@latest", "model": None}
    path = written(tmp_path / "deploy/blue.yml", yaml.safe_dump(document))
    assert inference_config.read(path).environment.notes == (
        f"{path}: 'azureml:env@latest' is none of this machine: name its file with --conda.",
    )


def test_an_environment_is_followed(tmp_path: Path) -> None:
    written(tmp_path / "conda.yml", CONDA)
    path = written(tmp_path / "env.yml", "$schema: x\nconda_file: conda.yml\nbuild: {path: .}\n")
    found = inference_config.packages(path)
    assert (found.requirements, found.python) == (("pandas==2.2",), "3.12")
    assert "docker.build is not used here" in found.notes[0]
    assert inference_config.packages(tmp_path / "conda.yml").requirements == ("pandas==2.2",)


@pytest.mark.parametrize(
    ("read", "text", "kind"),
    [
        (inference_config.packages, "code_configuration: {}\nimage: a", "deployment"),
        (inference_config.read, "conda_file: c.yml", "environment"),
        (inference_config.read, "endpoint_name: e", "deployment"),
    ],
)
def test_other_documents_are_named_for_what_they_are(
    read: Any, text: str, kind: str, tmp_path: Path
) -> None:
    path = written(tmp_path / "a.yml", text)
    with pytest.raises(PackagingError) as raised:
        read(path)
    said = f"{path} is the {kind} of Azure ML's command line, version 2: "
    assert str(raised.value).startswith(said)


@pytest.mark.parametrize("place", ["beside", "working"])
def test_the_source_directory_is_where_the_script_is(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Projects name it from the file, and from the folder that the command ran in."""
    folder = tmp_path / "config" if place == "beside" else tmp_path
    for each in (tmp_path, tmp_path / "config"):
        (each / "src").mkdir(parents=True)
    written(folder / "src/score.py", "")
    path = written(
        tmp_path / "config/i.json", {"entryScript": "score.py", "sourceDirectory": "src"}
    )
    monkeypatch.chdir(tmp_path)
    found = inference_config.read(path)
    assert found.entry_script.resolve() == folder / "src/score.py"
    assert found.source_dir is not None and found.source_dir.resolve() == folder / "src"


@pytest.mark.parametrize(
    ("lines", "requirement", "note"),
    [
        (
            ["--require-hashes", "six==1.17.0 --hash=sha256:ab --hash=sha256:cd"],
            "six==1.17.0",
            "The hashes of the requirements are left out: with one, pip asks for a hash of every ",
        ),
        (
            ["git+ssh://git@example.org/tool.git@v1#egg=tool"],
            "tool @ git+ssh://git@example.org/tool.git@v1#egg=tool",
            "'git+ssh://git@example.org/tool.git@v1#egg=tool' is fetched with git, which the",
        ),
        (
            ["azureml_ai_monitoring==1.0"],
            "azureml_ai_monitoring==1.0",
            "azureml-ai-monitoring collects nothing here: ",
        ),
    ],
    ids=["hashes", "git", "monitoring"],
)
def test_what_will_be_otherwise_is_noted(lines: list[str], requirement: str, note: str) -> None:
    """SSH's user name is no secret."""
    found = from_packages(lines)
    assert found == Environment(requirements=(requirement,), notes=found.notes)
    assert [each.startswith(note) for each in found.notes] == [True]


# --- merging --------------------------------------------------------------------------------------


def test_of_merged_environments_the_later_one_wins(tmp_path: Path) -> None:
    one = Environment(
        ("six", "idna"), ("--pre",), "3.11", {"A": "1", "B": "1"}, "a", (tmp_path,), ("x",)
    )
    other = Environment(("idna", "nltk"), ("--pre",), "3.12", {"B": "2"}, "", (tmp_path,), ("y",))
    assert merged(one, other) == Environment(
        ("six", "idna", "nltk"),
        ("--pre",),
        "3.12",
        {"A": "1", "B": "2"},
        "a",
        (tmp_path,),
        ("x", "y"),
    )
    assert merged() == Environment()


def test_two_wheels_of_one_name_are_refused(tmp_path: Path) -> None:
    first, second = (written(tmp_path / name / WHEEL, name) for name in ("a", "b"))
    with pytest.raises(PackagingError) as raised:
        merged(Environment(wheels=(first,)), Environment(wheels=(second,)))
    assert str(raised.value) == (
        f"{first} and {second} are two wheels of one name, of which a package holds one: name only "
        "one of them."
    )


names = st.sampled_from(["six", "numpy<2", "pandas==1.*", 'nltk; python_version < "4"'])
quick = settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
pieces = st.sampled_from(
    ["dependencies:", "\n", "- ", " ", "pip:", "numpy", "=", "==", "1.3", "-r ", "[", "]", "{", "}",
     '"', "'", "://", "@", "#", "\\\n", ";", "&a ", "*a", "!!int ", "entryScript", ":", ",", "--",
     "./", ".whl", "\x00", "channels: ", "variables: "]
)  # fmt: skip
some_bytes = st.binary(max_size=40) | st.lists(pieces, max_size=14).map(
    lambda x: "".join(x).encode()
)


@quick
@given(content=some_bytes)
def test_any_bytes_give_an_environment_or_one_error(tmp_path: Path, content: bytes) -> None:
    for read, name in (
        (from_conda, "c.yml"),
        (from_requirements, "r.txt"),
        (inference_config.read, "i.json"),
        (inference_config.read, "i.yml"),
    ):
        path = written(tmp_path / name, content)
        try:
            found: Any = read(path)
        except PackagingError as error:
            assert str(error).isprintable()
        else:
            requirements = getattr(found, "environment", found).requirements
            assert all(name_of(line) and line.isprintable() for line in requirements)


keys = st.sampled_from(
    [
        "entryScript",
        "environment",
        "python",
        "docker",
        "baseImage",
        "condaDependencies",
        "pip",
        "dependencies",
        "environmentVariables",
        "userManagedDependencies",
        "condaDependenciesFile",
    ]
)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6) | names,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(keys | st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=12,
)


@quick
@given(document=values)
def test_any_document_gives_an_environment_or_one_error(document: object) -> None:
    """Parsed documents too: the old SDK's classes hand them over."""
    for read in (from_conda_document, inference_config.environment):
        try:
            found = read(document, "it")
        except PackagingError as error:
            assert str(error).startswith("it")
        else:
            assert isinstance(found, Environment)


# --- inferenceconfig.json -------------------------------------------------------------------------

DOCUMENTED = {
    "entryScript": "score.py",
    "sourceDirectory": "./source_dir",
    "environment": {
        "docker": {
            "arguments": [],
            "baseDockerfile": None,
            "baseImage": MCR,
            "sharedVolumes": True,
        },
        "environmentVariables": {"EXAMPLE_ENV_VAR": "EXAMPLE_VALUE"},
        "name": "my-deploy-env",
        "python": {
            "condaDependencies": {
                "channels": [],
                "dependencies": [
                    "python=3.6.2",
                    {"pip": ["azureml-defaults", "nltk", "numpy", "onnxruntime"]},
                ],
                "name": "project_environment",
            },
            "condaDependenciesFile": None,
            "interpreterPath": "python",
            "userManagedDependencies": False,
        },
        "version": "2",
    },
}


def project(folder: Path, document: object, name: str = "inferenceconfig.json") -> Path:
    written(folder / "source_dir" / "score.py", "")
    written(folder / "score.py", "")
    return written(folder / name, document)


def test_the_documented_configuration_is_read(tmp_path: Path) -> None:
    """That of the tutorial on local deployment, with Python 3.6.2 and an image that is gone."""
    path = project(tmp_path, DOCUMENTED)
    assert inference_config.read(path) == inference_config.InferenceConfiguration(
        entry_script=tmp_path / "source_dir" / "score.py",
        source_dir=tmp_path / "source_dir",
        environment=Environment(
            requirements=("nltk", "numpy", "onnxruntime"),
            python="3.11",
            variables={"EXAMPLE_ENV_VAR": "EXAMPLE_VALUE"},
            notes=(
                f"{path}: environment.docker.baseImage: the image {MCR} of the retired service is "
                "not used.",
                f"Python 3.6.2 {NEEDS}: 3.11 is taken.",
                "azureml-defaults is left out: this runtime takes the place of that SDK.",
            ),
        ),
    )


@pytest.mark.parametrize("name", ["inferenceconfig.json", "inferenceconfig.yml"])
def test_the_older_form_is_read_as_json_and_as_yaml(tmp_path: Path, name: str) -> None:
    written(tmp_path / "source_dir" / "env.yml", "dependencies: [numpy=1.26]")
    written(tmp_path / "env.yml", "dependencies: [wrong]")
    document = {
        "entryScript": "score.py",
        "runtime": "python",
        "condaFile": "env.yml",
        "extraDockerfileSteps": None,
        "sourceDirectory": "source_dir",
        "baseImage": "registry.example.org/base:1",
    }
    text = json.dumps(document) if name.endswith("json") else yaml.safe_dump(document)
    found = inference_config.read(project(tmp_path, text, name))
    assert found.environment == Environment(
        ("numpy==1.26.*",), base_image="registry.example.org/base:1"
    )
    assert found.source_dir == tmp_path / "source_dir"


def test_what_is_of_no_use_here_is_noted(tmp_path: Path) -> None:
    document = {
        "entryScript": "score.py",
        "condaFile": "env.yml",
        "environment": {
            "docker": {
                "arguments": ["--gpus"],
                "baseDockerfile": "FROM x",
                "gpuSupport": True,
                "baseImageRegistry": {"address": None, "username": "me", "password": "hunter2"},
            },
            "python": {
                "userManagedDependencies": True,
                "condaDependencies": {"dependencies": ["python=3.6.2"]},
            },
            "spark": {"packages": [{"group": "x"}], "repositories": [], "precachePackages": True},
            "databricks": {"eggLibraries": []},
        },
    }
    path = project(tmp_path, document)
    notes = inference_config.read(path).environment.notes
    keys = ["python.userManagedDependencies", "spark", "docker.arguments", "docker.baseDockerfile"]
    keys += ["docker.gpuSupport", "docker.baseImageRegistry"]
    assert [note.split(" is ")[0] for note in notes] == [
        *(f"{path}: environment.{key}" for key in keys), f"{path}: condaFile"
    ]  # fmt: skip
    assert "hunter2" not in "".join(notes)


def test_what_is_of_no_use_in_the_older_form_is_noted(tmp_path: Path) -> None:
    older = {"runtime": "python", "enableGpu": True, "dependencies": ["x.py"], "schemaFile": ""}
    path = project(tmp_path, {"entryScript": "score.py", **older})
    assert inference_config.read(path).environment.notes == (
        f"{path}: enableGpu is not used here.", f"{path}: dependencies is not used here."
    )  # fmt: skip


def script(**others: object) -> dict[str, object]:
    return {"entryScript": "score.py", **others}


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ([], " is []; an object with keys is expected."),
        ({"entryscript": "score.py"}, ": entryScript is None; a text that is not empty is"),
        ({"entryScript": "s.py"}, ": entryScript is 's.py', and there is no file {folder}/s.py."),
        (script(sourceDirectory="src"), ": sourceDirectory is 'src', and there is no folder "),
        (
            {"entryScript": "other.py", "sourceDirectory": "source_dir"},
            ": entryScript is {folder}/other.py, which is not in the sourceDirectory",
        ),
        (script(condaFile="no.yml"), ": condaFile is 'no.yml', and there is no file {folder}/no."),
        (script(environment="AzureML-Minimal"), ": environment is 'AzureML-Minimal'; an object"),
        (
            script(environment={"environmentVariables": {"A": None}}),
            ": environment.environmentVariables: A is NoneType; a text is expected: write it in ",
        ),
        ('{"entryScript" "score.py"}', ", line 1, column 16 is not JSON: Expecting ':' delimiter."),
        ("[" * 200_000, " is not JSON that can be read: maximum recursion depth"),
    ],
    ids=lambda each: str(each)[:60],
)
def test_a_bad_configuration_is_refused_in_one_sentence(
    tmp_path: Path, document: object, message: str
) -> None:
    written(tmp_path / "other.py", "")
    path = project(tmp_path, document)
    with pytest.raises(PackagingError) as raised:
        inference_config.read(path)
    assert str(raised.value).startswith(f"{path}{message}".replace("{folder}", str(tmp_path)))
