#!/usr/bin/env python3
"""Subscribes to readings and prints them in line protocol, for the input `execd` of Telegraf.

    [[inputs.execd]]
      command = ["python3", "/etc/telegraf/decoders/telegraf.py", "broker.example.net", "1883", "oilco/s7/#"]
      signal = "none"
      data_format = "influx"

Needs paho-mqtt 2, and columns.py and pack.py beside this file. The filter must cover the topic of the messages and
`<topic>/meta/+`. The point is the field, its device the measurement, and what is before it the tag `site`. All numbers
are floats, so that a field has one type, with and without a schema. The session stays at the broker while this is away.
"""
import json
import math
import sys

import paho.mqtt.client as mqtt

import pack


def is_control(character):
    return ord(character) < 32 or 127 <= ord(character) < 160


def name(text):
    """The name of a measurement, tag or field; what cannot be escaped becomes `-`."""
    text = "".join("-" if is_control(own) or own == "\\" else "\\" + own if own in ",= " else own for own in text)
    text = "-" + text[1:] if text.startswith("#") else text
    return text or "-"


def field_value(value):
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(float(value))
    text = value if isinstance(value, str) else json.dumps(value)
    text = "".join(" " if is_control(own) else "\\" + own if own in '\\"' else own for own in text)
    return f'"{text}"'


def line(reading):
    """A reading in line protocol; None if there is nothing to write."""
    *site, device, point = ("", *reading.topic.split("/"))
    site, point, fields = "/".join(filter(None, site)), "time_" if point == "time" else name(point), []
    if reading.value is not None and not (isinstance(reading.value, float) and not math.isfinite(reading.value)):
        fields.append(f"{point}={field_value(reading.value)}")
    if reading.quality != "good":
        fields += [f"{point}_quality={field_value(reading.quality)}", f"{point}_reason={field_value(reading.reason)}"]
        fields += [f"{point}_age={field_value(reading.age)}"] if reading.age else []
    if not fields:
        return None
    tags = f",site={name(site)}" if site else ""
    time = f" {reading.time * 1_000_000}" if reading.clock_set else ""
    return f"{name(device)}{tags} {','.join(fields)}{time}"


def print_lines(receiver, topic, payload):
    try:
        lines = [line(reading) for reading in receiver.take(topic, payload)]
    except (ValueError, KeyError) as error:
        print(f"{topic}: {error}", file=sys.stderr, flush=True)
        return
    for own in filter(None, lines):
        print(own, flush=True)


def main():
    host, port, topic = sys.argv[1:]
    receiver = pack.Receiver()
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=f"telegraf-{topic}", clean_session=False)
    client.on_connect = lambda client, *_: client.subscribe(topic, qos=1)
    client.on_message = lambda client, _, message: print_lines(receiver, message.topic, message.payload)
    client.connect(host, int(port))
    client.loop_forever()


if __name__ == "__main__":
    main()
