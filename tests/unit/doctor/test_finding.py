"""The order of the doctor's findings, and a probe that fails."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from threading import Event

from pylvs.doctor.examination import examine
from pylvs.doctor.facts import Facts
from pylvs.doctor.finding import Finding, Layer, Severity, diagnosis
from pylvs.model.errors import PylvsError

CAUSE = Finding("cause", Severity.ERROR, Layer.SERVER, "title", "evidence", "why", "fix", about=frozenset({"a"}))


def test_errors_come_first_then_what_lies_earlier_on_the_way() -> None:
    """A missing address explains why a server does not answer, not the reverse."""
    later = replace(CAUSE, id="later", layer=Layer.REPLY)
    earlier = replace(CAUSE, id="earlier", layer=Layer.ADDRESS)
    warning = replace(CAUSE, id="warning", severity=Severity.WARNING, layer=Layer.HOST)
    assert [each.id for each in diagnosis([warning, later, earlier])] == ["earlier", "later", "warning"]


def test_a_symptom_is_left_out_if_a_cause_explains_it() -> None:
    """What fails is a finding only as long as no cause is known."""
    symptom = replace(CAUSE, id="symptom", symptom=True)
    assert diagnosis([symptom, CAUSE]) == [CAUSE]
    assert symptom in diagnosis([symptom, replace(CAUSE, about=frozenset({"b"}))])
    assert diagnosis([symptom, replace(CAUSE, about=frozenset(), explains=frozenset({"a"}))])[0].id == "cause"


def test_a_repeated_finding_appears_once() -> None:
    """Two probes may see the same."""
    assert diagnosis([CAUSE, CAUSE]) == [CAUSE]


def test_hostile_names_do_not_reach_the_terminal() -> None:
    """A device's or a server's name may have escape sequences."""
    assert "\x1b" not in str(replace(CAUSE, title="\x1b[2Jx", evidence="a\nb").as_json())


def _refused(facts: Facts) -> Iterator[Finding]:
    yield CAUSE
    raise PylvsError("no permission")


def test_a_probe_that_fails_is_named_and_keeps_what_it_found() -> None:
    """An error in one subject does not hide the others."""
    found = examine(Facts(), [_refused])
    assert [each.id for each in found] == ["cause", "not_examined"]
    assert found[1].evidence == "no permission"


def test_a_probe_that_hangs_is_named() -> None:
    """The examination ends at its limit."""
    end = Event()

    def hanging(facts: Facts) -> list[Finding]:
        end.wait()
        return []

    try:
        assert [each.evidence for each in examine(Facts(limit_s=0.01), [hanging])] == [
            "the examination did not end in time"
        ]
    finally:
        end.set()


def test_subjects_that_are_not_examined_for_one_reason_are_one_finding() -> None:
    """Tables of another build would be reported once for each subject."""

    def refused(facts: Facts) -> Iterator[Finding]:
        if not facts.vips:
            raise PylvsError("the tables are of another build")
        yield CAUSE

    def also_refused(facts: Facts) -> Iterator[Finding]:
        yield from refused(facts)

    assert [each.id for each in examine(Facts(), [refused, also_refused])] == ["not_examined"]
