"""`--publish` and `--expose`: port specifications as Docker's go-connections reads them."""

from __future__ import annotations

from ipaddress import ip_address

_PROTOCOLS = ("tcp", "udp", "sctp")

Bindings = dict[str, list[dict[str, str]]]
"""Container port (`80/tcp`) to where it is published."""


def parse_publish(specifications: list[str]) -> tuple[dict[str, dict[str, str]], Bindings]:
    """The ports exposed and their bindings. Raises ValueError with Docker's text."""
    exposed: dict[str, dict[str, str]] = {}
    bindings: Bindings = {}
    for text in specifications:
        for port, binding in _parse(_standard(text)):
            exposed[port] = {}
            bindings.setdefault(port, []).append(binding)
    return exposed, bindings


def parse_expose(text: str) -> list[str]:
    """`80`, `53/udp`, `7000-7009/tcp` as single ports."""
    ports, _, protocol = text.partition("/")
    protocol = protocol.lower() or "tcp"
    if protocol not in _PROTOCOLS:
        raise ValueError(f"invalid proto: {protocol}")
    try:
        first, last = _range(ports)
    except ValueError as error:
        raise ValueError(f"invalid range format for --expose: {text}, error: {error}") from error
    return [f"{port}/{protocol}" for port in range(first, last + 1)]


def _standard(text: str) -> str:
    """The long form (`target=80,published=8080,protocol=tcp`) as the short one."""
    if "=" not in text:
        return text
    fields = {"protocol": "tcp", "published": ""}
    for item in text.split(","):
        key, equals, value = item.partition("=")
        if not key or not equals:
            raise ValueError(f"invalid publish opts format (should be name=value but got '{item}')")
        fields[key] = value
    return f"{fields['published']}:{fields.get('target', '')}/{fields['protocol']}"


def _parse(text: str) -> list[tuple[str, dict[str, str]]]:
    body, _, protocol = text.partition("/")
    protocol = protocol.lower() or "tcp"
    address, host, container = _split(body)
    if container == "":
        raise ValueError(f"no port specified: {text}<empty>")
    if address:
        try:
            ip_address(address)
        except ValueError:
            raise ValueError(f"invalid IP address: {address}") from None
    try:
        first, last = _range(container)
    except ValueError:
        raise ValueError(f"invalid containerPort: {container}") from None
    host_first, host_last = 0, 0
    if host:
        try:
            host_first, host_last = _range(host)
        except ValueError:
            raise ValueError(f"invalid hostPort: {host}") from None
    single = first == last and host_first != host_last
    if host and last - first != host_last - host_first and not single:
        raise ValueError(
            f"invalid ranges specified for container and host Ports: {container} and {host}"
        )
    if protocol not in _PROTOCOLS:
        raise ValueError(f"invalid proto: {protocol}")
    found = []
    for offset in range(last - first + 1):
        public = ""
        if host:
            public = f"{host_first}-{host_last}" if single else str(host_first + offset)
        found.append((f"{first + offset}/{protocol}", {"HostIp": address, "HostPort": public}))
    return found


def _split(body: str) -> tuple[str, str, str]:
    """Address, host port, container port of `[ip:][host:]container`."""
    if body.startswith("["):
        address, _, rest = body[1:].partition("]")
        host, _, container = rest.removeprefix(":").partition(":")
        return address, host, container
    parts = body.split(":")
    if len(parts) == 1:
        return "", "", parts[0]
    if len(parts) == 2:
        return "", parts[0], parts[1]
    return ":".join(parts[:-2]), parts[-2], parts[-1]


def _range(text: str) -> tuple[int, int]:
    first, dash, last = text.partition("-")
    start = _port(first)
    end = _port(last) if dash else start
    if end < start:
        raise ValueError(f"invalid range specified for port: {text}")
    return start, end


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) < 65536):
        raise ValueError(f'strconv.ParseUint: parsing "{text}": invalid syntax')
    return int(text)


def display(ports: list[dict[str, object]]) -> str:
    """The PORTS column: neighbouring ports joined to ranges."""
    groups: dict[str, list[int]] = {}
    done: list[str] = []
    mapped: list[str] = []
    for port in sorted(ports, key=_order):
        private, public = _number(port, "PrivatePort"), _number(port, "PublicPort")
        protocol, address = str(port.get("Type", "tcp")), str(port.get("IP") or "")
        key = protocol
        if address:
            if public != private:
                mapped.append(f"{_joined(address, str(public))}->{private}/{protocol}")
                continue
            key = f"{address}/{protocol}"
        group = groups.get(key)
        if group is None:
            groups[key] = [private, private]
        elif private == group[1] + 1:
            group[1] = private
        else:
            done.append(_group(key, *group))
            groups[key] = [private, private]
    done += [_group(key, *group) for key, group in groups.items()]
    return ", ".join(done + mapped)


def _order(port: dict[str, object]) -> tuple[int, bytes, int, str]:
    address = str(port.get("IP") or "")
    packed = b""
    if address:
        try:
            packed = bytes([4 if ":" not in address else 6]) + ip_address(address).packed
        except ValueError:
            packed = address.encode()
    return (
        _number(port, "PrivatePort"),
        packed,
        _number(port, "PublicPort"),
        str(port.get("Type")),
    )


def _number(port: dict[str, object], key: str) -> int:
    value = port.get(key)
    return value if isinstance(value, int) else 0


def _group(key: str, first: int, last: int) -> str:
    address, slash, protocol = key.rpartition("/")
    text = str(first) if first == last else f"{first}-{last}"
    if slash:
        text = f"{_joined(address, text)}->{text}"
    return f"{text}/{protocol}"


def _joined(address: str, port: str) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
