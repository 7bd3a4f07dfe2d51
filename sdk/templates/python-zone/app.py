"""Zones as master files (RFC 1035 section 5) in one directory, each named as its zone, for a name server that reads them.

What was published is noted in the key-value store before anything is written, so that no file is left that nobody knows of. A file is
written beside its place and put there as a whole: a name server that looks meanwhile reads the old one.
"""

import re
from typing import Optional

from componentize_py_types import Err
from wit_world import exports
from wit_world.imports import fs, kv, records
from wit_world.imports.hutch_host_types import Error, TreePath
from wit_world.imports.hutch_zone_types import ZoneRef

# The place in the manifest, the key of a zone's version in the store, and what a zone's configuration may have.
ROOT = "zones"
KEY = "version/"
KEYS = {"dns.nameservers", "dns.contact"}

# Record sets of one page; bytes of a file that are kept before they are written, of which the host takes 1 MiB in one call.
PAGE = 500
PART = 512 << 10
# Seconds of SOA and NS; refresh, retry, expire and the time that a negative answer is kept.
SOA_TTL = 3600
NS_TTL = 300
TIMERS = "120 60 86400 30"


def refuse(code: str, message: str) -> Err:
    """An error as the host wants it: a code, and one sentence in lower case that names the object."""
    return Err(Error(code=code, message=message, retryable=False, details=[]))


def file(name: str) -> TreePath:
    return TreePath(root=ROOT, path=name)


def aside(name: str) -> TreePath:
    """Where a file is written first. No zone's name begins with a dot."""
    return TreePath(root=ROOT, path="." + name)


def domain(key: str, name: str) -> str:
    """A domain name (RFC 1035 section 2.3.4) without its final dot. A dot in a label may be escaped, as mailboxes have it."""
    bare = name[:-1] if name.endswith(".") else name
    labels = bare.replace("\\.", "").split(".")
    if len(bare) > 253 or not all(re.fullmatch(r"[A-Za-z0-9_-]{1,63}", label) for label in labels):
        raise refuse("invalid", f"invalid value for {key!r}: {name!r} is no domain name")
    return bare.lower()


def apex(zone: ZoneRef) -> tuple[list, str]:
    """The name servers, and the mailbox of whoever is responsible as a domain name."""
    config = dict(zone.config)
    # A server in the zone itself would need an address there, or BIND does not load the zone.
    listed = (config.get("dns.nameservers") or "localhost").split(",")
    servers = [domain("dns.nameservers", server.strip()) for server in listed]
    contact = config.get("dns.contact") or f"hostmaster.{zone.name}"
    if not config.get("dns.contact") and len(contact) > 253:
        # No mailbox can be in a zone with so long a name.
        contact = "hostmaster.localhost"
    user, at, host = contact.partition("@")
    if at:
        domain("dns.contact", host)
        contact = user.replace(".", "\\.") + "." + host
    return servers, domain("dns.contact", contact)


def lines(zone: ZoneRef, version: int):
    """The zone's master file, line by line."""
    servers, contact = apex(zone)
    yield f"; version {version}\n$ORIGIN {zone.name}.\n"
    yield f"@ {SOA_TTL} IN SOA {servers[0]}. {contact}. {version & 0xFFFFFFFF} {TIMERS}\n"
    for server in servers:
        yield f"@ {NS_TTL} IN NS {server}.\n"
    after = None
    while page := records.page(version, after, PAGE):
        for found in page:
            for value in found.values:
                yield f"{found.name} {found.ttl} IN {found.kind} {value}\n"
        after = records.Position(name=page[-1].name, kind=page[-1].kind)


def write(zone: ZoneRef, version: int) -> None:
    written, text = 0, ""
    for line in lines(zone, version):
        text += line
        if len(text) > PART:
            # The host lets nothing but ASCII into a zone, so that a character is a byte.
            fs.write_part(aside(zone.name), written, text.encode(), 0o644)
            written, text = written + len(text), ""
    fs.write_part(aside(zone.name), written, text.encode(), 0o644)
    fs.replace_file(aside(zone.name), file(zone.name))


def remove(name: str) -> None:
    fs.discard(file(name))
    fs.discard(aside(name))
    kv.delete(KEY + name)


class Zone(exports.Zone):
    def validate(self, zone: ZoneRef, current: Optional[list]) -> list:
        for key, _ in zone.config:
            if key not in KEYS and not key.startswith("user."):
                raise refuse("invalid", f"invalid option for zone {zone.name}: {key!r}")
        apex(zone)
        return zone.config

    def publish(self, zone: ZoneRef, version: int) -> None:
        # An error of the host's goes on to the caller as it is.
        known = kv.get(KEY + zone.name)
        if known is not None and version < int(known.decode()):
            return
        kv.set(KEY + zone.name, str(version).encode())
        write(zone, version)

    def delete(self, zone: ZoneRef) -> None:
        remove(zone.name)

    def reconcile(self, valid: list) -> list:
        names = {zone.name for zone in valid}
        removed, after = [], None
        while keys := kv.keys(KEY, after, 100):
            for name in (key[len(KEY) :] for key in keys):
                if name not in names:
                    remove(name)
                    removed.append(f"the zone {name}")
            after = keys[-1]
        return removed
