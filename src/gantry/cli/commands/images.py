"""Images on this machine: list, remove, tag, history, commit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from gantry.cli import units
from gantry.cli.command import App, Command
from gantry.cli.commands.listing import FORMAT_HELP, choose_format
from gantry.cli.flags import Flag, Options
from gantry.cli.names import check_lower_case, familiar, split_tag
from gantry.cli.table import Columns, ellipsis, render, short_id
from gantry.client.engine import segment
from gantry.model.errors import GantryError

_SINCE = "{{if .CreatedSince }}{{.CreatedSince}}{{else}}N/A{{end}}"
TABLE = "table {{.Repository}}\t{{.Tag}}\t{{.ID}}\t" + _SINCE + "\t{{.Size}}"
_DIGESTS = "table {{.Repository}}\t{{.Tag}}\t{{.Digest}}\t{{.ID}}\t" + _SINCE + "\t{{.Size}}"
_HISTORY = "table {{.ID}}\t{{.CreatedSince}}\t{{.CreatedBy}}\t{{.Size}}\t{{.Comment}}"


@dataclass(frozen=True, slots=True)
class Item:
    """One row: an image under one of its names."""

    raw: dict[str, Any]
    repository: str
    tag: str
    digest: str
    trunc: bool


def _unknown(value: int, text: str) -> str:
    return "N/A" if value == -1 else text


COLUMNS: Columns[Item] = Columns(
    "*formatter.imageContext",
    {
        "ID": "IMAGE ID",
        "Repository": "REPOSITORY",
        "Tag": "TAG",
        "Digest": "DIGEST",
        "CreatedSince": "CREATED",
        "CreatedAt": "CREATED AT",
        "Size": "SIZE",
        "Containers": "CONTAINERS",
        "SharedSize": "SHARED SIZE",
        "UniqueSize": "UNIQUE SIZE",
        "VirtualSize": "SIZE",
    },
    {
        "ID": lambda item: short_id(item.raw["Id"]) if item.trunc else item.raw["Id"],
        "Repository": lambda item: item.repository,
        "Tag": lambda item: item.tag,
        "Digest": lambda item: item.digest,
        "CreatedSince": lambda item: units.ago(item.raw.get("Created", 0)),
        "CreatedAt": lambda item: units.local_time(item.raw.get("Created", 0)),
        "Size": lambda item: units.human_size(item.raw.get("Size", 0), 3),
        "VirtualSize": lambda item: units.human_size(item.raw.get("Size", 0), 3),
        "Containers": lambda item: _unknown(
            item.raw.get("Containers", -1), str(item.raw.get("Containers"))
        ),
        "SharedSize": lambda item: _unknown(
            item.raw.get("SharedSize", -1), units.human_size(item.raw.get("SharedSize", 0))
        ),
        "UniqueSize": lambda item: _unknown(
            item.raw.get("SharedSize", -1),
            units.human_size(item.raw.get("Size", 0) - item.raw.get("SharedSize", 0)),
        ),
    },
)


def rows(images: list[dict[str, Any]], *, digests: bool, trunc: bool) -> Iterator[Item]:
    """A row a name: tags first, then repositories that only have a digest."""
    for raw in images:
        tags = [tag for tag in raw.get("RepoTags") or [] if tag != "<none>:<none>"]
        known = [name for name in raw.get("RepoDigests") or [] if name != "<none>@<none>"]
        by_repository: dict[str, list[str]] = {}
        for name in known:
            repository, _, digest = name.partition("@")
            by_repository.setdefault(familiar(repository), []).append(digest)
        if not tags and not known:
            yield Item(raw, "<none>", "<none>", "<none>", trunc)
        for name in tags:
            repository, tag = split_tag(familiar(name))
            found = by_repository.get(repository, []) if digests else []
            for digest in found or ["<none>"]:
                yield Item(raw, repository, tag, digest, trunc)
        tagged = {split_tag(familiar(name))[0] for name in tags}
        for repository, found in by_repository.items():
            if repository in tagged:
                continue
            for digest in found if digests else [""]:
                yield Item(raw, repository, "<none>", digest, trunc)


def _images(app: App, options: Options, arguments: list[str]) -> int:
    digests = options.on("digests")
    template = choose_format(
        options.text("format"),
        app.config.format_of("imagesFormat"),
        options.on("quiet"),
        _DIGESTS if digests else TABLE,
    )
    filters = options.filters()
    if arguments:
        filters.setdefault("reference", []).append(arguments[0])
    found = app.engine.get(
        "/images/json", {"all": options.on("all"), "digests": digests, "filters": filters or None}
    )
    items = rows(
        found,
        digests=digests or "{{.Digest}}" in template,
        trunc=not options.on("no-trunc"),
    )
    text = render(COLUMNS, items, template)
    if options.on("quiet"):
        # An image with several names is one id to a script.
        text = "".join(dict.fromkeys(text.splitlines(keepends=True)))
    app.write(text)
    return 0


def _rmi(app: App, options: Options, names: list[str]) -> int:
    query = {
        "force": options.on("force"),
        "noprune": options.on("no-prune"),
        "platforms": options.many("platform") or None,
    }

    def remove(name: str) -> None:
        for entry in app.engine.delete(f"/images/{segment(name)}", query) or []:
            if entry.get("Deleted"):
                app.out(f"Deleted: {entry['Deleted']}")
            else:
                app.out(f"Untagged: {entry.get('Untagged', '')}")

    return app.each(names, remove, echo=False)


def _tag(app: App, _options: Options, names: list[str]) -> int:
    repository, tag = split_tag(names[1])
    if "@" in names[1]:
        raise GantryError("refusing to create a tag with a digest reference")
    check_lower_case(names[1])
    app.engine.post(f"/images/{segment(names[0])}/tag", {"repo": repository, "tag": tag})
    return 0


def _history(app: App, options: Options, names: list[str]) -> int:
    human, trunc = options.on("human"), not options.on("no-trunc")

    def created_by(layer: dict[str, Any]) -> str:
        text = str(layer.get("CreatedBy", "")).replace("\t", " ")
        return ellipsis(text, 45) if trunc else text

    def created(layer: dict[str, Any]) -> str:
        moment = layer.get("Created", 0)
        if not human:
            return units.rfc3339(moment)
        return units.ago(moment) if moment > 0 else "N/A"

    columns: Columns[dict[str, Any]] = Columns(
        "*image.historyContext",
        {
            "ID": "IMAGE",
            "CreatedSince": "CREATED" if human else "CREATED AT",
            "CreatedAt": "CREATED AT",
            "CreatedBy": "CREATED BY",
            "Size": "SIZE",
            "Comment": "COMMENT",
        },
        {
            "ID": lambda layer: short_id(layer["Id"]) if trunc else layer["Id"],
            "CreatedSince": created,
            "CreatedAt": lambda layer: units.rfc3339(layer.get("Created", 0)),
            "CreatedBy": created_by,
            "Size": lambda layer: (
                units.human_size(layer.get("Size", 0), 3) if human else str(layer.get("Size", 0))
            ),
            "Comment": lambda layer: layer.get("Comment", ""),
        },
    )
    template = choose_format(options.text("format"), "", options.on("quiet"), _HISTORY)
    layers = app.engine.get(
        f"/images/{segment(names[0])}/history", {"platform": options.text("platform")}
    )
    app.write(render(columns, layers, template))
    return 0


def _commit(app: App, options: Options, names: list[str]) -> int:
    repository, tag = split_tag(names[1]) if len(names) > 1 else ("", "")
    query = {
        "container": names[0],
        "repo": repository,
        "tag": tag,
        "comment": options.text("message"),
        "author": options.text("author"),
        "changes": options.many("change"),
        "pause": "0" if not options.on("pause") or options.on("no-pause") else None,
    }
    app.out(str(app.engine.post("/commit", query)["Id"]))
    return 0


IMAGES = Command(
    "List images",
    "[OPTIONS] [REPOSITORY[:TAG]]",
    _images,
    (
        Flag("all", "Intermediate images, too", short="a"),
        Flag("digests", "Show digests"),
        Flag("filter", "Only those: dangling=true, label=KEY, reference=PATTERN", "filter", "f"),
        Flag("format", FORMAT_HELP, "string"),
        Flag("no-trunc", "Whole ids"),
        Flag("quiet", "Ids only", short="q"),
    ),
    0,
    1,
    examples=(("gantry images -f dangling=true -q", "Ids of images without a name"),),
)
RMI = Command(
    "Remove one or more images",
    "[OPTIONS] IMAGE [IMAGE...]",
    _rmi,
    (
        Flag("force", "Although a container was made from it", short="f"),
        Flag("no-prune", "Keep parents that have no name"),
        Flag("platform", "Only these platforms", "list"),
    ),
    1,
    None,
)
TAG = Command(
    "Create a tag TARGET_IMAGE that refers to SOURCE_IMAGE",
    "SOURCE_IMAGE[:TAG] TARGET_IMAGE[:TAG]",
    _tag,
    least=2,
    most=2,
)
HISTORY = Command(
    "Show the history of an image",
    "[OPTIONS] IMAGE",
    _history,
    (
        Flag("format", FORMAT_HELP, "string"),
        Flag("human", "Sizes and dates for people", short="H", default=True),
        Flag("no-trunc", "Whole commands"),
        Flag("platform", "Of this platform", "string"),
        Flag("quiet", "Ids only", short="q"),
    ),
    1,
    1,
)
COMMIT = Command(
    "Create a new image from a container's changes",
    "[OPTIONS] CONTAINER [REPOSITORY[:TAG]]",
    _commit,
    (
        Flag("author", "Who made it", "string", "a"),
        Flag("change", "Dockerfile instruction: CMD, ENV, EXPOSE …", "list", "c"),
        Flag("message", "Comment", "string", "m"),
        Flag("no-pause", "Leave the container running meanwhile"),
        Flag("pause", "Pause it meanwhile", short="p", default=True, hidden=True),
    ),
    1,
    2,
)
