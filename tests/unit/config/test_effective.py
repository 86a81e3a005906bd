"""The origin of effective values; the text that `pylvs check --show` prints parses again."""

from __future__ import annotations

import json
from dataclasses import fields

import pytest

from pylvs.config.compile.document import CompiledDocument
from pylvs.config.compile.effective import FIELD_KEYWORDS, EffectiveBlock
from pylvs.config.show import as_json, shown
from pylvs.model import checks, vrrp, wanted
from pylvs.model.checks import HttpCheck, TcpCheck
from tests.unit.config.support import compiled, messages

FULL = """\
global_defs {
    router_id one
    notification_email {
        root@example.org
        "admin@example.org"
    }
    smtp_server mail.example.org 2525
    smtp_alert_checker on
    lvs_timeouts tcp 900 udp 30
    lvs_flush_on_stop VS
    metrics_address 127.0.0.1 9101
    checker_share off
}
virtual_server_group web {
    192.0.2.1-3 80
    fwmark 7
}
virtual_server group web {
    lb_algo sh
    lb_kind TUN
    protocol TCP
    sh-port
    persistence_timeout
    persistence_granularity 255.255.255.0
    delay_loop 7.5
    quorum 9
    sorry_server 10.0.0.9 80
    sorry_server_lvs_method NAT
    virtualhost "www example"
    real_server 10.0.0.2 80 {
        lvs_method TUN type gue port 6080 csum
        weight 2
        HTTP_GET {
            url {
                path "/a b"
                regex "o\\\\.k"
                regex_options caseless dotall
            }
            retry 4
        }
        LOAD_CHECK {
            source metric 'q{a="b"}'
        }
        UDP_CHECK {
            require_reply 12 Xf
            payload 00ff
        }
    }
    real_server 10.0.0.3 {
        lvs_method NAT
        SMTP_CHECK {
            host {
                connect_port 25
            }
        }
        DNS_CHECK {
            connect_port 53
        }
    }
}
virtual_server 2001:db8::1 53 {
    protocol UDP
    ops
    lvs_sched mh
    lvs_method DR
    alpha
    real_server 2001:db8::2 53 {
        PING_CHECK {
        }
        AGENT_CHECK {
            connect_port 99
            send "a # b"
        }
    }
}
"""


def block(document: CompiledDocument, *names: str) -> EffectiveBlock:
    """The first block of these names, one in the other."""
    found = document.effective
    for name in names:
        found = next(found.below(name))
    return found


@pytest.mark.parametrize(
    ("names", "keyword", "origin"),
    [
        (("virtual_server",), "delay_loop", "test.conf:25"),
        (("virtual_server",), "quorum", "lowered from 9, test.conf:26"),
        (("virtual_server",), "hysteresis", "default"),
        (("virtual_server", "real_server"), "delay_loop", "from virtual_server, test.conf:25"),
        (("virtual_server", "real_server"), "smtp_alert", "from global_defs, test.conf:8"),
        (("virtual_server", "real_server", "HTTP_GET"), "delay_loop", "from virtual_server, test.conf:25"),
        (("virtual_server", "real_server", "HTTP_GET"), "warmup", "default: delay_loop"),
        (("virtual_server", "real_server", "HTTP_GET"), "retry", "test.conf:39"),
        (("virtual_server", "real_server", "HTTP_GET"), "delay_before_retry", "default"),
        (("virtual_server", "real_server", "HTTP_GET", "url"), "virtualhost", "from virtual_server, test.conf:29"),
        (("virtual_server", "real_server", "HTTP_GET"), "connect_port", "default: the real server's"),
    ],
)
def test_each_value_has_its_origin(names: tuple[str, ...], keyword: str, origin: str) -> None:
    assert str(block(compiled(FULL), *names).effective(keyword).origin) == origin


def test_what_is_shown_is_read_again_as_the_same_configuration() -> None:
    first = compiled(FULL)
    assert messages(first) == [
        (
            "26: warning: quorum 9 is more than all real servers weigh; it is 3; "
            "write quorum 3 or less, or larger weights"
        )
    ]
    text = shown(first.effective)
    again = compiled(text)
    assert messages(again) == []
    assert again.configuration == first.configuration
    assert compiled(shown(again.effective)).configuration == first.configuration


