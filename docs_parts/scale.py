"""The tables of the page on scale, from benchmarks/results."""

from __future__ import annotations

from typing import Any

import benchmarks.endurance
import benchmarks.instances
from benchmarks import scale
from tests.chaos import mixed

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


def instances() -> str:
    """Undisturbed and disturbed."""
    found = results("instances")
    return (
        f"Undisturbed, {_waiting(found['undisturbed'][0])}:\n\n"
        f"{benchmarks.instances.undisturbed(found['undisturbed'])}\n\n"
        f"With faults at random moments, run() takes "
        f"{found['disturbed'][0]['seconds'] * 1000:.0f} ms:\n\n"
        f"{benchmarks.instances.disturbed(found['disturbed'])}\n\n{_when('instances')}"
    )


def _waiting(each: dict[str, Any]) -> str:
    return (
        f"{each['messages']:,} messages and {each['blobs']:,} blobs, run() takes "
        f"{each['seconds'] * 1000:.0f} ms"
    )


def endurance() -> str:
    """Memory on the way."""
    found = results("endurance")
    return (
        f"{benchmarks.endurance.tables(found)}\n\n{found['growth']:.1%} more at the end, "
        f"{found['failed']:.0f} failed. {_when('endurance')}"
    )


def chaos() -> str:
    """How long each fault took to be over, and what there was meanwhile."""
    found = results("chaos")
    early, late = found["memory_mb"]
    return (
        f"{mixed.tables(found)}\n\nIn {found['seconds']:.0f} s {found['requests']:,} requests, "
        f"{found['messages']:,} messages, {found['blobs']:,} blobs and {found['files']:,} files: "
        f"{found['wrong']} answers were wrong, {found['failed_meanwhile']} requests failed during "
        f"a fault, {found['failed_else']} at other times; the memory of the host that was never "
        f"killed: {early:.0f} MB, at the end {late:.0f} MB. {_when('chaos')}"
    )


def _when(name: str) -> str:
    said = document(name)
    loads = said["figures"]["load"]
    load = loads[0] if isinstance(loads, list) else loads
    when = f"Measured on {said['date']}: {said['machine']}"
    return f"{when}; others computed on it too (load {load:.0f})." if load >= 2 else f"{when}."
