"""Undecorated, with the headers of the request."""


def init():
    pass


def run(data, request_headers):
    return {"data": data, "headers": request_headers, "type": type(request_headers).__name__}
