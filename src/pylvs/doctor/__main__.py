"""`python -m pylvs.doctor VIP...`: the findings of this host with all their fields, for the doctor of a lab."""

from __future__ import annotations

import json
import sys
from ipaddress import ip_address

from pylvs.doctor.examination import examine
from pylvs.doctor.facts import Facts

if __name__ == "__main__":
    found = examine(Facts(list(map(ip_address, sys.argv[1:]))))
    json.dump([finding.as_dict() for finding in found], sys.stdout)
