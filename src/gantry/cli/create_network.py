"""Networks of `run`, `create` and `update`: the mode, and an endpoint for each."""

from __future__ import annotations

from ipaddress import ip_address

from gantry.cli.flags import Options

Json = dict[str, object]

_NETWORK_MODES = ("bridge", "host", "none", "default", "nat")


def check_address(address: str) -> None:
    try:
        ip_address(address)
    except ValueError:
        raise ValueError(f"IP address is not correctly formatted: {address}") from None


def user_defined(network: str) -> bool:
    return network not in _NETWORK_MODES and not network.startswith("container:")


def networks(options: Options) -> tuple[str, Json]:
    """NetworkMode (the first network) and the endpoints' settings."""
    targets = [attachment(text) for text in options.many("network")] or [("default", {})]
    if not options.many("network") and not _endpoint_flags(options):
        return "default", {}
    endpoints: Json = {}
    for number, (name, endpoint) in enumerate(targets):
        if not name.strip():
            raise ValueError("no name set for network")
        if number == 0:
            _first_endpoint(options, name, endpoint)
        if not user_defined(name):
            if endpoint.get("Aliases"):
                raise ValueError(
                    "network-scoped aliases are only supported for user-defined networks"
                )
            if endpoint.get("Links"):
                raise ValueError("links are only supported for user-defined networks")
        if name in endpoints:
            raise ValueError(f'network "{name}" is specified multiple times')
        if endpoint or len(targets) > 1:
            endpoints[name] = endpoint
    if len({user_defined(name) for name, _ in targets}) > 1:
        raise ValueError(
            "conflicting options: cannot attach both user-defined and non-user-defined "
            "network-modes"
        )
    return targets[0][0], endpoints


def _endpoint_flags(options: Options) -> bool:
    flags = ("network-alias", "ip", "ip6", "mac-address", "link-local-ip")
    return any(options.changed(flag) for flag in flags)


def _first_endpoint(options: Options, name: str, endpoint: Json) -> None:
    """The flags of one network at a time belong to the first."""
    if options.many("network-alias"):
        if "Aliases" in endpoint:
            raise ValueError(
                "conflicting options: cannot specify both --network-alias and per-network alias"
            )
        endpoint["Aliases"] = options.many("network-alias")
    if options.many("link") and user_defined(name):
        endpoint["Links"] = options.many("link")
    if options.text("mac-address"):
        endpoint["MacAddress"] = _mac(options.text("mac-address"))
    addresses: Json = {}
    for flag, key in (("ip", "IPv4Address"), ("ip6", "IPv6Address")):
        if options.text(flag):
            check_address(options.text(flag))
            addresses[key] = options.text(flag)
    if options.many("link-local-ip"):
        addresses["LinkLocalIPs"] = options.many("link-local-ip")
    if addresses:
        known = endpoint.setdefault("IPAMConfig", {})
        assert isinstance(known, dict)
        known.update(addresses)


def _mac(text: str) -> str:
    parts = text.strip().replace("-", ":").split(":")
    valid = all(len(part) == 2 and set(part.lower()) <= set("0123456789abcdef") for part in parts)
    if len(parts) != 6 or not valid:
        raise ValueError(f"{text} is not a valid mac address")
    return ":".join(parts)


def attachment(text: str) -> tuple[str, Json]:
    """`NAME` or `name=NAME,alias=A,ip=…,driver-opt=K=V` as a name and endpoint settings."""
    if "=" not in text:
        return text, {}
    name, endpoint, addresses = "", Json(), Json()
    for item in text.split(","):
        key, equals, value = item.partition("=")
        key = key.strip().lower()
        if not equals:
            raise ValueError(f"invalid key/value pair format in driver options: {item}")
        if key == "name":
            name = value.strip()
        elif key == "alias":
            aliases = endpoint.setdefault("Aliases", [])
            assert isinstance(aliases, list)
            aliases.append(value)
        elif key == "driver-opt":
            driver = endpoint.setdefault("DriverOpts", {})
            assert isinstance(driver, dict)
            option, _, setting = value.partition("=")
            driver[option.strip().lower()] = setting.strip()
        elif key == "ip":
            addresses["IPv4Address"] = value
        elif key == "ip6":
            addresses["IPv6Address"] = value
        elif key == "mac-address":
            endpoint["MacAddress"] = _mac(value)
        elif key == "link-local-ip":
            local = addresses.setdefault("LinkLocalIPs", [])
            assert isinstance(local, list)
            local.append(value)
        elif key == "gw-priority":
            try:
                endpoint["GwPriority"] = int(value)
            except ValueError:
                raise ValueError(f"invalid gw-priority ({value})") from None
        else:
            raise ValueError(f"invalid field key {key}")
    if addresses:
        endpoint["IPAMConfig"] = addresses
    return name, endpoint
