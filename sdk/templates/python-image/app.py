"""Images from servers that have a file index.json:

    {"images": [{"name": "tiny", "architecture": "x86_64", "file": "tiny.tar.gz", "sha256": "…", "size": 123,
                 "description": "…"}]}

A file is a whole image: metadata.yaml and rootfs/ in one archive. The host fetches it; what is here reads the index only.
"""

import json
import re

from componentize_py_types import Err
from wit_world import exports
from wit_world.imports import http
from wit_world.imports.hutch_host_types import Error
from wit_world.imports.hutch_image_types import Image, ImageFile, Request

# The largest index that is read, in bytes.
MAX_INDEX = 4 << 20
# The deepest nesting of an index. What is parsed recursively would use up the stack, which WebAssembly has little of.
MAX_DEPTH = 16
TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[{]|[\]}]')


def refuse(code: str, message: str) -> Err:
    """An error as the host wants it: a code, and one sentence in lower case that names the object."""
    return Err(Error(code=code, message=message, retryable=False, details=[]))


def check(request: Request) -> None:
    if request.options:
        raise refuse("invalid", f"there is no option {request.options[0][0]!r} for images of an index")
    if not request.server:
        raise refuse("invalid", "a server is needed: its address stands before the image's name")


def too_deep(document: bytes) -> bool:
    depth = 0
    for token in TOKEN.finditer(document):
        if token.group() in (b"[", b"{"):
            depth += 1
        elif token.group() in (b"]", b"}"):
            depth -= 1
        if depth > MAX_DEPTH:
            return True
    return False


def index(server: str) -> list:
    """The entries of the server's index. What is not one is the server's fault, and is told as that."""
    address = f"{server}/index.json"
    # An error of the host's goes on to the caller as it is.
    response = http.get(address, [], MAX_INDEX)
    if response.status == 404:
        raise refuse("not-found", f"{server} has no index.json")
    if response.status != 200:
        raise refuse("unavailable", f"{address} is answered with the status {response.status}")
    if too_deep(response.body):
        raise refuse("io", f"{address} is not an index of images")
    try:
        entries = json.loads(response.body)["images"]
        return [entry for entry in entries if isinstance(entry, dict)]
    except (ValueError, KeyError, TypeError):
        raise refuse("io", f"{address} is not an index of images")


def text(entry: dict, key: str) -> str:
    value = entry.get(key, "")
    return value if isinstance(value, str) else ""


def image(server: str, entry: dict) -> Image:
    size = entry.get("size")
    properties = [(key, text(entry, key)) for key in ("description", "os", "release") if text(entry, key)]
    return Image(
        # With one file, its checksum is the image's fingerprint.
        fingerprint=text(entry, "sha256"),
        aliases=[text(entry, "name")],
        architecture=text(entry, "architecture"),
        kind="container",
        properties=properties,
        created=0,
        expires=0,
        files=[
            ImageFile(
                role="unified",
                url=f"{server}/{text(entry, 'file')}",
                sha256=text(entry, "sha256"),
                size=size if isinstance(size, int) and size >= 0 else None,
            )
        ],
        build_key=None,
    )


def images(request: Request) -> list:
    """The images of the architecture and kind that were asked for; entries that lack something are left out."""
    check(request)
    if request.kind != "container":
        return []
    found = [
        entry
        for entry in index(request.server)
        if text(entry, "architecture") == request.architecture
        and text(entry, "name")
        and text(entry, "file")
        and len(text(entry, "sha256")) == 64
    ]
    return [image(request.server, entry) for entry in found]


class Source(exports.Source):
    def resolve(self, request: Request) -> Image:
        for found in images(request):
            if request.name in (found.aliases[0], found.fingerprint):
                return found
        raise refuse("not-found", f"{request.server} has no image {request.name!r} for {request.architecture}")

    def list(self, request: Request) -> list:
        return [
            found
            for found in images(request)
            if found.aliases[0].startswith(request.name) or found.fingerprint.startswith(request.name)
        ]
