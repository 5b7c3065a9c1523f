"""The spec's `linux.seccomp` as a BPF program: compiled by libseccomp, kept by its hash.

Compiling Docker's default profile takes milliseconds and loads a library; loading the
program is one system call. So the program is looked up first in this process's memory,
then in a file of the cache folder (root's own, 0700), and compiled only after both.
Compiling happens before the fork, always.
"""

from __future__ import annotations

import ctypes
import marshal
import os
import struct
from collections.abc import Callable
from typing import Final, Protocol

from gantry.kernel import syscalls
from gantry.kernel.libc import MACHINE
from gantry.model.record import Record
from gantry.oci.runtime_spec import Seccomp, SeccompSyscall
from gantry.runtime.errors import RuntimeFailure


class _Hash(Protocol):
    def digest(self) -> bytes: ...


_FORMAT: Final = 3  # part of the hash: raise it when compiling changes

ACTIONS: Final[dict[str, int]] = {
    "SCMP_ACT_KILL": 0x00000000,
    "SCMP_ACT_KILL_THREAD": 0x00000000,
    "SCMP_ACT_KILL_PROCESS": 0x80000000,
    "SCMP_ACT_TRAP": 0x00030000,
    "SCMP_ACT_ERRNO": 0x00050000,
    "SCMP_ACT_TRACE": 0x7FF00000,
    "SCMP_ACT_LOG": 0x7FFC0000,
    "SCMP_ACT_ALLOW": 0x7FFF0000,
    "SCMP_ACT_NOTIFY": 0x7FC00000,
}
_WITH_ERRNO: Final = frozenset(("SCMP_ACT_ERRNO", "SCMP_ACT_TRACE"))
OPERATORS: Final[dict[str, int]] = {
    "SCMP_CMP_NE": 1,
    "SCMP_CMP_LT": 2,
    "SCMP_CMP_LE": 3,
    "SCMP_CMP_EQ": 4,
    "SCMP_CMP_GE": 5,
    "SCMP_CMP_GT": 6,
    "SCMP_CMP_MASKED_EQ": 7,
}
FLAGS: Final[dict[str, int]] = {
    "SECCOMP_FILTER_FLAG_TSYNC": 0,  # we have one thread: nothing to synchronise
    "SECCOMP_FILTER_FLAG_LOG": 2,
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW": 4,
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV": 32,
}
_NEW_LISTENER: Final = 8
_EPERM: Final = 1
_ENOSYS: Final = 38
_ATTR_NNP: Final = 3
_ATTR_OPTIMIZE: Final = 8
ARCHITECTURES: Final[dict[str, int]] = {
    "SCMP_ARCH_X86": 0x40000003,
    "SCMP_ARCH_X86_64": 0xC000003E,
    "SCMP_ARCH_X32": 0x4000003E,
    "SCMP_ARCH_ARM": 0x40000028,
    "SCMP_ARCH_AARCH64": 0xC00000B7,
    "SCMP_ARCH_MIPS": 0x8,
    "SCMP_ARCH_MIPS64": 0x80000008,
    "SCMP_ARCH_MIPS64N32": 0xA0000008,
    "SCMP_ARCH_MIPSEL": 0x40000008,
    "SCMP_ARCH_MIPSEL64": 0xC0000008,
    "SCMP_ARCH_MIPSEL64N32": 0xE0000008,
    "SCMP_ARCH_PPC": 0x14,
    "SCMP_ARCH_PPC64": 0x80000015,
    "SCMP_ARCH_PPC64LE": 0xC0000015,
    "SCMP_ARCH_S390": 0x16,
    "SCMP_ARCH_S390X": 0x80000016,
    "SCMP_ARCH_PARISC": 0xF,
    "SCMP_ARCH_PARISC64": 0x8000000F,
    "SCMP_ARCH_RISCV64": 0xC00000F3,
    "SCMP_ARCH_LOONGARCH64": 0xC0000102,
    "SCMP_ARCH_M68K": 0x4,
    "SCMP_ARCH_SH": 0x4000002A,
    "SCMP_ARCH_SHEB": 0x2A,
}
_NATIVE: Final = {"x86_64": "SCMP_ARCH_X86_64", "aarch64": "SCMP_ARCH_AARCH64"}


