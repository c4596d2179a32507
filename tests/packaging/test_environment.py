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

ELSEWHERE = (
    ", which are never written into a build context. Take them out, and give pip the address when "
    "the image is built: --build-arg PIP_EXTRA_INDEX_URL, which takes it from the environment and "
    "keeps it out of the image."
)
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
        ("scikit-learn=1.3.2", "scikit-learn==1.3.2.*"),
        ("scikit-learn=1.3.2=py_0", "scikit-learn==1.3.2"),
        ("scikit-learn==1.3.2", "scikit-learn==1.3.2"),
        ("scikit-learn==1.3.2=py39h0_0", "scikit-learn==1.3.2"),
        ("scikit-learn 1.3.2", "scikit-learn==1.3.2"),
        ("scikit-learn 1.3.2 py_0", "scikit-learn==1.3.2"),
        ("scikit-learn =1.3", "scikit-learn==1.3.*"),
        ("scikit-learn = 1.3", "scikit-learn==1.3.*"),
        ("pandas>=1.0", "pandas>=1.0"),
        ("pandas >= 1.0, < 2", "pandas<2,>=1.0"),
        ("pandas>1.0,!=1.3.*", "pandas!=1.3.*,>1.0"),
        ("pandas>=1.0.*", "pandas>=1.0"),
        ("pandas~=1.0", "pandas~=1.0"),
        ("pandas=*", "pandas"),
        ("pandas=*=py_0", "pandas"),
        ("pandas[version='>=1.0,<2']", "pandas<2,>=1.0"),
        ('pandas[version=">=1.0", build=py_0]', "pandas>=1.0"),
        ("pandas[build=py_0]", "pandas"),
        ("conda-forge::pandas=1.3", "pandas==1.3.*"),
        ("conda-forge/linux-64::pandas", "pandas"),
        ("Pandas  # tables", "pandas"),
        ("pytorch=1.9.0=py3.8_cuda10.2", "torch==1.9.0"),
        ("pytorch::pytorch-gpu>=2", "torch>=2"),
        ("py-xgboost", "xgboost"),
        ("opencv=4.5", "opencv-python-headless==4.5.*"),
        ("msgpack-python", "msgpack"),
        ("tensorflow-gpu=2.4", "tensorflow==2.4.*"),
        ("ruamel_yaml", "ruamel.yaml"),
        ("librosa", "librosa"),
        ("huggingface_hub", "huggingface_hub"),
    ],
)
def test_a_conda_dependency_is_asked_of_pip(conda: str, pip: str) -> None:
    """Each of conda's forms, and the names that differ."""
    assert conda_of(conda) == Environment(requirements=(pip,))


@pytest.mark.parametrize(
    "conda",
    [
        "cudatoolkit=11.1",
        "libgcc",
        "libgcc-ng=9.3.0",
        "openmpi",
        "nodejs=14",
        "gcc_linux-64",
        "_libgcc_mutex=0.1=main",
        "ca-certificates=2021.7.5=h06a4308_1",
        "openssl=1.1.1k=h27cfd23_0",
        "jpeg=9e",
        "blas=*=openblas",
        "r-base",
        "sqlite=3.36.0=hc218d9a_0",
        "something-new=9e=h7f8727e_0",
    ],
)
def test_what_is_no_python_package_is_left_out_with_a_note(conda: str) -> None:
    """The note names it, and says where it has to be instead."""
    name = conda.partition("=")[0]
    assert conda_of(conda) == Environment(
        notes=(
            f"Left out, for they are no Python packages: {name}. What the model needs of them has "
            "to be in the base image: name one with --base-image.",
        )
    )


NEEDS = "is asked for, and this runtime needs one of 3.11, 3.12, 3.13"


