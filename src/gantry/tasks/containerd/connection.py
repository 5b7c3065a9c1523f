"""One connection to containerd's gRPC API, in one of its namespaces."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Final

from grpclib.client import Channel, Stream
from grpclib.const import Cardinality, Status
from grpclib.encoding.base import CodecBase
from grpclib.exceptions import GRPCError, ProtocolError, StreamTerminatedError

from gantry.ipc.protobuf import Fields
from gantry.model import errors

_NAMESPACE: Final = "containerd-namespace"
_RETRY_SECONDS: Final = 0.1

_ERRORS: Final[dict[Status, tuple[Callable[[str], errors.GantryError], str]]] = {
    Status.NOT_FOUND: (errors.NotFound, "not found"),
    Status.ALREADY_EXISTS: (errors.Conflict, "already exists"),
    Status.FAILED_PRECONDITION: (errors.Conflict, "failed precondition"),
    Status.INVALID_ARGUMENT: (errors.InvalidParameter, "invalid argument"),
    Status.UNAVAILABLE: (errors.Unavailable, "unavailable"),
    Status.UNIMPLEMENTED: (errors.NotImplementedHere, "not implemented"),
}
_OTHER: Final = (errors.System, "unknown")
"""What a status means, and the words that containerd's own client ends its text with (1.x says
them itself)."""


class _Bytes(CodecBase):
    """Messages are bytes on our side, too (`gantry.ipc.protobuf`)."""

    __content_subtype__ = "proto"

    def encode(self, message: bytes, message_type: object) -> bytes:
        return message

    def decode(self, data: bytes, message_type: object) -> bytes:
        return data


class Connection:
    """Calls by name ("containerd.services.tasks.v1.Tasks/Get"), connecting when needed.

    address: the socket's path. What a call raises is of the taxonomy: Unavailable when
    containerd is not there, or went away during the call (which may have been done).
    """

    def __init__(self, address: str, namespace: str) -> None:
        self.address = address
        self.namespace = namespace
        self._metadata = {_NAMESPACE: namespace}
        self._channel = Channel(path=address, codec=_Bytes())

    async def call(self, method: str, request: bytes = b"") -> Fields:
        """One request, one reply."""
        try:
            async with self._open(method, Cardinality.UNARY_UNARY) as stream:
                await stream.send_message(request, end=True)
                return Fields(await stream.recv_message() or b"")
        except (GRPCError, ProtocolError, StreamTerminatedError, OSError, ValueError) as error:
            raise self._translated(error) from None

    async def stream(self, method: str, request: bytes) -> AsyncIterator[Fields]:
        """One request, any number of replies."""
        try:
            async with self._open(method, Cardinality.UNARY_STREAM) as stream:
                await stream.send_message(request, end=True)
                while (reply := await stream.recv_message()) is not None:
                    yield Fields(reply)
        except (GRPCError, ProtocolError, StreamTerminatedError, OSError, ValueError) as error:
            raise self._translated(error) from None

    async def version(self, patience: float = 0.0) -> tuple[str, str]:
        """containerd's version and revision. patience: seconds to wait for it to come up."""
        deadline = asyncio.get_running_loop().time() + patience
        while True:
            try:
                reply = await self.call("containerd.services.version.v1.Version/Version")
                return reply.text(1), reply.text(2)
            except errors.Unavailable:
                if asyncio.get_running_loop().time() >= deadline:
                    raise
                await asyncio.sleep(_RETRY_SECONDS)

    def close(self) -> None:
        """Hang up; calls under way fail."""
        self._channel.close()

    def _open(self, method: str, cardinality: Cardinality) -> Stream[bytes, bytes]:
        return self._channel.request(
            f"/{method}", cardinality, bytes, bytes, metadata=self._metadata
        )

    def _translated(self, error: Exception) -> errors.GantryError:
        if isinstance(error, GRPCError):
            kind, words = _ERRORS.get(error.status, _OTHER)
            text = error.message or error.status.name
            return kind(text if text.endswith(words) else f"{text}: {words}")
        if isinstance(error, ValueError):
            return errors.System(f"containerd's answer makes no sense: {error}")
        return errors.Unavailable(f"cannot connect to containerd at {self.address}: {error}")
