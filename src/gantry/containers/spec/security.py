"""HostConfig.SecurityOpt and what it means for a process."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import msgspec

from gantry.containers.settings import Settings
from gantry.containers.spec import seccomp
from gantry.model.container import HostConfig
from gantry.model.errors import InvalidParameter


@dataclass(frozen=True, slots=True)
class Security:
    """HostConfig.SecurityOpt, read."""

    seccomp: str = ""
    apparmor: str = ""
    no_new_privileges: bool = False
    writable_cgroups: bool = False

    @staticmethod
    def parse(host: HostConfig, settings: Settings) -> Security:
        """InvalidParameter for unknown options."""
        if not host.security_opt:
            profile = "unconfined" if host.privileged else settings.seccomp_profile
            return _plain(profile, settings.no_new_privileges, host.privileged)
        return _read_options(
            tuple(host.security_opt),
            settings.seccomp_profile,
            settings.no_new_privileges,
            host.privileged,
        )

    def filter(self, caps: tuple[str, ...]) -> msgspec.Raw | None:
        """`linux.seccomp`, None for unconfined."""
        if self.seccomp == "unconfined":
            return None
        if self.seccomp in ("", "builtin"):
            return seccomp.default(caps)
        return seccomp.custom(self.seccomp, caps)


def apparmor_profile(host: HostConfig, settings: Settings) -> str:
    """`process.apparmorProfile`; "" for none, as everywhere where AppArmor is not."""
    if not settings.apparmor:
        return ""
    named = Security.parse(host, settings).apparmor
    return named or ("unconfined" if host.privileged else settings.apparmor)


@functools.lru_cache(maxsize=64)
def _plain(profile: str, no_new_privileges: bool, privileged: bool) -> Security:
    return Security(profile, "", no_new_privileges, privileged)


@functools.lru_cache(maxsize=64)
def _read_options(
    options: tuple[str, ...], profile: str, no_new_privileges: bool, privileged: bool
) -> Security:
    apparmor, cgroups = "", privileged
    seccomp_profile = "unconfined" if privileged else profile
    for option in options:
        if option == "no-new-privileges":
            no_new_privileges = True
            continue
        if option == "writable-cgroups":
            cgroups = True
            continue
        if option in ("disable", "label=disable", "label:disable"):
            continue
        separator = "=" if "=" in option else ":"
        name, found, value = option.partition(separator)
        if not found:
            raise InvalidParameter(f'invalid --security-opt 1: "{option}"')
        if name == "seccomp":
            seccomp_profile = value
        elif name == "apparmor":
            apparmor = value
        elif name == "label":
            pass  # no SELinux here: as Docker without selinux-enabled
        elif name in ("no-new-privileges", "writable-cgroups"):
            if value.lower() not in ("1", "t", "true", "0", "f", "false"):
                raise InvalidParameter(f'invalid --security-opt 2: "{option}"')
            on = value.lower() in ("1", "t", "true")
            if name == "no-new-privileges":
                no_new_privileges = on
            else:
                cgroups = on
        else:
            raise InvalidParameter(f'invalid --security-opt 2: "{option}"')
    return Security(seccomp_profile, apparmor, no_new_privileges, cgroups)
