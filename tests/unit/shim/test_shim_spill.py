"""A queue on disk gives back what went in, and its room."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gantry.shim import spill as spill_module
from gantry.shim.spill import Spill

steps = st.lists(st.one_of(st.binary(min_size=1, max_size=300), st.integers(1, 500)), max_size=60)


@given(steps)
def test_what_goes_in_comes_out_in_order(
    tmp_path_factory: pytest.TempPathFactory, steps: list[bytes | int]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spill_module, "SEGMENT", 256)
        queue = Spill(str(tmp_path_factory.getbasetemp()))
        expected, got = b"", b""
        for step in steps:
            if isinstance(step, bytes):
                queue.write(step)
                expected += step
            else:
                got += queue.read(step)
            assert queue.size == len(expected) - len(got)
        while data := queue.read(77):
            got += data
        assert got == expected
        queue.close()


def test_read_segments_are_given_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spill_module, "SEGMENT", 1000)
    before = len(os.listdir("/proc/self/fd"))
    queue = Spill(str(tmp_path))
    for _ in range(50):
        queue.write(bytes(1000))
        assert queue.read(1000)
    assert len(os.listdir("/proc/self/fd")) <= before + 2
    queue.close()
    assert len(os.listdir("/proc/self/fd")) == before
    assert os.listdir(tmp_path) == []