class Program(Record):
    """A filter ready to load: an array of struct sock_filter, and seccomp(2)'s flags."""

    code: bytes
    flags: int
    listener: bool = False
    key: str = ""


class _Arg(ctypes.Structure):
    _fields_ = (  # struct scmp_arg_cmp
        ("arg", ctypes.c_uint),
        ("op", ctypes.c_int),
        ("a", ctypes.c_uint64),
        ("b", ctypes.c_uint64),
    )


_memory: dict[str, Program] = {}


def _find_sha256() -> Callable[[bytes], _Hash]:
    """CPython's own SHA-256: hashlib would load OpenSSL, 5 ms and a MiB in every process."""
    for name in ("_sha2", "_sha256"):  # from 3.12 on; 3.11
        try:
            found: Callable[[bytes], _Hash] = __import__(name).sha256
            return found
        except ImportError:
            continue
    return __import__("hashlib").sha256  # type: ignore[no-any-return]  # by name


_new_sha256 = _find_sha256()


def _sha256(data: bytes) -> bytes:
    return _new_sha256(data).digest()


def key_of(profile: Seccomp) -> bytes:
    """What identifies a profile's program on this machine."""
    rules = tuple(
        [
            (
                rule.names,
                rule.action,
                rule.errno_ret,
                tuple([(a.index, a.value, a.value_two, a.op) for a in rule.args]),
            )
            for rule in profile.syscalls
        ]
    )
    whole = (
        _FORMAT,
        MACHINE,
        profile.default_action,
        profile.default_errno_ret,
        profile.architectures,
        "flags" in profile.__dict__,
        profile.flags,
        rules,
    )
    return _sha256(marshal.dumps(whole))


def program(profile: Seccomp, cache_folder: str | None = None) -> Program:
    """The program for a profile, from memory, from a file, or compiled now.

    Raises RuntimeFailure for unknown actions, operators, architectures and flags.
    """
    key = key_of(profile).hex()
    found = _lookup(key, cache_folder)
    if found is None:
        found = compile_profile(profile).replace(key=key)
        _memory[key] = found
        if cache_folder:
            _save(f"{cache_folder}/{key}.bpf", found)
    return found


def by_path(path: str) -> Program:
    """A program compiled earlier, by "cache folder/key". RuntimeFailure: it is nowhere
    (a process is never run without the filter that it should have)."""
    folder, _, key = path.rpartition("/")
    found = _lookup(key, folder)
    if found is None:
        raise RuntimeFailure("seccomp: the container's filter is not in the cache any more")
    return found


def _lookup(key: str, cache_folder: str | None) -> Program | None:
    found = _memory.get(key)
    if found is None and cache_folder:
        found = _load(f"{cache_folder}/{key}.bpf")
        if found is not None:
            found = _memory[key] = found.replace(key=key)
    return found


_HEADER: Final = struct.Struct("<4sII32s")


def _load(path: str) -> Program | None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        status = os.fstat(fd)
        if status.st_uid != os.geteuid() or status.st_mode & 0o022:
            return None
        data = os.read(fd, 1 << 20)
    finally:
        os.close(fd)
    if len(data) < _HEADER.size:
        return None
    magic, flags, listener, digest = _HEADER.unpack_from(data)
    code = data[_HEADER.size :]
    if magic != b"gbp2" or _sha256(code) != digest:
        return None
    return Program(code=code, flags=flags, listener=bool(listener))


def _save(path: str, made: Program) -> None:
    temporary = f"{path}.{os.getpid()}"
    header = _HEADER.pack(b"gbp2", made.flags, made.listener, _sha256(made.code))
    try:
        os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, header + made.code)
        finally:
            os.close(fd)
        os.rename(temporary, path)
    except OSError:
        return  # a cache that cannot be written is only slow


_library: ctypes.CDLL | None = None


