"""Katran is compiled from a source tree that may be anything, and its frames are recognized."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import __main__ as bench
from bench import katran, site
from bench.cases import DR, request
from bench.frames import link_address
from pylvs.model.errors import Unsupported
from pylvs.reference.forwarding import ip_packet

# What Katran's sources expect of a compiler, in a few lines.
LIKE_KATRAN = """
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/icmp.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>
#include "katran/lib/consts.h"
__attribute__((section(PROG_SEC_NAME), used)) int balancer_ingress(void *ctx)
{
	struct iphdr ip;
	int unused;
	memset(&ip, 0, sizeof(ip));
	memcpy(ctx, &ip, sizeof(ip));
	return MAX_CONN_RATE == 7 ? LIMIT : 0;
}
"""


def tree_of(folder: Path, source: str) -> Path:
    path = folder / katran.SOURCE
    path.parent.mkdir(parents=True)
    path.write_text(source)
    (folder / "katran/lib/consts.h").write_text("#define LIMIT 1\n")
    return folder


def test_a_tree_compiles_with_what_katran_includes(tmp_path: Path) -> None:
    made = katran.compiled(tree_of(tmp_path, LIKE_KATRAN), tmp_path / "katran.bpf.o", "-DMAX_CONN_RATE=7")
    content = made.read_bytes()
    assert b"balancer_ingress" in content
    assert b"xdp.frags" in content
    assert b"\0memcpy\0" not in content  # a symbol that no loader would find


def test_a_tree_that_does_not_compile_costs_one_line(tmp_path: Path) -> None:
    broken = tree_of(tmp_path, "int first(void) { return MISSING; }\nint second(void) { return GONE; }\n")
    with pytest.raises(Unsupported) as caught:
        katran.compiled(broken, tmp_path / "katran.bpf.o")
    message = str(caught.value)
    assert message.startswith(f"--katran {broken}: it does not compile: {katran.SOURCE}:1:")
    assert "MISSING" in message
    assert "\n" not in message


def test_a_directory_without_katran_is_named(tmp_path: Path) -> None:
    with (
        pytest.raises(Unsupported, match=rf"^--katran {tmp_path}: {katran.SOURCE} is missing; give "),
        katran.built(tmp_path),
    ):
        pass


@pytest.mark.parametrize("words", [["--from", "bench.json"], ["--only", "checks"]])
def test_katran_needs_a_measurement_of_packets(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        bench.main(["--katran", "somewhere", *words])
    assert ended.value.code == 2
    assert "--katran: only a measurement with the part packets runs Katran" in capsys.readouterr().err


def test_only_the_packet_in_a_tunnel_to_a_real_server_is_accepted() -> None:
    frame = request(DR)
    inner = frame.packed()[14:]
    links = link_address(site.ROUTER_MAC) + link_address(site.MAC) + b"\x08\0"

    def sent(server: str, packet: bytes = inner, protocol: int = 4) -> bytes:
        target = bytes(map(int, server.split(".")))
        return links + ip_packet(bytes(4), target, protocol, packet, ttl=64, df=False)

    assert katran.is_tunnelled(sent(site.server(1)), frame)
    assert katran.is_tunnelled(sent(site.server(site.SERVERS)), frame)
    assert not katran.is_tunnelled(sent(site.server(site.SERVERS + 1)), frame)
    assert not katran.is_tunnelled(sent(site.server(1), protocol=17), frame)
    assert not katran.is_tunnelled(sent(site.server(1), request(DR).packed()[14:34]), frame)
    assert not katran.is_tunnelled(b"\0" * 14 + sent(site.server(1))[14:], frame)
    assert not katran.is_tunnelled(frame.packed(), frame)
    assert not katran.is_tunnelled(b"", frame)