@pytest.mark.parametrize(
    ("conda", "python", "note"),
    [
        ("python", "", ""),
        ("python=3.11", "3.11", ""),
        ("python=3.12.4", "3.12", ""),
        ("python==3.13.1", "3.13", ""),
        ("python=3.13.1=h955ad1f_0", "3.13", ""),
        ("python>=3.6", "3.11", ""),
        ("python>=3.12,<3.14", "3.12", ""),
        ("python 3.12.*", "3.12", ""),
        ("python=3", "3.11", ""),
        ("python=3.6.2", "3.11", f"Python 3.6.2 {NEEDS}: 3.11 is taken."),
        ("python=3.8", "3.11", f"Python 3.8 {NEEDS}: 3.11 is taken."),
        ("python=3.8.13=haa1d7c7_0", "3.11", f"Python 3.8.13 {NEEDS}: 3.11 is taken."),
        ("python<3.9", "3.11", f"Python <3.9 {NEEDS}: 3.11 is taken."),
        ("python=2.7", "3.11", f"Python 2.7 {NEEDS}: 3.11 is taken."),
        ("python=3.14", "3.13", f"Python 3.14 {NEEDS}: 3.13 is taken."),
        ("python>=3.14", "3.13", f"Python >=3.14 {NEEDS}: 3.13 is taken."),
    ],
)
def test_python_is_the_one_asked_for_or_the_nearest(conda: str, python: str, note: str) -> None:
    """Old files go on to work: another version is a note, not an error."""
    assert conda_of(conda) == Environment(python=python, notes=(note,) if note else ())


def test_a_whole_conda_file_is_read(tmp_path: Path) -> None:
    """Channels, pip's part with files beside it, variables: all at once."""
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
            "pip==21.0.* is left out: the image has its own.",
            f"The channels of {path} are not used: packages come from the index that pip is set "
            "to.",
            "azureml-contrib-functions, azureml-defaults are left out: this runtime takes the "
            "place of that SDK.",
        ),
    )


BAD_DEPENDENCY = "a text such as scikit-learn=1.3 is expected."
CONDA_KEYS = "name, channels, dependencies, variables, prefix"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(
            "", f"is None; an object with these keys is expected: {CONDA_KEYS}.", id="empty"
        ),
        pytest.param(
            "- numpy",
            f"is ['numpy']; an object with these keys is expected: {CONDA_KEYS}.",
            id="a-list",
        ),
        pytest.param(
            "dependancies: [numpy]",
            f"has the unknown key 'dependancies'; known are {CONDA_KEYS}.",
            id="unknown-key",
        ),
        pytest.param(
            "dependencies: numpy",
            ": dependencies is 'numpy'; a list is expected.",
            id="dependencies-no-list",
        ),
        pytest.param(
            "dependencies: [1.3]",
            f": dependencies[0] is 1.3; {BAD_DEPENDENCY}",
            id="a-number",
        ),
        pytest.param(
            "dependencies: [pip: numpy]",
            ": dependencies[0].pip is 'numpy'; a list is expected.",
            id="pip-no-list",
        ),
        pytest.param(
            "dependencies: ['&numpy']".replace("&", "@"),
            ": dependencies[0]: '@numpy' is no conda dependency, such as scikit-learn=1.3.",
            id="no-name",
        ),
        pytest.param(
            "dependencies: ['numpy=1.3|1.4']",
            ": dependencies[0]: 'numpy=1.3|1.4' has a version that no Python package can have, and "
            "that pip cannot be asked for: write it as in scikit-learn=1.3 or "
            "scikit-learn>=1.0,<2, or leave it out if it is no Python package.",
            id="alternatives",
        ),
        pytest.param(
            "dependencies: ['https://me:pass@example.org/c::numpy']",
            ": dependencies[0]: 'https://***@example.org/c::numpy' holds credentials" + ELSEWHERE,
            id="credentials",
        ),
        pytest.param(
            "variables: {DB_PASSWORD: x}",
            ": variables: DB_PASSWORD looks like a secret, and secrets are never written into an "
            "image. Take it out, and set DB_PASSWORD where the image runs.",
            id="variable-password",
        ),
        pytest.param(
            "dependencies:\n- a\n  b: [\n",
            ", line 3 is not YAML: mapping values are not allowed here.",
            id="not-yaml",
        ),
        pytest.param(b"name: x\nb: \xff", ", line 2: this is not UTF-8.", id="not-utf-8"),
        pytest.param(
            "\ufeffname: x".encode("utf-16-le"),
            " is in UTF-16, as PowerShell's > writes it: save it in UTF-8 "
            "(… | Out-File -Encoding utf8).",
            id="utf-16",
        ),
    ],
)
def test_a_bad_conda_file_is_refused_in_one_sentence(
    tmp_path: Path, content: str | bytes, message: str
) -> None:
    """The message names the file and the entry, and says what is expected."""
    path = written(tmp_path / "conda.yml", content)
    with pytest.raises(PackagingError) as raised:
        from_conda(path)
    separator = "" if message.startswith((":", ",", " ")) else " "
    assert str(raised.value) == f"{path}{separator}{message}"


