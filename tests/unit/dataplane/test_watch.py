"""`pylvs watch` reports what it puts right, and retries without an event of the kernel."""

from __future__ import annotations

from typing import Any
from unittest.mock import Mock, patch

import pytest

from pylvs.dataplane import watch

RESTORED = "eth0: its program was removed, and is attached again"


class EndedError(Exception):
    """Ends a loop that is endless."""


def test_what_was_put_right_is_reported_also_if_no_event_came() -> None:
    director: Any = Mock()
    director.device_problems.return_value = ()
    director.follow_host.side_effect = [[], [RESTORED]]
    say = Mock(side_effect=EndedError)
    with patch.object(watch, "POLL_S", 0.01), pytest.raises(EndedError):
        watch.watch(director, say)
    say.assert_called_once_with(RESTORED)
