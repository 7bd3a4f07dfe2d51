"""Storage pools of plain directories.

    pool.json              whose pool it is
    volumes/KIND/NAME/     a volume: `origin` says what it was made from, `tree` is its content
    making/KIND/NAME/      a volume that is being made

The host may die at any moment, and the same call comes again. So a volume appears by one step that is done or not: a rename out
of `making`.
"""

import json
from typing import Optional

from componentize_py_types import Err
from wit_world import exports
from wit_world.imports import fs
from wit_world.imports.hutch_host_types import Error, MountPlan, TreePath
from wit_world.imports.hutch_storage_types import PoolRef, PoolSpace, VolumeRef

DRIVER = "@name@"
# The version of this layout. A pool of a newer one is refused.
VERSION = 1
# The kinds of volumes, which are also the names of their directories.
KINDS = ("container", "virtual-machine", "image", "custom")
KEYS = {"source", "volatile.initial_source"}
PAGE = 1000


def refuse(code: str, message: str) -> Err:
    """An error as the host wants it: a code, and one sentence in lower case that names the object."""
    return Err(Error(code=code, message=message, retryable=False, details=[]))


def at(pool: PoolRef, *parts: str) -> TreePath:
    return TreePath(root=pool.root, path="/".join(parts))


def below(place: TreePath, name: str) -> TreePath:
    return TreePath(root=place.root, path=f"{place.path}/{name}" if place.path else name)


class Place:
    """Where a volume lies, and where it is made."""

    def __init__(self, pool: PoolRef, volume: VolumeRef, name: Optional[str] = None):
        name = volume.name if name is None else name
        if name in ("", ".", "..") or "/" in name or not name.isprintable() or len(name.encode()) > 255:
            raise refuse("invalid", f"{name!r} can't be the name of a volume")
        if volume.kind not in KINDS or volume.content != "filesystem":
            raise refuse(
                "unsupported",
                f"a pool of directories has no place for the {volume.content} volume {name!r} of the kind {volume.kind}",
            )
        self.what = f"the {volume.kind} volume {name!r}"
        self.home = at(pool, "volumes", volume.kind, name)
        self.making = at(pool, "making", volume.kind, name)
        self.tree = below(self.home, "tree")
        self.new_tree = below(self.making, "tree")

    def origin(self) -> Optional[str]:
        """What the volume was made from; nothing where there is no volume."""
        data = fs.read_file(below(self.home, "origin"))
        return None if data is None else data.decode()

    def require(self) -> None:
        if self.origin() is None:
            raise refuse("not-found", f"{self.what} is not there")

    def is_made(self, origin: str) -> bool:
        """Whether it was made from `origin` already. From anything else it may not be made again."""
        found = self.origin()
        if found is not None and found != origin:
            raise refuse("already-exists", f"{self.what} is there already, made from {found}")
        return found is not None

    def begin(self) -> None:
        """An empty place to make it in, without what an interrupted call may have left there."""
        fs.discard(self.making)
        fs.make_dir(self.making, 0o700)

    def publish(self, origin: str) -> None:
        fs.write_file(below(self.making, "origin"), origin.encode(), 0o600)
        fs.rename(self.making, self.home)


def names(directory: TreePath) -> list:
    """All entries of a directory; none where there is no directory."""
    found: list = []
    while True:
        try:
            page = fs.list_dir(directory, found[-1] if found else None, PAGE)
        except Err as error:
            if error.value.code == "not-found" and not found:
                return found
            raise
        found.extend(entry.name for entry in page)
        if len(page) < PAGE:
            return found


