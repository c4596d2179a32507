"""MLflow's deployment target ``scoring-runtime``: served on this machine, or packaged as an image.

mlflow finds the module by its entry point and takes :func:`run_local`, :func:`target_help` and the
one client class from it (https://mlflow.org/docs/latest/ml/plugins/). Importing mlflow takes a
second and changes the process, so the class is made when it is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NoReturn

from ..local_services.service import (
    FAILED,
    LocalService,
    check_absent,
    check_name,
    deploy,
    find,
    listing,
)
from ..packaging import context, image
from ..packaging.specification import Specification
from .config import HELP, Config
from .sources import (
    FLAVOUR,
    check_flavour,
    forget_downloads,
    model_of,
    payload_of,
    refuse,
    remove_downloads,
    translated,
)

CLIENT = "ScoringRuntimeClient"


def run_local(
    name: str,
    model_uri: str,
    flavor: str | None = None,
    config: Mapping[str, object] | None = None,
) -> None:
    """Serve a model on this machine; it is ready when this returns, and is served until deleted.

    Raises:
        MlflowException: as ``create_deployment``, or ``config`` has keys of a package.
    """
    with translated():
        said = Config.of(config)
        said.refuse_package("run-local")
        service = _served(said.folder or _home(), name, model_uri, flavor, said)
    print(
        f"{name} is served at {service.url}/score until "
        f"mlflow deployments delete -t {_target(said)} --name {name}"
    )


def target_help() -> str:
    """What ``mlflow deployments help -t scoring-runtime`` shows."""
    return HELP


class Deployments:
    """What the client does; the class for mlflow is this and ``BaseDeploymentClient``."""

    def __init__(self, target_uri: str) -> None:
        self.target_uri = target_uri
        self._root = _folder_of(target_uri)

    def create_deployment(
        self,
        name: str,
        model_uri: str,
        flavor: str | None = None,
        config: Mapping[str, object] | None = None,
        endpoint: str | None = None,
    ) -> dict[str, Any]:
        """Serve a model, or package it if ``config`` says so; what was made.

        Raises:
            MlflowException: name, URI, ``config`` or ``endpoint`` cannot be used, or the model
                cannot be served; the text ends with the cause.
        """
        with translated(endpoint):
            said = Config.of(config)
            root = said.folder or self._root
            if said.of_package:
                return _packaged(name, model_uri, flavor, said)
            return _described(_served(root, name, model_uri, flavor, said))

    def update_deployment(
        self,
        name: str,
        model_uri: str | None = None,
        flavor: str | None = None,
        config: Mapping[str, object] | None = None,
        endpoint: str | None = None,
    ) -> dict[str, Any]:
        """Serve another model under the name, or the same on another port.

        Raises:
            MlflowException: as ``create_deployment``, or there is no such deployment.
        """
        with translated(endpoint):
            said = Config.of(config)
            said.refuse_package("update")
            root = said.folder or self._root
            service = find(root, name)
            wanted = None
            if model_uri is not None:
                wanted = Specification(models=(model_of(root, name, model_uri, flavor),))
            else:
                check_flavour(flavor, [FLAVOUR])
            service.restart(wanted, said.port)
            remove_downloads(root, service.record)
            if said.wait:
                service.wait()
            return _described(service)

    def delete_deployment(
        self,
        name: str,
        config: Mapping[str, object] | None = None,
        endpoint: str | None = None,
    ) -> None:
        """End it and remove what is kept of it; nothing if there is none."""
        with translated(endpoint):
            said = Config.of(config)
            said.refuse_package("delete")
            root = said.folder or self._root
            check_name(name)
            for each in listing(root):
                if each.record.name == name:
                    each.delete()
            forget_downloads(root, name)

    def list_deployments(self, endpoint: str | None = None) -> list[dict[str, Any]]:
        """Those of the target's folder, whatever their state."""
        with translated(endpoint):
            return [_described(each) for each in listing(self._root)]

    def get_deployment(self, name: str, endpoint: str | None = None) -> dict[str, Any]:
        """One of them; MlflowException if there is none."""
        with translated(endpoint):
            return _described(find(self._root, name))

    def predict(
        self, deployment_name: str | None = None, inputs: Any = None, endpoint: str | None = None
    ) -> Any:
        """What the deployment answers, as ``PredictionsResponse``.

        ``inputs`` are a DataFrame, an array, a list, columns by name, or a payload as ``mlflow
        models serve`` takes it.

        Raises:
            MlflowException: there is none, or it refuses the inputs, with its status and answer.
        """
        from mlflow.deployments import PredictionsResponse

        with translated(endpoint):
            answer = find(self._root, deployment_name or "").score(payload_of(inputs))
        text = answer.body.decode(errors="replace")
        if answer.status != 200:
            refuse(f"The deployment {deployment_name} answers {answer.status}: {text}")
        return PredictionsResponse.from_json(text)  # type: ignore[no-untyped-call, unused-ignore]

    def _no_endpoints(self, *args: object, **kwargs: object) -> NoReturn:
        """There are none; always raises MlflowException."""
        with translated("endpoint"):
            raise AssertionError

    create_endpoint = update_endpoint = delete_endpoint = _no_endpoints
    list_endpoints = get_endpoint = _no_endpoints


