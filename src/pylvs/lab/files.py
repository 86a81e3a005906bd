"""Files that make a lab host a machine of its own: names, network configuration, daemons, commands."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator, Mapping
from ipaddress import ip_address, ip_interface
from pathlib import Path

import pylvs
from pylvs.lab.hosts import MARK
from pylvs.lab.network import DIRECTOR, SERVER, Host, Network
from pylvs.lab.plan import AddressPlan
from pylvs.lab.routing import CONFIGURATIONS, GOBGP, GOBGP_ADDRESSES, ROUTING_SERVICE

WEB_STATE = "/var/lib/pylvs-lab"
WEB_CONFIGURATION = "/etc/nginx/pylvs-lab.conf"
BIG_FILE_BYTES = 10 << 20
CONFIGURATION = "/etc/keepalived/keepalived.conf"
DIRECTOR_STATE = "/var/lib/pylvs-lab"
# Of the directors' keepalived.conf
VRID = 51
CHECKED_EVERY_S = 2
LEAVE_S = 5  # ecmp: of lower preference, before a director withdraws
AUTHENTICATION = """\
    authentication {
        auth_type PASS
        auth_pass lab
    }
"""
LINK_LOCAL = "fe80::100/64"  # VRRP version 3 over IPv6 requires a link-local address as the first (RFC 9568, 5.2.9)
LONGEST_INTERPRETER = 120  # the kernel cuts first lines at 127 or 255 characters

# Installed where distributions have them: `from MODULE import FUNCTION`.
COMMANDS: Mapping[str, tuple[str, str]] = {
    "ipvsadm": ("pylvs.ipvsadm.main", "main"),
    "ipvsadm-save": ("pylvs.ipvsadm.main", "save"),
    "ipvsadm-restore": ("pylvs.ipvsadm.main", "restore"),
    "pylvs": ("pylvs.cli.main", "main"),
}

# Debian's ifup and ifdown keep state in /run. It would lack the addresses that the lab sets. These keep none.
IFUP = """#!/bin/sh
# Brings devices up as /etc/network/interfaces says. Part of a pylvs lab.
file=/etc/network/interfaces plan=/var/ifup.$$
[ "$1" != -a ] || set -- $(awk '$1 == "auto" { for (i = 2; i <= NF; i++) print $i }' $file)
for device; do
    awk -v want="$device" '
        function finish() {
            if (address) print "addr replace " address (mask ? "/" mask : "") " dev " want (six ? " nodad" : "")
            if (gateway) later = later "route replace default via " gateway " dev " want "\\n"
            address = mask = gateway = ""
        }
        $1 == "iface" || $1 == "auto" { finish(); here = 0 }
        $1 == "iface" && $2 == want {
            here = 1; six = $3 == "inet6"
            if (!known++) print "link set dev " want " up"
            if ($4 == "loopback") print "addr replace 127.0.0.1/8 dev " want
        }
        here && $1 == "address" { address = $2 }
        here && $1 == "netmask" { mask = $2 }
        here && $1 == "gateway" { gateway = $2 }
        END { finish(); printf "%s", later; exit !known }
    ' $file >"$plan" || { echo "ifup: unknown interface $device" >&2; rm -f "$plan"; exit 1; }
    ip -batch "$plan"
    status=$?
    rm -f "$plan"
    [ $status = 0 ] || exit $status
done
"""
IFDOWN = """#!/bin/sh
# Takes all addresses, aliases too, from devices and switches them off. Part of a pylvs lab.
for device; do
    [ -e "/sys/class/net/$device" ] || { echo "ifdown: unknown interface $device" >&2; exit 1; }
    ip addr flush dev "$device" 2>/dev/null
    ip link set dev "$device" down || exit
done
"""
_ROUTING = """\
case $1 in
    bird | frr | gobgp) [ -x /usr/local/sbin/routing-service ] && exec /usr/local/sbin/routing-service "$@" ;;
esac
"""
SERVICE = f"""#!/bin/sh
# The service of a lab's real server, by any of its names. Part of a pylvs lab.
{_ROUTING}name=$1 action=$2 pid=$(cat {WEB_STATE}/nginx.pid 2>/dev/null)
case $name in nginx | httpd | apache2) ;; *) echo "$name: unrecognized service" >&2; exit 1 ;; esac
[ -e {WEB_CONFIGURATION} ] || {{ echo "$name: only real servers of a lab have it" >&2; exit 1; }}
# A zombie stays in /proc, without a command line.
runs() {{ [ -n "$pid" ] && grep -q nginx "/proc/$pid/cmdline" 2>/dev/null; }}
start() {{
    runs && return
    nginx -e {WEB_STATE}/error.log -c {WEB_CONFIGURATION} || return
    # The command has ended before the process in the background writes its number.
    tries=0
    until pid=$(cat {WEB_STATE}/nginx.pid 2>/dev/null); runs; do
        [ $((tries += 1)) -lt 1200 ] || {{ echo "$name: it has ended: see {WEB_STATE}/error.log" >&2; return 1; }}
        sleep 0.05
    done
}}
# nginx sleeps on if a signal arrives just before it begins to wait for signals, so the signal is repeated.
stop() {{ while runs; do kill "$pid" 2>/dev/null; sleep 0.1; done; }}
case $action in
    start) start ;;
    stop) stop ;;
    restart) stop; pid=; start ;;
    reload) runs && kill -HUP "$pid" ;;
    status) if runs; then echo "$name is running (process $pid)"; else echo "$name is stopped"; exit 3; fi ;;
    *) echo "usage: service $name start|stop|restart|reload|status" >&2; exit 2 ;;
