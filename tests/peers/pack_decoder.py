"""Reads messages by docs/decoders/pack.py: a line of JSON in, with schema and message; its readings out, or null if it
is damaged."""
import json
import pathlib
import struct
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "docs" / "decoders"))
import pack  # noqa: E402


def told(reading):
    of, value = {"decimal": "f64"}.get(reading.type, reading.type), reading.value
    if value is None:
        of = None
    elif of in ("f32", "f64"):
        value = struct.pack(">f" if of == "f32" else ">d", value).hex()
    place = [reading.number, reading.topic, reading.unit, reading.time, reading.clock_set]
    return [*place, of, value, reading.quality, reading.reason, round(reading.age * 1000), reading.series]


for line in sys.stdin:
    asked = json.loads(line)
    message = bytes.fromhex(asked["message"])
    try:
        readings = [told(reading) for reading in pack.decode(asked["schema"], message)]
        print(json.dumps(readings))
    except ValueError:
        print("null")
