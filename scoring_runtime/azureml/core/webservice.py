"""``azureml.core.webservice``: models served on this machine, each in a process of its own.

No docker is needed; see :mod:`scoring_runtime.local_services.service`. A service in the cloud is
packaged, with the files that deploy it: see :mod:`scoring_runtime.azureml.core.deployed`.
"""

from __future__ import annotations

import builtins
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from ...local_services.record import Record
from ...local_services.service import FAILED, HEALTHY, Answer, check_absent, find, listing
from ...local_services.service import deploy as deploy_locally
from ...models import model
from ...packaging.deployment.configuration import Aci, Aks, Configuration
from ...packaging.specification import STANDALONE, Specification
from ..exceptions import WebserviceException, as_webservice_exceptions, refusing
from . import deployed
from .aks_compute import AksCompute
from .deployed import DELETED, Deployed, Service, number_of_key
from .image import ContainerImage
from .inference_config import InferenceConfig, specification_of

Models = Sequence[model.Model]


class WebserviceDeploymentConfiguration:
    """How a service is deployed."""


class LocalWebserviceDeploymentConfiguration(WebserviceDeploymentConfiguration):
    """On this machine, on ``port``; None is a free one.

    With ``auth_enabled`` it asks for one of two keys, which are made unless they are given here.

    Raises:
        WebserviceException: the port is not a whole number from 1 to 65535.
    """

    def __init__(
        self,
        port: int | None = None,
        auth_enabled: bool = False,
        primary_key: str | None = None,
        secondary_key: str | None = None,
    ) -> None:
        self.port = port
        self.keys = (primary_key, secondary_key) if auth_enabled else ()
        self.validate_configuration()

    def validate_configuration(self) -> None:
        """Raise WebserviceException unless the port can be one."""
        if self.port is not None and (type(self.port) is not int or not 1 <= self.port <= 65535):
            raise WebserviceException(
                f"Invalid configuration, port must be an integer from 1 to 65535, or None for a "
                f"free one; it is {self.port!r}."
            )


