"""Halve a picture: the bytes of a PNG in the POST body, the bytes of a smaller PNG out."""

import io

from azureml.contrib.services.aml_request import AMLRequest, rawhttp
from azureml.contrib.services.aml_response import AMLResponse
from PIL import Image


def init() -> None:
    """No model to load, but every entry script needs an init()."""


def halve(body: bytes) -> bytes:
    picture = Image.open(io.BytesIO(body), formats=["PNG"]).convert("RGBA").reduce(2)
    png = io.BytesIO()
    picture.save(png, format="PNG")
    return png.getvalue()


@rawhttp
def run(request: AMLRequest) -> AMLResponse:
    if request.method == "GET":
        return AMLResponse("POST the bytes of a PNG and I will send it back at half size.\n", 200)
    if request.method != "POST":
        return AMLResponse("bad request", 405, {"Allow": "GET, POST"})
    try:
        png_bytes = halve(request.get_data())
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        # What Pillow raises for bytes that are no PNG, a damaged one, or a far too big one.
        print(f"unreadable picture: {error}")
        return AMLResponse({"message": "The body is not a readable PNG."}, 400, json_str=True)
    return AMLResponse(png_bytes, 200, {"Content-Type": "image/png"})
