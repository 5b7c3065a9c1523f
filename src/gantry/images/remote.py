"""Looking at registries without taking anything: search, /distribution."""

from __future__ import annotations

import contextlib
from typing import Any

import msgspec

from gantry.images.filters import Filters, flag, validate
from gantry.model.errors import InvalidParameter, System
from gantry.oci.image import INDEXES, MANIFESTS, Platform, decode, read_index, read_manifest
from gantry.oci.image_reference import parse_any
from gantry.registry.auth import Credentials
from gantry.registry.client import RegistryClient
from gantry.registry.errors import RegistryError, of_answer
from gantry.registry.remote import Remote

Json = dict[str, Any]

_FILTERS = frozenset({"is-automated", "is-official", "stars"})


async def search(
    client: RegistryClient, term: str, limit: int, filters: Filters, auth: Json
) -> list[Json]:
    """Rows of GET /images/search. InvalidParameter for filters and limits."""
    validate(filters, _FILTERS)
    if flag(filters, "is-automated", False):
        return []  # deprecated: nothing is automated any more
    official = flag(filters, "is-official", False)
    stars = 0
    for value in filters.get("stars") or ():
        try:
            stars = max(stars, int(value))
        except ValueError:
            text = f'strconv.Atoi: parsing "{value}": invalid syntax'
            raise InvalidParameter(f"invalid filter 'stars={value}': {text}") from None
    rows = await client.search(term, limit, Credentials.of_json(auth))
    return [
        row
        for row in rows
        if ("is-official" not in filters or row["is_official"] == official)
        and row["star_count"] >= stars
    ]


async def distribution(client: RegistryClient, name: str, auth: Json) -> Json:
    """{"Descriptor", "Platforms"} of what a registry has under a name."""
    reference = parse_any(name)
    if isinstance(reference, str):
        raise System("no manifest found for full image ID")
    reference = reference.with_default_tag()

    async def action(remote: Remote) -> Json:
        asked = reference.digest or reference.tag
        found = await remote.head(asked)
        found = found if found.raw else await remote.get(asked)
        platforms: list[Platform] = []
        if found.media_type in INDEXES:
            index = read_index(found.raw)
            platforms = [one.platform for one in index.manifests if one.platform is not None]
        elif found.media_type in MANIFESTS:
            manifest = read_manifest(found.raw)
            with contextlib.suppress(RegistryError, InvalidParameter):
                config = await remote.small_blob(manifest.config.digest)
                platform = decode(config, Platform, "image config")
                platforms = [platform] if platform.os or platform.architecture else []
        return {
            "Descriptor": {
                "mediaType": found.media_type,
                "digest": found.digest,
                "size": found.size,
            },
            "Platforms": [msgspec.to_builtins(platform) for platform in platforms] or None,
        }

    try:
        return await client.attempt(reference, Credentials.of_json(auth), action)
    except RegistryError as error:
        raise of_answer(error) from error
