"""Import names of packages that are not installed, each in an interpreter of its own (row 15)."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import joblib
import numpy as np
import pytest

from scoring_runtime.script import stand_ins

REPOSITORY = Path(__file__).parents[2]
INSTALL = "from scoring_runtime.script import import_aliases; import_aliases.install()\n"


def run_python(code: str, *folders: Path, site: bool = True) -> str:
    """What ``code`` prints, with the aliases installed and ``folders`` on sys.path.

    Without ``site``, nothing that is installed can be imported.
    """
    done = subprocess.run(
        [
            sys.executable,
            *([] if site else ["-S"]),
            "-W",
            "error",
            "-c",
            INSTALL + textwrap.dedent(code),
        ],
        env={"PYTHONPATH": ":".join(map(str, [*folders, REPOSITORY]))},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout.strip()


def installed(folder: Path, files: dict[str, str]) -> Path:
    """A folder of installed packages: file → source; packages without ``__init__`` as well."""
    for name, source in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(source), encoding="utf-8")
    return folder


# --- without the packages -------------------------------------------------------------------------

PAIRS = [
    ("azureml.contrib.services.aml_request", "AMLRequest, rawhttp"),
    ("azureml.contrib.services.aml_response", "AMLResponse"),
    ("azureml_inference_server_http.api.aml_request", "AMLRequest, rawhttp"),
    ("azureml_inference_server_http.api.aml_response", "AMLResponse"),
    ("azureml.core.model", "Model"),
]
FORMS = {
    "from module import names": "from {module} import {names}; found = {first}",
    "import module as": "import {module} as m; found = m.{first}",
    "import module": "import {module}; found = {module}.{first}",
    "from package import module": "from {package} import {leaf}; found = {leaf}.{first}",
    "importlib": "import importlib; found = importlib.import_module('{module}').{first}",
}


@pytest.mark.fix
@pytest.mark.parametrize("module", [module for module, _ in PAIRS])
def test_every_form_of_import_works_without_the_package(module: str) -> None:
    """Row 15: the plain ``import`` forms failed; all give the runtime's own classes.

    The forms are tried one after the other in one interpreter, each with the old names forgotten.
    """
    names = dict(PAIRS)[module]
    package, _, leaf = module.rpartition(".")
    first = names.partition(",")[0]
    lines = [
        form.format(module=module, names=names, package=package, leaf=leaf, first=first)
        for form in FORMS.values()
    ]
    code = f"""
        import sys
        for line in {lines!r}:
            for name in [each for each in sys.modules if each.startswith('azureml')]:
                del sys.modules[name]
            space = {{}}
            exec(line, space)
            print(space['found'].__module__, space['found'].__name__)
    """
    home = "scoring_runtime.models.model" if first == "Model" else "scoring_runtime.script.aml_http"
    assert run_python(code).splitlines() == [f"{home} {first}"] * len(lines)


def test_the_alias_is_the_module_itself() -> None:
    """isinstance() and the rawhttp mark work whichever name a script uses."""
    code = """
        import azureml.contrib.services.aml_request as one
        import azureml_inference_server_http.api.aml_response as other
        import scoring_runtime.script.aml_http as real
        print(one is other is real, real.__name__ == real.__spec__.name)
        @one.rawhttp
        def run(request): ...
        print(import_aliases.raw_flag_of_installed_packages(), sorted(run.__dict__))
    """
    assert run_python(code).splitlines() == ["True True", "False ['__scoring_raw_http__']"]


def test_model_get_model_path(tmp_path: Path) -> None:
    """``azureml.core.model.Model.get_model_path`` finds a registered model's file."""
    for version in ("1", "2", "10"):
        (tmp_path / "azureml-models" / "iris" / version).mkdir(parents=True)
        (tmp_path / "azureml-models" / "iris" / version / "m.pkl").touch()
    code = f"""
        from scoring_runtime.models.folder import use_model_dir
        use_model_dir({str(tmp_path / "azureml-models")!r})
        from azureml.core.model import Model
        print(Model.get_model_path("iris"))
        print(Model.get_model_path(model_name="iris", version=2, _workspace=None))
        print(type(Model.get_model_path("iris")).__name__)
    """
    iris = tmp_path / "azureml-models" / "iris"
    assert run_python(code).splitlines() == [str(iris / "10/m.pkl"), str(iris / "2/m.pkl"), "str"]


