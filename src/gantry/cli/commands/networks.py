"""`network` and `volume`: list, create, connect, remove."""

from __future__ import annotations

from typing import Any

from gantry.cli import units
from gantry.cli.command import App, Command
from gantry.cli.commands.listing import FORMAT_HELP, choose_format
from gantry.cli.create_request import pairs
from gantry.cli.flags import Flag, Options
from gantry.cli.table import Columns, render, short_id
from gantry.client.engine import segment
from gantry.client.errors import ApiError
from gantry.model.errors import GantryError

Raw = dict[str, Any]


def _labels(raw: Raw) -> str:
    return ",".join(sorted(f"{key}={value}" for key, value in (raw.get("Labels") or {}).items()))


def _label(raw: Raw, name: str) -> str:
    return str((raw.get("Labels") or {}).get(name, ""))


def _truth(value: object) -> str:
    return "true" if value else "false"


def _network_columns(trunc: bool) -> Columns[Raw]:
    return Columns(
        "*network.networkContext",
        {
            "ID": "NETWORK ID",
            "Name": "NAME",
            "Driver": "DRIVER",
            "Scope": "SCOPE",
            "IPv4": "IPV4",
            "IPv6": "IPV6",
            "Internal": "INTERNAL",
            "Labels": "LABELS",
            "CreatedAt": "CREATED AT",
        },
        {
            "ID": lambda raw: short_id(raw["Id"]) if trunc else raw["Id"],
            "Name": lambda raw: raw.get("Name", ""),
            "Driver": lambda raw: raw.get("Driver", ""),
            "Scope": lambda raw: raw.get("Scope", ""),
            "IPv4": lambda raw: _truth(raw.get("EnableIPv4", True)),
            "IPv6": lambda raw: _truth(raw.get("EnableIPv6")),
            "Internal": lambda raw: _truth(raw.get("Internal")),
            "Labels": _labels,
            "CreatedAt": lambda raw: units.local_time(units.parse_time(raw.get("Created", ""))),
        },
        {"Label": _label},
    )


def _network_ls(app: App, options: Options, _arguments: list[str]) -> int:
    template = choose_format(
        options.text("format"),
        app.config.format_of("networksFormat"),
        options.on("quiet"),
        "table {{.ID}}\t{{.Name}}\t{{.Driver}}\t{{.Scope}}",
    )
    found = app.engine.get("/networks", {"filters": options.filters() or None})
    found.sort(key=lambda raw: str(raw.get("Name", "")))
    app.write(render(_network_columns(not options.on("no-trunc")), found, template))
    return 0


def _network_create(app: App, options: Options, names: list[str]) -> int:
    body: Raw = {
        "Name": names[0],
        "Driver": options.text("driver"),
        "Scope": options.text("scope"),
        "Options": pairs(options.many("opt")),
        "Internal": options.on("internal"),
        "Attachable": options.on("attachable"),
        "Ingress": options.on("ingress"),
        "ConfigOnly": options.on("config-only"),
        "Labels": pairs(options.many("label")),
        "IPAM": {
            "Driver": options.text("ipam-driver"),
            "Options": pairs(options.many("ipam-opt")),
            "Config": _ipam(options),
        },
    }
    if options.text("config-from"):
        body["ConfigFrom"] = {"Network": options.text("config-from")}
    for flag, key in (("ipv4", "EnableIPv4"), ("ipv6", "EnableIPv6")):
        if options.changed(flag):
            body[key] = options.on(flag)
    answer = app.engine.post("/networks/create", body=body)
    if answer.get("Warning"):
        app.err(f"WARNING: {answer['Warning']}")
    app.out(str(answer["Id"]))
    return 0


def _ipam(options: Options) -> list[Raw]:
    """One entry a subnet, with the range, gateway and reserved addresses that lie in it."""
    from ipaddress import ip_address, ip_network

    subnets = [item for text in options.many("subnet") for item in text.split(",")]
    ranges = [item for text in options.many("ip-range") for item in text.split(",")]
    gateways = [item for text in options.many("gateway") for item in text.split(",")]
    if len(subnets) < len(ranges) or len(subnets) < len(gateways):
        raise GantryError("every ip-range or gateway must have a corresponding subnet")
    try:
        networks = [ip_network(subnet, strict=False) for subnet in subnets]
        entries: list[Raw] = [{"Subnet": subnet} for subnet in subnets]
        for number, network in enumerate(networks):
            for other in networks[:number]:
                if network.version == other.version and network.overlaps(other):
                    raise GantryError("multiple overlapping subnet configuration is not supported")

        def place(address: str) -> Raw:
            base = ip_network(address, strict=False).network_address
            for network, entry in zip(networks, entries, strict=True):
                if base in network:
                    return entry
            raise GantryError(f"no matching subnet for {address}")

        for text in ranges:
            place(text)["IPRange"] = text
        for text in gateways:
            place(str(ip_address(text)))["Gateway"] = text
        for name, text in pairs(options.many("aux-address")).items():
            place(text).setdefault("AuxiliaryAddresses", {})[name] = text
    except ValueError as error:
        raise GantryError(f"invalid CIDR or address: {error}") from error
    return entries


