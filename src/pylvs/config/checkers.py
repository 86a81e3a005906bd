"""From a checker's effective block to the check that it wants; None, and a finding, where there is nothing to check."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from pylvs.config.effective import EffectiveBlock
from pylvs.config.findings import Findings
from pylvs.config.schema.checkers import load
from pylvs.config.schema.reading import Section
from pylvs.config.schema.scripts import WrittenScript
from pylvs.config.schema.servers import Server
from pylvs.config.schema.tracking import Weight
from pylvs.config.schema.types import did_you_mean
from pylvs.config.schema.vrrp_types import Named
from pylvs.config.script_rules import ScriptRules
from pylvs.model.checks import (
    AgentCheck,
    Check,
    DnsCheck,
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
    TcpCheck,
    UdpCheck,
    Url,
)
from pylvs.model.dataclass import dataclass
from pylvs.system.pcre2 import BadRegex, Regex

# keepalived is told by inotify: the same within a second.
FILE_PACE = Pace(delay_loop_s=1.0, retry=0, warmup_s=0.0)
LEFT_OUT = "the check is left out"


@dataclass(slots=True)
class CheckMaker:
    """Makes the checks of one real server."""

    findings: Findings
    scripts: ScriptRules
    document: Section  # where the track_file blocks are
    server: Server
    service_port: int  # of the virtual service, 0 for a mark's
    shared: bool = False  # shared_probes of global_defs
    has_vip: bool = True  # not a mark

    def make(self, block: EffectiveBlock) -> Check | None:
        """The check of a block; None if there is none."""
        return MAKERS[block.block.name](self, block)

    def pace(self, block: EffectiveBlock, timeout: str = "connect_timeout") -> Pace:
        """How often, how long, how many times."""
        return Pace(
            delay_loop_s=block.seconds("delay_loop"),
            timeout_s=block.seconds(timeout),
            retry=block.get("retry", int),
            delay_before_retry_s=block.seconds("delay_before_retry"),
            warmup_s=block.seconds("warmup"),
            alpha=block.get("alpha", bool),
            log_all_failures=block.get("log_all_failures", bool),
            shared=self.shared,
        )

    def target(
        self, block: EffectiveBlock, *, ports: bool = True, default_port: int = 0, via_vip: bool = False
    ) -> Target:
        """Where the check goes; what is not written is filled in from the real server, and then from the service."""
        address = block.address("connect_ip") or self.server.address
        block.fill("connect_ip", address)
        if ports and not block.is_written("connect_port"):
            port = self.service_port if via_vip else default_port or self.server.port or self.service_port
            if port:
                block.fill("connect_port", port)
            else:
                text = f"{block.block.name} has no port to connect to; it will fail"
                self.findings.error(block.word.place, text, "write connect_port")
        source = block.address("bindto")
        if source is not None and source.version != address.version:
            text = f"bindto {source} is not of the IP version of {address}; it is ignored"
            self.findings.error(block.place("bindto"), text, "write an address of the same IP version")
            block.adjust("bindto", None, "another IP version")
            source = None
        return Target(
            address=address,
            port=(block.maybe("connect_port", int) or 0) if ports else 0,
            source=source,
            source_port=(block.maybe("bind_port", int) or 0) if ports else 0,
            device=block.maybe("bind_if", str) or "",
            mark=block.maybe("fwmark", int) or 0,
            via_vip=via_vip,
        )

    def chosen(self, block: EffectiveBlock) -> Target:
        """The target of a check that may go through the virtual address."""
        via_vip = block.get("via_vip", bool)
        if via_vip and not self.has_vip:
            text = "via_vip needs a virtual address, which a firewall mark has not; the check goes to the real server"
            self.findings.error(block.place("via_vip"), text, "remove it")
            block.adjust("via_vip", False, "no virtual address")
            via_vip = False
        return self.target(block, via_vip=via_vip)

    def left_out(self, block: EffectiveBlock, text: str, advice: str) -> None:
        """Say that there is no such check."""
        self.findings.error(block.word.place, f"{text}; {LEFT_OUT}", advice)

    def tcp(self, block: EffectiveBlock) -> Check | None:
        """TCP_CHECK."""
        return TcpCheck(target=self.chosen(block), pace=self.pace(block))

    def http(self, block: EffectiveBlock) -> Check | None:
        """HTTP_GET and SSL_GET."""
        urls = tuple(url for each in block.below("url") if (url := self.url(each)))
        if not urls:
            self.left_out(block, f"{block.block.name} has no url with a path", "add url { path / }")
            return None
        return HttpCheck(
            target=self.chosen(block),
            pace=self.pace(block),
            urls=urls,
            tls=block.block.name == "SSL_GET",
            sni=block.get("enable_sni", bool),
            sni_name=block.get("sni_name", str),
            virtualhost=block.maybe("virtualhost", str) or "",
            protocol=block.get("http_protocol", str),
            fast_recovery=block.get("fast_recovery", bool),
        )

    def url(self, block: EffectiveBlock) -> Url | None:
        """One page; None without a path."""
        path = block.maybe("path", str)
        if not path:
            self.findings.error(block.word.place, "url has no path; it is ignored", "write path /")
            return None
        regex = block.get("regex", str)
        for name in ("regex_no_match", "regex_options", "regex_min_offset", "regex_max_offset"):
            if not regex and block.is_written(name):
                self.findings.warning(block.place(name), f"{name} has no effect without regex", "write one")
        least, most = block.get("regex_min_offset", int), block.get("regex_max_offset", int)
        if most and least > most:
            text = f"regex_min_offset {least} is above regex_max_offset {most}: nothing can match"
            self.findings.warning(block.place("regex_min_offset"), text, "write a smaller one")
        options = block.get("regex_options", tuple)
        if regex:
            try:
                Regex(regex.encode(errors="surrogateescape"), options)
            except BadRegex as error:
                text = f"'{regex}' is not a regular expression: {error}; it is ignored"
                self.findings.error(block.place("regex"), text, "repair it")
                block.adjust("regex", "", "not a regular expression")
                regex = ""
        return Url(
            path=path,
            digest=block.get("digest", str),
            statuses=block.get("status_code", tuple),
            virtualhost=block.maybe("virtualhost", str) or "",
            regex=regex,
            regex_no_match=block.get("regex_no_match", bool),
            regex_options=options,
            regex_min_offset=least,
            regex_max_offset=most,
            tls_compliant=block.get("tls_compliant", bool),
        )

    def smtp(self, block: EffectiveBlock) -> Check | None:
        """SMTP_CHECK."""
        hosts = tuple(self.target(each) for each in block.below("host"))
        targets = hosts or (self.chosen(block),)
        return SmtpCheck(targets=targets, pace=self.pace(block), helo_name=block.get("helo_name", str))

    def dns(self, block: EffectiveBlock) -> Check | None:
        """DNS_CHECK."""
        return DnsCheck(
            target=self.chosen(block),
            pace=self.pace(block),
            type=block.get("type", str),
            name=block.get("name", str),
        )

    def udp(self, block: EffectiveBlock) -> Check | None:
        """UDP_CHECK."""
        least, most = block.get("min_reply_length", int), block.get("max_reply_length", int)
        reply = block.maybe("require_reply", Pattern)
        if least > most:
            text = f"min_reply_length {least} is above max_reply_length {most}: the check will always fail"
            self.findings.warning(block.place("min_reply_length"), text, "write a smaller one")
        return UdpCheck(
            target=self.chosen(block),
            pace=self.pace(block),
            payload=block.get("payload", Pattern).value,
            require_reply=reply is not None,
            reply=reply or Pattern(),
            min_reply_length=least,
            max_reply_length=most,
        )

    def ping(self, block: EffectiveBlock) -> Check | None:
        """PING_CHECK."""
        return PingCheck(target=self.target(block, ports=False), pace=self.pace(block))

    def misc(self, block: EffectiveBlock) -> Check | None:
        """MISC_CHECK."""
        written = block.maybe("misc_path", WrittenScript)
        if written is None:
            self.left_out(block, "MISC_CHECK has no misc_path", "write misc_path with a program")
            return None
        user, group = block.maybe("user", tuple) or ("", "")
        script = self.scripts.usable(written, user, group)
        if script is None:
            return None  # and it was said why
        return MiscCheck(script=script, pace=self.pace(block, "misc_timeout"), dynamic=block.get("misc_dynamic", bool))

    def file(self, block: EffectiveBlock) -> Check | None:
        """FILE_CHECK: the file's path stands in a track_file block."""
        name = block.maybe("track_file", str)
        if not name:
            self.left_out(block, "FILE_CHECK has no track_file", "write track_file with a block's name")
            return None
        files = self._named("track_file")
        path = files[name].value("file", str) if name in files else None
        if not path:
            near = did_you_mean(name, list(files)) or f"write a block track_file {name} with its file"
            self.left_out(block, f"there is no track_file {name} with a file", near)
            return None
        of_file = files[name].value("weight", Weight) or Weight(1)
        weight, reverse = block.maybe("weight", tuple) or (of_file.value, bool(of_file.reverse))
        return FileCheck(path=path, weight=weight, reverse=reverse, pace=FILE_PACE)

    def bfd(self, section: Section) -> None:
        """BFD_CHECK: there is no such check yet, but its name can be wrong."""
        setting, sessions = section.setting("name"), self._named("bfd_instance")
        if setting is not None and setting.value not in sessions:
            near = did_you_mean(str(setting.value), list(sessions)) or f"write a block bfd_instance {setting.value}"
            self.findings.error(setting.words[0].place, f"there is no bfd_instance {setting.value}", near)

    def _named(self, kind: str) -> dict[str, Section]:
        """The blocks of a kind at the top of the file, by their names."""
        return {each.head.name: each for each in self.document.below(kind) if isinstance(each.head, Named)}

    def agent(self, block: EffectiveBlock) -> Check | None:
        """AGENT_CHECK."""
        if not block.is_written("connect_port"):
            self.left_out(block, "AGENT_CHECK has no connect_port", "write the port that the agent listens on")
            return None
        send = block.get("send", str)
        return AgentCheck(target=self.target(block), pace=self.pace(block), send=f"{send}\n".encode() if send else b"")

    def load(self, block: EffectiveBlock) -> Check | None:
        """LOAD_CHECK."""
        source, metric = block.get("source", tuple)
        assert isinstance(source, LoadSource)
        return LoadCheck(
            target=self.target(block, default_port=load.PORT),
            pace=self.pace(block),
            path=block.get("path", str),
            source=source,
            metric=metric,
            full=block.get("full", float),
            floor=block.get("floor", float),
            smoothing=block.get("smoothing", float),
            hysteresis=block.get("hysteresis", float),
            patience=block.get("patience", int),
            tls=block.get("tls", bool),
        )


MAKERS: Mapping[str, Callable[[CheckMaker, EffectiveBlock], Check | None]] = {
    "TCP_CHECK": CheckMaker.tcp,
    "HTTP_GET": CheckMaker.http,
    "SSL_GET": CheckMaker.http,
    "SMTP_CHECK": CheckMaker.smtp,
    "DNS_CHECK": CheckMaker.dns,
    "UDP_CHECK": CheckMaker.udp,
    "PING_CHECK": CheckMaker.ping,
    "MISC_CHECK": CheckMaker.misc,
    "FILE_CHECK": CheckMaker.file,
    "AGENT_CHECK": CheckMaker.agent,
    "LOAD_CHECK": CheckMaker.load,
}