class Webservice(Service):
    """A deployed model; ``Webservice(workspace, name)`` finds one.

    Raises:
        WebserviceException: there is none; the message lists those there are.
    """

    compute_type = "Local"
    token_auth_enabled = False
    tags: Mapping[str, str] | None = None
    properties: Mapping[str, str] | None = None
    image_id: str | None = None

    def __new__(cls, *args: Any, **kwargs: Any) -> Webservice:
        if cls is not Webservice:
            return super().__new__(cls)
        named = dict(zip(("workspace", "name"), args, strict=False)) | kwargs
        return super().__new__(_KINDS.get(deployed.kind_of(**named), LocalWebservice))

    def __init__(self, workspace: object, name: str) -> None:
        self.workspace, self.name = workspace, name
        with as_webservice_exceptions():
            root = model.folder_of(workspace).absolute()
            names = deployed.names(workspace)
            others = (f"{each} ({deployed.kind_of(workspace, each).upper()})" for each in names)
            self._service = find(root, name, others)

    # --- what it is -------------------------------------------------------------------------------

    @property
    def state(self) -> str:
        """``Transitioning``, ``Healthy``, ``Unhealthy``, ``Failed``, or ``Deleted``."""
        return DELETED if self._deleted else self._service.state

    @property
    def error(self) -> str | None:
        """Why it has failed, as the end of its log; None if it has not."""
        return self._service.cause() if self.state == FAILED else None

    @property
    def auth_enabled(self) -> bool:
        """Whether it asks for a key."""
        return not self._deleted and bool(self._service.keys)

    @property
    def port(self) -> int:
        """Where it listens."""
        return self._record.port

    @property
    def base_url(self) -> str:
        """``http://localhost:PORT``."""
        return self._service.url

    @property
    def scoring_uri(self) -> str:
        """``http://localhost:PORT/score``."""
        return f"{self.base_url}/score"

    @property
    def swagger_uri(self) -> str:
        """``http://localhost:PORT/swagger.json``."""
        return f"{self.base_url}/swagger.json"

    @property
    def created_time(self) -> datetime:
        """When it was deployed."""
        return datetime.fromisoformat(self._record.created)

    @property
    def updated_time(self) -> datetime:
        """When it was started last."""
        return datetime.fromisoformat(self._record.updated)

    @property
    def _record(self) -> Record:
        return self._service.record

    def serialize(self) -> dict[str, Any]:
        """What is known of it, as JSON has it."""
        return {
            "name": self.name,
            "tags": self.tags,
            "properties": self.properties,
            "state": self.state,
            "createdTime": self.created_time.isoformat(),
            "updatedTime": self.updated_time.isoformat(),
            "error": self.error,
            "computeType": self.compute_type,
            "workspaceName": getattr(self.workspace, "name", None),
            "imageId": self.image_id,
            "scoringUri": self.scoring_uri,
            "swaggerUri": self.swagger_uri,
            "port": self.port,
            "authEnabled": self.auth_enabled,
        }

    def __repr__(self) -> str:
        kind = type(self).__name__
        return f"{kind}(workspace={self.workspace!r}, name={self.name!r}, port={self.port})"

    # --- what it does -----------------------------------------------------------------------------

    def update_deployment_state(self) -> None:
        """Nothing: ``state`` always asks."""

    def wait_for_deployment(
        self, show_output: bool = False, timeout_sec: float | None = None
    ) -> None:
        """Wait until it is Healthy, printing its log as it comes with ``show_output``.

        Raises:
            WebserviceException: it has failed, the text ends with the cause; or the time, 20
                minutes unless ``timeout_sec`` says another, has passed.
        """
        self._refuse_if_deleted("wait_for_deployment")
        try:
            with as_webservice_exceptions():
                self._service.wait(print if show_output else None, timeout_sec or 1200.0)
        except WebserviceException:
            _finished("Failed", show_output)
            raise
        _finished("Succeeded", show_output)
        print(f"Local webservice is running at {self.base_url}")

    def run(self, input_data: Any) -> Any:
        """Score one input, once the service is Healthy; what its answer's JSON, text or bytes hold.

        Text, bytes and open files are sent as they are, all else as JSON, whose content type is
        named in any case.

        Raises:
            WebserviceException: the service has failed, cannot be reached, or answers with
                another status than 200; the text has the status, the headers and the body.
        """
        self._refuse_if_deleted("run")
        body = body_of(input_data)
        with as_webservice_exceptions():
            if self._service.state != HEALTHY:
                self._service.wait()
            answer = self._service.score(body)
        return _result_of(answer)

    def get_logs(self, num_lines: int = 5000, raw: bool = False) -> str:
        """The last lines that its host has written; ``raw`` changes nothing."""
        self._refuse_if_deleted("get_logs")
        return self._service.log(num_lines)

    def get_keys(self) -> tuple[str, ...]:
        """The primary and the secondary key.

        Raises:
            NotImplementedError: it asks for none.
        """
        if keys := self._service.keys:
            return keys
        raise NotImplementedError(
            "Local web services do not support auth keys unless they are deployed, or updated, "
            "with auth_enabled=True."
        )

    def regen_key(self, key: str, set_key: str | None = None) -> None:
        """Make one of the keys anew, or ``set_key``; the old one ends, the other stays.

        Args:
            key: ``Primary`` or ``Secondary``.
            set_key: the new key.

        Raises:
            NotImplementedError: it asks for none.
            WebserviceException: there is no such key, or the new one is too short.
        """
        given: builtins.list[str | None] = [*self.get_keys()]
        given[number_of_key(key)] = set_key
        with as_webservice_exceptions():
            self._service.set_keys(tuple(given))

    def reload(self, wait: bool = False) -> None:
        """Start it anew from what its script, its source folder and its models are now; as
        :meth:`update`."""
        self.update(wait=wait)

    def update(
        self,
        models: Models | None = None,
        image_config: None = None,
        deployment_config: WebserviceDeploymentConfiguration | None = None,
        wait: bool = False,
        inference_config: InferenceConfig | None = None,
        enable_app_insights: bool | None = None,
        auth_enabled: bool | None = None,
        **unused: object,
    ) -> None:
        """Start it anew with other models, another script or port; None leaves what there is.

        ``enable_app_insights`` sets AML_APP_INSIGHTS_ENABLED, ``auth_enabled`` has it ask for keys
        that are made then, or for none; other options of services in the
        cloud are taken and change nothing.

        Raises:
            WebserviceException: as :func:`deploy`: the service goes on as it was; or, with
                ``wait``, it has failed.
        """
        self._refuse_if_deleted("update")
        _check(image_config, inference_config, deployment_config)
        wanted = None
        if models is not None or inference_config is not None:
            wanted = _changed(self._service.specification, models, inference_config)
        if enable_app_insights is not None:
            wanted = wanted or self._service.specification
            said = {"AML_APP_INSIGHTS_ENABLED": str(enable_app_insights).lower()}
            wanted = wanted.with_variables({**wanted.environment.variables, **said})
        port = getattr(deployment_config, "port", None)
        switched = auth_enabled not in (None, self.auth_enabled)
        if (unused or auth_enabled is not None) and not switched and not wanted and port is None:
            return
        with as_webservice_exceptions():
            keys = ((None, None) if auth_enabled else ()) if switched else None
            self._service.restart(wanted, port, keys)
        if wait:
            self.wait_for_deployment()

    def create_version(
        self,
        version_name: str,
        inference_config: InferenceConfig | None = None,
        models: Models | None = None,
        **unused: object,
    ) -> LocalWebservice:
        """Serve a version of it, beside it: the service ``NAME-VERSION`` on a port of its own.

        What is None is as in this service; no traffic is divided here.

        Raises:
            WebserviceException: as :func:`deploy`.
        """
        wanted = _changed(self._service.specification, models, inference_config)
        keys = (None, None) if self.auth_enabled else ()
        return _deployed(self.workspace, f"{self.name}-{version_name}", wanted, keys=keys)

    def update_version(
        self,
        version_name: str,
        inference_config: InferenceConfig | None = None,
        models: Models | None = None,
        **unused: object,
    ) -> None:
        """Start a version anew, as :meth:`update` does."""
        version = LocalWebservice(self.workspace, f"{self.name}-{version_name}")
        version.update(models, inference_config=inference_config)

    def delete(
        self, delete_cache: bool = True, delete_image: bool = False, delete_volume: bool = True
    ) -> None:
        """End it and remove all that is kept of it; there is no image here, and no volume."""
        self._service.delete()
        self._deleted = True

    @staticmethod
    def list(
        workspace: object,
        compute_type: str | None = None,
        image_name: str | None = None,
        image_id: str | None = None,
        model_name: str | None = None,
        model_id: str | None = None,
        tags: object = None,
        properties: object = None,
        image_digest: str | None = None,
    ) -> builtins.list[Webservice]:
        """Its services by name, whatever their state, or those of a type (``Local``, ``ACI``,
        ``AKS``), or with a model of this name or ``name:version``; none by the other filters."""
        if any((image_name, image_id, image_digest, tags, properties)):
            return []
        with as_webservice_exceptions():
            root = model.folder_of(workspace).absolute()
        local = [LocalWebservice(workspace, each.record.name) for each in listing(root)]
        found = [*local, *(Webservice(workspace, name) for name in deployed.names(workspace))]
        return [
            each
            for each in found
            if _has_model(each._record, model_name, model_id)
            and (compute_type or each.compute_type).lower() == each.compute_type.lower()
        ]

    @staticmethod
    def deploy_from_model(
        *args: Any, image_config: InferenceConfig | None = None, **kwargs: Any
    ) -> Webservice:
        """As :func:`deploy`, with what ``ContainerImage.image_configuration`` gives."""
        if image_config is not None:
            kwargs["inference_config"] = image_config
        return deploy(*args, **kwargs)

    @staticmethod
    def deploy_from_image(
        workspace: object, name: str, image: ContainerImage, *args: Any, **kwargs: Any
    ) -> Webservice:
        """As :func:`deploy`, with the models and the script of the image."""
        return deploy(workspace, name, image.models, image.inference_config, *args, **kwargs)

    @staticmethod
    def check_for_existing_webservice(
        workspace: object,
        name: str,
        overwrite: bool = False,
        request_func: object = None,
        check_func: object = None,
    ) -> None:
        """Raise WebserviceException if a service of this name runs, unless it is overwritten."""
        with as_webservice_exceptions():
            check_absent(model.folder_of(workspace).absolute(), name, overwrite)


