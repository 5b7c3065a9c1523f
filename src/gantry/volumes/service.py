"""Volumes by name: made, found, held by containers, removed.

A volume that anybody *holds* cannot be removed; containers hold theirs from create to
remove. One that is *mounted* (it has options) stays mounted while a container runs with it.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from weakref import WeakValueDictionary

from gantry.model.errors import Conflict, InvalidParameter, NotFound, System
from gantry.volumes.local import LocalDriver, check_name, check_options
from gantry.volumes.ports import Plugins, Publish, Store
from gantry.volumes.remote import RemoteDrivers

Json = dict[str, Any]
Filters = Mapping[str, Sequence[str]]

ANONYMOUS: Final = "com.docker.volume.anonymous"
_LIST_FILTERS: Final = ("dangling", "name", "driver", "label")
_PRUNE_FILTERS: Final = ("label", "label!", "all")


@dataclass(eq=False, slots=True)
class Volume:
    """One volume and who has it."""

    name: str
    created: int
    options: dict[str, str] | None
    labels: dict[str, str] | None
    driver: str = "local"
    holders: set[str] = field(default_factory=set)
    users: set[str] = field(default_factory=set)
    mountpoint: str = ""

    @property
    def remote(self) -> bool:
        """It is a plugin's, which says where it is mounted (`mountpoint`)."""
        return self.driver != "local"

    @property
    def needs_mount(self) -> bool:
        return not self.remote and bool(self.options and self.options.get("device"))


