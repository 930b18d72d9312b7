// mqtt.js on the broker: node mqttjs.js URL VERSION(4|5); also in a browser, where `mqtt` is there already. Ends with "ok".
const check = async (connect, url, version) => {
  const name = "js" + version + Math.random().toString(16).slice(2, 8);
  const wait = (emitter, event) => new Promise((resolve, reject) => {
    emitter.once(event, (...values) => resolve(values));
    setTimeout(() => reject(new Error("no " + event)), 15000);
  });
  const open = async (id, more) => {
    const client = connect(url, { clientId: name + id, protocolVersion: version, reconnectPeriod: 0, ...more });
    const [connack] = await wait(client, "connect");
    return [client, connack];
  };
  const same = (got, expected) => {
    const [one, other] = [JSON.stringify(got), JSON.stringify(expected)];
    if (one !== other) throw new Error("got " + one + ", expected " + other);
  };
  const kept = version === 5 ? { clean: false, properties: { sessionExpiryInterval: 300 } } : { clean: false };

  // A session that lasts.
  let [subscriber] = await open("s", kept);
  await subscriber.subscribeAsync(name + "/#", { qos: 2 });
  await subscriber.endAsync();
  const [publisher] = await open("p", {});
  for (let number = 0; number < 30; number++) {
    await publisher.publishAsync(`${name}/${number % 3}`, String(number), { qos: number % 3 });
  }
  const got = [];
  const again = connect(url, { clientId: name + "s", protocolVersion: version, reconnectPeriod: 0, ...kept });
  const complete = new Promise((resolve, reject) => {
    again.on("message", (topic, payload, packet) => {
      got.push([packet.qos, Number(payload)]);
      if (got.length === 20) resolve();
    });
    setTimeout(() => reject(new Error("only " + JSON.stringify(got))), 15000);
  });
  const [connack] = await wait(again, "connect");
  same(connack.sessionPresent, true);
  await complete;
  for (const qos of [1, 2]) {
    const expected = [...Array(30).keys()].filter((number) => number % 3 === qos);
    same(got.filter(([own]) => own === qos).map(([, number]) => number), expected);
  }

  // A large retained message, a will, and properties.
  const large = "x".repeat(300000);
  await publisher.publishAsync(name + "/kept", large, { qos: 1, retain: true });
  const [watcher] = await open("w", {});
  const first = wait(watcher, "message");
  await watcher.subscribeAsync(name + "/kept", { qos: 1 });
  const [, payload, packet] = await first;
  same([payload.toString().length, packet.retain], [300000, true]);
  await watcher.subscribeAsync(name + "/will");
  const [mortal] = await open("m", { will: { topic: name + "/will", payload: "gone", qos: 1 } });
  const last = wait(watcher, "message");
  mortal.stream.destroy ? mortal.stream.destroy() : mortal.end(true);
  same((await last)[1].toString(), "gone");
  if (version === 5) {
    await watcher.subscribeAsync(name + "/props", { qos: 1, properties: { subscriptionIdentifier: 7 } });
    const message = wait(watcher, "message");
    const properties = { userProperties: { a: ["1", "2"], b: "3" }, contentType: "text/plain", responseTopic: "back", messageExpiryInterval: 60 };
    const sent = await publisher.publishAsync(name + "/props", "p", { qos: 1, properties });
    const [, , packet] = await message;
    same(packet.properties.userProperties, { a: ["1", "2"], b: "3" });
    same([packet.properties.contentType, packet.properties.responseTopic, packet.properties.subscriptionIdentifier], ["text/plain", "back", 7]);
  }
  for (const client of [publisher, again, watcher]) await client.endAsync();
};

if (typeof window === "undefined") {
  const [url, version] = process.argv.slice(2);
  const { connect } = require(process.env.MQTT_JS);
  check(connect, url, Number(version)).then(
    () => { console.log("ok"); process.exit(0); },
    (error) => { console.error(error); process.exit(1); },
  );
}
