#!/usr/bin/env python3
"""Turns payloads of the format `columns` into readings, one line of JSON each.

    mosquitto_sub -t 'oilco/#' -F %x | python3 columns.py

Payloads are in hexadecimal, one a line; compressed with deflate, or not at all.
"""
import json
import sys
import zlib


def summed(steps, order):
    """The numbers whose differences these are; None stays where it is."""
    numbers = [step for step in steps if step is not None]
    for place in range(order, 0, -1):
        for index in range(place, len(numbers)):
            numbers[index] += numbers[index - 1]
    left = iter(numbers)
    return [None if step is None else next(left) for step in steps]


def readings(payload):
    text = payload if payload.startswith(b"[") else zlib.decompress(payload)
    for frame in json.loads(text):
        times = summed(frame["times"], 2)
        not_good = {(column, row): rest for column, row, *rest in frame.get("quality", [])}
        numbers = (first + more for first, count in frame.get("numbers", []) for more in range(count))
        columns = zip(frame["names"], frame["decimals"], frame["order"], frame["values"])
        columns = [(name, decimals, summed(values, order)) for name, decimals, order, values in columns]
        for row, time in enumerate(times):
            for column, (name, decimals, values) in enumerate(columns):
                value = values[row]
                quality, reason, age = not_good.get((column, row), ("good", None, 0))
                if value is None and quality == "good":
                    continue  # the point was not read then
                if value is not None and decimals:
                    value = value / 10**decimals
                reading = {"topic": frame["base"] + name, "ts": time, "v": value, "q": quality}
                reading.update(reason=reason, age=age)
                if frame.get("clock") == "unset":
                    reading["clock"] = "unset"
                if "numbers" in frame:
                    reading.update(series=frame["series"], number=next(numbers))
                yield reading


if __name__ == "__main__":
    for line in sys.stdin:
        for reading in readings(bytes.fromhex(line.strip())):
            print(json.dumps(reading), flush=True)