class LocalWebservice(Webservice):
    """A model served on this machine."""

    deploy_configuration = LocalWebserviceDeploymentConfiguration

    @staticmethod
    def list(  # type: ignore[override]  # the old classes differ in the same way
        workspace: object,
        model_name: str | None = None,
        model_id: str | None = None,
        all: bool | None = None,
    ) -> builtins.list[LocalWebservice]:
        """Those that run, or ``all``; see :meth:`Webservice.list`."""
        found = Webservice.list(workspace, "Local", model_name=model_name, model_id=model_id)
        local = (each for each in found if isinstance(each, LocalWebservice))
        return [each for each in local if all or each.state != FAILED]

    get_token = refusing(
        "Local web services do not support token authentication.", NotImplementedError
    )

    def deploy_to_cloud(self, name: str, deployment_config: Configuration) -> Webservice:
        """Package what it serves, with the files that deploy it; as :func:`deploy`."""
        return _to_cloud(self.workspace, name, self._service.specification, deployment_config)


class AciWebservice(Deployed, Webservice):  # type: ignore[misc, override]
    """A model packaged for Container Instances."""

    compute_type, kind = "ACI", Aci.compute_type
    deploy_configuration = staticmethod(as_webservice_exceptions()(Aci))
    """Raises WebserviceException, which names the argument that cannot be used."""


