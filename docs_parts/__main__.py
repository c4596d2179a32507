"""Write all that is made: ``python -m docs_parts``."""

from .parts import makers

for path, make in makers().items():
    path.write_text(make(), encoding="utf-8")