@pytest.mark.parametrize("read", [from_conda, from_requirements, inference_config.read])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, read: Any) -> None:
    """Not there, a folder, too large: each by every reader."""
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
    """The one extra that a packager needs."""
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
    """Comments, continuations, markers, URLs, options, nested files and constraints."""
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


WHERE_TO_BUILD = "installs from a folder, which an image has not: " + BUILD_A_WHEEL
OPTIONS = (
    "--index-url, --extra-index-url, --find-links, --no-binary, --only-binary, --trusted-host, "
    "--pre, --prefer-binary, -r, -c."
)
NO_FOLDER = (
    "an address that begins with https:// or http:// is expected, for an image sees no folder of "
    "this machine. Name wheels one by one."
)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "numpy=1.3",
            "'numpy=1.3' is no requirement of pip: it has one =, as conda writes it; pip writes "
            "numpy==1.3.",
        ),
        (
            "numpy pandas",
            "'numpy pandas' is no requirement of pip: Expected semicolon (after name with no "
            "version specifier) or end.",
        ),
        ("-e .", f"-e '.' {WHERE_TO_BUILD}"),
        (
            "-e git+https://example.org/a",
            "the address 'git+https://example.org/a' does not say which package it is: write "
            "name @ address.",
        ),
        (".", f"'.' is a folder or a source archive: {BUILD_A_WHEEL}"),
        ("folder/inside", f"'folder/inside' is a folder or a source archive: {BUILD_A_WHEEL}"),
        (
            "tool @ file:///srv/tool-1.0.tar.gz",
            f"'file:///srv/tool-1.0.tar.gz' is a folder or a source archive: {BUILD_A_WHEEL}",
        ),
        (
            "tool-1.0-py3-none-any.whl",
            "the wheel {folder}/tool-1.0-py3-none-any.whl does not exist.",
        ),
        (
            "renamed.whl",
            "'renamed.whl' is not named as a wheel; a name such as package-1.0-py3-none-any.whl is "
            "expected, as pip wheel and python -m build write it.",
        ),
        (
            "tool-1.0-cp311-cp311-win_amd64.whl",
            "the wheel tool-1.0-cp311-cp311-win_amd64.whl is for win_amd64, and images run Linux: "
            "build or download it for Linux.",
        ),
        (
            "https://me:pass@example.org/tool-1.0-py3-none-any.whl",
            "'https://***@example.org/tool-1.0-py3-none-any.whl' holds credentials" + ELSEWHERE,
        ),
        (
            "tool @ https://example.org/tool-1.0-py3-none-any.whl?sv=1&sig=abcd1234%3D",
            "'tool @ https://example.org/tool-1.0-py3-none-any.whl?sv=1&sig=***' holds credentials"
            + ELSEWHERE,
        ),
        (
            "-i https://${TOKEN}@example.org/simple",
            "'-i https://***@example.org/simple' holds credentials" + ELSEWHERE,
        ),
        ("--index-url", "--index-url needs one value, not ''."),
        ("--index-url ./simple", f"--index-url is './simple'; {NO_FOLDER}"),
        ("--no-index", f"the option '--no-index' cannot be used here; known are {OPTIONS}"),
        (
            "numpy --global-option=x",
            "the option '--global-option' of a requirement cannot be used here; known is --hash.",
        ),
        ("-r", "-r needs the name of a file."),
        ("-r none.txt", "-r names {folder}/none.txt, which is not there."),
        (
            "-r https://example.org/r.txt",
            "-r names the address 'https://example.org/r.txt'; download it and name the file.",
        ),
        ("--index-url 'https://a", '"--index-url \'https://a" has a quote that does not end.'),
        (
            "tool @ ftp://example.org/tool",
            "the address 'ftp://example.org/tool' begins with neither https:// nor git+https://.",
        ),
        ("num\x00py", "'num\\x00py' has a control character."),
    ],
)
def test_a_bad_requirement_is_refused_with_its_file_and_line(
    tmp_path: Path, line: str, message: str
) -> None:
    """The message shows the line, without what is secret in it, and what is expected."""
    for name in ("renamed.whl", "tool-1.0-cp311-cp311-win_amd64.whl"):
        written(tmp_path / name, b"")
    (tmp_path / "folder" / "inside").mkdir(parents=True)
    path = written(tmp_path / "r.txt", f"# first\nsix\n{line}\n")
    with pytest.raises(PackagingError) as raised:
        from_requirements(path)
    assert str(raised.value) == f"{path}, line 3: {message.replace('{folder}', str(tmp_path))}"
    assert "pass" not in str(raised.value).replace("password", "")


