"""Describe a picture: the bytes of a PNG in the POST body, JSON out."""

import io

from azureml.contrib.services.aml_request import AMLRequest, rawhttp
from azureml.contrib.services.aml_response import AMLResponse
from PIL import Image, ImageStat


def init() -> None:
    """No model to load, but every entry script needs an init()."""


def describe(picture: Image.Image) -> dict[str, object]:
    grey = ImageStat.Stat(picture.convert("L"))
    darkest, brightest = grey.extrema[0]
    return {
        "width": picture.width,
        "height": picture.height,
        "mode": picture.mode,
        "mean_brightness": round(grey.mean[0], 2),
        "darkest": darkest,
        "brightest": brightest,
    }


@rawhttp
def run(request: AMLRequest) -> AMLResponse:
    if request.method == "GET":
        return AMLResponse("POST the bytes of a PNG and I will describe it.\n", 200)
    if request.method != "POST":
        return AMLResponse("bad request", 405, {"Allow": "GET, POST"})
    try:
        picture = Image.open(io.BytesIO(request.get_data()), formats=["PNG"])
        return AMLResponse(describe(picture), 200, json_str=True)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        # What Pillow raises for bytes that are no PNG, a damaged one, or a far too big one.
        print(f"unreadable picture: {error}")
        return AMLResponse({"message": "The body is not a readable PNG."}, 400, json_str=True)
