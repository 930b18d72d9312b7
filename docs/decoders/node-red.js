// What a function node does with messages, behind the text of pack.js. It needs the module zlib (Setup, Modules), and
// messages as Buffers of the topic of the readings and of `<topic>/meta/+`. Each reading leaves as a message.
const MOST_WAITING = 1000;
const schemas = context.get('schemas') || {};
const waiting = context.get('waiting') || [];
const told = [];

const take = (topic, payload) => {
  if (payload[0] === 0x5b) return told.push(...decodeColumns(payload.toString('utf8')));
  if (payload[0] === 0x78) return told.push(...decodeColumns(zlib.inflateSync(payload).toString('utf8')));
  const hash = hashOf(payload);
  if (hash === null) return node.warn('no readings: ' + topic);
  const document = schemas[topic + '/meta/' + hash];
  if (document !== undefined) return told.push(...decode(document, payload));
  return waiting.push({ topic, payload: payload.toString('base64') });
};

if (/\/meta\/[0-9a-f]{8}$/.test(msg.topic)) {
  if (msg.payload.length > 0) schemas[msg.topic] = msg.payload.toString('utf8');
  for (const own of waiting.splice(0)) take(own.topic, Buffer.from(own.payload, 'base64'));
} else {
  take(msg.topic, msg.payload);
}
waiting.splice(0, waiting.length - MOST_WAITING);
context.set('schemas', schemas);
context.set('waiting', waiting);
return [told.map((reading) => ({ topic: reading.topic, payload: reading }))];
