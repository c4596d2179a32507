"""Every setting: as tables for the documentation, with value and source for an operator."""

from __future__ import annotations

from .secrets import masked
from .settings import Settings, setting_fields

# The setting that begins each group, in the order of the settings.
_GROUPS = {
    "AZUREML_ENTRY_SCRIPT": "Script and model",
    "SCORING_HOST": "The standalone server",
    "SCORING_RELOAD": "Changes of the model",
    "SCORING_KEYS": "Keys and TLS",
    "SCORING_TIMEOUT_MS": "Requests and limits",
    "SCORING_DEFAULT_MODEL": "Models without a script",
    "SCORING_NAN": "Results",
    "SCORING_INIT_GRACE_SECONDS": "Azure Functions",
    "SCORING_TRIGGERS": "Files and blobs",
    "SERVICEBUS_CONNECTION": "Messages",
    "CACHE_URL": "Cache",
    "SCORING_LATER_SECONDS": "Answers later",
    "SERVICE_NAME": "What clients see",
    "AZUREML_LOG_LEVEL": "Logs",
    "OTEL_EXPORTER_OTLP_ENDPOINT": "Traces",
}
_HEAD = ("| Setting | Default | Allowed | What it does |", "| --- | --- | --- | --- |")


def markdown() -> str:
    """A table for each group: name, default, what is allowed, what it does."""
    lines: list[str] = []
    for each in setting_fields():
        if group := _GROUPS.get(each.metadata["name"]):
            lines += [*([""] if lines else []), f"## {group}", "", *_HEAD]
        about = each.metadata
        names = " or ".join(f"`{name}`" for name in (about["name"], *about["also"]))
        cells = (names, _shown_default(each.default), about["allowed"], about["doc"])
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def rows(settings: Settings) -> list[dict[str, str]]:
    """Name, value and source of every setting; the values of secrets are not shown."""
    return [
        {
            "name": each.metadata["name"],
            "value": _shown(getattr(settings, each.name), each.metadata["secret"]),
            "source": settings.sources.get(each.name, "default"),
        }
        for each in setting_fields()
    ]


def described(settings: Settings) -> list[dict[str, str]]:
    """The same with what each setting does, what is allowed, and its group."""
    found, group = [], ""
    for each, row in zip(setting_fields(), rows(settings), strict=True):
        about = each.metadata
        group = _GROUPS.get(about["name"], group)
        said = {"value": masked(row["value"]), "does": about["doc"], "allowed": about["allowed"]}
        found.append({**row, **said, "group": group})
    return found


def _shown(value: object, secret: bool) -> str:
    if secret:
        return "***" if value else ""
    if isinstance(value, tuple):
        numbers = [each for each in value if isinstance(each, float)]
        return "-".join(f"{each:g}" for each in numbers) if numbers else ",".join(value)
    return "" if value is None else str(value)


def _shown_default(value: object) -> str:
    text = _shown(value, False)
    return f"`{text.lower() if isinstance(value, bool) else text}`" if text else ""
