"""The keywords of `global_defs`, and ROOT: a new top-level block of a configuration file is one line in it."""

from __future__ import annotations

from collections.abc import Iterator
from operator import add, or_

from pylvs.config.language.tree import Severity
from pylvs.config.schema.grammar import Block, Keyword, State, Type
from pylvs.config.schema.routing_types import STATIC_ROUTE_LINE, STATIC_RULE_LINE
from pylvs.config.schema.sync_types import SYNC_DAEMON
from pylvs.config.schema.types import (
    AGENTX,
    BARE,
    BUS_NAME,
    CPUS,
    ENDPOINT,
    FIFO,
    FLAG,
    FLUSH_ON_STOP,
    INSTANCE,
    MAIL_SERVER,
    MAIL_TIMEOUT,
    NAMESPACE,
    NETWORKS,
    OTHER_DIRECTOR,
    OTHER_NAMESPACE,
    PATH,
    PATH_ELEMENT,
    SCRIPT,
    TEXT,
    TIMEOUTS,
    UMASK,
    USER,
    WEB_URL,
    bare,
    choice,
    choices,
    flag,
    integer,
    nearest,
    one_or_nothing,
    path_or,
    seconds,
    text,
    texts,
)
from pylvs.config.schema.virtual_server import VIRTUAL_SERVER, VIRTUAL_SERVER_GROUP
from pylvs.config.schema.vrrp import GARP, TRACK_DEFINITIONS, VRRP_INSTANCE, VRRP_SYNC_GROUP
from pylvs.config.schema.vrrp_types import (
    DELAY_LINE,
    DEVICE,
    EXTRA_DEFAULT,
    MAX_INTERVAL_S,
    NAME,
    POLLED_LINE,
    RECEIVE_POLICY,
    STATIC_ADDRESS_LINE,
    multicast,
    names,
)
from pylvs.model.vrrp import MULTICAST_V4, MULTICAST_V6
from pylvs.model.wanted import METRIC_SERIES, PEER_RATE, PEER_WAIT_S

NO_MARKS = "each address of a group stays a service of its own"
REALTIME_ALWAYS = "virtual routers have a real-time priority from the start"
OWN_NAMES = "process_name names the daemon, vrrp_process_name the virtual routers"
OF_BFD = "BFD sessions are in the process of virtual routers"
NO_LIMIT = "a limit would end a process that was delayed"
READ_AGAIN = "after a lost message pylvs reads everything again"
OWN_RULES = "pylvs needs no table of this name; remove it"
SENDING = seconds(0.000001, MAX_INTERVAL_S, outside=Severity.WARNING)  # real files have 0, which limits nothing
ANY = texts()
KINDS_OF_DEFAULTS = {"garp_extra_if": EXTRA_DEFAULT, "strict_mode": BARE, "skip_check_adv_addr": BARE}


def ignored(why: str, *names: str, kind: Type[object] = ANY) -> tuple[Keyword, ...]:
    """Make keywords without a meaning here, which `pylvs check` notes with the reason."""
    return tuple(Keyword(name, kind, why, state=State.IGNORED, instead=why) for name in names)


def never(instead: str, *names: str, state: State = State.NEVER) -> tuple[Keyword, ...]:
    """Make keywords that pylvs will not implement."""
    return tuple(Keyword(name, ANY, instead, state=state, instead=instead) for name in names)


def defaults_of(*names: str) -> Iterator[Keyword]:
    """Make the keywords that give these keywords of virtual routers another default.

    As in keepalived only a virtual router accepts 0 for garp_extra_if, and `off` for some others.
    """
    for name in names:
        keyword = VRRP_INSTANCE.find(name)
        assert isinstance(keyword, Keyword)
        own, *fallback = keyword.global_names
        doc, default = f"default of {name}", None if fallback else keyword.default
        kind = KINDS_OF_DEFAULTS.get(name, keyword.type)
        yield Keyword(own, kind, doc, default, default_doc=keyword.default_doc, default_of="".join(fallback))


