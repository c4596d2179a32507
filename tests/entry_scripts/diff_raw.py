# mypy: ignore-errors
"""`@rawhttp`: tells what it sees of the request, read in the way that `?read=` names."""

import base64

from azureml.contrib.services.aml_request import AMLRequest, rawhttp
from azureml.contrib.services.aml_response import AMLResponse


def init():
    assert isinstance(AMLRequest, type)


def read_files(request):
    return {
        name: [file.filename, file.content_type, base64.b64encode(file.read()).decode()]
        for name, file in request.files.items()
    }


READERS = {
    "get_data": lambda request: base64.b64encode(request.get_data()).decode(),
    "data": lambda request: base64.b64encode(request.data).decode(),
    "text": lambda request: request.get_data(as_text=True),
    "stream": lambda request: base64.b64encode(request.stream.read()).decode(),
    "form": lambda request: request.form.to_dict(flat=False),
    "files": read_files,
    "json": lambda request: request.json,
    "get_json": lambda request: request.get_json(force=True, silent=True),
    "values": lambda request: request.values.to_dict(flat=False),
    "is_json": lambda request: request.is_json,
    "nothing": lambda request: None,
}


@rawhttp
def run(request):
    if request.args.get("answer"):
        return AMLResponse("made it", int(request.args["answer"]), {"X-Method": request.method})
    seen = {
        "method": request.method,
        "path": request.path,
        "full_path": request.full_path,
        "url": request.url,
        "base_url": request.base_url,
        "host": request.host,
        "scheme": request.scheme,
        "remote_addr": request.remote_addr,
        "query_string": request.query_string.decode("latin-1"),
        "args": request.args.to_dict(flat=False),
        "headers": list(request.headers),
        "content_type": request.content_type,
        "content_length": request.content_length,
        "content_encoding": request.content_encoding,
        "mimetype": request.mimetype,
        "cookies": dict(request.cookies),
        "accept": request.accept_mimetypes.best,
        "authorization": str(request.authorization),
    }
    seen["read"] = READERS[request.args.get("read", "get_data")](request)
    return seen
