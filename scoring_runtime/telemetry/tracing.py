"""Whether there are traces, and where they go; OpenTelemetry itself is in ``spans`` alone."""

from __future__ import annotations

from contextlib import suppress
from importlib.util import find_spec
from typing import TYPE_CHECKING

from ..errors import ConfigurationError
from ..settings.settings import Settings
from .logs import log

if TYPE_CHECKING:
    from .spans import Spans

_OTLP = "opentelemetry.exporter.otlp.proto.http"
_APP_INSIGHTS = "azure.monitor.opentelemetry.exporter"
_SAMPLERS = ("", "always_on", "always_off", "traceidratio")


def check(settings: Settings, *, on_functions: bool = False) -> None:
    """Say what is missing for the traces that are asked for.

    OTLP is often asked for by the platform, for all that it runs: there the log says it. On Azure
    Functions the host itself feeds Application Insights.

    Raises:
        ConfigurationError: for Application Insights a package is missing; or a share is none.
    """
    if settings.traces_by_otlp and not _is_there(_OTLP):
        log.warning(
            "Traces are asked for (OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_TRACES_EXPORTER), but not "
            "made: pip install 'scoring-runtime[otel]'"
        )
    connection = "" if on_functions else settings.app_insights_connection
    if connection and not _is_there(_APP_INSIGHTS):
        key, text = "AML_APP_INSIGHTS_ENABLED", "APPLICATIONINSIGHTS_CONNECTION_STRING"
        raise ConfigurationError(
            f"{text if settings.app_insights_string else key} asks for Application Insights, which "
            "need a package that is not installed: pip install 'scoring-runtime[appinsights]', or "
            "unset it."
        )
    if connection or settings.traces_by_otlp:
        sampling(settings)
        name = settings.traces_sampler.lower().removeprefix("parentbased_")
        if name not in _SAMPLERS:
            log.warning(
                "OTEL_TRACES_SAMPLER has the value %r, which is not known: traces are sampled as "
                "by parentbased_always_on. Known: %s, each also with parentbased_ before it",
                settings.traces_sampler,
                ", ".join(_SAMPLERS[1:]),
            )


def sampling(settings: Settings) -> tuple[float, bool]:
    """The share of traces that begin here and are sampled, and whether others keep what was decided
    where they began; a sampler that is not known is the default.

    Source: https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/

    Raises:
        ConfigurationError: OTEL_TRACES_SAMPLER_ARG is not 0 to 1.
    """
    name = settings.traces_sampler.lower()
    root = name.removeprefix("parentbased_")
    if root != "traceidratio":
        return float(root != "always_off"), name not in ("always_on", "always_off")
    text = settings.traces_sampler_arg or "1"
    with suppress(ValueError):
        if 0 <= float(text) <= 1:
            return float(text), root != name
    raise ConfigurationError(
        f"OTEL_TRACES_SAMPLER_ARG has the value {text!r}, which is not allowed. Allowed: 0 to 1. "
        "(environment variable: OTEL_TRACES_SAMPLER_ARG)"
    )


def spans_of(settings: Settings, *, on_functions: bool = False) -> Spans | None:
    """What makes the spans of this process; None when nobody asked for them.

    It starts threads: to be called after the last fork.
    """
    otlp = settings.traces_by_otlp and _is_there(_OTLP)
    connection = "" if on_functions else settings.app_insights_connection
    if not (otlp or connection):
        return None
    from .spans import Spans

    how = sampling(settings)
    try:
        return Spans(settings, *how, otlp=otlp, app_insights=connection)
    except ValueError as error:  # Microsoft's exporter takes UUIDs of some versions only
        if not connection:
            raise
        log.warning("Nothing is sent to Application Insights: %s", error)
    return Spans(settings, *how, otlp=True, app_insights="") if otlp else None


def _is_there(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False
