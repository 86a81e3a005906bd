"""Tracked objects, priorities and faults, as in keepalived.conf(5)."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylvs.model.checks import Script
from pylvs.model.vrrp import (
    PolledLink,
    Track,
    TrackFile,
    Tracks,
    VrrpConfiguration,
    VrrpGroup,
    VrrpInstance,
    VrrpScript,
    VrrpSettings,
)
from pylvs.vrrp.tracking import (
    MAX_PRIORITY,
    MIN_PRIORITY,
    RESULT_LEASE_S,
    TrackedObject,
    Tracking,
    effective_priority,
)

LATE = (("script", "quick"), ("script", "slow"), ("link", "eth0"))


def script(weight: int, up: bool | None, reverse: bool = False) -> TrackedObject:
    return TrackedObject("script", Track("nginx", weight, reverse), up)


def file(weight: int, number: int | None, reverse: bool = False) -> TrackedObject:
    return TrackedObject("file", Track("load", weight, reverse), None, number)


@pytest.mark.parametrize(
    ("tracked", "points"),
    [
        (script(20, True), 20),
        (script(20, False), 0),
        (script(20, None), 0),
        (script(-20, True), 0),
        (script(-20, False), -20),
        (script(-20, None), 0),
        (script(20, True, reverse=True), -20),
        (script(20, False, reverse=True), 0),
        (script(-20, True, reverse=True), 0),
        (script(-20, False, reverse=True), 20),
        (script(0, False), 0),
        (file(2, 10), 20),
        (file(-1, 10), -10),
        (file(2, 10, reverse=True), -20),
        (file(2, None), 0),
        (replace(script(20, None), expired=True), 0),
        (replace(script(-20, None), expired=True), -20),
        (replace(script(20, None, reverse=True), expired=True), -20),
        (replace(script(-20, None, reverse=True), expired=True), 0),
        (replace(file(2, 10), expired=True), 20),
    ],
)
def test_points(tracked: TrackedObject, points: int) -> None:
    assert tracked.points == points
    assert effective_priority(100, [tracked]) == 100 + points


@pytest.mark.parametrize(
    ("tracked", "fault"),
    [
        (script(0, True), False),
        (script(0, False), True),
        (script(0, None), True),
        (script(0, True, reverse=True), True),
        (script(0, False, reverse=True), False),
        (script(-20, False), False),
        (file(0, 0), False),
        (file(0, 1), True),
        (file(0, None), True),
        (file(0, 1, reverse=True), False),
        (file(1, -253), False),
        (file(1, -254), True),
        (file(254, -1), True),
        (replace(script(0, None), expired=True), True),
        (replace(script(0, None, reverse=True), expired=True), True),
        (replace(script(-20, None), expired=True), False),
        (replace(file(0, 0), expired=True), True),
        (replace(file(1, 0), expired=True), False),
    ],
)
def test_faults(tracked: TrackedObject, fault: bool) -> None:
    assert bool(tracked.fault) is fault


@given(
    st.integers(1, 254),
    st.lists(st.builds(script, st.integers(-253, 253), st.sampled_from([True, False, None]), st.booleans())),
)
def test_an_effective_priority_is_between_1_and_254(base: int, tracked: list[TrackedObject]) -> None:
    assert MIN_PRIORITY <= effective_priority(base, tracked) <= MAX_PRIORITY
    assert effective_priority(255, tracked) == 255


WEIGHTED, OTHER, UNWEIGHTED = Track("eth1", 10), Track("eth1", -20), Track("eth1")


@pytest.mark.parametrize(
    ("own", "of_group", "implied", "counts"),
    [
        (WEIGHTED, None, "", WEIGHTED),
        (None, OTHER, "", OTHER),
        (WEIGHTED, OTHER, "", OTHER),
        (UNWEIGHTED, OTHER, "", UNWEIGHTED),
        (WEIGHTED, UNWEIGHTED, "", UNWEIGHTED),
        (WEIGHTED, None, "eth1", UNWEIGHTED),
        (None, OTHER, "eth1", UNWEIGHTED),
        (Track("eth1", 10, reverse=True), OTHER, "eth1", UNWEIGHTED),
        (None, None, "eth1", None),
    ],
)
@pytest.mark.parametrize("kind", ["interfaces", "scripts", "files", "processes", "sessions"])
def test_a_track_without_a_weight_counts_before_one_of_the_group(
    kind: str, own: Track | None, of_group: Track | None, implied: str, counts: Track | None
) -> None:
    if implied and kind != "interfaces":
        return
    tracks = [Tracks(**{kind: (each,) if each else ()}) for each in (own, of_group)]
    instance = VrrpInstance(name="VI", vrid=1, tracks=tracks[0])
    tracking = Tracking(lambda device: True, implied=lambda instance: (implied,))
    group = VrrpGroup(name="VG", members=("VI",), tracks=tracks[1])
    tracking.configure(VrrpConfiguration(instances=(instance,), groups=(group,)))
    assert [each.track for each in tracking.of(instance).values()] == ([counts] if counts else [])


def test_results_of_a_lost_helper_expire_unless_another_one_replaces_them() -> None:
    tracking = Tracking(lambda device: True)
    slow = VrrpScript(name="slow", script=Script(("/bin/true",)), timeout_s=20, track=Track("slow"))
    quick = VrrpScript(name="quick", script=Script(("/bin/true",)), track=Track("quick"))
    number = TrackFile(name="number", path="/n", track=Track("number"))
    tracks = Tracks(scripts=(slow.track, quick.track), files=(number.track,))
    instance = VrrpInstance(name="VI", vrid=1, tracks=tracks)
    tracking.configure(VrrpConfiguration(instances=(instance,), scripts=(slow, quick), files=(number,)))
    results = (TrackedObject("script", Track(name), True) for name in ("slow", "quick"))
    for each in (*results, TrackedObject("file", Track("number"), number=0)):
        tracking.update(each)
    assert tracking.expire(1e9, "") == [], "only after a loss"
    tracking.lose_source(100.0)
    tracking.lose_source(105.0)
    assert tracking.expire(99.9 + RESULT_LEASE_S, "gone") == []
    tracking.update(TrackedObject("file", Track("number"), number=0))
    (expired,) = tracking.expire(101 + RESULT_LEASE_S, "gone")
    assert expired.description == "script quick is unknown (gone)"
    assert [bool(each.fault) for each in tracking.of(instance).values()] == [False, True, False]
    (expired,) = tracking.expire(120 + RESULT_LEASE_S, "gone")
    assert expired.track.name == "slow"
    tracking.update(TrackedObject("script", Track("quick"), True))
    assert [bool(each.fault) for each in tracking.of(instance).values()] == [True, False, False]


def test_a_late_result_expires_once_unless_another_one_comes() -> None:
    tracking = Tracking(lambda device: True)
    slow = VrrpScript(name="slow", script=Script(("/bin/true",)), timeout_s=20, track=Track("slow"))
    quick = VrrpScript(name="quick", script=Script(("/bin/true",)), track=Track("quick"))
    settings = VrrpSettings(polled_links=(PolledLink("eth0"),))
    tracking.configure(VrrpConfiguration(scripts=(slow, quick), settings=settings))
    results = [TrackedObject(kind, Track(name), True) for kind, name in LATE]
    for each in results:
        tracking.update(each)
    for second in range(100):  # each Pong names them again
        tracking.lose_source(second, (*LATE[1:], ("process", "without a result")))
        expired = [str(each) for each in tracking.expire(second, "late")]
        assert expired == {10: ["link eth0"], 30: ["script slow"]}.get(second, [])
    for each in results:
        tracking.update(each)
    assert tracking.expire(1e9, "late") == []
