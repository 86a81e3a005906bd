"""With `use_vmac`, neighbours know the virtual link address of the virtual address, and no other one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.interop.vrrp.cell import VIRTUAL_MAC, answered
from tests.interop.vrrp.observer import Observer
from tests.interop.vrrp.routers import PYLVS, router
from tests.interop.vrrp.rows import VRID, Row
from tests.interop.vrrp.segment import address, mac, segment
from tests.waiting import until


@pytest.mark.timeout(600)
def test_a_master_that_has_to_ask_for_a_client_does_not_teach_it_another_link_address(tmp_path: Path) -> None:
    """The answer to the client leaves through the interface, whose link address is not the virtual one."""
    row = Row("vmac", also="use_vmac", vmac=True)
    with segment() as where, Observer(where) as observer:
        master = router(PYLVS, where, "b", tmp_path / "b")
        try:
            master.configuration.write_text(row.configuration("b", master.folder))
            master.start()

            def asked() -> bool:
                """Let the master forget its neighbours, and ask it."""
                where.ip("b", "neigh flush all")
                return answered(where.path("client"), row.vip) and bool(observer.requests("b", address("client")))

            until(asked, lambda: "\n".join(["the master does not ask for the client", *master.log()]))
            learned = {each.asks_from for each in observer.requests("b", address("client"))}
            assert learned == {(address("b"), mac("b"))}
            assert where.neighbour(row.vip) == f"{VIRTUAL_MAC[4]}:{VRID:02x}"
        finally:
            master.end()