def _network_rm(app: App, options: Options, names: list[str]) -> int:
    def remove(name: str) -> None:
        try:
            app.engine.delete(f"/networks/{segment(name)}")
        except ApiError as error:
            if not (options.on("force") and error.status == 404):
                raise

    return app.each(names, remove)


def _connect(app: App, options: Options, names: list[str]) -> int:
    addresses: Raw = {}
    for flag, key in (("ip", "IPv4Address"), ("ip6", "IPv6Address")):
        if options.text(flag):
            addresses[key] = options.text(flag)
    if options.many("link-local-ip"):
        addresses["LinkLocalIPs"] = options.many("link-local-ip")
    endpoint: Raw = {
        "IPAMConfig": addresses or None,
        "Links": options.many("link") or None,
        "Aliases": options.many("alias") or None,
        "DriverOpts": pairs(options.many("driver-opt")) or None,
        "GwPriority": options.number("gw-priority"),
    }
    body = {"Container": names[1], "EndpointConfig": endpoint}
    app.engine.post(f"/networks/{segment(names[0])}/connect", body=body)
    return 0


def _disconnect(app: App, options: Options, names: list[str]) -> int:
    body = {"Container": names[1], "Force": options.on("force")}
    app.engine.post(f"/networks/{segment(names[0])}/disconnect", body=body)
    return 0


def _egress(app: App, options: Options, names: list[str]) -> int:
    found = app.engine.get(f"/networks/{segment(names[0])}/egress")
    template = options.text("format") or "table"
    if template == "table":
        allow = found.get("Allow")
        app.err("allowed: " + (", ".join(allow) or "nothing" if allow is not None else "all"))
        template = "table {{.Time}}\t{{.Container}}\t{{.Target}}\t{{.Protocol}}\t{{.Port}}"
    app.write(render(_EGRESS, found.get("Refused") or [], template))
    return 0


_EGRESS: Columns[Raw] = Columns(
    "*network.egressContext",
    {
        "Time": "TIME",
        "Container": "CONTAINER ID",
        "Kind": "KIND",
        "Target": "REFUSED",
        "Protocol": "PROTOCOL",
        "Port": "PORT",
    },
    {
        "Time": lambda raw: raw.get("time", ""),
        "Container": lambda raw: short_id(raw.get("container", "")),
        "Kind": lambda raw: raw.get("kind", ""),
        "Target": lambda raw: raw.get("name") or raw.get("destination", ""),
        "Protocol": lambda raw: raw.get("protocol") or raw.get("kind", ""),
        "Port": lambda raw: str(raw.get("port") or ""),
    },
    {},
)


# -- volumes --------------------------------------------------------------------------


_VOLUME: Columns[Raw] = Columns(
    "*formatter.volumeContext",
    {
        "Name": "VOLUME NAME",
        "Driver": "DRIVER",
        "Scope": "SCOPE",
        "Mountpoint": "MOUNTPOINT",
        "Labels": "LABELS",
        "Links": "LINKS",
        "Size": "SIZE",
        "Group": "GROUP",
        "Availability": "AVAILABILITY",
        "Status": "STATUS",
    },
    {
        "Name": lambda raw: raw.get("Name", ""),
        "Driver": lambda raw: raw.get("Driver", ""),
        "Scope": lambda raw: raw.get("Scope", ""),
        "Mountpoint": lambda raw: raw.get("Mountpoint", ""),
        "Labels": _labels,
        "Links": lambda raw: str((raw.get("UsageData") or {}).get("RefCount", "N/A")),
        "Size": lambda raw: (
            units.human_size(raw["UsageData"].get("Size", 0)) if raw.get("UsageData") else "N/A"
        ),
        "Group": lambda _raw: "N/A",
        "Availability": lambda _raw: "N/A",
        "Status": lambda _raw: "N/A",
    },
    {"Label": _label},
)
VOLUME_COLUMNS = _VOLUME


def _volume_ls(app: App, options: Options, _arguments: list[str]) -> int:
    template = options.text("format") or app.config.format_of("volumesFormat")
    if template in ("", "table"):
        template = "{{.Name}}" if options.on("quiet") else "table {{.Driver}}\t{{.Name}}"
    elif options.on("quiet"):
        template = "{{.Name}}"
    found = app.engine.get("/volumes", {"filters": options.filters() or None})
    volumes = sorted(found.get("Volumes") or [], key=lambda raw: str(raw.get("Name", "")))
    app.write(render(_VOLUME, volumes, template))
    return 0


