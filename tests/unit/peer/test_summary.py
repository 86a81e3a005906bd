"""What two directors differ in, by name."""

from __future__ import annotations

from pylvs.peer.summary import ServerSummary, ServiceSummary, Summary, differences

SERVER = ServerSummary("settings", "checks", True)


def summary(server: ServerSummary = SERVER, settings: str = "a", name: str = "10.0.0.1:80") -> Summary:
    return Summary({"web": ServiceSummary(settings, {name: server})}, "900 120 300")


def texts(ours: Summary, theirs: Summary) -> list[str]:
    return [str(each) for each in differences(ours, theirs)]


def test_equal_directors_do_not_differ() -> None:
    assert texts(summary(), summary()) == []


def test_services_and_servers_of_one_director_are_named() -> None:
    assert texts(summary(), Summary({}, "900 120 300")) == ["web: only this director has it"]
    assert texts(Summary({}, "900 120 300"), summary()) == ["web: only the other director has it"]
    assert texts(summary(), summary(name="10.0.0.2:80")) == [
        "10.0.0.1:80 of web: only this director has it",
        "10.0.0.2:80 of web: only the other director has it",
    ]


def test_settings_and_checks_are_compared_by_server() -> None:
    other = summary(ServerSummary("others", "others", True), "b")
    assert texts(summary(), other) == [
        "web: its settings differ at the other director",
        "10.0.0.1:80 of web: its settings differ at the other director",
        "10.0.0.1:80 of web: its checks differ at the other director",
    ]


def test_a_server_that_only_one_director_can_reach_is_a_difference() -> None:
    down, unknown = ServerSummary("settings", "checks", False), ServerSummary("settings", "checks", None)
    assert texts(summary(), summary(down)) == ["10.0.0.1:80 of web: it is up here, and down at the other director"]
    assert texts(summary(down), summary()) == ["10.0.0.1:80 of web: it is down here, and up at the other director"]
    assert texts(summary(unknown), summary(down)) == [], "a check had no outcome yet"


def test_timeouts_of_connections_are_compared() -> None:
    other = Summary(summary().services, "60 30 30")
    assert texts(summary(), other) == [
        "timeouts: of connections are 900 120 300 s here, 60 30 30 s at the other director"
    ]