@pytest.mark.parametrize(
    "name",
    [
        "azureml.pipeline",
        "azureml.core.nothing",
        "azureml_inference_server_http.server",
        "scoring_runtime.nope",
    ],
)
def test_other_names_still_do_not_exist(name: str) -> None:
    """Only the names that scripts need are made up; the error names what is missing."""
    code = f"""
        try:
            import {name}
        except ModuleNotFoundError as error:
            print(error.name)
    """
    assert run_python(code) == name


def test_installing_twice_changes_nothing_and_imports_nothing() -> None:
    """One finder, last on sys.meta_path; neither werkzeug nor joblib comes in before it is asked
    for."""
    code = """
        import sys
        before = list(sys.meta_path)
        import_aliases.install()
        print(sys.meta_path == before, type(sys.meta_path[-1]).__name__)
        print(sum(type(each).__name__ == '_AliasFinder' for each in before))
        print({'werkzeug', 'joblib', 'sklearn', 'azureml'} & set(sys.modules))
    """
    assert run_python(code).splitlines() == ["True _AliasFinder", "1", "set()"]


# --- a really installed package is never shadowed -------------------------------------------------

REAL_REQUEST = """
    _rawHttpRequested = False

    def rawhttp(func):
        global _rawHttpRequested
        _rawHttpRequested = True
        return func

    class AMLRequest:
        origin = "installed"
"""


@pytest.mark.parametrize(
    "module",
    ["azureml.contrib.services.aml_request", "azureml_inference_server_http.api.aml_request"],
)
@pytest.mark.parametrize("regular", [True, False], ids=["with __init__", "namespace"])
def test_an_installed_package_wins_and_its_flag_switches_raw_mode(
    module: str, regular: bool, tmp_path: Path
) -> None:
    """Its own class is used; @rawhttp of it sets a flag of its module, which counts."""
    path = Path(*module.split(".")).with_suffix(".py")
    files = {str(path): REAL_REQUEST}
    if regular:
        files |= {str(each / "__init__.py"): "" for each in path.parents if each.name}
    folder = installed(tmp_path, files)
    code = f"""
        from {module} import AMLRequest, rawhttp
        print(AMLRequest.origin, import_aliases.raw_flag_of_installed_packages())
        rawhttp(print)
        print(import_aliases.raw_flag_of_installed_packages())
    """
    assert run_python(code, folder).splitlines() == ["installed False", "True"]


def test_an_installed_namespace_keeps_its_other_parts(tmp_path: Path) -> None:
    """``azureml`` with other packages in it: they are found, and the missing ones are made up."""
    folder = installed(
        tmp_path,
        {
            "azureml/train/estimator.py": "origin = 'installed'",
            "azureml/core/workspace.py": "origin = 'installed'",
            "azureml/core/__init__.py": "origin = 'installed core'",
            "azureml/contrib/other.py": "origin = 'installed contrib'",
        },
    )
    code = """
        from azureml.contrib.services.aml_request import AMLRequest
        import azureml.train.estimator, azureml.core.workspace, azureml.contrib.other
        from azureml.core.model import Model
        print(azureml.train.estimator.origin, azureml.core.workspace.origin)
        print(azureml.core.origin, azureml.contrib.other.origin)
        print(AMLRequest.__module__, Model.__module__)
    """
    assert run_python(code, folder).splitlines() == [
        "installed installed",
        "installed core installed contrib",
        "scoring_runtime.script.aml_http scoring_runtime.models.model",
    ]


