"""Write sample.png: a small picture that looks the same every time."""

import argparse
from pathlib import Path

from PIL import Image, ImageDraw


def draw() -> Image.Image:
    """A yellow disc on a background that goes from black to blue."""
    picture = Image.new("RGB", (64, 48))
    pen = ImageDraw.Draw(picture)
    for y in range(48):
        pen.line((0, y, 63, y), fill=(0, 0, 5 * y))
    pen.ellipse((20, 12, 43, 35), fill=(255, 220, 0))
    return picture


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "sample.png")
    args = parser.parse_args()
    draw().save(args.output, optimize=True)
    print(f"wrote {args.output} ({args.output.stat().st_size} bytes)")


if __name__ == "__main__":
    main()