@pytest.mark.parametrize("key", ["platforms", "category"])
def test_conda_passes_over_keys_that_it_does_not_know(key: str) -> None:
    """With a warning, as this does."""
    found = conda_of("numpy", **{key: ["linux-64"]})
    assert found == Environment(
        requirements=("numpy",), notes=(f"conda.yml: the key '{key}' is not used.",)
    )


@pytest.mark.parametrize("name", ["azureml-monitoring", "azureml_ai_monitoring"])
def test_what_collects_for_azure_ml_is_said_to_collect_nothing(name: str) -> None:
    """It is installed all the same."""
    found = from_packages([f"{name}==1.0"])
    assert found.requirements == (f"{name}==1.0",)
    assert found.notes[0].startswith(f"{name.replace('_', '-')} collects nothing here: ")


# --- of the new command line ----------------------------------------------------------------------

CONDA = "name: env\ndependencies: [python=3.12, {pip: [pandas==2.2]}]\n"
DEPLOYED = {
    "$schema": "https://azuremlschemas.azureedge.net/latest/managedOnlineDeployment.schema.json",
    "name": "blue",
    "endpoint_name": "e",
    "model": {"path": "../model/"},
    "code_configuration": {"code": "../src", "scoring_script": "score.py"},
    "environment": {"conda_file": "conda.yml", "image": "own:1"},
    "environment_variables": {"A": "b"},
    "instance_count": 1,
}


@pytest.mark.parametrize(
    "environment",
    [
        {"conda_file": "conda.yml", "image": "own:1"},
        {"conda_file": yaml.safe_load(CONDA), "image": "own:1"},
        "env.yml",
    ],
)
def test_a_deployment_is_followed(environment: object, tmp_path: Path) -> None:
    """Its paths are relative to the file; the model is named with an option."""
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
    """It is not on this machine."""
    written(tmp_path / "src/score.py", "")
    document = {**DEPLOYED, "environment": "azureml:env@latest", "model": None}
    path = written(tmp_path / "deploy/blue.yml", yaml.safe_dump(document))
    assert inference_config.read(path).environment.notes == (
        f"{path}: 'azureml:env@latest' is none of this machine: name its file with --conda.",
    )


def test_an_environment_is_followed(tmp_path: Path) -> None:
    """Where a conda file is expected; what it builds itself is said to be left out."""
    written(tmp_path / "conda.yml", CONDA)
    path = written(tmp_path / "env.yml", "$schema: x\nconda_file: conda.yml\nbuild: {path: .}\n")
    found = inference_config.packages(path)
    assert (found.requirements, found.python) == (("pandas==2.2",), "3.12")
    assert "buildContext is not used: build an image with those steps" in found.notes[0]
    assert inference_config.packages(tmp_path / "conda.yml").requirements == ("pandas==2.2",)