esac
"""

DIRECTOR_SERVICE = f"""#!/bin/sh
# Runs a director of a lab. Part of a pylvs lab.
# pylvs runs services, checks and virtual routers. With keepalived, pylvs runs all but the virtual routers.
{_ROUTING}name=$1 action=$2 file={CONFIGURATION} state={DIRECTOR_STATE}
case $name in
    pylvs) programs=pylvs ;;
    keepalived) programs="pylvs keepalived" ;;
    *) echo "$name: unrecognized service" >&2; exit 1 ;;
esac
mkdir -p $state
# A zombie stays in /proc (Z, X). The command line is no test: during an exec a living process has none.
runs() {{ [ -s "$state/$1.pid" ] && grep -q '^State:.[^ZX]' "/proc/$(cat "$state/$1.pid")/status" 2>/dev/null; }}
begin() {{
    program=$1
    shift
    setsid "$@" </dev/null >>"/var/log/$program.log" 2>&1 &
    echo $! >"$state/$program.pid"
}}
ready() {{ tail -n +$first /var/log/pylvs.log | grep -q ': ready'; }}
start() {{
    [ -e $file ] || {{ echo "$name: there is no $file" >&2; exit 1; }}
    if ! runs pylvs; then
        touch /var/log/pylvs.log
        first=$(($(wc -l </var/log/pylvs.log) + 1))
        case $name in pylvs) begin pylvs pylvs run ;; *) begin pylvs pylvs run --no-vrrp ;; esac
        until ready; do
            runs pylvs || {{
                tail -n +$first /var/log/pylvs.log | tail -n 1 | grep . >&2 || echo "pylvs: exited without output" >&2
                exit 1
            }}
            sleep 0.05
        done
    fi
    [ $name = pylvs ] || runs keepalived || {{
        rm -f $state/main.pid $state/vrrp.pid
        begin keepalived keepalived --vrrp --dont-fork --log-console --no-syslog --log-detail \
            --pid=$state/main.pid --vrrp_pid=$state/vrrp.pid
    }}
}}
stop() {{
    for program in $programs; do
        runs $program && kill "$(cat $state/$program.pid)"
        while runs $program; do sleep 0.05; done
    done
}}
case $action in
    start) start ;;
    stop) stop ;;
    restart) stop; start ;;
    reload) for program in $programs; do runs $program && kill -HUP "$(cat $state/$program.pid)"; done ;;
    status)
        for program in $programs; do runs $program || {{ echo "$name is stopped"; exit 3; }}; done
        echo "$name is running"
        ;;
    *) echo "usage: service $name start|stop|restart|reload|status" >&2; exit 2 ;;
