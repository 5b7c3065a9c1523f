"""What a spec's values have to make together; types and ranges are the decoder's."""

from __future__ import annotations

import re
from typing import Final

from gantry.oci import runtime_spec as oci
from gantry.runtime.errors import RuntimeFailure

_VERSION: Final = re.compile(r"1\.\d+\.\d+(-[0-9A-Za-z.-]+)?(\+[0-9A-Za-z.-]+)?")


def spec(config: oci.Spec) -> None:
    """Raise RuntimeFailure, one line that names the field, for what cannot be run."""
    if not _VERSION.fullmatch(config.oci_version):
        raise RuntimeFailure(f'ociVersion: unsupported version "{config.oci_version}"')
    if config.root is None:
        raise RuntimeFailure("root: is required")
    if not config.root.path:
        raise RuntimeFailure("root.path: must not be empty")
    if config.process is None:
        raise RuntimeFailure("process: property must not be empty")
    if config.linux is not None:
        _linux(config, config.linux)
    for index, mount in enumerate(config.mounts):
        if not mount.destination:
            raise RuntimeFailure(f"mounts[{index}].destination: must not be empty")


def _linux(config: oci.Spec, linux: oci.Linux) -> None:
    kinds = {namespace.type for namespace in linux.namespaces}
    if config.hostname and "uts" not in kinds:
        raise RuntimeFailure("unable to set hostname without a private UTS namespace")
    if config.domainname and "uts" not in kinds:
        raise RuntimeFailure("unable to set domainname without a private UTS namespace")
    if (linux.masked_paths or linux.readonly_paths) and "mount" not in kinds:
        raise RuntimeFailure("unable to restrict sys entries without a private MNT namespace")
    if linux.intel_rdt is not None:
        raise RuntimeFailure("linux.intelRdt: Intel RDT is not supported by this runtime")
    if linux.time_offsets and "time" not in kinds:
        raise RuntimeFailure("linux.timeOffsets: time offsets need a time namespace")
    if (linux.uid_mappings or linux.gid_mappings) and "user" not in kinds:
        raise RuntimeFailure(
            "User namespace mappings specified, but USER namespace isn't enabled in the config"
        )
