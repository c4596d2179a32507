"""What a service in the cloud is here: a package, and beside it the files that deploy it.

Nothing is sent to Azure. The folder of a service in its workspace::

    .azureml/deployments/<name>/package/              the build context of the image
    .azureml/deployments/<name>/package-deployment/   the files, deploy.sh, and secrets.env
    .azureml/deployments/<name>/service.json          what is deployed; no secret is in it
    .azureml/deployments/<name>/deploymentconfig.json and how
"""

from __future__ import annotations

import json
import secrets
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from ...local_services import record as local_record
from ...local_services.record import RECORD, Record
from ...local_services.service import check_name
from ...packaging.deployment import configuration as deployment
from ...packaging.deployment import files as deployment_files
from ...packaging.deployment import manifests
from ...packaging.deployment.configuration import Configuration
from ...packaging.specification import STANDALONE, Specification, deployment_folder
from ..exceptions import WebserviceException, as_webservice_exceptions, refusing
from .environment import kept_in
from .inference_config import InferenceConfig, specification_of

PACKAGED = "Packaged"
"""The state of a service whose files are made; whether somebody has deployed them is not known."""
DELETED = "Deleted"
_CONFIG, _PACKAGE = "deploymentconfig.json", "package"
_KEYS = ("primary", "secondary")
_TLS = ("ssl_cert_pem_file", "ssl_key_pem_file")
_TRY = "To try it here: LocalWebservice.deploy_configuration()."


class Service:
    """What services on this machine and packaged ones have in common."""

    name: str
    _deleted = False

    def _refuse_if_deleted(self, method: str) -> None:
        if self._deleted:
            raise WebserviceException(
                f"Cannot call {method}() when service is {DELETED}: deploy {self.name} again."
            )


