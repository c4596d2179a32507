"""The table of the page on scale, from benchmarks/results."""

from __future__ import annotations

from benchmarks import scale

from .speed import document, results


def markdown() -> str:
    """A table for each trigger, and how many of what ends first there must be."""
    found = results("scale")
    lines = [scale.tables(found), ""]
    for name, trigger in scale.triggers().items():
        places = found[name]["steady"][str(scale.RATES[-1])]["places"]
        if places > 1:
            lines.append(
                f"- {name} at {scale.RATES[-1]:,}/s are more than {trigger.limit} takes "
                f"({trigger.at:,.0f}/s): {places} of them."
            )
    when = document("scale")["date"]
    return "\n".join([*lines, "", f"Simulated on {when}, from figures of {_machine()}."])


def _machine() -> str:
    return str(document("http")["machine"]).partition(";")[0]
