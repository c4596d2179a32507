"""The old deployment configurations: each argument checked, from Python or a deploymentconfig.json.

Names, meanings and defaults are those of azureml-core 1.61, the JSON's those of
https://learn.microsoft.com/azure/machine-learning/v1/reference-azure-machine-learning-cli#deployment-configuration-schema
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, ClassVar

from ...errors import PackagingError
from ..environment.files import read_text

_MOST = 1_000_000
_HINT = "scoring-runtime serve --port PORT, or LocalWebservice.deploy_configuration"
_PACKAGES: Mapping[str, tuple[str, ...]] = {
    "enable_app_insights": ("azure-monitor-opentelemetry-exporter>=1.0.0b49,<2",),
    "token_auth_enabled": ("pyjwt[crypto]>=2.14,<3",),
    "collect_model_data": ("azure-storage-blob>=12.26", "azure-identity>=1.15", "aiohttp>=3.9"),
}
_UUID_TO_SET = "<the id of the tenant>"
_AUDIENCE_TO_SET = "<the id or URI of the service's registration>"


def _argument(allowed: str, fits: Callable[[Any], bool], json: str, secret: bool = False) -> Any:
    about = {"allowed": allowed, "fits": fits, "json": json, "secret": secret}
    return field(default=None, repr=not secret, metadata=about)


def _switch(json: str = "") -> Any:
    return _argument("true or false", lambda value: isinstance(value, bool), json)


def _number(lowest: float, highest: float = _MOST, *, whole: bool = True, json: str = "") -> Any:
    kinds = int if whole else (int, float)
    allowed = f"{'a whole' if whole else 'a'} number from {lowest:g} to {highest:g}"

    def fits(value: Any) -> bool:
        is_one = isinstance(value, kinds) and not isinstance(value, bool)
        return is_one and lowest <= value <= highest

    return _argument(allowed, fits, json)


def _text(pattern: str, allowed: str, json: str = "", *, secret: bool = False) -> Any:
    found = re.compile(pattern)
    return _argument(
        allowed, lambda value: isinstance(value, str) and bool(found.fullmatch(value)), json, secret
    )


def _any(json: str = "") -> Any:
    return _text(r"[^\x00-\x1f\x7f]+", "one line of text", json)


def _described() -> Any:
    def fits(value: Any) -> bool:
        pairs = value.items() if isinstance(value, Mapping) else [(0, 0)]
        return all(isinstance(n, str) and isinstance(v, str | int | float) for n, v in pairs)

    return _argument("names with texts or numbers", fits, "")


def _key(json: str) -> Any:
    # What a shell, YAML and JSON take as it is.
    return _text(
        "[-A-Za-z0-9._~+/=]{16,1024}", "16 or more of A-Z, a-z, 0-9 and -._~+/=", json, secret=True
    )


_CPU, _MEMORY = "containerResourceRequirements.cpu", "containerResourceRequirements.memoryInGB"
_PROBE, _SCALER = "livenessProbeRequirements", "autoScaler"
# https://learn.microsoft.com/azure/container-instances/container-instances-environment-variables
_LABEL = r"[a-z]([-a-z0-9]{1,61}[a-z0-9])"


@dataclass
class Configuration:
    """What both have in common: what becomes of the arguments that say it the same way."""

    compute_type: ClassVar[str] = ""
    authenticates: ClassVar[bool] = False
    """Whether keys are asked for unless it is said."""
    defaults: ClassVar[Mapping[str, Any]] = {"cpu_cores": 0.1, "memory_gb": 0.5}

    def __post_init__(self) -> None:
        self.validate_configuration()

    def validate_configuration(self) -> None:
        """Raise PackagingError, which names the argument, unless each can be used."""
        for each in fields(self):
            value, about = getattr(self, each.name), each.metadata
            if value is not None and not about["fits"](value):
                shown = "" if about["secret"] else f" is {value!r}, which"
                raise PackagingError(
                    f"{each.name}{shown} is not allowed. Allowed: {about['allowed']}."
                )
        if (self.of("primary_key") or self.of("secondary_key")) and not self.asks_for_keys:
            raise PackagingError(
                "primary_key and secondary_key are for auth_enabled=True: add it, or leave both."
            )
        if self.of("primary_key") and self.of("primary_key") == self.of("secondary_key"):
            raise PackagingError("primary_key and secondary_key must be two.")
        self._check()

    def print_deploy_configuration(self) -> None:
        """Print what was given, without keys."""
        print(self)

    def of(self, name: str) -> Any:
        """What an argument says, or its default; None of one that the target has not."""
        value = getattr(self, name, None)
        return self.defaults.get(name) if value is None else value

    @property
    def given(self) -> dict[str, Any]:
        """The arguments that say something, by name; keys are left out."""
        there = (each for each in fields(self) if not each.metadata["secret"])
        values = {each.name: getattr(self, each.name) for each in there}
        return {name: value for name, value in values.items() if value is not None}

    @property
    def asks_for_keys(self) -> bool:
        """Whether the service asks for one of two keys."""
        said = self.of("auth_enabled")
        return self.authenticates and not self.of("token_auth_enabled") if said is None else said

    @property
    def settings(self) -> dict[str, str]:
        """Settings of the runtime where it runs, by name; no secrets.

        The deadline here includes the time that a request waits, so ``max_request_wait_time`` is
        added to that of scoring.
        """
        found = {}
        if (timeout := self.of("scoring_timeout_ms")) is not None:
            found["SCORING_TIMEOUT_MS"] = str(timeout + (self.of("max_request_wait_time") or 0))
        if (waiting := self.of("replica_max_concurrent_requests")) is not None:
            found["SCORING_QUEUE_SIZE"] = str(waiting)
        if self.of("enable_app_insights"):
            found["AML_APP_INSIGHTS_ENABLED"] = "true"
        if self.of("collect_model_data"):
            found["AML_MODEL_DC_STORAGE_ENABLED"] = "true"
            found["SCORING_RECORD_CONNECTION"] = "RecordConnectionString"
        if self.of("ssl_enabled"):
            found |= {"SCORING_TLS_CERT": "/tls/tls.crt", "SCORING_TLS_KEY": "/tls/tls.key"}
        return found

    @property
    def to_fill(self) -> dict[str, str]:
        """Settings that only their owner knows: what is to be put in for each, by name."""
        found = {}
        if self.of("enable_app_insights"):
            found["APPLICATIONINSIGHTS_CONNECTION_STRING"] = (
                "<the connection string of Application Insights>"
            )
        if self.of("collect_model_data"):
            found["SCORING_RECORD"] = "<https://ACCOUNT.blob.core.windows.net/CONTAINER>"
            found["RecordConnectionString"] = "<the connection string of that account>"
        if self.of("token_auth_enabled"):
            found["SCORING_ENTRA_TENANT"] = _UUID_TO_SET
            found["SCORING_ENTRA_AUDIENCE"] = _AUDIENCE_TO_SET
        return found

    @property
    def requirements(self) -> tuple[str, ...]:
        """Packages that the image needs for it; those of the extras."""
        return tuple(line for name, lines in _PACKAGES.items() if self.of(name) for line in lines)

    @property
    def labels(self) -> dict[str, str]:
        """Tags, properties (which win) and the description, by name."""
        about = {"description": self.of("description")} if self.of("description") else {}
        found = {**about, **(self.of("tags") or {}), **(self.of("properties") or {})}
        return {name: str(value) for name, value in found.items()}

    def _check(self) -> None:
        """Raise PackagingError for arguments that do not go together."""

    def _need(self, names: tuple[str, ...], why: str) -> None:
        """Refuse some of these without the others."""
        missing = [name for name in names if self.of(name) is None]
        if missing and len(missing) < len(names):
            raise PackagingError(f"{' and '.join(missing)} must be given too: {why}.")


@dataclass
class Aci(Configuration):
    """Container Instances; the arguments in the order of the old signature."""

    compute_type: ClassVar[str] = "aci"

    cpu_cores: float | None = _number(0.01, whole=False, json=_CPU)
    memory_gb: float | None = _number(0.1, whole=False, json=_MEMORY)
    tags: Mapping[str, str] | None = _described()
    properties: Mapping[str, str] | None = _described()
    description: str | None = _any()
    location: str | None = _text("[A-Za-z0-9 ]+", "a region of Azure, such as westeurope")
    auth_enabled: bool | None = _switch()
    ssl_enabled: bool | None = _switch()
    enable_app_insights: bool | None = _switch("appInsightsEnabled")
    ssl_cert_pem_file: str | None = _any("sslCertificate")
    ssl_key_pem_file: str | None = _any("sslKey")
    ssl_cname: str | None = _text(r"[A-Za-z0-9]([-A-Za-z0-9.]*[A-Za-z0-9])?", "a domain", "cname")
    dns_name_label: str | None = _text(_LABEL, "3 to 63 of a-z, 0-9 and hyphens")
    primary_key: str | None = _key("keys.primaryKey")
    secondary_key: str | None = _key("keys.secondaryKey")
    collect_model_data: bool | None = _switch("dataCollection.storageEnabled")
    cmk_vault_base_url: str | None = _text("https://.+", "the https address of a vault")
    cmk_key_name: str | None = _any()
    cmk_key_version: str | None = _any()
    vnet_name: str | None = _any()
    subnet_name: str | None = _any()

    def _check(self) -> None:
        files = ("ssl_cert_pem_file", "ssl_key_pem_file", "ssl_cname")
        if not self.ssl_enabled and (said := [name for name in files if self.of(name)]):
            raise PackagingError(f"{said[0]} is for ssl_enabled=True: add it, or leave it out.")
        if self.ssl_enabled and (missing := [name for name in files if not self.of(name)]):
            raise PackagingError(f"ssl_enabled=True needs {' and '.join(missing)} too.")
        for name in files[:2]:
            if self.of(name) and "-----BEGIN " not in read_text(Path(self.of(name))):
                raise PackagingError(f"{name} is {self.of(name)}, which is no PEM file.")
        self._need(("cmk_vault_base_url", "cmk_key_name", "cmk_key_version"), "a key has all three")
        self._need(("vnet_name", "subnet_name"), "a subnet is named by both")
        if self.vnet_name and self.dns_name_label:
            raise PackagingError(
                "dns_name_label is for a public address, and a service in vnet_name has a private "
                "one: leave one of them out."
            )


@dataclass
class Aks(Configuration):
    """Kubernetes; the arguments in the order of the old signature."""

    compute_type: ClassVar[str] = "aks"
    authenticates: ClassVar[bool] = True
    defaults: ClassVar[Mapping[str, Any]] = {
        **Configuration.defaults, "scoring_timeout_ms": 60000,
        "autoscale_min_replicas": 1, "autoscale_max_replicas": 10,
        "autoscale_refresh_seconds": 1, "autoscale_target_utilization": 70,
        "period_seconds": 10, "initial_delay_seconds": 310, "timeout_seconds": 2,
        "success_threshold": 1, "failure_threshold": 3,
    }  # fmt: skip

    autoscale_enabled: bool | None = _switch(f"{_SCALER}.autoscaleEnabled")
    autoscale_min_replicas: int | None = _number(1, json=f"{_SCALER}.minReplicas")
    autoscale_max_replicas: int | None = _number(1, json=f"{_SCALER}.maxReplicas")
    autoscale_refresh_seconds: int | None = _number(
        1, 1800, json=f"{_SCALER}.refreshPeriodInSeconds"
    )
    autoscale_target_utilization: int | None = _number(1, 100, json=f"{_SCALER}.targetUtilization")
    collect_model_data: bool | None = _switch("dataCollection.storageEnabled")
    auth_enabled: bool | None = _switch()
    cpu_cores: float | None = _number(0.01, whole=False, json=_CPU)
    memory_gb: float | None = _number(0.1, whole=False, json=_MEMORY)
    enable_app_insights: bool | None = _switch("appInsightsEnabled")
    scoring_timeout_ms: int | None = _number(1, 1 << 31)
    replica_max_concurrent_requests: int | None = _number(
        1, json="maxConcurrentRequestsPerContainer"
    )
    max_request_wait_time: int | None = _number(0, 1 << 31, json="maxQueueWaitMs")
    num_replicas: int | None = _number(1)
    primary_key: str | None = _key("keys.primaryKey")
    secondary_key: str | None = _key("keys.secondaryKey")
    tags: Mapping[str, str] | None = _described()
    properties: Mapping[str, str] | None = _described()
    description: str | None = _any()
    gpu_cores: int | None = _number(0, 1000)
    period_seconds: int | None = _number(1, json=f"{_PROBE}.periodSeconds")
    initial_delay_seconds: int | None = _number(0, json=f"{_PROBE}.initialDelaySeconds")
    timeout_seconds: int | None = _number(1, json=f"{_PROBE}.timeoutSeconds")
    success_threshold: int | None = _number(1, json=f"{_PROBE}.successThreshold")
    failure_threshold: int | None = _number(1, json=f"{_PROBE}.failureThreshold")
    namespace: str | None = _text(
        "(?=.{1,63}$)[a-z0-9]([-a-z0-9]*[a-z0-9])?",
        "up to 63 of a-z, 0-9 and hyphens, none at the ends",
    )
    token_auth_enabled: bool | None = _switch()
    compute_target_name: str | None = _text("[A-Za-z0-9][-_A-Za-z0-9]{0,62}", "a cluster's name")
    cpu_cores_limit: float | None = _number(
        0.01, whole=False, json="containerResourceRequirements.cpuLimit"
    )
    memory_gb_limit: float | None = _number(
        0.1, whole=False, json="containerResourceRequirements.memoryInGBLimit"
    )
    blobfuse_enabled: bool | None = _switch()

    @property
    def autoscales(self) -> bool:
        """Unless a number of replicas is given, or it is said."""
        said = self.autoscale_enabled
        return self.num_replicas is None if said is None else said

    def _check(self) -> None:
        self._check_scaling()
        self._check_limits()
        if self.auth_enabled and self.token_auth_enabled:
            raise PackagingError(
                "auth_enabled and token_auth_enabled are one or the other: with tokens, "
                "auth_enabled=False. Both: set SCORING_KEYS and SCORING_ENTRA_TENANT by hand."
            )
        if self.blobfuse_enabled:
            raise PackagingError(
                "blobfuse_enabled=True mounted the models from storage; here they are in the image:"
                " leave it out."
            )

    def _check_scaling(self) -> None:
        scaled = [name for name in self.given if name.startswith("autoscale_")]
        if self.num_replicas and self.autoscale_enabled:
            raise PackagingError(
                "num_replicas is fixed, and autoscale_enabled=True changes it: leave one out."
            )
        if not self.autoscales and (more := set(scaled) - {"autoscale_enabled"}):
            raise PackagingError(
                f"{min(more)} is for autoscale_enabled=True, without num_replicas: leave it out."
            )
        least, most = self.of("autoscale_min_replicas"), self.of("autoscale_max_replicas")
        if least > most:
            raise PackagingError(
                f"autoscale_min_replicas is {least}, above autoscale_max_replicas, {most}."
            )

    def _check_limits(self) -> None:
        for name in ("cpu_cores", "memory_gb"):
            limit = self.of(f"{name}_limit")
            if limit is not None and limit < self.of(name):
                raise PackagingError(f"{name}_limit is {limit}, below {name}, {self.of(name)}.")
        if self.of("success_threshold") != 1:
            raise PackagingError(
                "success_threshold must be 1, for Kubernetes takes no other of a liveness probe: "
                "leave it out; readiness has a probe of its own."
            )


KINDS: Mapping[str, type[Configuration]] = {"aci": Aci, "aks": Aks}


def read(path: Path) -> Configuration:
    """What a deploymentconfig.json says, as ``az ml model deploy --dc`` took it.

    Raises:
        PackagingError: it cannot be read, has a key that there is not, or a wrong value.
    """
    try:
        said = json.loads(read_text(path))
    except ValueError as error:
        raise PackagingError(f"{path} is not JSON: {error}.") from error
    kind = said.get("computeType") if isinstance(said, dict) else None
    name = kind.lower() if isinstance(kind, str) else ""
    if name not in KINDS:
        local = f" A local service has no files: {_HINT}." if name == "local" else ""
        raise PackagingError(
            f"{path}: computeType is {kind!r}. Allowed: {', '.join(KINDS)}.{local}"
        )
    del said["computeType"]
    try:
        return KINDS[name](**_arguments(said, KINDS[name]))
    except PackagingError as error:
        raise PackagingError(f"{path}: {error}") from error


def _arguments(said: Mapping[str, Any], kind: type[Configuration]) -> dict[str, Any]:
    names = {each.metadata["json"] or _camel(each.name): each.name for each in fields(kind)}
    known = {**names, **{name: name for name in names.values()}}
    known |= {_camel(name): name for name in names.values()}
    sections = {name.partition(".")[0] for name in names if "." in name}
    found: dict[str, Any] = {}
    for key, value in said.items():
        if key in sections and value is None:
            continue  # as for any other argument: it says nothing
        inside = key in sections and isinstance(value, dict)
        flat = {f"{key}.{each}": v for each, v in value.items()} if inside else {key: value}
        for name, each in flat.items():
            if name not in known:
                near = "".join(f" Did you mean {n}?" for n in get_close_matches(name, known, 1))
                raise PackagingError(f"there is no {name!r} for {kind.compute_type}.{near}")
            if each != "":  # which a form that is filled in has for what is not said
                found[known[name]] = each
    return found


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(each.capitalize() for each in rest)