def test_an_installed_package_that_fails_to_import_says_so(tmp_path: Path) -> None:
    """A broken installation is not papered over."""
    folder = installed(tmp_path, {"azureml/core/model.py": "raise RuntimeError('broken')"})
    code = """
        try:
            import azureml.core.model
        except RuntimeError as error:
            print(error)
    """
    assert run_python(code, folder) == "broken"


# --- names of packages that are gone --------------------------------------------------------------

# As the scripts of public repositories import them.
LINES = [
    "from azureml.core import Run, Workspace, Dataset, Datastore, Model, Experiment, Environment",
    "from azureml.core.run import Run",
    "from azureml.core.authentication import ServicePrincipalAuthentication, MsiAuthentication",
    "import azureml.core; azureml.core.VERSION, azureml.core.__version__",
    "from azureml.exceptions import AzureMLException, UserErrorException, WebserviceException",
    "from azureml.exceptions import ComputeTargetException, RunEnvironmentException",
    "from azureml.monitoring.modeldatacollector import ModelDataCollector",
    "from azureml.ai.monitoring.collector import Collector",
    "from azureml.ai.monitoring.context import BasicCorrelationContext",
    "from azure.ai.mlmonitoring import Collector",
    "from mlmonitoring import Collector",
    "from azureml.telemetry import INSTRUMENTATION_KEY, set_diagnostics_collection",
    "from azureml.automl.core.shared import log_server, logging_utilities",
    "import azureml.automl.core, azureml.train.automl",
    "from azureml.automl.core.shared.logging_utilities import get_logger",
    "from azureml.api.schema.dataTypes import DataTypes",
    "from azureml.api.schema.sampleDefinition import SampleDefinition",
]


def test_what_scripts_import_of_packages_that_are_gone_can_be_imported() -> None:
    """Each line in an interpreter without any of them, and without any other package."""
    code = f"""
        for line in {LINES!r}:
            exec(line, {{}})
        print("all")
    """
    assert run_python(code) == "all"


def test_a_really_installed_package_is_never_shadowed(tmp_path: Path) -> None:
    """Whatever is installed under the name is what the script gets."""
    names = sorted(stand_ins.MODULES)
    files = {f"{each.replace('.', '/')}/__init__.py": "origin = 'installed'" for each in names}
    lines = [f"import {each} as m; assert m.origin == 'installed', m" for each in names]
    assert run_python("\n".join([*lines, "print(1)"]), installed(tmp_path, files)) == "1"


@pytest.mark.parametrize(
    ("use", "says"),
    [
        ("Run.get_context()", "azureml.core.Run was the context of an Azure ML run, and a service"),
        ("Workspace.from_config()", "(scoring_runtime.model_path)"),
        ("Dataset.get_by_name(1, 'x')", "package the file beside the script"),
        ("Experiment(1, 'x')", "install azureml-core if the service needs it"),
    ],
)
def test_using_what_is_gone_says_what_it_was_and_what_to_do(use: str, says: str) -> None:
    """An ImportError of its own, which a script can catch like that of a missing package."""
    code = f"""
        from azureml.core import Dataset, Experiment, Run, Workspace
        def load(workspace: Workspace) -> Run: ...
        print(isinstance(1, Workspace), Run is __import__("azureml.core").core.Run)
        try:
            {use}
        except ImportError as error:
            print(error)
    """
    first, second = run_python(code).splitlines()
    assert first == "False True"
    assert says in second
    assert second.endswith("It can be imported here, not used.")


def test_collectors_take_everything_and_say_once_that_nothing_is_kept() -> None:
    """One warning for each of the two packages, whatever is collected."""
    code = """
        import logging, sys
        logging.basicConfig(stream=sys.stdout, format="%(message)s")
        from azureml.ai.monitoring import Collector
        from azureml.monitoring import ModelDataCollector
        for _ in range(3):
            old = ModelDataCollector("iris", designation="inputs", feature_names=["a"])
            old.add_correlations({}), old.collect([1], user_correlation_id="x")
        inputs = Collector(name="model_inputs", on_error=print)
        outputs = Collector(name="model_outputs")
        context = inputs.collect([1])
        print(outputs.collect([2], context) is context, len(context.get_id()))
    """
    one, two, answer = run_python(code).splitlines()
    assert one.startswith("azureml-monitoring (ModelDataCollector) is not installed here")
    assert two.startswith("azureml-ai-monitoring (Collector) is not installed here")
    assert answer == "True 36"


