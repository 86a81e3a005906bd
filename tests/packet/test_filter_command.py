"""`pylvs filter` on its own director: output, stored rules, and errors that change nothing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from pylvs.cli.main import EXIT_FAILED, EXIT_USAGE, run
from pylvs.cli.rules import filter as filter_command
from pylvs.daemon.state.directory import StateDirectory
from pylvs.daemon.state.owners import Owner
from pylvs.dataplane.rules import client_rules
from pylvs.dataplane.tables import Tables
from pylvs.model.client_rules import ClientRule, rule_of
from pylvs.model.errors import NoSpace
from pylvs.model.service import Protocol, ServiceKey
from tests.json_page import assert_documented
from tests.packet.host import VIP6, Host

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def service(director_host: Host) -> ServiceKey:
    director_host.director.flush()
    key = director_host.new_key()
    director_host.serve(key)
    return key


def call(capfd: Capture, words: str, status: int = 0) -> tuple[str, str]:
    """Return the output and the error output of `pylvs filter`."""
    capfd.readouterr()
    assert run(["filter", *words.split()]) == status, capfd.readouterr()
    out, err = capfd.readouterr()
    return out, err


def lines(capfd: Capture) -> list[str]:
    return call(capfd, "list")[0].splitlines()


def test_rules_are_listed_as_they_are_added(director_host: Host, service: ServiceKey, capfd: Capture) -> None:
    assert lines(capfd) == ["no client rules here: pylvs filter add makes one"]
    name = f"-t {service.address}:{service.port}"
    rules = ["deny 10.0.0.0/8", "allow 10.1.0.0/16", "limit 10.2.0.0/16 20/min per 24 burst 5 pass"]
    for rule in reversed(rules):
        call(capfd, f"add {name} {rule}")
    assert lines(capfd) == [f"{name} {rule}" for rule in rules]
    assert call(capfd, f"list {name}")[0].splitlines() == lines(capfd)


def test_each_kind_of_service_is_named_as_by_ipvsadm(director_host: Host, service: ServiceKey, capfd: Capture) -> None:
    keys = {
        f"-u [{VIP6}]:53": director_host.new_key(Protocol.UDP, VIP6),
        "-f 5": ServiceKey.of_mark(5),
        "--sctp-service": director_host.new_key(Protocol.SCTP),
    }
    names = [f"-u [{VIP6}]:{keys[f'-u [{VIP6}]:53'].port}", "-f 5"]
    sctp = keys["--sctp-service"]
    names.append(f"--sctp-service {sctp.address}:{sctp.port}")
    for key, name in zip(keys.values(), names, strict=True):
        director_host.serve(key)
        call(capfd, f"add {name} deny {'2001:db8::/32' if key.address.version == 6 else '10.0.0.0/8'}")
    assert sorted(line.rpartition(" deny")[0] for line in lines(capfd)) == sorted(names)


def test_json_is_as_documented(service: ServiceKey, capfd: Capture) -> None:
    name = f"-t {service.address}:{service.port}"
    call(capfd, f"add {name} limit 10.0.0.0/8 20/min per 24")
    call(capfd, f"add {name} deny 11.0.0.0/8")
    found = json.loads(call(capfd, "list --json")[0])
    assert_documented("pylvs filter list", found)
    limit = {"rate": 20, "period_s": 60, "burst": 20, "client_bits": 24}
    assert found == [
        {"service": str(service), "prefix": "10.0.0.0/8", "action": "drop", **limit},
        {"service": str(service), "prefix": "11.0.0.0/8", "action": "drop"},
    ]


def test_rules_are_deleted_by_prefix_or_all(service: ServiceKey, capfd: Capture) -> None:
    name = f"-t {service.address}:{service.port}"
    for number in 1, 2, 3:
        call(capfd, f"add {name} deny 10.{number}.0.0/16")
    call(capfd, f"del {name} 10.1.0.0/16 10.3.0.0/16")
    assert lines(capfd) == [f"{name} deny 10.2.0.0/16"]
    call(capfd, f"del {name} --all")
    assert lines(capfd) == ["no client rules here: pylvs filter add makes one"]


def test_a_file_adds_or_replaces_rules(service: ServiceKey, capfd: Capture, tmp_path: Path) -> None:
    name, file = f"-t {service.address}:{service.port}", tmp_path / "rules"
    call(capfd, f"add {name} deny 10.0.0.0/8")
    file.write_text("# blocked\ndeny 11.0.0.0/8  # a network\n\nallow 11.1.0.0/16\n")
    call(capfd, f"add {name} --file {file}")
    assert len(lines(capfd)) == 3
    call(capfd, f"add {name} --replace --file {file}")
    assert lines(capfd) == [f"{name} deny 11.0.0.0/8", f"{name} allow 11.1.0.0/16"]
    file.write_text("deny 12.0.0.0/8\ndeny 12.0.0.1/8\n")
    _, err = call(capfd, f"add {name} --replace --file {file}", EXIT_FAILED)
    assert err == f"pylvs: {file}:2: 12.0.0.1/8: has bits behind its prefix; write 12.0.0.0/8\n"
    assert len(lines(capfd)) == 2


@pytest.mark.parametrize(
    ("words", "status", "text"),
    [
        ("add NAME allow 10.0.0.0/8", EXIT_FAILED, "two rules for 10.0.0.0/8: deny 10.0.0.0/8; allow 10.0.0.0/8"),
        ("add NAME deny fd00::/8", EXIT_FAILED, "deny fd00::/8: the service is of IPv4, the prefix is not"),
        ("add NAME deny 10.0.0.1/8", EXIT_FAILED, "10.0.0.1/8: has bits behind its prefix; write 10.0.0.0/8"),
        ("add NAME refuse 10.0.0.0/8", EXIT_FAILED, "refuse 10.0.0.0/8: must be allow PREFIX, deny PREFIX [pass],"),
        ("add -t 10.99.0.1:80 deny 10.0.0.0/8", EXIT_FAILED, "TCP 10.99.0.1:80: no such virtual service"),
        ("add deny 10.0.0.0/8", EXIT_USAGE, "name the service: -t, -u, --sctp-service or -f; see pylvs filter add"),
        ("add NAME", EXIT_USAGE, "give one RULE, or --file; see pylvs filter add --help"),
        ("del NAME 10.0.0.0/9", EXIT_FAILED, "no rule for 10.0.0.0/9; see pylvs filter list"),
        ("del NAME", EXIT_USAGE, "name the PREFIX of each rule, or --all; see pylvs filter del --help"),
        ("list -t 10.99.0.1:80", EXIT_FAILED, "TCP 10.99.0.1:80: no such virtual service"),
        ("add NAME --override deny 10.9.0.0/16", EXIT_FAILED, "no running pylvs run has this service in its file"),
        ("del NAME --override --all", EXIT_FAILED, "no running pylvs run has this service in its file"),
        (
            "list NAME --override",
            EXIT_FAILED,
            "no running pylvs run has this service in its file; leave out --override",
        ),
        ("list --override", EXIT_FAILED, "no pylvs run has services here; leave out --override"),
        ("list --override --state-dir /nowhere", EXIT_FAILED, "no pylvs run answers at /nowhere/control"),
        ("add NAME --state-dir /tmp deny 10.9.0.0/16", EXIT_USAGE, "--state-dir is for --override"),
    ],
)
def test_what_is_wrong_is_one_line_and_changes_nothing(
    service: ServiceKey, capfd: Capture, words: str, status: int, text: str
) -> None:
    name = f"-t {service.address}:{service.port}"
    call(capfd, f"add {name} deny 10.0.0.0/8")
    out, err = call(capfd, words.replace("NAME", name), status)
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith("pylvs: ")
    assert text in err
    assert lines(capfd) == [f"{name} deny 10.0.0.0/8"]


def test_a_service_of_a_running_daemon_is_refused(
    service: ServiceKey, capfd: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(filter_command, "owner", lambda _cookie, keys: Owner(next(iter(keys)), 7, StateDirectory()))
    name = f"-t {service.address}:{service.port}"
    for words in "add NAME deny 10.0.0.0/8", "del NAME --all":
        _, err = call(capfd, words.replace("NAME", name), EXIT_FAILED)
        assert err.startswith(f"pylvs: {service}: pylvs run, process 7, has this service in its file")
        assert "write client_rules in the file, and pylvs reload" in err
    assert lines(capfd) == ["no client rules here: pylvs filter add makes one"]


SAVED = """*filter
:INPUT ACCEPT [0:0]
-A INPUT -s 10.0.0.0/8 -d VIP -p tcp -m tcp --dport PORT -j DROP
-A INPUT -d VIP -m set --match-set bad src -j DROP
COMMIT
"""


def test_rules_of_input_are_imported(service: ServiceKey, capfd: Capture, tmp_path: Path) -> None:
    name, file = f"-t {service.address}:{service.port}", tmp_path / "saved"
    file.write_text(SAVED.replace("VIP", str(service.address)).replace("PORT", str(service.port)))
    out, err = call(capfd, f"import --dry-run {file}")
    assert out == f"{name} deny 10.0.0.0/8\n"
    assert err.count("\n") == 1
    assert err.startswith("line 4: left out: it asks an ipset")
    _, err = call(capfd, f"import --strict {file}", EXIT_FAILED)
    assert "--strict: nothing was changed; rules that cannot be taken over: 1" in err
    assert lines(capfd) == ["no client rules here: pylvs filter add makes one"]
    call(capfd, f"add {name} allow 10.1.0.0/16")
    for _ in range(2):
        assert call(capfd, f"import {file}")[0] == "1 rule for 1 service, 1 left out\n"
    assert lines(capfd) == [f"{name} deny 10.0.0.0/8", f"{name} allow 10.1.0.0/16"]
    call(capfd, f"import --replace {file}")
    assert lines(capfd) == [f"{name} deny 10.0.0.0/8"]
    file.write_text("")
    _, err = call(capfd, f"import {file}", EXIT_FAILED)
    assert err == f"pylvs: {file}: it has no table of netfilter; pylvs filter del --all deletes the rules\n"


def both_saved(tmp_path: Path, *services: ServiceKey) -> Path:
    """Return a file with one rule for each service."""
    file = tmp_path / "saved"
    rules = (f"-A INPUT -s 10.0.0.0/8 -d {key.address} -p tcp -m tcp --dport {key.port} -j DROP\n" for key in services)
    file.write_text(f"*filter\n:INPUT ACCEPT [0:0]\n{''.join(rules)}COMMIT\n")
    return file


def test_an_import_keeps_what_another_program_adds_at_the_same_time(
    director_host: Host, service: ServiceKey, capfd: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def adding(*_: object) -> None:
        director_host.director.edit_client_rules(service, [rule_of(["deny", "11.0.0.0/8"])], ())

    monkeypatch.setattr(filter_command, "_check_free", adding)
    call(capfd, f"import {both_saved(tmp_path, service)}")
    name = f"-t {service.address}:{service.port}"
    assert lines(capfd) == [f"{name} deny 10.0.0.0/8", f"{name} deny 11.0.0.0/8"]


def test_an_import_changes_all_services_or_none(
    director_host: Host, service: ServiceKey, capfd: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, write, sizes = director_host.new_key(), client_rules.write, list[int]()
    director_host.serve(other)
    file = both_saved(tmp_path, service, other)

    def full(tables: Tables, generation: int, slot: int, rules: Sequence[ClientRule]) -> dict[str, int]:
        sizes.append(len(rules))
        if len(sizes) > 1:
            raise NoSpace("planted")
        return write(tables, generation, slot, rules)

    with monkeypatch.context() as patch:
        patch.setattr(client_rules, "write", full)
        _, err = call(capfd, f"import {file}", EXIT_FAILED)
    assert (err, sizes) == ("pylvs: planted\n", [1, 1])
    assert lines(capfd) == ["no client rules here: pylvs filter add makes one"]
    assert call(capfd, f"import {file}")[0] == "2 rules for 2 services, 0 left out\n"
    assert len(lines(capfd)) == 2
