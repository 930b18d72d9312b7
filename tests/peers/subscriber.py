"""A subscriber that keeps its session and comes back: a line a message, `<mid> <dup> <topic> <payload>`.

Usage: subscriber.py PORT FILTER QOS
"""

import sys

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

port, topic_filter, qos = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])


def on_connect(client, userdata, flags, reason, properties):
    client.subscribe(topic_filter, qos)
    print(f"connected {reason}", flush=True)


def on_subscribe(client, userdata, mid, reasons, properties):
    print("subscribed", flush=True)


def on_message(client, userdata, message):
    print(f"{message.mid} {int(message.dup)} {message.topic} {message.payload.decode()}", flush=True)


client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, "exact-subscriber", protocol=mqtt.MQTTv5)
client.on_connect, client.on_subscribe, client.on_message = on_connect, on_subscribe, on_message
client.reconnect_delay_set(1, 1)
properties = Properties(PacketTypes.CONNECT)
properties.SessionExpiryInterval = 3600
properties.ReceiveMaximum = 1000
client.connect("127.0.0.1", port, 30, clean_start=False, properties=properties)
client.loop_forever(retry_first_connection=True)
