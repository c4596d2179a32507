"""What was found out, as plain data: facts, findings with their class, notes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

CLASSES: Mapping[str, int] = {
    "load": 3,
    "package": 7,
    "setting": 8,
    "run": 4,
    "sample": 2,
    "answers": 5,
    "limit": 6,
}
"""The classes of findings, the gravest first, and the exit code of each."""

EXIT_UNCHECKED = 9


@dataclass(frozen=True)
class Finding:
    """Something that goes wrong, or will.

    ``kind`` is one of :data:`CLASSES`; ``where`` is what is at fault: a line (``score.py:12``), a
    setting, a package, a sample. ``detail`` may be a screen long.
    """

    kind: str
    where: str
    text: str
    detail: str = ""


@dataclass
class Report:
    """Facts by name, findings, and notes that are no fault.

    ``unchecked`` says why it could not be tried here, as for want of a package that the image has.
    """

    target: str
    facts: dict[str, Any] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    unchecked: str = ""

    @property
    def exit_code(self) -> int:
        """That of the gravest class found; without findings 0, or 9 if it was not tried."""
        found = {each.kind for each in self.findings}
        otherwise = EXIT_UNCHECKED if self.unchecked else 0
        return next((code for kind, code in CLASSES.items() if kind in found), otherwise)

    def add(self, kind: str, where: str, text: str, detail: str = "") -> None:
        """One more finding."""
        assert kind in CLASSES
        self.findings.append(Finding(kind, where, text, detail))

    def text(self) -> str:
        """As JSON."""
        return json.dumps({**asdict(self), "exit_code": self.exit_code}, indent=2)


def read(text: str) -> Report:
    """The report that :meth:`Report.text` wrote.

    Raises:
        ValueError: it is none.
    """
    try:
        said = json.loads(text)
        findings = [Finding(**each) for each in said["findings"]]
        facts, notes = dict(said["facts"]), list(said["notes"])
        return Report(said["target"], facts, findings, notes, said["unchecked"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"it has not the form of a report: {error}") from None
