"""Compile checker blocks to checks; None, and a finding, where there is nothing to check."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from pylvs.config.compile.effective import EffectiveBlock
from pylvs.config.compile.scripts import ScriptRules
from pylvs.config.language.tree import Word
from pylvs.config.schema.checkers import CONNECT_TIMEOUT_S, CONNECTION, DELAY_LOOP_S, checker_timing
from pylvs.config.schema.grammar import Section, State, did_you_mean
from pylvs.config.schema.service_types import ALL_GOOD, Server
from pylvs.config.schema.types import MAX_SECONDS
from pylvs.config.schema.vrrp_types import TrackWeight
from pylvs.model.checks import (
    KINDS,
    AgentCheck,
    BfdCheck,
    Check,
    FileCheck,
    HttpCheck,
    LoadCheck,
    LoadSource,
    MiscCheck,
    Pace,
    Pattern,
    PingCheck,
    SmtpCheck,
    Target,
    TlsClient,
    UdpCheck,
    Url,
)
from pylvs.model.dataclass import dataclass, replace
from pylvs.model.errors import Unsupported
from pylvs.system.pcre2 import BadRegex, Regex

# keepalived uses inotify; polling each second is nearly as fast.
FILE_TIMING = Pace(delay_loop_s=1.0, retry=0, warmup_s=0.0)
# A change of the session is a probe at once; those between keep the time of the last one recent.
BFD_TIMING = Pace(delay_loop_s=10.0, retry=0, warmup_s=0.0)
NODE_EXPORTER_PORT = 9100
TIMING = tuple(each.name for each in checker_timing(timeout=False) if each.state is State.SUPPORTED)
OWN_CONNECTION = (*(each.name for each in CONNECTION), "connect_timeout")


def tls_client_of(root: EffectiveBlock) -> TlsClient:
    """Return the SSL block. What cannot be loaded is a fatal finding if a check needs it: keepalived ends, too."""
    block = next(root.below("SSL"), None)
    if block is None:
        return TlsClient()
    client = block.make(TlsClient)
    if client.key and not client.certificate:
        block.error("key", "SSL: a key without a certificate shows none", "write certificate FILE")
        return client
    if any(each.block.name == "SSL_GET" for each in root.walk()):
        from pylvs.system.tls import make  # late: few configurations need OpenSSL

        try:
            make(client, verify=False)
        except Unsupported as error:
            keyword = str(error).partition(" ")[0]
            at = block.location(keyword) if block.is_written(keyword) else block.word.location
            block.findings.error(at, f"SSL: {error}", "repair the file, or the SSL block", fatal=True)
    return client


@dataclass(slots=True)
class CheckMaker:
    """Makes the checks of one real server."""

    scripts: ScriptRules
    block: EffectiveBlock  # of the real server
    server: Server  # as written around the checker
    service_port: int  # of the virtual service; 0 for a mark
    has_vip: bool  # False for a firewall mark
    tls: TlsClient = TlsClient()  # the SSL block

    def timing(self, block: EffectiveBlock) -> Pace:
        return block.make(Pace, timeout_s=block.seconds("connect_timeout"), shared=self.shared)

    @property
    def shared(self) -> bool:
        return self.block.get("checker_share", bool)

    def target(
        self, block: EffectiveBlock, *, ports: bool = True, default_port: int = 0, via_vip: bool = False
    ) -> Target:
        """Return the target; the real server, and then the service, provide what is not written."""
        address = block.address("connect_ip") or self.server.address
        block.fill("connect_ip", address)
        if ports and not block.is_written("connect_port"):
            port = self.service_port if via_vip else default_port or self.server.port or self.service_port
            if port:
                block.fill("connect_port", port)
            else:
                block.error("", f"{block.block.name} has no port to connect to; it will fail", "write connect_port")
        source = block.address("bindto")
        if source is not None and source.version != address.version:
            text = f"bindto {source} is not of the IP version of {address}; it is ignored"
            block.error("bindto", text, "write an address of the same IP version")
            block.adjust("bindto", None, "another IP version")
            source = None
        return Target(
            address=address,
            port=block.maybe("connect_port", int, 0) if ports else 0,
            source=source,
            source_port=block.maybe("bind_port", int, 0) if ports else 0,
            device=block.maybe("bind_if", str, ""),
            mark=block.maybe("fwmark", int, 0),
            via_vip=via_vip,
        )

    def target_or_vip(self, block: EffectiveBlock) -> Target:
        """Return the target of a check that may go through the VIP."""
        via_vip = block.get("via_vip", bool)
        if via_vip and not self.has_vip:
            text = "via_vip needs a virtual address; a firewall mark has none, so pylvs checks the real server"
            block.error("via_vip", text, "remove it")
            block.adjust("via_vip", False, "no virtual address")
            via_vip = False
        return self.target(block, via_vip=via_vip)

    def make(self, block: EffectiveBlock) -> Check | None:
        """Make the check of a block. Unless MAKERS has its kind, each field but target and pace is a keyword."""
        if make := MAKERS.get(block.block.name):
            return make(self, block)
        target = self.target_or_vip(block) if block.block.find("via_vip") else self.target(block)
        return block.make(KINDS[block.block.name], target=target, pace=self.timing(block))

    def http(self, block: EffectiveBlock) -> Check | None:
        urls = tuple(url for each in block.below("url") if (url := self.url(each)))
        if not urls:
            block.error("", f"{block.block.name} has no url with a path; the check is left out", "add url { path / }")
            return None
        tls = block.block.name == "SSL_GET"
        if block.get("verify_server", bool) and not tls:
            block.warning("verify_server", "verify_server has no effect without TLS", "write SSL_GET")
        target, pace = self.target_or_vip(block), self.timing(block)
        client = self.tls if tls else TlsClient()
        return block.make(HttpCheck, target=target, pace=pace, urls=urls, tls=tls, client=client)

    def url(self, block: EffectiveBlock) -> Url | None:
        """Make one URL; None, and a finding, without a path."""
        path = block.maybe("path", str)
        if not path:
            block.error("", "url has no path; it is ignored", "write path /")
            return None
        if not block.get("status_code", tuple):
            block.adjust("status_code", ALL_GOOD, "no valid status code")
        regex = block.get("regex", str)
        for name in ("regex_no_match", "regex_options", "regex_min_offset", "regex_max_offset"):
            if not regex and block.is_written(name):
                block.warning(name, f"{name} has no effect without regex", "write one")
        minimum, maximum = block.get("regex_min_offset", int), block.maybe("regex_max_offset", int)
        if maximum is not None and minimum > maximum:
            text = f"regex_min_offset {minimum} is above regex_max_offset {maximum}; both are ignored"
            block.warning("regex_min_offset", text, "write a smaller one")
            block.adjust("regex_min_offset", 0, "regex_min_offset above regex_max_offset")
            block.adjust("regex_max_offset", None, "regex_min_offset above regex_max_offset")
        if regex:
            try:
                Regex(regex.encode(errors="surrogateescape"), block.get("regex_options", tuple))
            except BadRegex as error:
                block.error("regex", f"'{regex}' is not a regular expression: {error}; it is ignored", "repair it")
                block.adjust("regex", "", "not a regular expression")
        return block.make(Url)

    def _share_timing(self, block: EffectiveBlock, hosts: list[EffectiveBlock]) -> None:
        """Give the check the timing that its hosts write: the last value, as in keepalived."""
        timed = {name: host for host in hosts for name in TIMING if host.section.setting(name)}
        for name, host in timed.items():
            for each in (block, *hosts):
                each.fill(name, host.effective(name).value)

    def smtp(self, block: EffectiveBlock) -> Check | None:
        """SMTP_CHECK: its hosts, and the real server itself without a host, or if its own connection is configured."""
        hosts = list(block.below("host"))
        own = [block] if not hosts or any(map(block.section.setting, OWN_CONNECTION)) else []
        self._share_timing(block, hosts)
        if block.section.setting("connect_timeout"):
            # Of its own real server, which may be another one than `self.block` (`_merge`).
            outer_s = (each.value("connect_timeout", float) for each in block.outer)
            server_timeout_s = next(filter(None, outer_s), CONNECT_TIMEOUT_S)
            for host in hosts:
                if not host.section.setting("connect_timeout"):
                    host.adjust("connect_timeout", server_timeout_s, "the real server's")
        longest = max(each.seconds("connect_timeout") for each in (*own, *hosts))
        if not own:
            block.fill("connect_timeout", None)  # it would make the real server a host, too
        targets = (*map(self.target_or_vip, own), *map(self.target, hosts))
        pace = block.make(Pace, timeout_s=longest, shared=self.shared)
        return block.make(SmtpCheck, targets=targets, pace=pace)

    def udp(self, block: EffectiveBlock) -> Check | None:
        minimum, maximum = block.get("min_reply_length", int), block.get("max_reply_length", int)
        reply = block.maybe("require_reply", Pattern)
        if minimum > maximum:
            text = f"min_reply_length {minimum} is above max_reply_length {maximum}: the check will always fail"
            block.warning("min_reply_length", text, "write a smaller one")
        return block.make(
            UdpCheck,
            target=self.target_or_vip(block),
            pace=self.timing(block),
            payload=block.get("payload", Pattern).value,
            require_reply=reply is not None,
            reply=reply or Pattern(),
        )

    def ping(self, block: EffectiveBlock) -> Check | None:
        return PingCheck(target=self.target(block, ports=False), pace=self.timing(block))

    def misc(self, block: EffectiveBlock) -> Check | None:
        if not block.is_written("misc_path"):
            block.error("", "MISC_CHECK has no misc_path; the check is left out", "write misc_path with a program")
            return None
        script = self.scripts.of(block, "misc_path", "; the check is left out")
        if script is None:
            return None
        service = block.outer[1]  # also where the real server or the check has a delay_loop, as in keepalived
        timeout_s = float(block.maybe("misc_timeout", int) or service.value("delay_loop", float) or DELAY_LOOP_S)
        if timeout_s.is_integer() and timeout_s <= MAX_SECONDS:
            block.fill("misc_timeout", int(timeout_s))
        return block.make(MiscCheck, script=script, pace=block.make(Pace, timeout_s=timeout_s, shared=self.shared))

    def file(self, block: EffectiveBlock) -> Check | None:
        """FILE_CHECK, whose path is in a track_file block."""
        name = block.maybe("track_file", str)
        if not name:
            text = "FILE_CHECK has no track_file; the check is left out"
            block.error("", text, "write track_file with a block's name")
            return None
        files = self._named("track_file")
        path = files[name].value("file", str) if name in files else None
        if not path:
            near = did_you_mean(name, list(files)) or f"write a block track_file {name} with its file"
            block.error("", f"there is no track_file {name} with a file; the check is left out", near)
            return None
        of_file = files[name].value("weight", TrackWeight) or TrackWeight(1)
        weight, reverse = block.maybe("weight", tuple, (of_file.value, bool(of_file.reverse)))
        return FileCheck(path=path, weight=weight, reverse=reverse, pace=replace(FILE_TIMING, shared=self.shared))

    def bfd(self, block: EffectiveBlock) -> Check | None:
        """BFD_CHECK, whose session is in a bfd_instance block."""
        name = block.maybe("name", str)
        if not name:
            block.error("", "BFD_CHECK has no name; the check is left out", "write name with that of a bfd_instance")
            return None
        sessions = self._named("bfd_instance")
        if name not in sessions:
            near = did_you_mean(name, list(sessions)) or f"write a block bfd_instance {name}"
            block.error("name", f"there is no bfd_instance {name}; the check is left out", near)
            return None
        if sessions[name].value("vrrp", bool) and not sessions[name].value("checker", bool):
            text = f"bfd_instance {name} is for virtual routers alone; the check is left out"
            block.error("name", text, "write checker into it too")
            return None
        return BfdCheck(session=name, pace=replace(BFD_TIMING, alpha=block.get("alpha", bool)))

    def _named(self, kind: str) -> dict[str, Section]:
        """Return the top-level blocks of a kind by name."""
        document = self.block.outer[-1]
        return {each.head.text: each for each in document.below(kind) if isinstance(each.head, Word)}

    def agent(self, block: EffectiveBlock) -> Check | None:
        if not block.is_written("connect_port"):
            text = "AGENT_CHECK has no connect_port; the check is left out"
            block.error("", text, "write the port that the agent listens on")
            return None
        send = block.get("send", str)
        line = f"{send}\n".encode() if send else b""
        return AgentCheck(target=self.target(block), pace=self.timing(block), send=line)

    def load(self, block: EffectiveBlock) -> Check | None:
        source, metric = block.get("source", tuple)
        assert isinstance(source, LoadSource)
        target = self.target(block, default_port=NODE_EXPORTER_PORT)
        return block.make(LoadCheck, target=target, pace=self.timing(block), source=source, metric=metric)


MAKERS: Mapping[str, Callable[[CheckMaker, EffectiveBlock], Check | None]] = {
    "HTTP_GET": CheckMaker.http,
    "SSL_GET": CheckMaker.http,
    "SMTP_CHECK": CheckMaker.smtp,
    "UDP_CHECK": CheckMaker.udp,
    "PING_CHECK": CheckMaker.ping,
    "MISC_CHECK": CheckMaker.misc,
    "FILE_CHECK": CheckMaker.file,
    "BFD_CHECK": CheckMaker.bfd,
    "AGENT_CHECK": CheckMaker.agent,
    "LOAD_CHECK": CheckMaker.load,
}
