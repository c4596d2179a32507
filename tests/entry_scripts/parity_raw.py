"""The request itself; the bytes go back."""

from azureml.contrib.services.aml_request import AMLRequest, rawhttp
from azureml.contrib.services.aml_response import AMLResponse


def init():
    pass


@rawhttp
def run(request: AMLRequest):
    if "status" in request.args:
        return AMLResponse("chosen", int(request.args["status"]), {"Location": "/elsewhere"})
    if "stream" in request.args:
        return AMLResponse((bytes([n]) * 3 for n in range(5)), 200)
    if "headers" in request.args:
        headers = {"X-Many": "a, b", "Set-Cookie": "k=v; Path=/", "Date": "Sat, 01 Jan 2000"}
        return AMLResponse("h", 200, {**headers, "content-type": "text/csv"})
    if request.method == "GET":
        return {"args": request.args.to_dict(flat=False), "method": request.method}
    if request.method == "OPTIONS":
        return {"method": request.method}
    return AMLResponse(request.get_data(), 200, {"Content-Type": "application/octet-stream"})
