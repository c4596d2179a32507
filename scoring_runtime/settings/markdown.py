"""Every setting as a table: for the README, and with its value and source for an operator."""

from __future__ import annotations

from .settings import Settings, setting_fields

BEGIN = "<!-- settings: made by `scoring-runtime settings --markdown` -->"
END = "<!-- /settings -->"


def markdown() -> str:
    """The README table: name, default, what is allowed, what it does."""
    lines = ["| Setting | Default | Allowed | What it does |", "| --- | --- | --- | --- |"]
    for each in setting_fields():
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


def _shown(value: object, secret: bool) -> str:
    if secret:
        return "***" if value else ""
    if isinstance(value, tuple):
        numbers = [each for each in value if isinstance(each, float)]
        return "-".join(f"{each:g}" for each in numbers) if numbers else ",".join(value)
    return str(value)


def _shown_default(value: object) -> str:
    text = _shown(value, False)
    return f"`{text.lower() if isinstance(value, bool) else text}`" if text else ""
