"""image-spec values: descriptors, manifests, indexes, configs; Docker's schema 2 alike.

Blobs are kept as they came: nothing here is written back over a blob that was read. Readers
accept what registries and old builders really produce (null for empty, times with and without
fractions) and refuse what could hurt: a document over `MAX_DOCUMENT`, a descriptor with a
negative size or a malformed digest, more than `MAX_LAYERS` layers.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeVar

import msgspec

from gantry.model.container import HealthConfig
from gantry.model.errors import InvalidParameter
from gantry.model.image import HistoryEntry, ImageConfig
from gantry.oci.image_digest import is_digest

OCI_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX: Final = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG: Final = "application/vnd.oci.image.config.v1+json"
OCI_LAYER: Final = "application/vnd.oci.image.layer.v1.tar"
OCI_LAYER_GZIP: Final = "application/vnd.oci.image.layer.v1.tar+gzip"
OCI_LAYER_ZSTD: Final = "application/vnd.oci.image.layer.v1.tar+zstd"
DOCKER_MANIFEST: Final = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST: Final = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_SCHEMA1: Final = "application/vnd.docker.distribution.manifest.v1+json"
DOCKER_SCHEMA1_SIGNED: Final = "application/vnd.docker.distribution.manifest.v1+prettyjws"
DOCKER_CONFIG: Final = "application/vnd.docker.container.image.v1+json"

MANIFESTS: Final = frozenset({OCI_MANIFEST, DOCKER_MANIFEST})
INDEXES: Final = frozenset({OCI_INDEX, DOCKER_LIST})
CONFIGS: Final = frozenset({OCI_CONFIG, DOCKER_CONFIG})

MAX_DOCUMENT: Final = 4 << 20
"""Bytes: manifests and indexes (as registries limit them) and image configs above are refused."""
MAX_LAYERS: Final = 512
"""More is no image that any driver could mount."""

IMAGE_NAME: Final = "io.containerd.image.name"
REF_NAME: Final = "org.opencontainers.image.ref.name"

T = TypeVar("T")


class Platform(msgspec.Struct, frozen=True, omit_defaults=True):
    architecture: str = ""
    os: str = ""
    os_version: str = msgspec.field(default="", name="os.version")
    os_features: list[str] | None = msgspec.field(default=None, name="os.features")
    variant: str = ""

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)


class Descriptor(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    media_type: str
    digest: str
    size: int
    urls: list[str] | None = None
    annotations: dict[str, str] | None = None
    platform: Platform | None = None
    artifact_type: str = ""


class Manifest(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    """An image (or artifact) manifest. `layers` goes from the bottom to the top."""

    config: Descriptor
    layers: list[Descriptor]
    schema_version: int = msgspec.field(default=0)
    media_type: str = ""
    annotations: dict[str, str] | None = None
    artifact_type: str = ""
    subject: Descriptor | None = None


class Index(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    """An image index or Docker manifest list."""

    manifests: list[Descriptor]
    schema_version: int = msgspec.field(default=0)
    media_type: str = ""
    annotations: dict[str, str] | None = None
    artifact_type: str = ""
    subject: Descriptor | None = None


class ConfigDocument(msgspec.Struct, frozen=True):
    """An image config as it was parsed; the blob itself stays the truth."""

    config: ImageConfig
    diff_ids: tuple[str, ...]
    history: tuple[HistoryEntry, ...]
    architecture: str
    os: str
    variant: str
    os_version: str
    created: str
    author: str
    comment: str
    docker_version: str
    container: str


class _RootFS(msgspec.Struct):
    type: str = ""
    diff_ids: list[str] | None = None


class _History(msgspec.Struct):
    created: str | None = None
    created_by: str | None = None
    author: str | None = None
    comment: str | None = None
    empty_layer: bool | None = None


class _Config(msgspec.Struct, rename="pascal"):
    user: str | None = None
    exposed_ports: dict[str, Any] | None = None
    env: list[str] | None = None
    entrypoint: list[str] | str | None = None
    cmd: list[str] | str | None = None
    volumes: dict[str, Any] | None = None
    working_dir: str | None = None
    labels: dict[str, str | None] | None = None
    stop_signal: str | None = None
    args_escaped: bool | None = None
    healthcheck: HealthConfig | None = None
    on_build: list[str] | None = None
    shell: list[str] | str | None = None


class _Document(msgspec.Struct):
    rootfs: _RootFS | None = None
    config: _Config | None = None
    history: list[_History] | None = None
    architecture: str | None = None
    os: str | None = None
    variant: str | None = None
    os_version: str | None = msgspec.field(default=None, name="os.version")
    created: str | None = None
    author: str | None = None
    comment: str | None = None
    docker_version: str | None = None
    container: str | None = None


def decode(data: bytes, kind: type[T], what: str) -> T:
    """Parse an untrusted document. InvalidParameter with `what` in the message."""
    if len(data) > MAX_DOCUMENT:
        raise InvalidParameter(f"invalid {what}: larger than {MAX_DOCUMENT} bytes")
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise InvalidParameter(f"invalid {what}: {error}")


def check_descriptor(descriptor: Descriptor, what: str) -> Descriptor:
    if not is_digest(descriptor.digest):
        raise InvalidParameter(f"invalid {what}: invalid digest {descriptor.digest!r}")
    if not 0 <= descriptor.size < 1 << 62:
        raise InvalidParameter(f"invalid {what}: invalid size {descriptor.size}")
    return descriptor


def read_manifest(data: bytes) -> Manifest:
    """Parse and check an image manifest.

    A document that is both a manifest and an index is refused (CVE-2021-41190): two engines
    could take it for two things.
    """
    _refuse_ambiguous(data, "manifests", "manifest")
    manifest = decode(data, Manifest, "manifest")
    if manifest.media_type and manifest.media_type not in MANIFESTS:
        raise InvalidParameter(f"invalid manifest: unexpected media type {manifest.media_type!r}")
    check_descriptor(manifest.config, "manifest: config")
    if len(manifest.layers) > MAX_LAYERS:
        raise InvalidParameter(f"invalid manifest: more than {MAX_LAYERS} layers")
    for layer in manifest.layers:
        check_descriptor(layer, "manifest: layer")
    return manifest


def read_index(data: bytes) -> Index:
    """Parse and check an index or manifest list."""
    _refuse_ambiguous(data, "layers", "index")
    _refuse_ambiguous(data, "config", "index")
    index = decode(data, Index, "index")
    if index.media_type and index.media_type not in INDEXES:
        raise InvalidParameter(f"invalid index: unexpected media type {index.media_type!r}")
    for descriptor in index.manifests:
        check_descriptor(descriptor, "index")
    return index


def _refuse_ambiguous(data: bytes, key: str, what: str) -> None:
    fields = decode(data, dict[str, msgspec.Raw], what)
    if key in fields:
        raise InvalidParameter(f"invalid {what}: unexpected field {key!r}")


def read_config(data: bytes) -> ConfigDocument:
    """Parse an image config, old or new."""
    document = decode(data, _Document, "image config")
    if document.rootfs is None:
        raise InvalidParameter("invalid image JSON, no RootFS key")
    diff_ids = tuple(document.rootfs.diff_ids or ())
    if len(diff_ids) > MAX_LAYERS:
        raise InvalidParameter(f"invalid image config: more than {MAX_LAYERS} layers")
    for diff_id in diff_ids:
        if not is_digest(diff_id):
            raise InvalidParameter(f"invalid image config: invalid digest {diff_id!r}")
    return ConfigDocument(
        config=_image_config(document.config),
        diff_ids=diff_ids,
        history=tuple(_history(entry) for entry in document.history or ()),
        architecture=document.architecture or "",
        os=document.os or "",
        variant=document.variant or "",
        os_version=document.os_version or "",
        created=document.created or "",
        author=document.author or "",
        comment=document.comment or "",
        docker_version=document.docker_version or "",
        container=document.container or "",
    )


def _history(entry: _History) -> HistoryEntry:
    return HistoryEntry(
        created=entry.created or "",
        created_by=entry.created_by or "",
        author=entry.author or "",
        comment=entry.comment or "",
        empty_layer=bool(entry.empty_layer),
    )


def _words(value: list[str] | str | None) -> list[str] | None:
    """Go's strslice: a lone string is a list of one."""
    return [value] if isinstance(value, str) else value


