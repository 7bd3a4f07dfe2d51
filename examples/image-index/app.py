"""Images from servers that have a plain list of them, INDEX. A file is a whole image: metadata.yaml and rootfs/ in one archive. The host
fetches and checks it; what is here reads the list only. index.py has the format."""

from componentize_py_types import Err
from wit_world import exports
from wit_world.imports import http
from wit_world.imports.hutch_host_types import Error
from wit_world.imports.hutch_image_types import Image, ImageFile, Request

import index


def refuse(code: str, message: str, retryable: bool = False) -> Err:
    """An error as the host wants it: a code, and one sentence in lower case that names the object."""
    return Err(Error(code=code, message=message, retryable=retryable, details=[]))


def check(request: Request) -> None:
    if request.options:
        raise refuse("invalid", f"there is no option {request.options[0][0]!r} for images of an index")
    if not request.server:
        raise refuse("invalid", "a server is needed: its address stands before the image's name")


def entries(server: str) -> list[index.Entry]:
    """The images of the server. What is no index is the server's fault, and is told as that."""
    address = f"{server.rstrip('/')}/INDEX"
    # An error of the host's goes on to the caller as it is.
    response = http.get(address, [], index.MAX_BYTES)
    if response.status == 404:
        raise refuse("not-found", f"{server} has no INDEX")
    if response.status != 200:
        passing = response.status >= 500
        raise refuse("unavailable", f"{address} is answered with the status {response.status}", passing)
    try:
        return index.parse(response.body)
    except index.Wrong as wrong:
        raise refuse("io", f"{address} is not an index of images: {wrong}")


def image(server: str, entry: index.Entry) -> Image:
    return Image(
        # With one file, its checksum is the image's fingerprint.
        fingerprint=entry.sha256,
        aliases=[entry.name, *entry.aliases],
        architecture=entry.architecture,
        kind="container",
        properties=[("description", entry.description or entry.name)],
        created=entry.created,
        expires=entry.expires,
        files=[
            ImageFile(
                role="unified",
                url=f"{server.rstrip('/')}/{entry.path}",
                sha256=entry.sha256,
                size=entry.size,
            )
        ],
        build_key=None,
    )


def images(request: Request) -> list[Image]:
    """The images of the architecture and kind that were asked for."""
    check(request)
    if request.kind != "container":
        return []
    found = (entry for entry in entries(request.server) if entry.architecture == request.architecture)
    return [image(request.server, entry) for entry in found]


class Source(exports.Source):
    def resolve(self, request: Request) -> Image:
        for found in images(request):
            if request.name in found.aliases or request.name == found.fingerprint:
                return found
        raise refuse("not-found", f"{request.server} has no image {request.name!r} for {request.architecture}")

    def list(self, request: Request) -> list[Image]:
        return [
            found
            for found in images(request)
            if any(name.startswith(request.name) for name in (*found.aliases, found.fingerprint))
        ]