class AksWebservice(Deployed, Webservice):  # type: ignore[misc, override]
    """A model packaged for Kubernetes."""

    compute_type, kind = "AKS", Aks.compute_type
    deploy_configuration = staticmethod(as_webservice_exceptions()(Aks))
    """Raises WebserviceException, which names the argument that cannot be used."""


_KINDS: Mapping[str, type[Webservice]] = {"aci": AciWebservice, "aks": AksWebservice}
AksEndpoint = AksWebservice


def deploy(
    workspace: object,
    name: str,
    models: Models,
    inference_config: InferenceConfig | None = None,
    deployment_config: WebserviceDeploymentConfiguration | Configuration | None = None,
    deployment_target: object = None,
    overwrite: bool = False,
    show_output: bool = False,
) -> Webservice:
    """Start a service on this machine, which may be Transitioning yet; or package one for the
    cloud, with the files that deploy it.

    Args:
        workspace: a Workspace, or its folder; the service is noted there.
        name: 3 to 32 lowercase letters, digits or dashes.
        models: registered ones; there may be none if there is a script.
        inference_config: script and environment, whose packages have to be installed in this
            Python. Without one the models are served without a script, as far as they can be.
        deployment_config: of ``deploy_configuration`` of a kind of service; None is a local one at
            a free port, or Kubernetes if a cluster is the target.
        deployment_target: None, or the cluster: ``AksCompute(workspace, name)``.
        overwrite: replace a service of this name that runs; one that has ended always is.
        show_output: print what is deployed.

    Raises:
        WebserviceException: the name is taken or not allowed, the configuration is for something
            else, the port is in use, or model, script or environment cannot be packaged.
    """
    if deployment_config is None and isinstance(deployment_target, AksCompute):
        deployment_config = Aks()
    if isinstance(deployment_config, Configuration):
        wanted = _specification(models, inference_config, None)
        return _to_cloud(
            workspace, name, wanted, deployment_config, deployment_target, overwrite, show_output
        )
    if deployment_target is not None:
        raise WebserviceException(
            f"{deployment_target!r} cannot be deployed to: deployment_target must be None, but for "
            "AksCompute(workspace, name) with AksWebservice.deploy_configuration()."
        )
    wanted = _specification(models, inference_config, deployment_config)
    port, keys = getattr(deployment_config, "port", None), getattr(deployment_config, "keys", ())
    deployed = _deployed(workspace, name, wanted, port=port, overwrite=overwrite, keys=keys)
    if show_output:
        print(f"{name}: {', '.join(each.id for each in models)} at {deployed.scoring_uri}")
    return deployed


