"""A persistent session by paho: paho_session.py PORT VERSION(31|311|5)

Subscribes at QoS 2, goes away, lets another client publish QoS 0, 1 and 2, comes back and prints what it gets.
"""
import sys
import threading

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

port, version = int(sys.argv[1]), sys.argv[2]
protocol = {"31": mqtt.MQTTv31, "311": mqtt.MQTTv311, "5": mqtt.MQTTv5}[version]


def client(name, keep):
    kept = {} if version == "5" else {"clean_session": not keep}
    made = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=name, protocol=protocol, **kept)
    made.connected = threading.Event()

    def on_connect(c, userdata, flags, reason, properties):
        assert not reason.is_failure, reason
        c.session_present = flags.session_present
        c.connected.set()

    made.on_connect = on_connect
    return made


def connect(made, keep):
    if version == "5":
        properties = Properties(PacketTypes.CONNECT)
        properties.SessionExpiryInterval = 3600 if keep else 0
        made.connect("127.0.0.1", port, keepalive=30, clean_start=not keep, properties=properties)
    else:
        made.connect("127.0.0.1", port, keepalive=30)
    made.loop_start()
    assert made.connected.wait(10)


subscriber = client("subscriber" + version, True)
subscribed = threading.Event()
subscriber.on_subscribe = lambda c, userdata, mid, codes, properties: subscribed.set()
connect(subscriber, True)
subscriber.subscribe("session/" + version + "/#", qos=2)
assert subscribed.wait(10)
subscriber.disconnect()
subscriber.loop_stop()

publisher = client("publisher" + version, False)
connect(publisher, False)
for number in range(30):
    sent = publisher.publish(f"session/{version}/{number % 3}", str(number), qos=number % 3)
    sent.wait_for_publish(10)
    assert sent.is_published()

received = []
complete = threading.Event()


def on_message(c, userdata, message):
    received.append((int(message.payload), message.qos))
    if len(received) == 20:
        complete.set()


returned = client("subscriber" + version, True)
returned.on_message = on_message
connect(returned, True)
assert version == "31" or returned.session_present
assert complete.wait(10), received
live = publisher.publish(f"session/{version}/live", "1000", qos=2)
live.wait_for_publish(10)
expected = [(number, number % 3) for number in range(30) if number % 3] + [(1000, 2)]
for _ in range(200):
    if len(received) >= len(expected):
        break
    threading.Event().wait(0.05)
# Messages of one QoS keep their order; QoS 2 arrives with its PUBREL, behind QoS 1.
for qos in (1, 2):
    assert [one for one in received if one[1] == qos] == [one for one in expected if one[1] == qos], received
print("ok", len(received))
for each in (publisher, returned):
    each.disconnect()
    each.loop_stop()