def _volume_create(app: App, options: Options, names: list[str]) -> int:
    if names and options.text("name"):
        raise GantryError(
            "conflicting options: cannot specify a volume-name through both --name and as a "
            "positional arg"
        )
    body = {
        "Name": names[0] if names else options.text("name"),
        "Driver": options.text("driver"),
        "DriverOpts": pairs(options.many("opt")),
        "Labels": pairs(options.many("label")),
    }
    app.out(str(app.engine.post("/volumes/create", body=body)["Name"]))
    return 0


def _volume_rm(app: App, options: Options, names: list[str]) -> int:
    query = {"force": options.on("force")}
    return app.each(names, lambda name: app.engine.delete(f"/volumes/{segment(name)}", query))


_FILTER = Flag("filter", "Only those: driver=bridge, label=KEY, name=PART …", "filter", "f")
_FORMAT = Flag("format", FORMAT_HELP, "string")
_QUIET = Flag("quiet", "Ids or names only", short="q")
_LABEL = Flag("label", "Label: KEY=VALUE", "list")

NETWORK_LS = Command(
    "List networks", "[OPTIONS]", _network_ls,
    (_FILTER, _FORMAT, Flag("no-trunc", "Whole ids"), _QUIET),
)  # fmt: skip
NETWORK_CREATE = Command(
    "Create a network",
    "[OPTIONS] NETWORK",
    _network_create,
    (
        Flag("attachable", "Containers may join by hand (cluster networks)"),
        Flag("aux-address", "Address to keep free: NAME=IP", "map"),
        Flag("config-from", "Take the configuration of this network", "string"),
        Flag("config-only", "Keep only a configuration"),
        Flag("driver", "Driver: bridge, macvlan, ipvlan …", "string", "d", "bridge"),
        Flag("gateway", "Gateway of a subnet", "list"),
        Flag("ingress", "Routing mesh of a cluster"),
        Flag("internal", "No way out"),
        Flag("ip-range", "Give addresses from this part of the subnet", "list"),
        Flag("ipam-driver", "Who gives addresses", "string", default="default"),
        Flag("ipam-opt", "Option for it: KEY=VALUE", "map"),
        Flag("ipv4", "IPv4 addresses", default=True),
        Flag("ipv6", "IPv6 addresses"),
        _LABEL,
        Flag("opt", "Option of the driver: KEY=VALUE", "map", "o"),
        Flag("scope", "Scope", "string"),
        Flag("subnet", "Subnet: 172.28.0.0/16", "list"),
    ),
    1,
    1,
    examples=(("gantry network create --subnet 10.9.0.0/24 back", "With a subnet of your own"),),
)
NETWORK_RM = Command(
    "Remove one or more networks", "NETWORK [NETWORK...]", _network_rm,
    (Flag("force", "No error for what is not there", short="f"),), 1, None,
)  # fmt: skip
CONNECT = Command(
    "Connect a container to a network",
    "[OPTIONS] NETWORK CONTAINER",
    _connect,
    (
        Flag("alias", "Another name for it in this network", "list"),
        Flag("driver-opt", "Option of the driver: KEY=VALUE", "list"),
        Flag("gw-priority", "The highest gives the default route", "int", default=0),
        Flag("ip", "IPv4 address", "string"),
        Flag("ip6", "IPv6 address", "string"),
        Flag("link", "Make another container known: CONTAINER:ALIAS", "list"),
        Flag("link-local-ip", "Link-local address", "list"),
    ),
    2,
    2,
)
EGRESS = Command(
    "Show what a network's egress policies refused", "[OPTIONS] NETWORK", _egress, (_FORMAT,), 1, 1,
    examples=(("gantry network egress build", "What was tried and not allowed"),),
)  # fmt: skip
DISCONNECT = Command(
    "Disconnect a container from a network", "[OPTIONS] NETWORK CONTAINER", _disconnect,
    (Flag("force", "Even where the container is gone", short="f"),), 2, 2,
)  # fmt: skip
VOLUME_LS = Command("List volumes", "[OPTIONS]", _volume_ls, (_FILTER, _FORMAT, _QUIET))
VOLUME_CREATE = Command(
    "Create a volume",
    "[OPTIONS] [VOLUME]",
    _volume_create,
    (
        Flag("driver", "Driver", "string", "d", "local"),
        _LABEL,
        Flag("name", "Name", "string", hidden=True),
        Flag("opt", "Option of the driver: KEY=VALUE", "map", "o"),
    ),
    0,
    1,
    examples=(("gantry volume create -o type=tmpfs -o device=tmpfs scratch", "In memory"),),
)
VOLUME_RM = Command(
    "Remove one or more volumes", "[OPTIONS] VOLUME [VOLUME...]", _volume_rm,
    (Flag("force", "No error for what is not there", short="f"),), 1, None,
)  # fmt: skip
