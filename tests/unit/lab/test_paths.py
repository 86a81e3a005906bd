"""The lab and the data plane name directories of layers that they may not import."""

from __future__ import annotations

from pylvs.bpf.mounts import DIRECTORY, POINT
from pylvs.daemon import STATE_ROOT
from pylvs.dataplane import state
from pylvs.lab.hosts import BPFFS, DAEMONS, RUN_PYLVS


def test_the_lab_knows_the_directories_of_the_program() -> None:
    assert (str(RUN_PYLVS), str(BPFFS), DAEMONS) == (DIRECTORY, POINT, STATE_ROOT)


def test_the_data_plane_knows_the_directories_of_daemons() -> None:
    assert str(STATE_ROOT) == state.DAEMONS