@pytest.mark.parametrize(
    ("read", "text", "kind"),
    [
        (inference_config.packages, "code_configuration: {}\nimage: a", "deployment"),
        (inference_config.packages, "$schema: x\nauth_mode: key", "endpoint"),
        (inference_config.read, "auth_mode: key", "endpoint"),
        (inference_config.read, "conda_file: c.yml", "environment"),
        (inference_config.read, "endpoint_name: e", "deployment"),
        (inference_config.read, "$schema: x\nname: a", "document"),
    ],
)
def test_other_documents_are_named_for_what_they_are(
    read: Any, text: str, kind: str, tmp_path: Path
) -> None:
    """And what is expected in their place."""
    path = written(tmp_path / "a.yml", text)
    with pytest.raises(PackagingError) as raised:
        read(path)
    message = str(raised.value)
    assert message.startswith(f"{path} is the {kind} of Azure ML's command line, version 2: ")


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


def test_a_requirements_file_that_includes_itself_is_refused(tmp_path: Path) -> None:
    """Through another one too."""
    written(tmp_path / "b.txt", "-r a.txt\n")
    path = written(tmp_path / "a.txt", "-r b.txt\n")
    with pytest.raises(PackagingError) as raised:
        from_requirements(path)
    assert str(raised.value) == f"{path} includes itself."


def test_hashes_are_left_out_with_a_note() -> None:
    """With one hash pip would ask for a hash of each of the runtime's packages."""
    found = from_packages(["--require-hashes", "six==1.17.0 --hash=sha256:ab --hash=sha256:cd"])
    assert found == Environment(
        requirements=("six==1.17.0",),
        notes=(
            "The hashes of the requirements are left out: with one, pip asks for a hash of every "
            "package, those of this runtime included. The versions are kept.",
        ),
    )


def test_what_git_fetches_is_kept_with_a_note() -> None:
    """SSH's user name is no secret, and the usual images have no git."""
    address = "git+ssh://git@example.org/tool.git@v1"
    assert from_packages([f"{address}#egg=tool"]) == Environment(
        requirements=(f"tool @ {address}#egg=tool",),
        notes=(
            f"'{address}#egg=tool' is fetched with git, which the usual base images do not have: "
            f"name one that has it with --base-image, or {BUILD_A_WHEEL}",
        ),
    )


def test_inference_schema_is_kept_with_its_extras() -> None:
    """It is no part of the retired SDK."""
    assert from_packages(["inference-schema[numpy-support]"]).requirements == (
        "inference-schema[numpy-support]",
    )


# --- merging --------------------------------------------------------------------------------------


def test_of_merged_environments_the_later_one_wins(tmp_path: Path) -> None:
    """Python, base image and single variables; all else is kept once, in order."""
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
    """A context has one folder of wheels."""
    first, second = (written(tmp_path / name / WHEEL, name) for name in ("a", "b"))
    with pytest.raises(PackagingError) as raised:
        merged(Environment(wheels=(first,)), Environment(wheels=(second,)))
    assert str(raised.value) == (
        f"{first} and {second} are two wheels of one name, of which a package holds one: name only "
        "one of them."
    )


names = st.sampled_from(["six", "numpy<2", "pandas==1.*", 'nltk; python_version < "4"'])
environments = st.builds(
    Environment,
    requirements=st.lists(names).map(tuple),
    options=st.lists(st.sampled_from(["--pre", "--index-url https://a"])).map(tuple),
    python=st.sampled_from(["", "3.11", "3.12"]),
    variables=st.dictionaries(st.sampled_from("ABC"), st.sampled_from("12")),
    base_image=st.sampled_from(["", "a", "b"]),
    notes=st.lists(st.text(max_size=2)).map(tuple),
)


@given(st.lists(environments, max_size=3))
def test_merging_again_changes_nothing(parts: list[Environment]) -> None:
    """Idempotent and associative."""
    one = merged(*parts)
    assert merged(one) == merged(one, one) == one
    assert merged(merged(*parts[:1]), merged(*parts[1:])) == one
    assert len(set(one.requirements)) == len(one.requirements)


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
    """Nothing but PackagingError, whose message is one line."""
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


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6) | names,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    *inference_config._KEYS,
                    *inference_config._ENVIRONMENT_KEYS,
                    "pip",
                    "dependencies",
                ]
            )
            | st.text(max_size=3),
            inner,
            max_size=3,
        )
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


