"""`inspect`, of anything: JSON as the engine gives it, or a template over it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from gantry.cli.command import App, Command
from gantry.cli.flags import Flag, Options
from gantry.cli.template.execute import Template
from gantry.cli.template.functions import as_json
from gantry.cli.template.nodes import TemplateError
from gantry.client.engine import segment
from gantry.client.errors import ApiError
from gantry.model.errors import GantryError

_PATHS = {
    "container": "/containers/{}/json",
    "image": "/images/{}/json",
    "network": "/networks/{}",
    "volume": "/volumes/{}",
    "plugin": "/plugins/{}/json",
    "node": "/nodes/{}",
    "service": "/services/{}",
    "secret": "/secrets/{}",
    "config": "/configs/{}",
    "task": "/tasks/{}",
}
_ANY = ("container", "image", "network", "volume")
OPTIONAL = frozenset(
    {
        "Health", "Healthcheck", "StopTimeout", "StopSignal", "Shell", "Annotations", "Mounts",
        "Tmpfs", "StorageOpt", "Sysctls", "Init", "Size", "SizeRw", "SizeRootFs", "GraphDriver",
        "OnBuild", "ExposedPorts", "MacAddress", "Descriptor", "ImageManifestDescriptor",
        "Platform", "Variant", "Status", "UsageData", "Options", "ClusterVolume",
    }
)  # fmt: skip
"""Fields the API leaves out when they are empty: nil in a template, as in Docker's."""


def _fetch(app: App, kinds: Sequence[str], name: str, query: dict[str, object]) -> Any:
    """The first kind that knows the name."""
    for kind in kinds:
        try:
            return app.engine.get(_PATHS[kind].format(segment(name)), query)
        except ApiError as error:
            if len(kinds) == 1 or error.status not in (404, 500, 501):
                raise
            if error.status != 404 and kind == kinds[0]:
                raise
    noun = kinds[0] if len(kinds) == 1 else "object"
    raise GantryError(f"Error: No such {noun}: {name}")


def inspect(
    app: App,
    kinds: Sequence[str],
    names: Sequence[str],
    template: str,
    query: dict[str, object] | None = None,
) -> int:
    """Prints all that is found, then says what was not; 1 if anything was missing."""
    found, errors = [], []
    for name in names:
        try:
            found.append(_fetch(app, kinds, name, query or {}))
        except ApiError as error:
            errors.append(str(error))
        except GantryError as error:
            if str(error).startswith("Cannot connect"):
                raise
            errors.append(str(error))
    return show_all(app, found, errors, template)


def show_all(app: App, found: Sequence[Any], errors: Sequence[str], template: str) -> int:
    """What was found (JSON, or by a template), then what was not; 1 if anything was missing."""
    if template in ("", "json"):
        if template:
            app.write("".join(as_json(item) + "\n" for item in found))
        else:
            # Docker prints an empty list too: scripts parse it.
            app.out(json.dumps(found, indent=4, ensure_ascii=False) if found else "[]")
    elif found:
        app.write(_templated(found, template))
    elif template:
        app.out("")
    for message in errors:
        app.err(message)
    return 1 if errors else 0


def _templated(found: Sequence[Any], template: str) -> str:
    try:
        parsed = Template(template, strict=True, optional=OPTIONAL)
    except TemplateError as error:
        raise TemplateError(f"template parsing error: {error}") from error
    lines = []
    for item in found:
        try:
            lines.append(parsed.execute(item) + "\n")
        except TemplateError as error:
            raise TemplateError(f"template parsing error: {error}") from error
    return "".join(lines)


def _inspect(app: App, options: Options, names: list[str]) -> int:
    kind = options.text("type")
    if options.changed("type") and kind not in _PATHS:
        raise GantryError(f'unknown type: "{kind}"')
    query: dict[str, object] = {"size": options.on("size")}
    return inspect(app, [kind] if kind else _ANY, names, options.text("format"), query)


def _container(app: App, options: Options, names: list[str]) -> int:
    query: dict[str, object] = {"size": options.on("size")}
    return inspect(app, ["container"], names, options.text("format"), query)


def _image(app: App, options: Options, names: list[str]) -> int:
    query: dict[str, object] = {"platform": options.text("platform")}
    return inspect(app, ["image"], names, options.text("format"), query)


def _network(app: App, options: Options, names: list[str]) -> int:
    query: dict[str, object] = {"verbose": options.on("verbose")}
    return inspect(app, ["network"], names, options.text("format"), query)


def _volume(app: App, options: Options, names: list[str]) -> int:
    return inspect(app, ["volume"], names, options.text("format"))


_FORMAT = Flag("format", "Go template, or json", "string", "f")
_SIZE = Flag("size", "Disk space of a container, too", short="s")

INSPECT = Command(
    "Return low-level information on Docker objects",
    "[OPTIONS] NAME|ID [NAME|ID...]",
    _inspect,
    (_FORMAT, _SIZE, Flag("type", "Look among these only: container, image …", "string")),
    1,
    None,
    examples=(
        ("gantry inspect -f '{{.State.Pid}}' web", "One value"),
        ("gantry inspect -f '{{json .Config.Labels}}' web", "A part, as JSON"),
    ),
)
CONTAINER = Command(
    "Display detailed information on one or more containers",
    "[OPTIONS] CONTAINER [CONTAINER...]",
    _container,
    (_FORMAT, _SIZE),
    1,
    None,
)
IMAGE = Command(
    "Display detailed information on one or more images",
    "[OPTIONS] IMAGE [IMAGE...]",
    _image,
    (_FORMAT, Flag("platform", "Of this platform", "string")),
    1,
    None,
)
NETWORK = Command(
    "Display detailed information on one or more networks",
    "[OPTIONS] NETWORK [NETWORK...]",
    _network,
    (_FORMAT, Flag("verbose", "More of it", short="v")),
    1,
    None,
)
VOLUME = Command(
    "Display detailed information on one or more volumes",
    "[OPTIONS] VOLUME [VOLUME...]",
    _volume,
    (_FORMAT,),
    1,
    None,
)