class Pool(exports.Pool):
    def validate(self, pool: PoolRef, current: Optional[list]) -> list:
        for key, _ in pool.config:
            if key not in KEYS:
                raise refuse("invalid", f"invalid option for pool {pool.name}: {key!r}")
        return pool.config

    def create(self, pool: PoolRef) -> None:
        for kind in KINDS:
            fs.make_dir(at(pool, "volumes", kind), 0o700)
            fs.make_dir(at(pool, "making", kind), 0o700)
        note = {"version": VERSION, "driver": DRIVER}
        fs.write_file(at(pool, "pool.json"), json.dumps(note).encode(), 0o600)

    def open(self, pool: PoolRef) -> None:
        data = fs.read_file(at(pool, "pool.json"))
        if data is None:
            raise refuse("not-found", f"there is no pool in the directory of pool {pool.name}")
        try:
            note = json.loads(data)
            version, driver = note["version"], note["driver"]
        except (ValueError, KeyError, TypeError):
            raise refuse("io", f"the note of pool {pool.name} is damaged")
        if driver != DRIVER:
            raise refuse("invalid", f"pool {pool.name} belongs to the driver {driver!r}")
        if version > VERSION:
            raise refuse("unsupported", f"pool {pool.name} has the format {version}, and this driver knows {VERSION}")

    def delete(self, pool: PoolRef) -> None:
        for name in ("volumes", "making", "pool.json"):
            fs.discard(at(pool, name))

    def space(self, pool: PoolRef) -> PoolSpace:
        space = fs.space(pool.root)
        return PoolSpace(
            total_bytes=space.total_bytes,
            used_bytes=space.used_bytes,
            total_inodes=space.total_inodes,
            used_inodes=space.used_inodes,
        )

    def reconcile(self, pool: PoolRef, valid: list) -> list:
        removed = []
        stays = {("volumes", volume.kind, volume.name) for volume in valid}
        for where in ("making", "volumes"):
            for kind in KINDS:
                for name in names(at(pool, where, kind)):
                    if (where, kind, name) not in stays:
                        fs.discard(at(pool, where, kind, name))
                        removed.append(f"{where}/{kind}/{name}")
        return removed


class Volume(exports.Volume):
    def create(self, pool: PoolRef, volume: VolumeRef) -> None:
        place = Place(pool, volume)
        if not place.is_made("nothing"):
            place.begin()
            fs.make_dir(place.new_tree, 0o755)
            place.publish("nothing")

    def begin_fill(self, pool: PoolRef, volume: VolumeRef, plain: bool) -> TreePath:
        place = Place(pool, volume)
        if place.origin() is not None:
            raise refuse("already-exists", f"{place.what} is there already")
        place.begin()
        fs.make_dir(place.new_tree, 0o755)
        return place.new_tree

    def end_fill(self, pool: PoolRef, volume: VolumeRef, plain: bool) -> None:
        place = Place(pool, volume)
        if place.is_made("outside"):
            return
        if fs.stat(place.new_tree) is None:
            raise refuse("not-found", f"{place.what} is not being filled")
        place.publish("outside")

    def create_from_image(self, pool: PoolRef, image: VolumeRef, volume: VolumeRef, plain: bool) -> None:
        place, source = Place(pool, volume), Place(pool, image)
        origin = f"image {image.name}"
        if place.is_made(origin):
            return
        source.require()
        place.begin()
        fs.copy_tree(source.tree, place.new_tree)
        place.publish(origin)

    def delete(self, pool: PoolRef, volume: VolumeRef) -> None:
        place = Place(pool, volume)
        fs.discard(place.home)
        fs.discard(place.making)

    def rename(self, pool: PoolRef, volume: VolumeRef, new_name: str) -> None:
        old, new = Place(pool, volume), Place(pool, volume, new_name)
        there, taken = old.origin() is not None, new.origin() is not None
        if not there and not taken:
            raise refuse("not-found", f"{old.what} is not there")
        if there and taken and old.home != new.home:
            raise refuse("already-exists", f"{new.what} is there already")
        # Otherwise it was renamed by a call whose answer was lost, or has the name.
        if there and not taken:
            fs.rename(old.home, new.home)

    def mount(self, pool: PoolRef, volume: VolumeRef) -> MountPlan:
        place = Place(pool, volume)
        place.require()
        return MountPlan(kind="bind", layers=[place.tree], upper=None, work=None, options=[])

    def usage(self, pool: PoolRef, volume: VolumeRef) -> Optional[int]:
        place = Place(pool, volume)
        place.require()
        return fs.usage(place.tree)