def _image_config(raw: _Config | None) -> ImageConfig:
    if raw is None:
        return ImageConfig()
    return ImageConfig(
        user=raw.user or "",
        exposed_ports={port: {} for port in raw.exposed_ports} if raw.exposed_ports else None,
        env=raw.env,
        entrypoint=_words(raw.entrypoint),
        cmd=_words(raw.cmd),
        volumes={path: {} for path in raw.volumes} if raw.volumes else None,
        working_dir=raw.working_dir or "",
        labels={k: v or "" for k, v in raw.labels.items()} if raw.labels else None,
        stop_signal=raw.stop_signal or "",
        args_escaped=bool(raw.args_escaped),
        healthcheck=raw.healthcheck,
        on_build=raw.on_build or None,
        shell=_words(raw.shell),
    )


_TIME: Final = re.compile(
    r"(\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d)(?:\.(\d{1,9})\d*)?([Zz]|[+-]\d\d:\d\d)"
)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def parse_time(text: str) -> int | None:
    """RFC 3339 as nanoseconds since the epoch; None when it is none."""
    match = _TIME.fullmatch(text)
    if match is None:
        return None
    seconds, fraction, zone = match.groups()
    try:
        moment = datetime.fromisoformat(
            seconds.upper().replace(" ", "T") + ("+00:00" if zone in "Zz" else zone)
        )
    except ValueError:
        return None
    delta = moment - _EPOCH
    whole = delta.days * 86400 + delta.seconds
    return whole * 1_000_000_000 + int((fraction or "").ljust(9, "0"))


def format_time(ns: int) -> str:
    """Nanoseconds since the epoch as Go's RFC3339Nano in UTC (trailing zeros dropped)."""
    seconds, rest = divmod(ns, 1_000_000_000)
    moment = (_EPOCH + timedelta(seconds=seconds)).replace(tzinfo=None).isoformat()
    fraction = f".{rest:09d}".rstrip("0").rstrip(".") if rest else ""
    return f"{moment}{fraction}Z"