def _deployed(
    workspace: object, name: str, wanted: Specification, **options: Any
) -> LocalWebservice:
    with as_webservice_exceptions():
        root = model.folder_of(workspace).absolute()
        service = deploy_locally(root, name, wanted, **options)
    deployed = LocalWebservice(workspace, name)
    deployed._service = service
    return deployed


def _to_cloud(
    workspace: object,
    name: str,
    wanted: Specification,
    configuration: Configuration,
    target: object = None,
    overwrite: bool = False,
    show_output: bool = False,
) -> Webservice:
    deployed.deploy(workspace, name, wanted, configuration, target, overwrite)
    service = _KINDS[configuration.compute_type](workspace, name)
    if show_output:
        print(f"{name}: packaged, with the files that deploy it; see wait_for_deployment()")
    return service


def _finished(outcome: str, shown: bool) -> None:
    if shown:
        print(f'Local service creation operation finished, operation "{outcome}"')


# --- what is served -------------------------------------------------------------------------------


def _specification(
    models: Models,
    inference_config: InferenceConfig | None,
    deployment_config: object,
) -> Specification:
    _check(None, inference_config, deployment_config)
    if inference_config is None and not models:
        raise WebserviceException(
            "You must provide an InferenceConfig when deploying zero models: there is nothing to "
            "serve."
        )
    return specification_of(models, inference_config, STANDALONE)


def _changed(
    before: Specification, models: Models | None, inference_config: InferenceConfig | None
) -> Specification:
    if models is None and inference_config is None:
        return before
    wanted = specification_of(models or (), inference_config, STANDALONE)
    if models is None:
        return replace(wanted, models=before.models)
    return wanted if inference_config is not None else replace(before, models=wanted.models)


def _check(image_config: object, inference_config: object, deployment_config: object) -> None:
    """Raise WebserviceException unless each is None or of the right type."""
    if image_config is not None:
        raise WebserviceException(
            "Error, image configurations are not supported: provide an inference configuration."
        )
    kinds = {
        "inference configuration": (inference_config, InferenceConfig),
        "deployment configuration": (deployment_config, LocalWebserviceDeploymentConfiguration),
    }
    for what, (value, kind) in kinds.items():
        if value is not None and not isinstance(value, kind):
            raise WebserviceException(
                f"Error, provided {what} must be of type {kind.__name__} in order to deploy a "
                f"local service; it is a {type(value).__name__}."
            )


def _has_model(record: Record, model_name: str | None, model_id: str | None) -> bool:
    models = record.specification.models
    names = {each.name for each in models}
    ids = {f"{each.name}:{each.version}" for each in models}
    return model_name in (None, *names) and model_id in (None, *ids)


# --- what is sent and answered --------------------------------------------------------------------


def body_of(value: Any) -> bytes:
    """What a service is sent: text, bytes or an open file as they are; anything else as JSON."""
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    if hasattr(value, "read"):
        value = value.read()
    if not isinstance(value, str | bytes):
        try:
            value = json.dumps(value, default=lambda each: each.tolist())
        except (TypeError, ValueError, AttributeError) as error:
            raise WebserviceException(
                f"The input, a {type(value).__name__}, cannot be turned to JSON: pass text, bytes, "
                "or what JSON has."
            ) from error
    return value.encode() if isinstance(value, str) else value


def _result_of(answer: Answer) -> Any:
    """The JSON of an answer; one of another content type as text or bytes."""
    if answer.status != 200:
        raise WebserviceException(
            "Received bad response from service. More information can be found by calling "
            "`.get_logs()` on the webservice object.\n"
            f"Response Code: {answer.status}\nHeaders: {dict(answer.headers)}\n"
            f"Content: {answer.body.decode(errors='replace')}"
        )
    kind = {name.lower(): value for name, value in answer.headers.items()}.get("content-type", "")
    if "json" in kind:
        return json.loads(answer.body)
    return answer.body.decode() if kind.startswith("text/") else answer.body
