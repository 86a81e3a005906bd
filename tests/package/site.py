"""What a root has besides pylvs: a client and two servers in network namespaces, and the director's configuration."""

from __future__ import annotations

from tests.package.roots import Root

VIP, OTHER_VIP = "10.9.1.100", "10.9.1.101"  # of keepalived.conf; of the saved table
CLIENT = "ip netns exec client"
VERIFY = "cd /lib/systemd/system && systemd-analyze verify pylvs*.service"
PAGE = f"{CLIENT} curl -s --max-time 60 http://{VIP}/"
SERVERS = {"s1": "10.9.2.2", "s2": "10.9.3.2"}
SAVED_TABLE = f"""-A -t {OTHER_VIP}:80 -s rr
-a -t {OTHER_VIP}:80 -r 10.9.2.2:80 -m -w 1
"""
_NETWORK = f"""#!/bin/sh
set -e
host() {{ # NAME DEVICE ADDRESS GATEWAY
    ip netns add $1
    ip link add $2 type veth peer name eth0 netns $1
    ip addr add $4/24 dev $2
    ip link set $2 up
    ip -n $1 link set lo up
    ip -n $1 addr add $3/24 dev eth0
    ip -n $1 link set eth0 up
    ip -n $1 route add default via $4
}}
sysctl -qw net.ipv4.ip_forward=1
host client c0 10.9.1.2 10.9.1.1
ip addr add {OTHER_VIP}/32 dev c0
host s1 d1 10.9.2.2 10.9.2.1
host s2 d2 10.9.3.2 10.9.3.1
for each in s1 s2; do ip netns exec $each nginx -c /etc/test-network/$each.conf; done
"""
_NETWORK_UNIT = """[Unit]
DefaultDependencies=no
After=local-fs.target systemd-modules-load.service
Before=network-pre.target network.target network-online.target pylvs.service pylvs-watch.service pylvs-restore.service
[Service]
Type=forking
RemainAfterExit=yes
ExecStart=/etc/test-network/start
[Install]
WantedBy=multi-user.target
"""
_NGINX = """pid /run/NAME.pid;
error_log /dev/null;
worker_processes 1;
events {}
http {
    access_log off;
    keepalive_requests 1000000;
    server { listen 80; location / { return 200 "page of NAME\\n"; } }
}
"""


def configuration(weight: int = 1) -> str:
    """Return a keepalived.conf with a virtual router and a service; the first server has this weight."""
    servers = "".join(
        f"    real_server {address} 80 {{\n        weight {weight if name == 's1' else 1}\n"
        "        TCP_CHECK {\n            connect_timeout 30\n        }\n    }\n"
        for name, address in SERVERS.items()
    )
    return f"""vrrp_instance VI_1 {{
    interface c0
    virtual_router_id 51
    priority 255
    version 3
    virtual_ipaddress {{
        {VIP}/24
    }}
}}
virtual_server {VIP} 80 {{
    delay_loop 1
    lb_algo rr
    lb_kind NAT
    protocol TCP
{servers}}}
"""


def furnish(root: Root) -> None:
    """Write the files, and enable the network. Raises Failed."""
    root.write("/etc/keepalived/keepalived.conf", configuration())
    root.write("/etc/test-network/start", _NETWORK, 0o755)
    for name in SERVERS:
        root.write(f"/etc/test-network/{name}.conf", _NGINX.replace("NAME", name))
    root.write("/etc/systemd/system/test-network.service", _NETWORK_UNIT)
    root.run("systemctl enable test-network.service 2>/dev/null")
    root.run("systemctl mask getty.target console-getty.service serial-getty@ttyS0.service 2>/dev/null")