def _libseccomp() -> ctypes.CDLL:
    global _library
    if _library is None:
        try:
            lib = ctypes.CDLL("libseccomp.so.2", use_errno=True)
        except OSError:
            raise RuntimeFailure("seccomp: libseccomp.so.2 is not installed")
        lib.seccomp_init.argtypes = [ctypes.c_uint32]
        lib.seccomp_init.restype = ctypes.c_void_p
        lib.seccomp_release.argtypes = [ctypes.c_void_p]
        lib.seccomp_arch_add.argtypes = [ctypes.c_void_p, ctypes.c_uint32]
        lib.seccomp_attr_set.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_uint32]
        lib.seccomp_syscall_resolve_name.argtypes = [ctypes.c_char_p]
        lib.seccomp_syscall_resolve_name_arch.argtypes = [ctypes.c_uint32, ctypes.c_char_p]
        lib.seccomp_rule_add_array.argtypes = [
            ctypes.c_void_p,
            ctypes.c_uint32,
            ctypes.c_int,
            ctypes.c_uint,
            ctypes.c_void_p,
        ]
        lib.seccomp_export_bpf.argtypes = [ctypes.c_void_p, ctypes.c_int]
        _library = lib
    return _library


def library_version() -> str:
    """libseccomp's version, "" where it is not installed."""

    class _Version(ctypes.Structure):
        _fields_ = (("major", ctypes.c_uint), ("minor", ctypes.c_uint), ("micro", ctypes.c_uint))

    try:
        lib = _libseccomp()
    except RuntimeFailure:
        return ""
    lib.seccomp_version.restype = ctypes.POINTER(_Version)
    found = lib.seccomp_version().contents
    return f"{found.major}.{found.minor}.{found.micro}"


def _action(name: str, errno_ret: int | None) -> int:
    value = ACTIONS.get(name)
    if value is None:
        raise RuntimeFailure(f"string {name} is not a valid action for seccomp")
    if name in _WITH_ERRNO:
        return value | (_EPERM if errno_ret is None else errno_ret & 0xFFFF)
    if errno_ret is not None and errno_ret != 0:
        raise RuntimeFailure(f"seccomp: errnoRet is not allowed with action {name}")
    return value


def compile_profile(profile: Seccomp) -> Program:
    """Compile with libseccomp. Names that it does not know are passed over, as runc does."""
    lib = _libseccomp()
    default = _action(profile.default_action, profile.default_errno_ret)
    if profile.default_action == "SCMP_ACT_NOTIFY":
        raise RuntimeFailure("SCMP_ACT_NOTIFY cannot be used as default action")
    context = lib.seccomp_init(default)
    if not context:
        raise RuntimeFailure("seccomp: unable to create a filter")
    try:
        for name in profile.architectures:
            number = ARCHITECTURES.get(name)
            if number is None:
                raise RuntimeFailure(f"string {name} is not a valid arch for seccomp")
            result = lib.seccomp_arch_add(context, number)
            if result not in (0, -17):  # EEXIST: the native one is there already
                raise RuntimeFailure(f"seccomp: error adding architecture {name}")
        lib.seccomp_attr_set(context, _ATTR_NNP, 0)
        # A tree instead of a list: the kernel tries a filter on every system call there is
        # when it is loaded. (From libseccomp 2.5 on; an older one makes a list.)
        lib.seccomp_attr_set(context, _ATTR_OPTIMIZE, 2)
        listener = False
        for rule in profile.syscalls:
            listener |= _add_rule(lib, ctypes.c_void_p(context), rule, default)
        code = _export(lib, ctypes.c_void_p(context))
    finally:
        lib.seccomp_release(context)
    from gantry.runtime import seccomp_ranges  # a cached filter does without it

    code = seccomp_ranges.compact(_with_enosys(lib, profile, default, code))
    flags = _flags(profile)
    return Program(code=code, flags=flags | (_NEW_LISTENER if listener else 0), listener=listener)


def _flags(profile: Seccomp) -> int:
    if "flags" not in profile.__dict__:
        return FLAGS["SECCOMP_FILTER_FLAG_SPEC_ALLOW"]
    flags = 0
    for name in profile.flags:
        value = FLAGS.get(name)
        if value is None:
            raise RuntimeFailure(f"seccomp flags not known to runc: {name}")
        flags |= value
    return flags


