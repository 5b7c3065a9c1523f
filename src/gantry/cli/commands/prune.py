"""What is no longer used: prune, one kind or all, and `system df`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from gantry.cli import units
from gantry.cli.command import App, Command, ExitStatus
from gantry.cli.commands import images as image_rows
from gantry.cli.commands.listing import COLUMNS as CONTAINERS
from gantry.cli.commands.listing import Item as ContainerItem
from gantry.cli.commands.networks import VOLUME_COLUMNS
from gantry.cli.flags import Flag, Options
from gantry.cli.table import Columns, render
from gantry.client.errors import ApiError
from gantry.model.errors import GantryError

Raw = dict[str, Any]
Filters = dict[str, list[str]]


def confirm(app: App, options: Options, question: str) -> None:
    """Asks unless --force was given; no answer is a no."""
    if options.on("force"):
        return
    app.write(f"{question} [y/N] ")
    sys.stdout.flush()
    answer = sys.stdin.readline()
    if answer.strip().lower() not in ("y", "yes"):
        # As Docker's: saying no is no failure.
        raise ExitStatus(0)


def _post(app: App, path: str, filters: Filters) -> Raw:
    return dict(app.engine.post(path, {"filters": filters or None}) or {})


def _containers(app: App, filters: Filters) -> tuple[int, list[str]]:
    answer = _post(app, "/containers/prune", filters)
    deleted = answer.get("ContainersDeleted") or []
    lines = ["Deleted Containers:", *deleted] if deleted else []
    return int(answer.get("SpaceReclaimed") or 0), lines


def _volumes(app: App, filters: Filters) -> tuple[int, list[str]]:
    answer = _post(app, "/volumes/prune", filters)
    deleted = answer.get("VolumesDeleted") or []
    lines = ["Deleted Volumes:", *deleted] if deleted else []
    return int(answer.get("SpaceReclaimed") or 0), lines


def _networks(app: App, filters: Filters) -> tuple[int, list[str]]:
    deleted = _post(app, "/networks/prune", filters).get("NetworksDeleted") or []
    return 0, ["Deleted Networks:", *deleted] if deleted else []


def _images(app: App, filters: Filters) -> tuple[int, list[str]]:
    answer = _post(app, "/images/prune", filters)
    lines = []
    for entry in answer.get("ImagesDeleted") or []:
        if entry.get("Untagged"):
            lines.append(f"untagged: {entry['Untagged']}")
        else:
            lines.append(f"deleted: {entry.get('Deleted', '')}")
    return int(answer.get("SpaceReclaimed") or 0), ["Deleted Images:", *lines] if lines else []


def _cache(app: App, filters: Filters) -> tuple[int, list[str]]:
    answer = _post(app, "/build/prune", filters)
    deleted = answer.get("CachesDeleted") or []
    lines = ["Deleted build cache objects:", *deleted] if deleted else []
    return int(answer.get("SpaceReclaimed") or 0), lines


Pruner = Callable[[App, Filters], tuple[int, list[str]]]


def _report(app: App, space: int, lines: list[str], *, total: bool = True) -> None:
    if lines:
        app.out("\n".join(lines) + "\n")
    if total:
        app.out(f"Total reclaimed space: {units.human_size(space)}")


def _one(app: App, options: Options, pruner: Pruner, warning: str, what: str) -> int:
    filters = options.filters()
    question = f"WARNING! This will remove {warning}.\nAre you sure you want to continue?"
    confirm(app, options, question)
    space, lines = pruner(app, filters)
    _report(app, space, lines, total=what != "network")
    return 0


def _container_prune(app: App, options: Options, _arguments: list[str]) -> int:
    return _one(app, options, _containers, "all stopped containers", "container")


def _network_prune(app: App, options: Options, _arguments: list[str]) -> int:
    warning = "all custom networks not used by at least one container"
    return _one(app, options, _networks, warning, "network")


def _image_prune(app: App, options: Options, _arguments: list[str]) -> int:
    everything = options.on("all")
    warning = (
        "all images without at least one container associated to them"
        if everything
        else "all dangling images"
    )

    def prune(app: App, filters: Filters) -> tuple[int, list[str]]:
        return _images(app, {**filters, "dangling": ["false" if everything else "true"]})

    return _one(app, options, prune, warning, "image")


def _volume_prune(app: App, options: Options, _arguments: list[str]) -> int:
    everything = options.on("all")
    filters = options.filters()
    if everything and "all" in filters:
        raise GantryError("conflicting options: cannot specify both --all and --filter all=1")
    kind = "all" if everything else "anonymous"

    def prune(app: App, filters: Filters) -> tuple[int, list[str]]:
        return _volumes(app, {**filters, "all": ["true"]} if everything else filters)

    warning = f"{kind} local volumes not used by at least one container"
    return _one(app, options, prune, warning, "volume")


def _system_prune(app: App, options: Options, _arguments: list[str]) -> int:
    filters = options.filters()
    everything, volumes = options.on("all"), options.on("volumes")
    if volumes and "until" in filters:
        raise GantryError('ERROR: The "until" filter is not supported with "--volumes"')
    warnings = ["all stopped containers", "all networks not used by at least one container"]
    steps: list[tuple[Pruner, Filters]] = [(_containers, filters), (_networks, filters)]
    if volumes:
        warnings.append("all anonymous volumes not used by at least one container")
        steps.append((_volumes, filters))
    dangling = {**filters, "dangling": ["false" if everything else "true"]}
    steps += [(_images, dangling), (_cache, filters)]
    if everything:
        warnings += [
            "all images without at least one container associated to them",
            "all build cache",
        ]
    else:
        warnings += ["all dangling images", "unused build cache"]
    listing = "\n".join(f"  - {warning}" for warning in warnings)
    named = [f"{key}={value}" for key in filters for value in filters[key]]
    if named:
        listing += "\n\n  Items to be pruned will be filtered with:\n"
        listing += "\n".join(f"  - {text}" for text in sorted(named))
    question = f"WARNING! This will remove:\n{listing}\n\nAre you sure you want to continue?"
    confirm(app, options, question)
    space = 0
    for pruner, chosen in steps:
        try:
            freed, lines = pruner(app, chosen)
        except ApiError as error:
            # An engine without a builder has no cache to clean.
            if error.status not in (404, 501) or pruner is not _cache:
                raise
            continue
        space += freed
        _report(app, 0, lines, total=False)
    _report(app, space, [])
    return 0


# -- df -------------------------------------------------------------------------------


def _df(app: App, options: Options, _arguments: list[str]) -> int:
    usage = app.engine.get("/system/df", {"verbose": "1"} if options.on("verbose") else None)
    if options.on("verbose") and not options.text("format"):
        _verbose(app, usage)
        return 0
    columns: Columns[tuple[str, int, int, int, int]] = Columns(
        "*formatter.diskUsageContext",
        {
            "Type": "TYPE",
            "TotalCount": "TOTAL",
            "Active": "ACTIVE",
            "Size": "SIZE",
            "Reclaimable": "RECLAIMABLE",
        },
        {
            "Type": lambda row: row[0],
            "TotalCount": lambda row: str(row[1]),
            "Active": lambda row: str(row[2]),
            "Size": lambda row: units.human_size(row[3]),
            "Reclaimable": _reclaimable,
        },
    )
    template = options.text("format")
    if template in ("", "table"):
        template = "table {{.Type}}\t{{.TotalCount}}\t{{.Active}}\t{{.Size}}\t{{.Reclaimable}}"
    app.write(render(columns, _summary(usage), template))
    return 0


def _reclaimable(row: tuple[str, int, int, int, int]) -> str:
    text = units.human_size(row[4])
    if row[3] > 0 and row[0] != "Build Cache":
        return f"{text} ({row[4] * 100 // row[3]}%)"
    return text


_KINDS = {
    "Images": "ImageUsage",
    "Containers": "ContainerUsage",
    "Local Volumes": "VolumeUsage",
    "Build Cache": "BuildCacheUsage",
}
_LISTS = {
    "Images": "Images",
    "Containers": "Containers",
    "Local Volumes": "Volumes",
    "Build Cache": "BuildCache",
}
_ACTIVE = ("running", "paused", "restarting")


def _items(usage: Raw, kind: str) -> list[Raw]:
    """The things themselves: API 1.52 and later have them in another place."""
    newer = usage.get(_KINDS[kind]) or {}
    return list(newer.get("Items") or usage.get(_LISTS[kind]) or [])


def _summary(usage: Raw) -> list[tuple[str, int, int, int, int]]:
    """Rows: kind, count, in use, bytes, bytes that could be freed."""
    rows = []
    for kind, key in _KINDS.items():
        figures = usage.get(key)
        if figures is None:
            rows.append((kind, *_counted(usage, kind)))
            continue
        names = ("TotalCount", "ActiveCount", "TotalSize", "Reclaimable")
        total, active, size, free = (int(figures.get(name) or 0) for name in names)
        rows.append((kind, total, active, size, free))
    return rows


def _counted(usage: Raw, kind: str) -> tuple[int, int, int, int]:
    """The same figures for engines that leave the counting to their clients."""
    items = _items(usage, kind)
    if kind == "Images":
        used = [image for image in items if image.get("Containers", 0) > 0]
        size = int(usage.get("LayersSize") or 0)
        kept = sum(
            int(image.get("Size", 0)) - max(0, int(image.get("SharedSize", 0))) for image in used
        )
        return len(items), len(used), size, max(0, size - kept)
    sized = [(_size_of(item, kind), _is_used(item, kind)) for item in items]
    free = sum(size for size, used in sized if not used)
    return len(items), sum(used for _, used in sized), sum(size for size, _ in sized), free


def _size_of(item: Raw, kind: str) -> int:
    if kind == "Containers":
        return int(item.get("SizeRw") or 0)
    if kind == "Local Volumes":
        return max(0, int((item.get("UsageData") or {}).get("Size", 0)))
    return 0 if item.get("Shared") else int(item.get("Size", 0))


def _is_used(item: Raw, kind: str) -> bool:
    if kind == "Containers":
        return item.get("State") in _ACTIVE
    if kind == "Local Volumes":
        return int((item.get("UsageData") or {}).get("RefCount", 0)) > 0
    return bool(item.get("InUse"))


def _verbose(app: App, usage: Raw) -> None:
    app.write("Images space usage:\n\n")
    rows = image_rows.rows(_items(usage, "Images"), digests=False, trunc=True)
    app.write(
        render(
            image_rows.COLUMNS,
            rows,
            image_rows.TABLE + "\t{{.SharedSize}}\t{{.UniqueSize}}\t{{.Containers}}",
        )
    )
    app.write("\nContainers space usage:\n\n")
    items = [ContainerItem({**raw, "SizeRootFs": 0}, True) for raw in _items(usage, "Containers")]
    app.write(
        render(
            CONTAINERS,
            items,
            "table {{.ID}}\t{{.Image}}\t{{.Command}}\t{{.LocalVolumes}}\t{{.Size}}\t"
            "{{.RunningFor}}\t{{.Status}}\t{{.Names}}",
        )
    )
    app.write("\nLocal Volumes space usage:\n\n")
    volumes = _items(usage, "Local Volumes")
    app.write(render(VOLUME_COLUMNS, volumes, "table {{.Name}}\t{{.Links}}\t{{.Size}}"))
    cache = sum(int(record.get("Size", 0)) for record in _items(usage, "Build Cache"))
    app.write(f"\nBuild cache usage: {units.human_size(cache)}\n\n")


_FORCE = Flag("force", "Do not ask", short="f")
_FILTER = Flag("filter", "Only those: until=24h, label=KEY", "filter")
_ALL_IMAGES = Flag("all", "Every image no container uses, not just unnamed ones", short="a")

CONTAINER_PRUNE = Command(
    "Remove all stopped containers", "[OPTIONS]", _container_prune, (_FILTER, _FORCE)
)
NETWORK_PRUNE = Command(
    "Remove all unused networks", "[OPTIONS]", _network_prune, (_FILTER, _FORCE)
)
IMAGE_PRUNE = Command(
    "Remove unused images", "[OPTIONS]", _image_prune, (_ALL_IMAGES, _FILTER, _FORCE)
)
VOLUME_PRUNE = Command(
    "Remove unused local volumes",
    "[OPTIONS]",
    _volume_prune,
    (Flag("all", "Named ones, too", short="a"), _FILTER, _FORCE),
)
SYSTEM_PRUNE = Command(
    "Remove unused data",
    "[OPTIONS]",
    _system_prune,
    (_ALL_IMAGES, _FILTER, _FORCE, Flag("volumes", "Anonymous volumes, too")),
)
DF = Command(
    "Show docker disk usage",
    "[OPTIONS]",
    _df,
    (
        Flag("format", "Go template, 'table TEMPLATE', or json", "string"),
        Flag("verbose", "Each image, container and volume", short="v"),
    ),
)
