// Reads messages by docs/decoders/pack.js: a line of JSON in, with schema and message; its readings out, or null if it
// is damaged.
const path = require('path');
const readline = require('readline');
const { decode } = require(path.join(__dirname, '../../docs/decoders/pack.js'));

const bits = (of, value) => {
  const bytes = Buffer.alloc(of === 'f32' ? 4 : 8);
  if (of === 'f32') bytes.writeFloatBE(value);
  else bytes.writeDoubleBE(value);
  return bytes.toString('hex');
};

// JSON with integers of any size.
const json = (value) => {
  if (typeof value === 'bigint') return value.toString();
  return Array.isArray(value) ? '[' + value.map(json).join(',') + ']' : JSON.stringify(value);
};

const told = (reading) => {
  let of = reading.type === 'decimal' ? 'f64' : reading.type;
  let value = reading.value;
  if (value === null) of = null;
  else if (of === 'f32' || of === 'f64') value = bits(of, value);
  const { number, topic, unit, time, clockSet, quality, reason, age, series } = reading;
  return [number, topic, unit, time, clockSet, of, value, quality, reason, Math.round(age * 1000), series];
};

readline.createInterface({ input: process.stdin }).on('line', (line) => {
  const asked = JSON.parse(line);
  const message = Buffer.from(asked.message, 'hex');
  try {
    console.log(json(decode(asked.schema, message).map(told)));
  } catch (error) {
    if (!(error instanceof RangeError || error instanceof SyntaxError)) throw error;
    console.log('null');
  }
});