def _add_rule(
    lib: ctypes.CDLL, context: ctypes.c_void_p, rule: SeccompSyscall, default: int
) -> bool:
    action = _action(rule.action, rule.errno_ret)
    notify = rule.action == "SCMP_ACT_NOTIFY"
    if action == default:
        return False  # libseccomp refuses a rule that says nothing new
    if len(rule.args) > 6:
        raise RuntimeFailure("seccomp: too many arguments in a rule")
    args = []
    for arg in rule.args:
        operator = OPERATORS.get(arg.op)
        if operator is None:
            raise RuntimeFailure(f"string {arg.op} is not a valid operator for seccomp")
        if arg.index > 5:
            raise RuntimeFailure(f"seccomp: argument index {arg.index} is out of range")
        args.append(_Arg(arg.index, operator, arg.value, arg.value_two))
    # libseccomp ANDs conditions on different arguments; the same one twice means OR.
    together = [args] if len({a.arg for a in args}) == len(args) else [[a] for a in args]
    for name in rule.names:
        if notify and name == "write":
            raise RuntimeFailure("SCMP_ACT_NOTIFY cannot be used for the write syscall")
        number = lib.seccomp_syscall_resolve_name(name.encode())
        if number == -1:
            continue
        for group in together:
            array = (_Arg * max(1, len(group)))(*group)
            result = lib.seccomp_rule_add_array(
                context, action, number, len(group), ctypes.byref(array)
            )
            if result < 0 and result not in (-17, -1):  # EEXIST, EACCES of a doubled rule
                raise RuntimeFailure(
                    f"seccomp: error adding rule for syscall {name}: {os.strerror(-result).lower()}"
                )
    return notify


def _export(lib: ctypes.CDLL, context: ctypes.c_void_p) -> bytes:
    fd = os.memfd_create("seccomp")
    try:
        if lib.seccomp_export_bpf(context, fd) != 0:
            raise RuntimeFailure("seccomp: unable to export the filter")
        return os.pread(fd, 1 << 20, 0)
    finally:
        os.close(fd)


# --- unknown system calls --------------------------------------------------------------

_X32_BIT: Final = 0x40000000


def _with_enosys(lib: ctypes.CDLL, profile: Seccomp, default: int, code: bytes) -> bytes:
    """Prefix the filter so that calls newer than the profile answer ENOSYS.

    A profile whose default is "EPERM" would make a C library believe that a call it
    has just learned is forbidden, where ENOSYS makes it take the older one. As in
    runc, "newer" is every number above the highest that the profile names.
    """
    action = profile.default_action
    if action in ("SCMP_ACT_ALLOW", "SCMP_ACT_LOG", "SCMP_ACT_TRACE", "SCMP_ACT_NOTIFY"):
        return code
    if action == "SCMP_ACT_ERRNO" and default == ACTIONS["SCMP_ACT_ERRNO"] | _ENOSYS:
        return code
    native = _NATIVE.get(MACHINE)
    if native is None:
        return code
    arch = ARCHITECTURES[native]
    highest = -1
    for rule in profile.syscalls:
        for name in rule.names:
            highest = max(highest, lib.seccomp_syscall_resolve_name_arch(arch, name.encode()))
    if highest < 0:
        return code
    refuse = ACTIONS["SCMP_ACT_ERRNO"] | _ENOSYS
    from gantry.runtime.seccomp_ranges import ARCH, JEQ, JGT, LOAD, NUMBER, OP, RET

    # Only this architecture's own numbers are judged; x32 numbers stay the filter's.
    prefix = (
        (LOAD, 0, 0, ARCH),
        (JEQ, 0, 4, arch),
        (LOAD, 0, 0, NUMBER),
        (JGT, 2, 0, _X32_BIT - 1),
        (JGT, 0, 1, highest),
        (RET, 0, 0, refuse),
    )
    return b"".join(OP.pack(*fields) for fields in prefix) + code


def install(made: Program) -> int | None:
    """Load a program into this process; the listener's fd when it has one."""
    result = syscalls.seccomp_set_filter(made.code, made.flags)
    return result if made.listener else None