GLOBAL_DEFS = Block(
    "global_defs",
    "settings of the whole daemon",
    (
        Keyword("router_id", TEXT, "name of this machine in alerts", default_doc="the host's name"),
        Block(
            "notification_email",
            "recipients of alerts; without one, no alert is sent",
            lines=texts("mail addresses", minimum=1),
            merged=True,
        ),
        Keyword(
            "notification_email_from",
            text("a mail address"),
            "sender address of alerts",
            default_doc="root@HOST",
        ),
        Keyword("smtp_server", MAIL_SERVER, "mail server; without one, no alert is sent"),
        Keyword("smtp_helo_name", TEXT, "name in the HELO command", default_doc="the host's canonical name"),
        Keyword("smtp_connect_timeout", MAIL_TIMEOUT, "timeout of the mail server", 30.0),
        Keyword("smtp_alert", FLAG, "mail alerts of everything, unless a block overrides it"),
        Keyword("smtp_alert_checker", FLAG, "mail alerts of real servers and services", default_doc="smtp_alert"),
        Keyword(
            "script_user",
            USER,
            "user and group that scripts run as",
            default_doc="keepalived_script if there is one, else root",
        ),
        Keyword(
            "notify_timeout", integer(1, 86400), "seconds after which a notify script is terminated", 300, is_own=True
        ),
        bare("enable_script_security", "reject scripts that run as root and that other users can modify"),
        flag("checker_log_all_failures", "log every failed check, not only the one that takes the server down"),
        Keyword("checker_priority", integer(-20, 19), "nice value of the health checks", 0),
        Keyword(
            "lvs_timeouts",
            TIMEOUTS,
            "timeouts of idle connections; those without a number, or 0, stay as they are",
            combine=or_,
        ),
        bare("lvs_flush", "remove all services from the table at startup"),
        Keyword(
            "lvs_flush_on_stop",
            FLUSH_ON_STOP,
            "what to remove at shutdown, at once instead of server by server",
            aliases=("lvs_flush_onstop",),
            default="",
        ),
        flag("exclusive", "remove services from the table that are not in the configuration", is_own=True),
        flag("checker_share", "make equal checks of one server once, for all its services", True, is_own=True),
        Keyword("metrics_address", ENDPOINT, "serve /metrics on this TCP address too", is_own=True),
        Keyword(
            "metrics_allow",
            NETWORKS,
            "clients of metrics_address; others are not answered. Without it all are, and with a wrong one none",
            combine=add,
            is_own=True,
        ),
        Keyword(
            "metrics_series",
            choices(*METRIC_SERIES),
            "which metrics of services and servers are served; all others are in any case",
            default_doc="all",
            combine=add,
            is_own=True,
        ),
        Keyword(
            "metrics_services",
            texts("shell patterns of the names of virtual servers", minimum=1),
            "virtual servers with metrics of their own",
            default_doc="all",
            combine=add,
            is_own=True,
        ),
        Keyword(
            "web_address",
            ENDPOINT,
            "serve the web page there; elsewhere than on localhost only with web_certificate and web_tokens",
            is_own=True,
        ),
        Keyword("web_certificate", PATH, "its certificate in PEM format, with the chain", is_own=True),
        Keyword("web_key", PATH, "the key of that", default_doc="in the file of web_certificate", is_own=True),
        Keyword("web_tokens", PATH, "who may read and operate: a file that root alone may read", is_own=True),
        Keyword("web_url", WEB_URL, "the page's URL behind a proxy", is_own=True),
        Keyword("peer_director", OTHER_DIRECTOR, "the other director of a pair: connections are copied", is_own=True),
        Keyword(
            "peer_key_file", PATH, "certificate and key in PEM format, the same file on both directors", is_own=True
        ),
        Keyword(
            "peer_rate",
            integer(1, 100_000_000),
            "connections a second that are sent to it, at most",
            PEER_RATE,
            is_own=True,
        ),
        Keyword(
            "peer_wait",
            seconds(0, 3600),
            "how long a virtual router waits for its connections before it takes over from it; 0: not at all",
            PEER_WAIT_S,
            is_own=True,
        ),
        Keyword(
            "monitor_group",
            text("a group"),
            "members of this group may read status, events, metrics and listings",
            default_doc="pylvs, if there is such a group",
            is_own=True,
        ),
        Keyword(
            "log_level",
            choice("debug", "info", "warning", "error"),
            "log lines of this level and above",
            "info",
            is_own=True,
        ),
        flag("no_checker_emails", "mail only changes of state", state=State.IGNORED),
        Keyword("startup_script", SCRIPT, "run at startup, before anything else"),
        Keyword("startup_script_timeout", integer(1, 1000), "seconds after which it is terminated", 10),
        Keyword("shutdown_script", SCRIPT, "run at shutdown, after everything else"),
        Keyword("shutdown_script_timeout", integer(1, 1000), "seconds after which it is terminated", 10),
        Keyword("process_name", TEXT, "name of the process of pylvs run", default_doc="pylvs"),
        Keyword(
            "umask", UMASK, "mask of the permissions of new files, also those of scripts", default_doc="as started"
        ),
        flag("rs_init_notifies", "at the start, notify of the real servers that are up"),
        Keyword("checker_cpu_affinity", CPUS, "CPUs of the health checks", (), default_doc="all"),
        bare("checker_no_swap", "lock the memory of the health checks"),
        Keyword(
            "reload_time_file", PATH, "file whose first line is the time of a reload: [[YY]YY-MM-DD ]HH:MM:SS[Z]", ""
        ),
        bare("reload_repeat", "keep the reload_time_file, and reload at its time each day"),
        Keyword(
            "reload_file",
            path_or("keepalived.reload"),
            "file that exists while the configuration is read; without a path keepalived.reload beside the PID file",
            "",
        ),
        Keyword(
            "announce_lease",
            integer(3, 3600),
            "seconds after which addresses are withdrawn if pylvs run is silent",
            10,
            is_own=True,
        ),
        Keyword(
            "announce_leave",
            integer(0, 600),
            "seconds of lower preference before the stop withdraws addresses",
            30,
            is_own=True,
        ),
        flag("data_use_instance", "add namespace and instance to the names of the files that SIGUSR1 writes"),
        *ignored(REALTIME_ALWAYS, "max_auto_priority", kind=integer(-1, 99, bare=99)),
        Keyword(
            "lvs_sync_daemon",
            SYNC_DAEMON,
            "send connections to a backup director, or receive them: the state of the virtual router decides; without"
            " one, both",
            first_wins=True,
        ),
        *never(NO_MARKS, "nftables_ipvs", "nftables_ipvs_priority", "nftables_ipvs_start_fwmark"),
        *never("checks have no real-time priority; see checker_priority", "checker_rt_priority"),
        Keyword("snmp_socket", AGENTX, "socket of the SNMP master agent", "unix:/var/agentx/master"),
        bare("enable_snmp_vrrp", "serve the VRRP part of KEEPALIVED-MIB"),
        bare("enable_snmp_keepalived", "as enable_snmp_vrrp"),
        bare("enable_snmp_checker", "serve the part of KEEPALIVED-MIB about virtual servers"),
        bare("enable_snmp_rfc", "as enable_snmp_rfcv2 and enable_snmp_rfcv3"),
        bare("enable_snmp_rfcv2", "serve VRRP-MIB (RFC 2787)"),
        bare("enable_snmp_rfcv3", "serve VRRPV3-MIB (RFC 6527)"),
        bare("enable_traps", "send the traps of these MIBs"),
        bare("enable_dbus", "serve virtual routers on the system bus (D-Bus)"),
        Keyword("dbus_service_name", BUS_NAME, "name on the bus", "org.keepalived.Vrrp1"),
        Keyword("dbus_no_interface_name", PATH_ELEMENT, "in the path of a virtual router without an interface", "none"),
        *never("a reload that fails changes nothing, and nothing is written", "config_save_dir"),
        *ignored(OWN_NAMES, "process_names", "checker_process_name", "lvs_process_name", "bfd_process_name"),
        *ignored("checks have no real-time priority", "checker_rlimit_rttime", "checker_rlimit_rtime"),
        *(ignored(f"{OF_BFD}; write vrrp_{each}", f"bfd_{each}")[0] for each in ("priority", "rt_priority")),
        *ignored(f"{OF_BFD}; write vrrp_cpu_affinity", "bfd_cpu_affinity"),
        *ignored(f"{OF_BFD}, whose memory is locked", "bfd_no_swap"),
        *ignored(NO_LIMIT, "bfd_rlimit_rttime", "bfd_rlimit_rtime"),
        *ignored(REALTIME_ALWAYS, "min_auto_priority_delay"),
        *ignored(READ_AGAIN, "lvs_netlink_cmd_rcv_bufs", "lvs_netlink_cmd_rcv_bufs_force"),
        *ignored(READ_AGAIN, "lvs_netlink_monitor_rcv_bufs", "lvs_netlink_monitor_rcv_bufs_force"),
        *ignored(READ_AGAIN, "process_monitor_rcv_bufs", "process_monitor_rcv_bufs_force"),
        *ignored("each reload is checked as a whole, before anything changes", "reload_check_config"),
        *ignored("no temporary file is written", "tmp_config_directory"),
        Keyword("include_check", ANY, "conditions of the following includes", state=State.PARSED),
        Keyword("random_seed", ANY, "makes _RANDOM repeatable", state=State.PARSED),
        *defaults_of(*(keyword.name for keyword in GARP)),
        Keyword("vrrp_vmac_garp_intvl", EXTRA_DEFAULT, "old name of vrrp_garp_extra_if", is_now="vrrp_garp_extra_if"),
        flag("vrrp_min_garp", "default: one gratuitous ARP, without repetition"),
        Keyword(
            "vrrp_garp_interval", SENDING, "minimum seconds between gratuitous ARPs on a device", default_doc="no limit"
        ),
        Keyword(
            "vrrp_gna_interval",
            SENDING,
            "minimum seconds between unsolicited neighbour advertisements on a device",
            default_doc="no limit",
        ),
        *defaults_of("version"),
        Keyword("vrrp_mcast_group4", multicast(4), "multicast group of IPv4 advertisements", MULTICAST_V4),
        Keyword("vrrp_mcast_group6", multicast(6), "multicast group of IPv6 advertisements", MULTICAST_V6),
        *defaults_of("down_timer_adverts", "lower_prio_no_advert", "higher_prio_send_advert", "check_unicast_src"),
        *defaults_of("skip_check_adv_addr", "strict_mode", "notify_priority_changes"),
        Keyword(
            "default_interface",
            DEVICE,
            "device of static_ipaddress, static_routes and static_rules that name none",
            default_doc="eth0",
        ),
        Keyword("notify_fifo", FIFO, "pipe for state transitions and for changes of services and servers"),
        Keyword("notify_fifo_script", SCRIPT, "program that reads the pipe; the pipe's path is its last argument"),
        Keyword("vrrp_notify_fifo", FIFO, "pipe for state transitions of virtual routers"),
        Keyword("vrrp_notify_fifo_script", SCRIPT, "program that reads the pipe"),
        Keyword("lvs_notify_fifo", FIFO, "pipe for changes of services and servers"),
        Keyword("lvs_notify_fifo_script", SCRIPT, "program that reads the pipe"),
        bare("fifo_write_vrrp_states_on_reload", "write all states into the FIFOs at a reload"),
        Keyword("smtp_alert_vrrp", FLAG, "default of smtp_alert of virtual routers", default_doc="smtp_alert"),
        bare("no_email_faults", "mail no faults"),
        bare("log_unknown_vrids", "log advertisements of routers that are not configured"),
        Keyword(
            "vrrp_startup_delay", seconds(0, MAX_INTERVAL_S), "delay of virtual routers at startup, in seconds", 0.0
        ),
        Keyword(
            "dynamic_interfaces",
            one_or_nothing("allow_if_changes", True, True),
            "accept interfaces that do not exist yet",
            default_doc="they must be there",
        ),
        Keyword("vmac_prefix", TEXT, "prefix of the names of VMACs", "vrrp"),
        Keyword("vmac_addr_prefix", TEXT, "prefix of the names of VMACs of use_vmac_addr", default_of="vmac_prefix"),
        Keyword(
            "data_plane_lease",
            seconds(1, 3600),
            "seconds without a report of pylvs run, or without an answer of pylvs-vrrp, until its state is unknown",
            10.0,
            is_own=True,
        ),
        Keyword("vrrp_priority", integer(-20, 19), "nice value of the VRRP process", 0),
        Keyword(
            "vrrp_rt_priority",
            nearest(1, 99),
            "real-time priority of the VRRP process",
            default_doc="1 where allowed; none with vrrp_priority",
        ),
        Keyword("vrrp_process_name", TEXT, "name of the VRRP process in ps and top", default_doc="pylvs-vrrp"),
        Keyword("vrrp_cpu_affinity", CPUS, "CPUs of the VRRP process", default_doc="all"),
        Keyword("vrrp_no_swap", BARE, "always on: the memory of the VRRP process is locked", state=State.IGNORED),
        *never(OWN_RULES, "nftables", "nftables_priority", "nftables_counters", "nftables_ifindex"),
        *never(OWN_RULES, "vrrp_iptables", "vrrp_ipsets"),
        bare("disable_local_igmp", "send no IGMP reports of 224.0.0.0/24 (net.ipv4.igmp_link_local_mcast_reports)"),
        Keyword(
            "vrrp_rx_bufs_policy",
            RECEIVE_POLICY,
            "receive buffer for each virtual router: octets, or a multiple of MTU or advertisement",
            default_doc="the kernel's",
        ),
        Keyword("vrrp_rx_bufs_multiplier", integer(1, exact=True), "the multiple", 3),
        *ignored(NO_LIMIT, "vrrp_rlimit_rttime", "vrrp_rlimit_rtime"),
        *ignored(READ_AGAIN, "vrrp_netlink_cmd_rcv_bufs", "vrrp_netlink_cmd_rcv_bufs_force"),
        *ignored(READ_AGAIN, "vrrp_netlink_monitor_rcv_bufs", "vrrp_netlink_monitor_rcv_bufs_force"),
    ),
    merged=True,
)