@given(st.lists(names | st.sampled_from(["scikit-learn=1.3", "pytorch>=2", "jpeg=9e"])))
def test_what_conda_says_pip_can_read_again(dependencies: list[str]) -> None:
    """The lines that come out are requirements, and reading them again changes none."""
    found = conda_of({"pip": [each for each in dependencies if ";" in each]},
                     *[each for each in dependencies if ";" not in each])  # fmt: skip
    assert from_packages(found.requirements).requirements == found.requirements


# --- inferenceconfig.json -------------------------------------------------------------------------

DOCUMENTED = {
    "entryScript": "score.py",
    "sourceDirectory": "./source_dir",
    "environment": {
        "docker": {
            "arguments": [],
            "baseDockerfile": None,
            "baseImage": MCR,
            "enabled": False,
            "sharedVolumes": True,
            "shmSize": None,
        },
        "environmentVariables": {"EXAMPLE_ENV_VAR": "EXAMPLE_VALUE"},
        "name": "my-deploy-env",
        "python": {
            "baseCondaEnvironment": None,
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
    """``condaFile`` is looked for in the source directory first."""
    written(tmp_path / "source_dir" / "env.yml", "dependencies: [numpy=1.26]")
    written(tmp_path / "env.yml", "dependencies: [wrong]")
    document = {
        "entryScript": "score.py",
        "runtime": "python",
        "condaFile": "env.yml",
        "extraDockerfileSteps": None,
        "sourceDirectory": "source_dir",
        "enableGpu": False,
        "baseImage": "registry.example.org/base:1",
        "baseImageRegistry": None,
        "description": "scores",
    }
    text = json.dumps(document) if name.endswith("json") else yaml.safe_dump(document)
    found = inference_config.read(project(tmp_path, text, name))
    assert found.environment == Environment(
        ("numpy==1.26.*",), base_image="registry.example.org/base:1"
    )
    assert found.source_dir == tmp_path / "source_dir"


def test_the_source_directory_may_be_one_of_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the old command line took it."""
    path = written(tmp_path / "config" / "i.json", {**DOCUMENTED, "environment": None})
    project(tmp_path, {})
    monkeypatch.chdir(tmp_path)
    found = inference_config.read(path)
    assert (found.source_dir, found.entry_script) == (
        Path("source_dir"),
        Path("source_dir/score.py"),
    )


def test_what_is_of_no_use_here_is_noted(tmp_path: Path) -> None:
    """Everything that would have changed an image of the old service."""
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
                "baseCondaEnvironment": "base",
                "condaDependencies": {"dependencies": ["python=3.6.2"]},
            },
            "inferencingStackVersion": "latest",
            "spark": {"packages": [{"group": "x"}], "repositories": [], "precachePackages": True},
            "databricks": {"eggLibraries": []},
        },
    }
    path = project(tmp_path, document)
    where = f"{path}: environment"
    notes = inference_config.read(path).environment.notes
    steps = "build an image with those steps and name it with --base-image or baseImage."
    assert notes == (
        f"{where}.python.userManagedDependencies is true: no package of it is installed, they have "
        "to be in the base image.",
        f"{where}.inferencingStackVersion is not used: this runtime takes the place of that stack.",
        f"{where}.spark is not used: name pyspark among the packages, and a base image that has "
        "Java.",
        f"{where}.docker.arguments is not used: give them to docker run.",
        f"{where}.docker.baseDockerfile is not used: {steps}",
        f"{where}.docker.gpuSupport is not used: name a base image that has CUDA with "
        "--base-image.",
        f"{where}.docker.baseImageRegistry is not used: sign in with docker login before the image "
        "is built.",
        f"{where}.python.baseCondaEnvironment is not used: images have no conda.",
        f"{path}: condaFile is not used, for there is an environment.",
    )


def test_what_is_of_no_use_in_the_older_form_is_noted(tmp_path: Path) -> None:
    """Where files would be missing in the image, the note says where to put them."""
    document = {
        "entryScript": "score.py",
        "runtime": "spark-py",
        "extraDockerfileSteps": "steps",
        "enableGpu": True,
        "schemaFile": "schema.json",
        "dependencies": ["x.py"],
    }
    path = project(tmp_path, document)
    assert inference_config.read(path).environment.notes == (
        f"{path}: extraDockerfileSteps is not used: build an image with those steps and name it "
        "with --base-image or baseImage.",
        f"{path}: enableGpu is not used: name a base image that has CUDA with --base-image.",
        f"{path}: schemaFile is not used: schemas come from the decorators of the entry script.",
        f"{path}: dependencies is not used: put those files into the source directory.",
        f"{path}: runtime spark-py is not used: name pyspark among the packages, and a base image "
        "that has Java.",
    )


def script(**others: object) -> dict[str, object]:
    return {"entryScript": "score.py", **others}


def of_python(**others: object) -> dict[str, object]:
    return script(environment={"python": others})


KEYS = (
    "entryScript, sourceDirectory, environment, description, runtime, condaFile, "
    "extraDockerfileSteps, extraDockerFileSteps, enableGpu, baseImage, baseImageRegistry, "
    "schemaFile, dependencies, cudaVersion"
)
PYTHON_KEYS = (
    "condaDependencies, condaDependenciesFile, userManagedDependencies, baseCondaEnvironment, "
    "interpreterPath"
)
TEXT = "a text that is not empty is expected."


@pytest.mark.parametrize(
    ("document", "message"),
    [
        pytest.param([], f" is []; an object with these keys is expected: {KEYS}.", id="a-list"),
        pytest.param(
            {"entryscript": "score.py"},
            f" has the unknown key 'entryscript'; known are {KEYS}.",
            id="case",
        ),
        pytest.param({}, f": entryScript is None; {TEXT}", id="no-script"),
        pytest.param(
            {"entryScript": "s.py"},
            ": entryScript is 's.py', and there is no file {folder}/s.py.",
            id="script-away",
        ),
        pytest.param(
            script(sourceDirectory="src"),
            ": sourceDirectory is 'src', and there is no folder {folder}/src.",
            id="source-away",
        ),
        pytest.param(
            {"entryScript": "other.py", "sourceDirectory": "source_dir"},
            ": entryScript is {folder}/other.py, which is not in the sourceDirectory "
            "{folder}/source_dir.",
            id="script-outside",
        ),
        pytest.param(
            script(runtime="java"),
            ": runtime is 'java'; one of python, slim, spark-py is expected.",
            id="runtime",
        ),
        pytest.param(
            script(condaFile="no.yml"),
            ": condaFile is 'no.yml', and there is no file {folder}/no.yml.",
            id="conda-away",
        ),
        pytest.param(
            script(environment="AzureML-Minimal"),
            ": environment is 'AzureML-Minimal'; an object with these keys is expected: name, "
            "version, environmentVariables, python, docker, inferencingStackVersion, spark, "
            "databricks, r, assetId, platform.",
            id="environment-name",
        ),
        pytest.param(
            of_python(userManagedDependencies="no"),
            ": environment.python.userManagedDependencies is 'no'; true or false is expected.",
            id="flag",
        ),
        pytest.param(
            script(environment={"environmentVariables": {"A": None}}),
            ": environment.environmentVariables: A is NoneType; a text is expected: write it in "
            "quotes.",
            id="variable",
        ),
        pytest.param(
            '{"entryScript" "score.py"}',
            ", line 1, column 16 is not JSON: Expecting ':' delimiter.",
            id="comma",
        ),
        pytest.param("[" * 200_000, " is not JSON that can be read: nested too deeply.", id="deep"),
    ],
)
def test_a_bad_configuration_is_refused_in_one_sentence(
    tmp_path: Path, document: object, message: str
) -> None:
    """The message names the file and the key, and says what is expected."""
    written(tmp_path / "other.py", "")
    path = project(tmp_path, document)
    with pytest.raises(PackagingError) as raised:
        inference_config.read(path)
    assert str(raised.value) == f"{path}{message}".replace("{folder}", str(tmp_path))
    assert "hunter2" not in str(raised.value)