# --- the class for mlflow -------------------------------------------------------------------------


def __dir__() -> list[str]:
    return sorted([*globals(), CLIENT])


def __getattr__(name: str) -> object:
    if name == CLIENT:
        return _client()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@cache
def _client() -> type:
    from mlflow.deployments import BaseDeploymentClient

    about = {"__doc__": BaseDeploymentClient.__doc__, "__module__": __name__}
    return type(CLIENT, (Deployments, BaseDeploymentClient), about)


# --- serving and packaging ------------------------------------------------------------------------


def _served(
    root: Path, name: str, model_uri: str, flavor: str | None, said: Config
) -> LocalService:
    check_name(name)
    check_absent(root, name)
    model = model_of(root, name, model_uri, flavor)
    service = deploy(root, name, Specification(models=(model,)), port=said.port)
    remove_downloads(root, service.record)
    if said.wait:
        service.wait()
    return service


def _packaged(name: str, model_uri: str, flavor: str | None, said: Config) -> dict[str, Any]:
    check_name(name)
    builder = image.find_builder(said.given.get("builder", "")) if said.build else None
    output = Path(said.given.get("output") or f"{name}-package").expanduser()
    with TemporaryDirectory() as downloads:
        model = model_of(Path(downloads), name, model_uri, flavor)
        made = context.make(said.specification(model), output, resolve=said.resolve)
    described = {"name": name, "flavor": FLAVOUR, "path": str(made.path), "target": made.target}
    if builder is None:
        return described
    tag = said.given.get("tag") or image.default_tag(name, 1, made.target)
    image.build(made.path, made.target, tag, builder=builder, output=print)
    return {**described, "image": tag}


def _described(service: LocalService) -> dict[str, Any]:
    record, state = service.record, service.state
    described = {
        "name": record.name,
        "flavor": FLAVOUR,
        "state": state,
        "port": record.port,
        "scoring_uri": f"{service.url}/score",
        "swagger_uri": f"{service.url}/swagger.json",
        "created": record.created,
        "updated": record.updated,
    }
    return described | ({"error": service.cause()} if state == FAILED else {})


# --- the target -----------------------------------------------------------------------------------


def _home() -> Path:
    return Path.home() / ".scoring-runtime"


def _folder_of(target_uri: str) -> Path:
    """``scoring-runtime:/folder`` → ``/folder``; without one ``.scoring-runtime`` at home."""
    folder = target_uri.partition(":")[2]
    return Path("/" + folder.lstrip("/")) if folder.strip("/") else _home()


def _target(said: Config) -> str:
    return f"scoring-runtime:{said.folder.absolute()}" if said.folder else "scoring-runtime"