INTERVAL = seconds(0, MAX_INTERVAL_S)
# Read before anything else, because the daemon enters the namespace first.
PLACEMENT = (
    Keyword("net_namespace", NAMESPACE, "network namespace that pylvs runs in", first_wins=True),
    Keyword(
        "net_namespace_ipvs",
        OTHER_NAMESPACE,
        "network namespace of the tables; without a name the one in which pylvs was started",
        default_doc="net_namespace",
        first_wins=True,
    ),
    Keyword("instance", INSTANCE, "name of this daemon among several in one network namespace", first_wins=True),
    bare("use_pid_dir", "write the process IDs into /run/keepalived"),
)
ROOT = Block(
    "",
    "the whole file",
    (
        GLOBAL_DEFS,
        *PLACEMENT,
        *ignored("pylvs uses nf_tables alone", "namespace_with_ipsets"),
        *ignored("virtual routers have 20 s to end", "child_wait_time", kind=integer()),
        Block(
            "SSL",
            "client certificate of SSL_GET, in files of PEM format",
            (
                Keyword("password", TEXT, "password of the private key", ""),
                Keyword("ca", TEXT, "trusted CAs, for verify_server", "", default_doc="this machine's"),
                Keyword("certificate", TEXT, "client certificate, and those of its CA", ""),
                Keyword("key", TEXT, "private key of the certificate", "", default_doc="in the file of certificate"),
            ),
            merged=True,
        ),
        bare("linkbeat_use_polling", "poll the links of all virtual routers"),
        VIRTUAL_SERVER_GROUP,
        VIRTUAL_SERVER,
        VRRP_INSTANCE,
        VRRP_SYNC_GROUP,
        *TRACK_DEFINITIONS,
        Block("static_ipaddress", "addresses that this machine holds in every VRRP state", lines=STATIC_ADDRESS_LINE),
        Block("static_routes", "routes that this machine has in every VRRP state", lines=STATIC_ROUTE_LINE),
        Block("static_rules", "routing rules that this machine has in every VRRP state", lines=STATIC_RULE_LINE),
        Block(
            "track_group",
            "virtual routers that track the devices of static addresses, routes and rules with this track_group",
            (Block("group", "names of the virtual routers", lines=names("the name of a vrrp_instance")),),
            head=NAME,
        ),
        Block(
            "garp_group",
            "minimum time between gratuitous ARPs on a device, or on several devices together",
            (
                Keyword("garp_interval", INTERVAL, "seconds between gratuitous ARPs"),
                Keyword("gna_interval", INTERVAL, "seconds between neighbour advertisements"),
                Keyword("interface", DEVICE, "device"),
                Block("interfaces", "devices that share the limit", lines=names("a device")),
            ),
        ),
        Block(
            "linkbeat_interfaces",
            "devices with polled links, by MII unless the line demands another way",
            lines=POLLED_LINE,
            merged=True,
        ),
        Block(
            "interface_up_down_delays",
            "how long a device must be up or down before virtual routers react",
            lines=DELAY_LINE,
        ),
    ),
)