class Deployed(Service):
    """A service in the cloud as this machine knows it."""

    compute_type, kind = "", ""
    port = error = None
    create_version = update_version = refusing(
        "Versions of an endpoint are services of their own here: deploy another name, and divide "
        "the traffic in front of both."
    )

    def __init__(self, workspace: object, name: str) -> None:
        self.workspace, self.name = workspace, name
        if kind_of(workspace, name) != self.kind:
            there = ", ".join(names(workspace, self.kind)) or "none"
            raise WebserviceException(
                f"WebserviceNotFound: there is no service {name!r} of the type {self.compute_type}."
                f" There are: {there}."
            )
        self._folder = _folder_of(workspace, name)

    # --- what it is -------------------------------------------------------------------------------

    @property
    def state(self) -> str:
        """``Packaged``, or ``Deleted``: what runs in Azure is asked for there."""
        return DELETED if self._deleted else PACKAGED

    @property
    def deployment_configuration(self) -> Configuration:
        """How it is deployed, without keys."""
        with as_webservice_exceptions():
            return deployment.read(self._folder / _CONFIG)

    @property
    def files(self) -> Path:
        """The folder with the files that deploy it."""
        return deployment_folder(self._folder / _PACKAGE)

    @property
    def base_url(self) -> str | None:
        """Where it will answer, if that is known before it is deployed."""
        return manifests.address(self.deployment_configuration) or None

    @property
    def scoring_uri(self) -> str | None:
        """The address with ``/score``, if it is known."""
        return f"{self.base_url}/score" if self.base_url else None

    @property
    def swagger_uri(self) -> str | None:
        """The address with ``/swagger.json``, if it is known."""
        return f"{self.base_url}/swagger.json" if self.base_url else None

    @property
    def auth_enabled(self) -> bool:
        """Whether it asks for a key."""
        return bool(self._keys())

    @property
    def token_auth_enabled(self) -> bool:
        """Whether it takes tokens of Entra ID."""
        return bool(self.deployment_configuration.of("token_auth_enabled"))

    @property
    def tags(self) -> Mapping[str, str] | None:
        """Those it was deployed with."""
        tags: Mapping[str, str] | None = self.deployment_configuration.of("tags")
        return tags

    @property
    def properties(self) -> Mapping[str, str] | None:
        """Those it was deployed with."""
        found: Mapping[str, str] | None = self.deployment_configuration.of("properties")
        return found

    @property
    def _record(self) -> Record:
        return local_record.read(self._folder)

    def serialize(self) -> dict[str, Any]:
        """What is known of it, as JSON has it; no key."""
        return {
            "name": self.name,
            "state": self.state,
            "computeType": self.compute_type,
            "createdTime": self._record.created,
            "updatedTime": self._record.updated,
            "scoringUri": self.scoring_uri,
            "swaggerUri": self.swagger_uri,
            "authEnabled": self.auth_enabled,
            "deploymentFiles": str(self.files),
            "configuration": self.deployment_configuration.given,
        }

    def __repr__(self) -> str:
        return f"{type(self).__name__}(workspace={self.workspace!r}, name={self.name!r})"

    # --- what it does -----------------------------------------------------------------------------

    def wait_for_deployment(
        self, show_output: bool = False, timeout_sec: float | None = None
    ) -> None:
        """Print the commands that deploy it; there is nothing to wait for."""
        self._refuse_if_deleted("wait_for_deployment")
        text = (self.files / "deploy.sh").read_text(encoding="utf-8").strip()
        print(f"{self.name} is packaged; nothing was sent to Azure. To deploy it:\n")
        print(f"cd {shlex.quote(str(self.files))}\nsh deploy.sh   # which does:\n\n{text}")

    def get_logs(self, num_lines: int = 5000, init: bool = False) -> str:
        """The command that shows them: what runs in Azure is not asked from here."""
        where = f"az container logs --resource-group GROUP --name {self.name}"
        if self.kind == "aks":
            where = f"kubectl logs --tail {num_lines} deployment/{self.name}"
        return f"Nothing was deployed from here. Once it is, its log is shown by: {where}"

    def run(self, input_data: Any) -> NoReturn:
        """Always raises WebserviceException: there is no service to ask here."""
        where = f" Once it is, send a POST to {self.scoring_uri}." if self.scoring_uri else ""
        raise WebserviceException(
            f"{self.name} is packaged, not deployed: run {self.files}/deploy.sh.{where} {_TRY}"
        )

    def get_token(self) -> NoReturn:
        """Always raises WebserviceException: Entra ID gives them."""
        raise WebserviceException(
            "Tokens are Entra ID's: az account get-access-token --resource AUDIENCE, the value of "
            "SCORING_ENTRA_AUDIENCE in secrets.env."
        )

    def get_keys(self) -> tuple[str, ...]:
        """The primary and the secondary key.

        Raises:
            WebserviceException: it asks for none.
        """
        if keys := self._keys():
            return keys
        raise WebserviceException(f"{self.name} asks for no key: auth_enabled is False.")

    def regen_key(self, key: str, set_key: str | None = None) -> None:
        """Make one of the keys anew, or ``set_key``; it counts when the files are deployed again.

        Raises:
            WebserviceException: it asks for none, there is no such key, or the new one is not
                allowed.
        """
        self.get_keys()
        name = f"{_KEYS[number_of_key(key)]}_key"
        new: dict[str, Any] = {name: set_key or secrets.token_urlsafe(32)}
        self.update(**new)

    def update(
        self,
        models: Sequence[Any] | None = None,
        inference_config: InferenceConfig | None = None,
        deployment_config: Configuration | None = None,
        **arguments: Any,
    ) -> None:
        """Make the package and the files anew, with other models, another script or arguments of
        ``deploy_configuration``; None leaves what there is, keys too.

        Raises:
            WebserviceException: as :func:`deploy`; nothing is changed then.
        """
        self._refuse_if_deleted("update")
        before = self._with_secrets(self._record)
        wanted, said = before.specification, deployment_config or self.deployment_configuration
        if models is not None or inference_config is not None:
            wanted = specification_of(models or (), inference_config, STANDALONE)
            wanted = replace(wanted, models=before.specification.models) if not models else wanted
        with as_webservice_exceptions():
            given = {name: value for name, value in arguments.items() if value is not None}
            try:
                said = replace(said, **given)
            except TypeError as error:
                raise WebserviceException(f"update: {error}") from error
            _make(self._folder, replace(before, specification=wanted), said)

    def delete(self) -> None:
        """Remove what is here; what runs in Azure is deleted there."""
        shutil.rmtree(self._folder, ignore_errors=True)
        self._deleted = True

    def _with_secrets(self, record: Record) -> Record:
        """With the values of its secret variables, which are noted in the secrets file alone."""
        there = deployment_files.read_secrets(self.files)
        kept = {name: there[name] for name in record.required if name in there}
        variables = {**record.specification.environment.variables, **kept}
        return replace(record, specification=record.specification.with_variables(variables))

    def _keys(self) -> tuple[str, ...]:
        return deployment_files.keys_of(deployment_files.read_secrets(self.files))