def test_the_logging_of_automls_scoring_script() -> None:
    """As the script that AutoML generates has it; the traceback is in the log."""
    code = """
        import logging, sys
        logging.basicConfig(stream=sys.stdout, format="%(message)s")
        from azureml.automl.core.shared import log_server, logging_utilities
        from azureml.telemetry import INSTRUMENTATION_KEY
        log_server.enable_telemetry(INSTRUMENTATION_KEY)
        log_server.set_verbosity("INFO")
        logger = logging.getLogger("azureml.automl.core.scoring_script")
        try:
            1 / 0
        except Exception as error:
            log_server.update_custom_dimensions({"model_name": "a", "model_version": "1"})
            logging_utilities.log_traceback(error, logger)
    """
    lines = run_python(code).splitlines()
    assert (lines[0], lines[-1]) == ("division by zero", "ZeroDivisionError: division by zero")


# --- sklearn.externals.joblib ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def old_pickle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file as joblib inside scikit-learn < 0.23 wrote it: it names sklearn.externals.joblib."""
    path = tmp_path_factory.mktemp("pickle") / "model.pkl"
    joblib.dump({"weights": np.arange(3.0), "more": [np.eye(2)]}, path, protocol=2)
    new = path.read_bytes()
    old = new.replace(b"cjoblib.numpy_pickle\n", b"csklearn.externals.joblib.numpy_pickle\n")
    assert old != new
    path.write_bytes(old)
    return path


def test_joblib_by_its_old_name(old_pickle: Path) -> None:
    """A model that was pickled by that name loads, and what joblib dumps then is as before; both
    import forms give joblib itself."""
    code = f"""
        import io, joblib
        model = joblib.load({str(old_pickle)!r})
        print(model["weights"].tolist(), model["more"][0].tolist())
        joblib.dump(model, dumped := io.BytesIO())
        print(b"sklearn" in dumped.getvalue())
        from sklearn.externals import joblib
        import sklearn.externals.joblib as again
        import joblib as real
        print(joblib is again is real)
        import sklearn.externals.joblib.numpy_pickle as pickles, joblib.numpy_pickle
        print(pickles is joblib.numpy_pickle, pickles.__name__)
    """
    assert run_python(code).splitlines() == [
        "[0.0, 1.0, 2.0] [[1.0, 0.0], [0.0, 1.0]]",
        "False",
        "True",
        "True joblib.numpy_pickle",
    ]


def test_an_installed_joblib_inside_scikit_learn_wins(tmp_path: Path) -> None:
    """scikit-learn < 0.23 brings it."""
    folder = installed(
        tmp_path,
        {
            "sklearn/__init__.py": "",
            "sklearn/externals/__init__.py": "",
            "sklearn/externals/joblib/__init__.py": "origin = 'installed'",
            "sklearn/externals/joblib/numpy_pickle.py": "origin = 'installed too'",
        },
    )
    code = """
        from sklearn.externals import joblib
        import sklearn.externals.joblib.numpy_pickle as pickles
        print(joblib.origin, pickles.origin)
    """
    assert run_python(code, folder) == "installed installed too"


@pytest.mark.parametrize(
    ("name", "missing"),
    [("sklearn.externals.joblib", "sklearn"), ("azureml.contrib.services.aml_request", "werkzeug")],
)
def test_what_has_to_be_installed_is_named(name: str, missing: str) -> None:
    """scikit-learn is not made up, and nothing stands in for werkzeug."""
    code = f"""
        try:
            import {name}
        except ModuleNotFoundError as error:
            print(error.name)
    """
    assert run_python(code, site=False) == missing