class Volumes:
    """See the module. The event loop's own, but for `path`."""

    def __init__(
        self, root: str, store: Store, publish: Publish, plugins: Plugins | None = None
    ) -> None:
        self._driver = LocalDriver(root)
        self._remote = RemoteDrivers(plugins)
        self._store = store
        self._publish = publish
        self._volumes = {
            row.name: Volume(row.name, row.created, row.options, row.labels, row.driver)
            for row in store.load()
        }
        # A lock is there as long as somebody has it or waits for it.
        self._making: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._pruning = False

    async def recover(self) -> None:
        """What a crash left of volumes half made and half removed. Before the first use."""
        await asyncio.to_thread(self._driver.recover, self._volumes)

    # ---- for containers

    async def ensure(
        self,
        name: str,
        *,
        holder: str,
        driver: str = "",
        options: Mapping[str, str] | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> Volume:
        """The volume `name` (made where it is missing; anonymous when empty), held."""
        if not name:
            name = secrets.token_hex(32)
            labels = {**(labels or {}), ANONYMOUS: ""}
        async with self._making.setdefault(name, asyncio.Lock()):
            volume = self._volumes.get(name)
            if volume is None:
                volume = await self._make(name, driver, options, labels)
            elif driver and driver != volume.driver:
                raise Conflict(f"create {name}: volume name must be unique")
            volume.holders.add(holder)
        return volume

    def hold(self, name: str, holder: str) -> None:
        """Hold again after a restart; a volume that is gone is no error."""
        volume = self._volumes.get(name)
        if volume is not None:
            volume.holders.add(holder)

    def drop(self, names: Iterable[str], holder: str) -> None:
        """Hold no more."""
        for name in names:
            volume = self._volumes.get(name)
            if volume is not None:
                volume.holders.discard(holder)

    def get(self, name: str) -> Volume | None:
        return self._volumes.get(name)

    def path(self, name: str) -> str:
        """The folder with the files; "" of a plugin's volume that was not mounted yet."""
        volume = self._volumes.get(name)
        if volume is not None and volume.remote:
            return volume.mountpoint
        return self._driver.path(name)

    async def mount(self, name: str, user: str) -> str:
        """The folder, with its device mounted if it has one. NotFound, System."""
        volume = self._volumes.get(name)
        if volume is None:
            raise NotFound(f"get {name}: no such volume")
        if volume.remote:
            answer = await self._remote.call(volume.driver, "Mount", {"Name": name, "ID": user})
            volume.mountpoint = str(answer.get("Mountpoint") or "")
            if not volume.mountpoint:
                raise System(f"VolumeDriver.Mount: plugin {volume.driver} names no mountpoint")
        elif volume.needs_mount and not volume.users and not os.path.ismount(self.path(name)):
            assert volume.options is not None
            options = volume.options
            await asyncio.to_thread(self._driver.mount, name, options)
        elif not volume.needs_mount and not os.path.isdir(self.path(name)):
            self._driver.create(name)
        volume.users.add(user)
        if volume.holders:
            self._event("mount", volume, {"container": user, "driver": volume.driver})
        return self.path(name)

    async def unmount(self, name: str, user: str) -> None:
        volume = self._volumes.get(name)
        if volume is None or user not in volume.users:
            return
        volume.users.discard(user)
        if volume.remote:
            await self._remote.call(volume.driver, "Unmount", {"Name": name, "ID": user})
        if volume.needs_mount and not volume.users:
            await asyncio.to_thread(self._driver.unmount, name)
        self._event("unmount", volume, {"container": user, "driver": volume.driver})

    def in_use(self, name: str, user: str) -> None:
        """A container found running after a restart uses it; nothing is mounted."""
        volume = self._volumes.get(name)
        if volume is not None:
            volume.users.add(user)

    def count(self) -> int:
        return len(self._volumes)

    # ---- the API's verbs

    async def list(self, filters: Filters) -> Json:
        for key in filters:
            if key not in _LIST_FILTERS:
                raise InvalidParameter(f"invalid filter '{key}'")
        _truth(filters, "dangling")
        rows = [self._view(v) for v in self._sorted() if self._listed(v, filters)]
        return {"Volumes": rows, "Warnings": None}

    async def inspect(self, name: str) -> Json:
        volume = self._volumes.get(name)
        if volume is None:
            raise NotFound(f"get {name}: no such volume")
        if not volume.remote:
            return self._view(volume)
        said = await self._remote.get(volume.driver, volume.name)
        if said is None:
            raise NotFound(f"get {name}: no such volume")
        volume.mountpoint = str(said.get("Mountpoint") or volume.mountpoint)
        status = said.get("Status")
        scope = await self._remote.ask_scope(volume.driver)
        return {**self._view(volume), "Scope": scope, **({"Status": status} if status else {})}

    async def create(self, body: Json) -> Json:
        name = body.get("Name") or ""
        driver = body.get("Driver") or ""
        labels = dict(body.get("Labels") or {})
        if not name:
            name = secrets.token_hex(32)
            labels[ANONYMOUS] = ""
        async with self._making.setdefault(name, asyncio.Lock()):
            volume = self._volumes.get(name)
            if volume is not None and volume.remote and driver in ("", volume.driver):
                volume = await self._still_there(volume)
            if volume is None:
                options = body.get("DriverOpts")
                volume = await self._make(name, driver, options, labels or body.get("Labels"))
            elif driver and driver != volume.driver:
                raise Conflict(f"create {name}: volume name must be unique")
        return self._view(volume)

    async def remove(self, name: str, *, force: bool) -> None:
        volume = self._volumes.get(name)
        if volume is None:
            if force:
                return
            raise NotFound(f"get {name}: no such volume")
        if volume.holders:
            holders = ", ".join(sorted(volume.holders))
            raise Conflict(f"remove {name}: volume is in use - [{holders}]")
        await self._remove(volume)

    async def prune(self, filters: Filters) -> Json:
        """Unheld volumes without options: anonymous ones, or all by `all=true`."""
        if self._pruning:
            raise Conflict("a prune operation is already running")
        for key in filters:
            if key not in _PRUNE_FILTERS:
                raise InvalidParameter(f"invalid filter '{key}'")
        everything = any(v.lower() in ("1", "true") for v in filters.get("all", ()))
        self._pruning = True
        try:
            deleted, reclaimed = [], 0
            for volume in self._sorted():
                chosen = everything or ANONYMOUS in (volume.labels or {})
                if volume.holders or volume.options or volume.remote or not chosen:
                    continue
                if not _labelled(volume.labels, filters):
                    continue
                size = await asyncio.to_thread(disk_usage, self.path(volume.name))
                if volume.holders:
                    continue
                await self._remove(volume)
                deleted.append(volume.name)
                reclaimed += size
        finally:
            self._pruning = False
        self._publish("prune", "", {"reclaimed": str(reclaimed)})
        return {"VolumesDeleted": deleted, "SpaceReclaimed": reclaimed}

    async def usage(self) -> Sequence[Json]:
        """All volumes with `UsageData`, for `system df`."""
        rows = []
        for volume in self._sorted():
            size = -1
            if not volume.options and not volume.remote:
                size = await asyncio.to_thread(disk_usage, self.path(volume.name))
            data = {"RefCount": len(volume.holders), "Size": size}
            rows.append({**self._view(volume), "UsageData": data})
        return rows

    # ---- parts

    async def _make(
        self,
        name: str,
        driver: str,
        options: Mapping[str, str] | None,
        labels: Mapping[str, str] | None,
    ) -> Volume:
        driver = driver or "local"
        try:
            if driver == "local":  # the names of other drivers' volumes are their own matter
                check_name(name)
                check_options(dict(options or {}))
        except InvalidParameter as error:
            raise InvalidParameter(f"create {name}: {error}") from None
        created = time.time_ns()
        volume = Volume(
            name,
            created,
            dict(options) if options is not None else None,
            dict(labels) if labels is not None else None,
            driver,
        )
        if volume.remote:
            await self._remote.create(driver, name, volume.options)
            await self._remote.ask_scope(driver)
        else:
            self._driver.create(name)
        await self._store.add(name, driver, created, volume.options, volume.labels)
        self._volumes[name] = volume
        self._event("create", volume, {"driver": driver})
        return volume

    async def _still_there(self, volume: Volume) -> Volume | None:
        """None, and forgotten, when the plugin has lost it meanwhile (and nobody holds it)."""
        if volume.holders or await self._remote.get(volume.driver, volume.name) is not None:
            return volume
        del self._volumes[volume.name]
        await self._store.delete(volume.name)
        return None

    async def _remove(self, volume: Volume) -> None:
        if volume.remote:
            try:
                await self._remote.call(volume.driver, "Remove", {"Name": volume.name})
            except System as error:
                raise System(f"remove {volume.name}: {error}") from None
        if volume.needs_mount:
            await asyncio.to_thread(self._driver.unmount, volume.name)
        self._volumes.pop(volume.name, None)
        # Whenever it is killed: with its record all of its files are there, without it none.
        place = "" if volume.remote else self._driver.set_aside(volume.name)
        try:
            await self._store.delete(volume.name)
        except BaseException:
            if place:
                self._driver.put_back(place)
            self._volumes[volume.name] = volume
            raise
        if place:
            await asyncio.to_thread(self._driver.delete, place)
        self._event("destroy", volume, {"driver": volume.driver})

    def _event(self, action: str, volume: Volume, attributes: Mapping[str, str]) -> None:
        self._publish(action, volume.name, attributes)

    def _sorted(self) -> Sequence[Volume]:
        return sorted(self._volumes.values(), key=lambda v: v.name)

    def _listed(self, volume: Volume, filters: Filters) -> bool:
        dangling = _truth(filters, "dangling")
        if dangling is not None and bool(volume.holders) == dangling:
            return False
        names = filters.get("name")
        if names and not any(name in volume.name for name in names):
            return False
        drivers = filters.get("driver")
        if drivers and volume.driver not in drivers:
            return False
        return _labelled(volume.labels, filters)

    def _view(self, volume: Volume) -> Json:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(volume.created / 1e9))
        return {
            "CreatedAt": stamp,
            "Driver": volume.driver,
            "Labels": volume.labels,
            "Mountpoint": self.path(volume.name),
            "Name": volume.name,
            "Options": volume.options,
            "Scope": self._remote.scopes.get(volume.driver, "local"),
        }