esac
"""


def files_of(lab: str, network: Network, host: Host) -> Iterator[tuple[str, str, int]]:
    """Yield (path, content, mode) of all files of a host."""
    yield str(MARK), f"{host.name} of lab {lab}\n", 0o644
    yield "/etc/hostname", f"{host.name}\n", 0o644
    yield "/etc/hosts", _hosts(network, host), 0o644
    yield "/etc/network/interfaces", _interfaces(host), 0o644
    for name, (module, function) in COMMANDS.items():
        yield f"/usr/sbin/{name}", _command(module, function), 0o755
    yield "/usr/sbin/ifup", IFUP, 0o755
    yield "/usr/sbin/ifdown", IFDOWN, 0o755
    yield "/usr/sbin/service", DIRECTOR_SERVICE if host.role == DIRECTOR else SERVICE, 0o755
    if any(path in host.files for path in CONFIGURATIONS.values()):
        yield "/usr/local/sbin/routing-service", ROUTING_SERVICE, 0o755
    if CONFIGURATIONS[GOBGP] in host.files:
        yield "/usr/local/sbin/gobgp-addresses", GOBGP_ADDRESSES, 0o755
    yield from ((path, content, 0o644) for path, content in host.files.items())
    if host.role == SERVER:
        yield WEB_CONFIGURATION, _web(network.port), 0o644
        yield "/var/www/html/index.html", f"This is {host.name} server!\n", 0o644


def _hosts(network: Network, host: Host) -> str:
    names = {**network.names(), **host.names}
    lines = ["127.0.0.1 localhost", "::1 localhost ip6-localhost ip6-loopback"]
    return "".join(f"{line}\n" for line in [*lines, *(f"{address} {name}" for name, address in names.items())])


def _interfaces(host: Host) -> str:
    lines = ["auto lo", "iface lo inet loopback"]
    gateway = host.gateway
    for card in host.interfaces:
        lines.append(f"auto {card.device}")
        for address in card.addresses:
            here = ip_interface(address)
            lines += [f"iface {card.device} inet{'6' if here.version == 6 else ''} static", f"    address {address}"]
            if gateway and ip_address(gateway) in here.network:
                lines.append(f"    gateway {gateway}")
                gateway = ""
    return "".join(f"{line}\n" for line in lines)


def _command(module: str, function: str) -> str:
    """Return a script that runs a command of pylvs, with the interpreter, tree and compiled modules of this process."""
    tree = str(Path(pylvs.__file__).resolve().parents[1])
    return (
        f"{_first_lines(sys.executable)}"
        f"import sys\nsys.path.insert(0, {tree!r})\n"
        f"sys.pycache_prefix, sys.dont_write_bytecode = {sys.pycache_prefix!r}, {sys.dont_write_bytecode}\n"
        f"from {module} import {function}\nsys.exit({function}())\n"
    )


def _first_lines(python: str) -> str:
    """Return the lines that run a file by this interpreter, isolated (-I)."""
    if " " not in python and len(python) < LONGEST_INTERPRETER:
        return f"#!{python} -I\n"
    # To the shell the second line is a command; to Python both are an unused string.
    return f"#!/bin/sh\n'''exec' {shlex.quote(python)} -I \"$0\" \"$@\"\n' '''\n"


def _web(port: int) -> str:
    paths = "".join(
        f"    {kind}_temp_path {WEB_STATE}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    six = f"        listen [::]:{port} ipv6only=on;\n" if Path("/proc/net/if_inet6").exists() else ""
    return (
        f"user root;\nworker_processes 1;\npid {WEB_STATE}/nginx.pid;\nerror_log {WEB_STATE}/error.log;\n"
        f"events {{ worker_connections 4096; }}\n"
        f"http {{\n{paths}    access_log off;\n    default_type text/plain;\n    sendfile on;\n"
        # Open connections wait for a take-over, which may take long on a busy machine.
        f"    keepalive_timeout 1h;\n"
        f"    server {{\n        listen {port};\n{six}"
        f"        root /var/www/html;\n"
        # Reads a whole body, and returns its length.
        f"        location = /upload {{\n            client_max_body_size 64m;\n"
        f"            proxy_pass_request_body off;\n            proxy_set_header X-Length $content_length;\n"
        f'            proxy_set_header Content-Length "";\n'
        f"            proxy_pass http://unix:{WEB_STATE}/upload.sock;\n        }}\n    }}\n"
        f"    server {{\n        listen unix:{WEB_STATE}/upload.sock;\n"
        f'        return 200 "$http_x_length bytes\\n";\n    }}\n}}\n'
    )


def keepalived_conf(plan: AddressPlan, state: str, priority: int) -> str:
    """Return the keepalived.conf of a director."""
    password = AUTHENTICATION if plan.version == 4 else ""
    first = f"        {LINK_LOCAL}\n" if plan.version == 6 else ""
    servers = "".join(
        f"""\
    real_server {server.ip} {plan.port} {{
        TCP_CHECK {{
            connect_timeout {CHECKED_EVERY_S}
        }}
    }}
"""
        for server in plan.servers
    )
    return f"""\
vrrp_instance VI_1 {{
    state {state}
    interface {plan.device}
    virtual_router_id {VRID}
    priority {priority}
    advert_int 1
{password}    virtual_ipaddress {{
{first}        {plan.vip}
    }}
}}
virtual_server {plan.vip.ip} {plan.port} {{
    delay_loop {CHECKED_EVERY_S}
    lb_algo {plan.scheduler}
    lb_kind DR
    protocol TCP
{servers}}}
"""


def announcing_conf(plan: AddressPlan) -> str:
    """Return the keepalived.conf of each of several directors behind a router."""
    servers = "".join(
        f"""\
    real_server {server.ip} {plan.port} {{
        inhibit_on_failure
        TCP_CHECK {{
            connect_timeout {CHECKED_EVERY_S}
        }}
    }}
"""
        for server in plan.servers
    )
    fallback = "    mh-fallback\n" if plan.scheduler == "mh" else ""
    return f"""\
global_defs {{
    announce_leave {LEAVE_S}
}}
virtual_server {plan.vip.ip} {plan.port} {{
    announce
    delay_loop {CHECKED_EVERY_S}
    lb_algo {plan.scheduler}
{fallback}    lb_kind DR
    protocol TCP
{servers}}}
"""
