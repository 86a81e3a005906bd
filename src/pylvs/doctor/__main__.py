"""`python -m pylvs.doctor JSON`: the findings of this host with all their fields, for the doctor of a lab.

The object has `limit_s`, `vips`, and `expected` (expected.py).
"""

from __future__ import annotations

import json
import sys
from ipaddress import ip_address

from pylvs.doctor.examination import examine
from pylvs.doctor.expected import Expected
from pylvs.doctor.facts import Facts

if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    vips, expected = list(map(ip_address, given["vips"])), Expected.from_dict(given["expected"])
    json.dump([finding.as_dict() for finding in examine(Facts(vips, None, expected, given["limit_s"]))], sys.stdout)