def _labelled(labels: Mapping[str, str] | None, filters: Filters) -> bool:
    have = labels or {}

    def has(wanted: str) -> bool:
        key, equals, value = wanted.partition("=")
        return key in have and (not equals or have[key] == value)

    return all(has(w) for w in filters.get("label", ())) and not any(
        has(w) for w in filters.get("label!", ())
    )


def disk_usage(path: str) -> int:
    """Bytes of all files below `path`, hard links once; what vanishes meanwhile is skipped."""
    total, seen, folders = 0, set(), [path]
    while folders:
        try:
            entries = os.scandir(folders.pop())
        except OSError:
            continue
        with entries:
            for entry in entries:
                try:
                    status = entry.stat(follow_symlinks=False)
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                except OSError:
                    continue
                key = (status.st_dev, status.st_ino)
                if status.st_nlink == 1 or key not in seen:
                    total += status.st_size
                    seen.add(key)
    return total


def _truth(filters: Filters, key: str) -> bool | None:
    """A boolean filter, None without it (moby Args.GetBoolOrDefault). InvalidParameter."""
    values = filters.get(key)
    if values is None:
        return None
    no, yes = (bool(set(values) & set(words)) for words in (("0", "false"), ("1", "true")))
    if no == yes:
        given = f"=[{' '.join(values)}]" if values else ""
        raise InvalidParameter(f"invalid filter '{key}{given}'")
    return yes
