"""The format of INDEX: stanzas of `Field: value` lines, parted by empty lines. Lines that begin with # say nothing.

    Index: 1

    Name: tiny
    Aliases: smallest, tiny/1
    Architecture: x86_64
    Description: nothing but this
    Created: 2026-11-01
    Expires: 2027-11-01
    File: tiny-x86_64.tar 2560 6f77abed…

The first stanza is the version of the format. Of the others, Name, Architecture and File must be there; File is a path from where INDEX is,
a size in bytes and a SHA-256. Whoever writes an index may be anybody: what is not so is an error with the number of its line.

Nothing here is of Hutch's, so that it is tried by Python alone: python3 -m unittest.
"""

import datetime
import re
from dataclasses import dataclass, field

# Bounds of an index: its bytes (which the host keeps), the images in it, and the bytes of a line.
MAX_BYTES = 4 << 20
MAX_IMAGES = 10_000
MAX_LINE = 4096
MAX_ALIASES = 64

FIELDS = ("Name", "Aliases", "Architecture", "Description", "Created", "Expires", "File")
NEEDED = ("Name", "Architecture", "File")
# What may be an image's name. With a slash it has parts.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}(/[A-Za-z0-9._-]{1,64}){0,4}")
# A path below INDEX: no scheme, no way up, nothing that an address would read as more than a path.
PATH = re.compile(r"[A-Za-z0-9_+~-][A-Za-z0-9._+~-]{0,127}(/[A-Za-z0-9_+~-][A-Za-z0-9._+~-]{0,127}){0,15}")
SUM = re.compile(r"[0-9a-f]{64}")


class Wrong(Exception):
    """What is wrong with an index, and in which of its lines."""

    def __init__(self, line: int, why: str):
        super().__init__(f"line {line} {why}")


@dataclass
class Entry:
    """An image."""

    name: str
    architecture: str
    path: str
    size: int
    sha256: str
    aliases: list[str] = field(default_factory=list)
    description: str = ""
    # Seconds since 1970; 0 where unknown.
    created: int = 0
    expires: int = 0


def short(value: str) -> str:
    """A value as an error shows it: in quotes, and not longer than a person wants to read."""
    return ascii(value[:60])


def match(pattern: re.Pattern, what: str, value: str, line: int) -> str:
    if not pattern.fullmatch(value):
        raise Wrong(line, f"has {short(value)}, which can't be {what}")
    return value


def date(value: str, line: int) -> int:
    """Midnight of a day, in UTC."""
    try:
        day = datetime.date.fromisoformat(value)
    except ValueError:
        raise Wrong(line, f"has {short(value)}, which is no date: 2026-11-30") from None
    seconds = (day - datetime.date(1970, 1, 1)).days * 86_400
    if seconds < 0:
        raise Wrong(line, f"has {short(value)}, which is before 1970")
    return seconds


def file(value: str, line: int) -> tuple[str, int, str]:
    parts = value.split()
    if len(parts) != 3:
        raise Wrong(line, "needs a path, a size and a SHA-256 in File")
    match(PATH, "the path of a file below the index", parts[0], line)
    # Of no more digits than any disk has bytes: Python would read millions of them.
    if not re.fullmatch(r"[1-9][0-9]{0,14}", parts[1]):
        raise Wrong(line, f"has {short(parts[1])}, which can't be the size of a file")
    match(SUM, "a SHA-256", parts[2], line)
    return parts[0], int(parts[1]), parts[2]


def entry(stanza: dict[str, tuple[str, int]], line: int) -> Entry:
    """The image of a stanza that begins in `line`."""
    for name in NEEDED:
        if name not in stanza:
            raise Wrong(line, f"begins an image without {name}")
    path, size, sha256 = file(*stanza["File"])
    made = Entry(
        name=match(NAME, "the name of an image", *stanza["Name"]),
        architecture=match(re.compile(r"[a-z0-9_]{1,32}"), "an architecture", *stanza["Architecture"]),
        path=path,
        size=size,
        sha256=sha256,
    )
    if "Aliases" in stanza:
        value, at = stanza["Aliases"]
        names = [name.strip() for name in value.split(",")]
        if len(names) > MAX_ALIASES:
            raise Wrong(at, f"has {len(names)} aliases, and {MAX_ALIASES} are allowed")
        made.aliases = [match(NAME, "the name of an image", name, at) for name in names]
    if "Description" in stanza:
        value, at = stanza["Description"]
        if not value.isprintable():
            raise Wrong(at, "has characters in Description that can't be printed")
        made.description = value
    if "Created" in stanza:
        made.created = date(*stanza["Created"])
    if "Expires" in stanza:
        made.expires = date(*stanza["Expires"])
    return made


def stanzas(text: str):
    """The stanzas, each with the number of the line in which it begins: its fields' values and their lines."""
    stanza, begins = {}, 0
    # Not splitlines(), for which more than a line feed ends a line.
    for number, line in enumerate(text.split("\n"), 1):
        line = line.removesuffix("\r")
        if len(line) > MAX_LINE:
            raise Wrong(number, f"has more than {MAX_LINE} characters")
        if line.startswith("#"):
            continue
        if not line.strip():
            if stanza:
                yield stanza, begins
            stanza = {}
            continue
        name, colon, value = line.partition(":")
        if not colon:
            raise Wrong(number, f"is {short(line)} and not `Field: value`")
        if name in stanza:
            raise Wrong(number, f"has {short(name)} for the second time in its image")
        begins = begins if stanza else number
        stanza[name] = (value.strip(), number)
    if stanza:
        yield stanza, begins


def parse(data: bytes) -> list[Entry]:
    """The images of an index.

    Raises Wrong for what is none.
    """
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Wrong(data.count(b"\n", 0, error.start) + 1, "is no text in UTF-8") from None
    parts = stanzas(text)
    first, line = next(parts, ({}, 1))
    if list(first) != ["Index"]:
        raise Wrong(line, "does not begin an index with `Index: 1`")
    if first["Index"][0] != "1":
        raise Wrong(line, f"says the version {short(first['Index'][0])} of the format, and 1 is known")
    entries, seen = [], set()
    for stanza, line in parts:
        unknown = next((name for name in stanza if name not in FIELDS), None)
        if unknown is not None:
            raise Wrong(stanza[unknown][1], f"has the field {short(unknown)}, which nobody knows")
        if len(entries) == MAX_IMAGES:
            raise Wrong(line, f"begins one image more than the {MAX_IMAGES} that are allowed")
        made = entry(stanza, line)
        for name in (made.name, *made.aliases):
            if (name, made.architecture) in seen:
                raise Wrong(line, f"begins the second image {short(name)} for {made.architecture}")
            seen.add((name, made.architecture))
        entries.append(made)
    return entries
