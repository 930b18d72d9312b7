// Many publishes at once, MQTT 5, without a look at Receive Maximum: node mqttjs-burst.js URL QOS COUNT. Ends with "ok".
const mqtt = require(process.env.MQTT_JS || "mqtt");
const [url, qos, count] = [process.argv[2], Number(process.argv[3]), Number(process.argv[4])];
const client = mqtt.connect(url, { protocolVersion: 5, clean: true, clientId: "burst" + qos + count, reconnectPeriod: 100 });
const fail = (why) => {
  console.error(why);
  process.exit(1);
};
setTimeout(() => fail("not done in a minute"), 60000).unref();
let begun = false;
client.on("reconnect", () => fail("it had to reconnect"));
client.on("disconnect", (packet) => fail("DISCONNECT " + packet.reasonCode));
client.on("connect", () => {
  if (begun) fail("it connected twice");
  begun = true;
  let left = count;
  for (let number = 0; number < count; number++) {
    client.publish("burst", String(number), { qos }, (error) => {
      if (error) fail(error);
      left -= 1;
      if (left === 0) client.end(false, () => { console.log("ok"); process.exit(0); });
    });
  }
});
