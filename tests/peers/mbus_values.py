"""What pyMeterBus reads in captured M-Bus telegrams: one JSON object for each number."""

import json
import sys
from pathlib import Path

import meterbus


def telegram(path):
    rows = (line for line in path.read_text().splitlines() if not line.startswith("#"))
    return bytes(int(byte, 16) for row in rows for byte in row.split())


def numbers(path):
    for index, record in enumerate(meterbus.load(telegram(path)).records):
        read = record.interpreted
        value = read.get("value")
        if isinstance(value, (str, bytes, bool)) or value is None:
            continue
        yield {
            "meter": path.stem,
            "index": index,
            "storage": read.get("storage_number"),
            "function": str(read.get("function")).split(".")[-1],
            "unit": str(record.unit),
            "value": float(value),
        }


for path in sorted(Path(sys.argv[1]).glob("*.hex")):
    try:
        for number in numbers(path):
            print(json.dumps(number))
    except Exception as error:  # It does not know every telegram.
        print(json.dumps({"meter": path.stem, "unread": f"{type(error).__name__}: {error}"}))