def number_of_key(key: str) -> int:
    """0 for ``Primary``, 1 for ``Secondary``; WebserviceException for any other."""
    if str(key or "").lower() not in _KEYS:
        raise WebserviceException(
            f"Error, invalid value provided for key: {key}.\nValid options are: Primary, Secondary"
        )
    return _KEYS.index(key.lower())


def deploy(
    workspace: object,
    name: str,
    specification: Specification,
    configuration: Configuration,
    target: object,
    overwrite: bool,
) -> None:
    """Package a service and write the files that deploy it.

    Raises:
        WebserviceException: the name is taken or not allowed, the target is another kind of
            cluster, or model, script, environment or configuration cannot be used.
    """
    cluster = getattr(target, "name", None)
    if target is not None and not (configuration.compute_type == "aks" and cluster):
        raise WebserviceException(
            f"{target!r} cannot be deployed to with a configuration for "
            f"{configuration.compute_type}: deployment_target is None, or AksCompute(workspace, "
            "name) with AksWebservice.deploy_configuration()."
        )
    with as_webservice_exceptions():
        check_name(name)
        if cluster and configuration.of("compute_target_name") is None:
            configuration = replace(configuration, compute_target_name=cluster)  # type: ignore[call-arg]
        folder = _folder_of(workspace, name)
        if (folder / RECORD).exists() and not overwrite:
            raise WebserviceException(
                f"A service {name} already exists: update or delete it, choose another name, or "
                "overwrite it."
            )
        _make(folder, Record(name, 0, specification, created=local_record.now()), configuration)


def _make(folder: Path, wanted: Record, configuration: Configuration) -> None:
    from ...packaging.context import make

    kind = configuration.compute_type
    deployment_files.check_target(kind, configuration)
    folder.mkdir(parents=True, exist_ok=True)
    specification = deployment_files.adapted(wanted.specification, configuration)
    context = make(specification, folder / _PACKAGE, overwrite=True)
    for warning in context.warnings:
        print(f"Warning: {warning}", file=sys.stderr)
    variables = specification.environment.variables
    image = f"{wanted.name}:{wanted.generation + 1}"
    asked = deployment_files.Deployment(wanted.name, image, kind, configuration)
    deployment_files.make(asked, context, variables)
    given = configuration.given
    files_of_tls = {name: str(Path(given[name]).absolute()) for name in _TLS if name in given}
    document = {"computeType": kind, **given, **files_of_tls}
    (folder / _CONFIG).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    now, number = local_record.now(), wanted.generation + 1
    noted = replace(wanted, generation=number, updated=now)
    local_record.write(folder, replace(noted, required=tuple(e.name for e in context.required)))


def kind_of(workspace: object, name: str) -> str:
    """``aci`` or ``aks``; empty if there is no such service."""
    try:
        said = json.loads((_folder_of(workspace, name) / _CONFIG).read_bytes())
        return str(said["computeType"])
    except (OSError, ValueError, LookupError, TypeError):
        return ""


def names(workspace: object, kind: str = "") -> list[str]:
    """Those of a kind, or all, by name."""
    there = kept_in(workspace, "deployments").glob(f"*/{RECORD}")
    found = sorted(path.parent.name for path in there)
    return [name for name in found if kind in ("", kind_of(workspace, name))]


def _folder_of(workspace: object, name: str) -> Path:
    return kept_in(workspace, "deployments") / Path(name).name
