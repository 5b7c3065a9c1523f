"""Images as values: what services pass on and what the Engine API answers.

The JSON names are the API's (moby `api/swagger.yaml`: ImageInspect, ImageSummary,
HistoryResponseItem, ImageDeleteResponseItem), in the latest version's shape; `api` alone
knows what older clients expect. Sizes are bytes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgspec

from gantry.model.container import HealthConfig, Wire

StrMap = dict[str, str]


class ImageConfig(Wire, frozen=True, kw_only=True, omit_defaults=True):
    """What an image says about the containers made from it (image-spec `config` object with
    Docker's additions). Empty values are left out, as the API does since 1.50."""

    user: str = ""
    exposed_ports: dict[str, dict[str, str]] | None = None
    env: list[str] | None = None
    entrypoint: list[str] | None = None
    cmd: list[str] | None = None
    volumes: dict[str, dict[str, str]] | None = None
    working_dir: str = ""
    labels: StrMap | None = None
    stop_signal: str = ""
    args_escaped: bool = False
    healthcheck: HealthConfig | None = None
    on_build: list[str] | None = None
    shell: list[str] | None = None


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """One step of an image's making. created: RFC 3339 or ""."""

    created: str = ""
    created_by: str = ""
    author: str = ""
    comment: str = ""
    empty_layer: bool = False


@dataclass(frozen=True, slots=True)
class Image:
    """An image that is here, whole.

    id: digest of its config. manifest: digest of the manifest blob it came with.
    chain_id: name of the top committed snapshot, None for an image without layers.
    layer_sizes: bytes a layer adds to the file system, in the order of `diff_ids`.
    created_ns: nanoseconds since the epoch, None when the config does not say.
    parent: id of the image it was made from here, or "". container: id of what it was committed
    from, or "".
    """

    id: str
    manifest: str
    config: ImageConfig
    diff_ids: tuple[str, ...]
    chain_ids: tuple[str, ...]
    architecture: str
    os: str
    variant: str = ""
    os_version: str = ""
    created: str = ""
    created_ns: int | None = None
    author: str = ""
    comment: str = ""
    docker_version: str = ""
    container: str = ""
    history: tuple[HistoryEntry, ...] = ()
    layer_sizes: tuple[int, ...] = ()
    parent: str = ""
    repo_tags: tuple[str, ...] = ()
    repo_digests: tuple[str, ...] = ()
    last_tag_time_ns: int | None = None
    labels: StrMap = field(default_factory=dict)

    @property
    def chain_id(self) -> str | None:
        return self.chain_ids[-1] if self.chain_ids else None

    @property
    def size(self) -> int:
        return sum(self.layer_sizes)


class RootFS(Wire, frozen=True, kw_only=True):
    type: str = "layers"
    layers: tuple[str, ...] = ()


class DriverData(Wire, frozen=True, kw_only=True):
    data: StrMap | None
    name: str


class ImageMetadata(Wire, frozen=True, kw_only=True):
    last_tag_time: str = "0001-01-01T00:00:00Z"


class ImageInspect(Wire, frozen=True, kw_only=True, omit_defaults=True):
    """GET /images/{name}/json. Fields with a default are left out when empty."""

    id: str
    repo_tags: list[str]
    repo_digests: list[str]
    parent: str = ""
    comment: str = ""
    created: str = ""
    docker_version: str = ""
    container: str = ""
    container_config: dict[str, Any] | None = None
    author: str = ""
    config: ImageConfig
    architecture: str
    variant: str = ""
    os: str
    os_version: str = ""
    size: int
    graph_driver: DriverData
    root_f_s: RootFS = msgspec.field(name="RootFS")
    metadata: ImageMetadata = msgspec.field()


class ManifestDescriptor(Wire, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """An OCI descriptor as the API shows it."""

    media_type: str
    digest: str
    size: int


class ManifestSize(Wire, frozen=True, kw_only=True):
    """total: content (blobs as they came) and what is unpacked of them."""

    content: int
    total: int


class UnpackedSize(Wire, frozen=True, kw_only=True):
    unpacked: int


class ManifestImage(Wire, frozen=True, kw_only=True):
    """containers: ids of those made from it."""

    platform: StrMap
    containers: list[str]
    size: UnpackedSize


class ManifestSummary(Wire, frozen=True, kw_only=True):
    """One of an image's manifests (`docker image ls --tree`). Of several platforms only the
    one that was chosen is kept here."""

    id: str = msgspec.field(name="ID")
    descriptor: ManifestDescriptor
    available: bool = True
    size: ManifestSize
    kind: str = "image"
    image_data: ManifestImage


class ImageSummary(Wire, frozen=True, kw_only=True):
    """One row of GET /images/json. containers and shared_size: -1 not counted. manifests:
    only when asked for."""

    containers: int
    created: int
    id: str
    labels: StrMap | None
    parent_id: str
    repo_digests: list[str]
    repo_tags: list[str]
    shared_size: int
    size: int
    manifests: list[ManifestSummary] | msgspec.UnsetType = msgspec.UNSET


class HistoryItem(Wire, frozen=True, kw_only=True):
    """One row of GET /images/{name}/history; created in seconds, tags null without any."""

    comment: str
    created: int
    created_by: str
    id: str
    size: int
    tags: list[str] | None
