"""`python -m pylvs`: the `pylvs` command, where its script is not installed."""

from __future__ import annotations

from pylvs.cli.main import main

main()