def test_defaults_are_shown_where_nothing_is_written() -> None:
    text = shown(compiled("").effective)
    assert "    smtp_connect_timeout 30                      # default\n" in text
    assert "    # router_id                                  # default: the host's name\n" in text


@pytest.mark.parametrize("written", ['"{"', '"a b"', r"a\#b", r"a\!", '"}"'])
def test_a_value_that_follows_another_is_quoted_like_it(written: str) -> None:
    first = compiled(f"global_defs {{\nvmac_prefix {written}\n}}")
    text = shown(first.effective)
    assert f"    vmac_addr_prefix {written} " in text
    assert compiled(text).configuration == first.configuration


def test_programs_get_the_same_as_people() -> None:
    found = json.loads(json.dumps(as_json(compiled(FULL).effective)))
    service = next(each for each in found["blocks"] if each["block"] == "virtual_server")
    assert service["head"] == "group web"
    assert {"name": "delay_loop", "value": "7.5", "how": "given", "from": "test.conf:25"} in service["values"]
    assert {"name": "hysteresis", "value": "0", "how": "default", "from": "default"} in service["values"]


def test_a_service_that_is_left_out_is_not_shown() -> None:
    document = compiled("virtual_server 192.0.2.1 80 {\n    protocol TCP\n    lvs_sched rr\n}\n")
    assert "virtual_server" not in shown(document.effective)


def test_a_field_of_the_model_has_the_value_of_its_keyword() -> None:
    found = block(compiled(FULL), "virtual_server", "real_server", "HTTP_GET")
    found.adjust("enable_sni", True, "for the test")
    made = found.make(HttpCheck, pace=None, target=None, urls=(), tls=False, client=None)
    assert made.sni is True
    assert made.protocol == found.get("http_protocol", str)


def test_a_field_without_a_keyword_must_be_given() -> None:
    with pytest.raises(KeyError, match="target"):
        block(compiled(FULL), "virtual_server", "real_server", "HTTP_GET").make(TcpCheck, pace=None)


@pytest.mark.parametrize("field", FIELD_KEYWORDS)
def test_fields_with_other_names_are_in_the_model(field: str) -> None:
    owner, _, name = field.partition(".")
    classes = [getattr(module, owner) for module in (checks, vrrp, wanted) if hasattr(module, owner)]
    assert name in {each.name for each in fields(classes[0])}


OBEYED = "data_use_instance", "rs_init_notifies", "vrrp_min_garp", "vrrp_lower_prio_no_advert"
IGNORED = "enable_script_security", "lvs_flush", "vrrp_strict", "vrrp_skip_check_adv_addr", "vrrp_check_unicast_src"
IN_SERVICE = "alpha", "omega", "ha_suspend", "inhibit_on_failure"


@pytest.mark.parametrize("name", [*OBEYED, *IGNORED])
def test_off_counts_only_where_keepalived_obeys_it(name: str) -> None:
    document = compiled(f"global_defs {{\n    {name} off\n}}\n")
    (settings,) = document.effective.below("global_defs")
    assert settings.effective(name).value is (name in IGNORED)
    text = f"2: warning: surplus 'off' behind {name} is ignored: {name} is on; remove {name}"
    assert messages(document) == ([text] if name in IGNORED else [])


def test_off_turns_off_what_a_real_server_has_of_its_service() -> None:
    lines = "".join(f"    {name} off\n" for name in IN_SERVICE)
    server = "    real_server 10.0.0.2 80 {\n        alpha off\n        inhibit_on_failure off\n    }\n"
    document = compiled(f"virtual_server 192.0.2.1 80 {{\n    protocol TCP\n{lines}{server}}}\n")
    (service,) = document.effective.below("virtual_server")
    assert [service.effective(name).value for name in IN_SERVICE] == [True] * 4
    (real,) = service.below("real_server")
    assert [real.effective(name).value for name in ("alpha", "inhibit_on_failure")] == [False] * 2
    assert sum("is ignored" in each for each in messages(document)) == 4
