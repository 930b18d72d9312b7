// Runs the function node of docs/decoders/node-red.json as Node-RED does, in a context of its own: a line of JSON in,
// with topic and payload in hexadecimal; the messages that leave the node out.
const fs = require('fs');
const path = require('path');
const readline = require('readline');
const vm = require('vm');

const decoders = path.join(__dirname, '../../docs/decoders');
const text = (name) => fs.readFileSync(path.join(decoders, name), 'utf8');
const flow = JSON.parse(text('node-red.json'));
const { func, libs } = flow.find((node) => node.type === 'function');
const expected = text('pack.js') + '\n' + text('node-red.js');
if (func !== expected) throw new Error('`func` must be the text of pack.js, an empty line and node-red.js');

const kept = {};
const sandbox = {
  Buffer,
  context: { get: (key) => kept[key], set: (key, value) => { kept[key] = JSON.parse(JSON.stringify(value)); } },
  node: { warn: (text) => { throw new Error(text); } },
};
for (const { var: name, module } of libs) sandbox[name] = require(module);
const node = vm.runInContext('(function (msg) {\n' + func + '\n})', vm.createContext(sandbox));

const integers = (_, value) => (typeof value === 'bigint' ? value.toString() : value);
readline.createInterface({ input: process.stdin }).on('line', (line) => {
  const { topic, payload } = JSON.parse(line);
  console.log(JSON.stringify(node({ topic, payload: Buffer.from(payload, 'hex') }), integers));
});
