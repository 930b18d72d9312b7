"""What line-protocol-parser reads in lines of the standard input: one JSON object for each."""

import json
import sys

from line_protocol_parser import parse_line

for line in sys.stdin.read().splitlines():
    print(json.dumps(parse_line(line), sort_keys=True))
