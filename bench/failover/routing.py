"""Directors behind a router, which is the client itself: BIRD prefers the first director, and BFD watches both."""

from __future__ import annotations

from collections.abc import Mapping

ROUTER_AS, DIRECTORS_AS = 65000, 65001
_BFD = """\
protocol device { }
protocol bfd {
    interface "*" {
        min rx interval 10 ms;
        min tx interval 10 ms;
        idle tx interval 10 ms;
        multiplier 3;
    };
}
"""
_SOON = """\
    bfd on;
    connect retry time 1;
    connect delay time 1;
    error wait time 1, 2;
"""


def router_conf(router: str, directors: Mapping[str, str]) -> str:
    """Return the configuration of the router; the first of the directors, by name, is preferred."""
    sessions = "".join(
        f"""\
filter from_{name} {{
    bgp_local_pref = {200 - number};
    if (65535, 0) ~ bgp_community then bgp_local_pref = 0;  # GRACEFUL_SHUTDOWN (RFC 8326)
    accept;
}}
protocol bgp {name} {{
    local {router} as {ROUTER_AS};
    neighbor {address} as {DIRECTORS_AS};
{_SOON}    ipv4 {{ import filter from_{name}; export none; }};
}}
"""
        for number, (name, address) in enumerate(directors.items())
    )
    kernel = "protocol kernel {\n    ipv4 { import none; export all; };\n}\n"
    return f"router id {router};\n{_BFD}{kernel}{sessions}"


def director_conf(director: str, router: str) -> str:
    """Return the configuration of a director: announce the addresses that pylvs puts on its devices."""
    return f"""\
router id {director};
{_BFD}protocol direct {{
    ipv4;
    interface "pylvs-up", "pylvs-leaving";
}}
filter vips {{
    if ifname = "pylvs-leaving" then bgp_community.add((65535, 0));  # GRACEFUL_SHUTDOWN (RFC 8326)
    accept;
}}
protocol bgp router1 {{
    local {director} as {DIRECTORS_AS};
    neighbor {router} as {ROUTER_AS};
{_SOON}    ipv4 {{ import none; export filter vips; }};
}}
"""
