// Turns messages of the format `pack` into readings, for Node and for function nodes of Node-RED.
//
//     const { Schema, decode, hashOf } = require('./pack.js');
//     const schema = new Schema(document);            // retained at <topic of the messages>/meta/<hashOf(message)>
//     for (const reading of decode(schema, message))  // message: a Buffer
//       console.log(reading.time, reading.topic, reading.value);
//
// A reading has series and number, which come twice if it does, topic, unit, time in ms, clockSet, type, value,
// quality, reason, and age in s. Integers are numbers up to 2^53, and BigInts beyond.

const MOST_CELLS = 1 << 20;
const ADAPTIVE = 1, IRREGULAR = 2, GAPS = 4, SOME_COLUMNS = 8, NOT_GOOD = 16, CLOCK_UNSET = 32, NUMBERS = 64;
const RICE = 128, TEXTS = 256;
// Where the chances of each use begin; those of zeros begin at 0.
const SIGNS = 474, LENGTHS = 632, TREES = 5688, THERE = 25912, CHANCES = 25914;

function check(isRight, what) {
  if (!isRight) throw new RangeError('no packed message: ' + what);
}

const clamp = (number, least, most) => Math.min(Math.max(number, least), most);

// Integers of 64 bits: numbers where they are exact, else BigInts.
const narrow = (big) => {
  const number = Number(big);
  return Number.isSafeInteger(number) ? number : big;
};
const wrapped = (exact, big) => (Number.isSafeInteger(exact) ? exact : narrow(BigInt.asIntN(64, big())));
const areNumbers = (one, other) => typeof one === 'number' && typeof other === 'number';
const add = (one, other) =>
  wrapped(areNumbers(one, other) ? one + other : NaN, () => BigInt(one) + BigInt(other));
const subtract = (one, other) =>
  wrapped(areNumbers(one, other) ? one - other : NaN, () => BigInt(one) - BigInt(other));
const unsigned = (number) => (number >= 0 ? number : narrow(BigInt.asUintN(64, BigInt(number))));
const unzigzag = (number) => {
  if (typeof number === 'number') return number % 2 ? -(number + 1) / 2 : number / 2;
  return narrow(number & 1n ? -(number + 1n) / 2n : number / 2n);
};

class Bytes {
  constructor(data) {
    this.data = data;
    this.at = 0;
    this.bitsLeft = 0;
  }

  get left() {
    return this.data.length - this.at;
  }

  take(count) {
    check(count <= this.left, 'cut short');
    this.at += count;
    return this.data.subarray(this.at - count, this.at);
  }

  byte() {
    check(this.left > 0, 'cut short');
    return this.data[this.at++];
  }

  number() {
    let number = 0;
    for (let place = 1; place <= 2 ** 42; place *= 128) {
      const byte = this.byte();
      number += (byte & 127) * place;
      if (byte < 128) return number;
    }
    let big = BigInt(number);
    for (let shift = 49n; shift < 64n; shift += 7n) {
      const byte = this.byte();
      big |= BigInt(byte & 127) << shift;
      check(big < 1n << 64n, 'a number out of range');
      if (byte < 128) return narrow(big);
    }
    throw new RangeError('no packed message: a number out of range');
  }

  zigzag() {
    return unzigzag(this.number());
  }

  // Of what takes at least one byte each.
  count() {
    const count = this.number();
    check(count <= this.left, 'cut short');
    return count;
  }

  text() {
    const bytes = this.take(this.count());
    const text = Buffer.from(bytes).toString('utf8');
    check(Buffer.from(text, 'utf8').equals(bytes), 'not text');
    return text;
  }

  bit() {
    if (this.bitsLeft === 0) {
      this.last = this.byte();
      this.bitsLeft = 8;
    }
    this.bitsLeft -= 1;
    return (this.last >> this.bitsLeft) & 1;
  }

  bits(count) {
    let number = 0;
    for (let left = Math.min(count, 48); left > 0; left--) number = number * 2 + this.bit();
    if (count <= 48) return number;
    return narrow((BigInt(number) << BigInt(count - 48)) | BigInt(this.bits(count - 48)));
  }

  rice(k) {
    let ones = 0;
    while (ones < 40 && this.bit()) ones += 1;
    return unzigzag(ones === 40 ? this.bits(64) : ones * 2 ** k + this.bits(k));
  }
}

class Schema {
  // A schema document, or its text.
  constructor(document) {
    const own = typeof document === 'object' && !Buffer.isBuffer(document) ? document : JSON.parse(document);
    check(own.version === 1, 'the schema is of another version');
    const { hash, kinds, types, units, decimals } = own;
    Object.assign(this, { hash, kinds, types, units, decimals });
    this.topics = own.names.map((name) => own.base + name);
    const lists = [kinds, types, units, decimals];
    check(lists.every((list) => list.length === this.topics.length), 'lists of different lengths');
    this.model = own.model == null ? null : this.readModel(new Bytes(Buffer.from(own.model, 'base64')));
  }

  // For each column the size of its steps and where it begins, and all chances.
  readModel(data) {
    const scales = Int8Array.from(data.take(this.kinds.length));
    const base = data.byte() ? this.kinds.map(() => data.zigzag()) : null;
    const model = { scales, base, ofOne: new Uint16Array(CHANCES).fill(32768), seen: new Uint8Array(CHANCES) };
    for (let place = 0; data.left > 0; place++) {
      place += data.number();
      check(place < CHANCES, 'a chance that no model has');
      model.ofOne[place] = (data.byte() << 8) | 128;
      model.seen[place] = data.byte();
      check(model.seen[place] >= 3 && model.seen[place] <= 24, 'a chance out of range');
    }
    return model;
  }

  value(place, number, texts) {
    const of = this.types[place];
    if (this.kinds[place] === 'text') return of === 'list' ? JSON.parse(texts[number]) : texts[number];
    const view = new DataView(new ArrayBuffer(8));
    switch (of) {
      case 'bool': return number != 0;
      case 'int': return number;
      case 'uint': return unsigned(number);
      case 'decimal': return Number(number) / 10 ** this.decimals[place];
      case 'f32':
        check(number >= -(2 ** 31) && number < 2 ** 31, 'a number that is no value of its column');
        view.setUint32(0, number >= 0 ? number : 0x7fffffff - number);
        return view.getFloat32(0);
      case 'f64':
        view.setBigInt64(0, number >= 0 ? BigInt(number) : -(1n << 63n) - 1n - BigInt(number));
        return view.getFloat64(0);
      default: return check(false, 'a number that is no value of its column');
    }
  }
}

// Decodes bits by the chances that they are 1, in 1/65536, which follow the bits.
class Chances {
  constructor(model, data) {
    this.ofOne = model.ofOne.slice();
    this.seen = model.seen.slice();
    this.data = data;
    this.at = this.code = 0;
    for (let count = 0; count < 4; count++) this.nextByte();
    this.range = 0xffffffff;
  }

  nextByte() {
    this.code = ((this.code << 8) | (this.at < this.data.length ? this.data[this.at] : 0)) >>> 0;
    this.at += 1;
  }

  normalize() {
    while (this.range < 1 << 24) {
      this.range = (this.range << 8) >>> 0;
      this.nextByte();
    }
  }

  bit(place) {
    const ofOne = this.ofOne[place], seen = this.seen[place];
    const bound = Math.floor((this.range * ofOne) / 65536);
    const rate = seen >= 30 ? 6 : seen >= 7 ? 5 : [1, 2, 3, 3, 4, 4, 4][seen];
    const bit = this.code < bound;
    const next = bit ? ofOne + ((65535 - ofOne) >> rate) : ofOne - (ofOne >> rate);
    this.ofOne[place] = clamp(next, 48, 65487);
    this.seen[place] = Math.min(seen + 1, 250);
    if (!bit) this.code -= bound;
    this.range = bit ? bound : this.range - bound;
    this.normalize();
    return bit ? 1 : 0;
  }

  evenBits(count) {
    let number = 0;
    for (let left = Math.min(count, 48); left > 0; left--) {
      this.range >>>= 1;
      const bit = this.code >= this.range;
      if (bit) this.code -= this.range;
      number = number * 2 + (bit ? 1 : 0);
      this.normalize();
    }
    if (count <= 48) return number;
    return narrow((BigInt(number) << BigInt(count - 48)) | BigInt(this.evenBits(count - 48)));
  }

  // How far a number is from where it was expected.
  residual(number, side, after) {
    const place = 2 * number + (side === 0 ? 0 : 1);
    if (this.bit(3 * place + after)) return 0;
    const isNegative = this.bit(SIGNS + place);
    let length = 1;
    while (length < 64 && this.bit(LENGTHS + 64 * number + length)) length += 1;
    const tree = TREES + 8 * (32 * number + Math.min(length, 32) - 1);
    let size = 1, left = length - 1;
    for (; left > 0 && size < 8; left--) size = size * 2 + this.bit(tree + size);
    const low = this.evenBits(left);
    if (length <= 53) return isNegative ? -(size * 2 ** left + low) : size * 2 ** left + low;
    const big = (BigInt(size) << BigInt(left)) | BigInt(low);
    return narrow(BigInt.asIntN(64, isNegative ? -big : big));
  }
}

const FAR = 1 << 30, ONE = 65536;
// (whole * of256) >> 8, exact for all that is counted here.
const part = (whole, of256) => {
  const high = Math.floor(whole / 256);
  return high * of256 + Math.floor(((whole - high * 256) * of256) / 256);
};
const bounded = (integer) => (integer < -FAR ? -FAR : integer > FAR ? FAR : Number(integer));

// A column of an adaptive frame: each number is predicted out of those before it.
class Column {
  constructor(kind, scale, base) {
    const size = Math.floor([65536, 77936, 92682, 110218][scale & 3] * 2 ** clamp(scale >> 2, -16, 30));
    Object.assign(this, { kind, hasBase: base !== null, seen: 0, last: base ?? 0, step: 0, after: 2, wasThere: 1 });
    Object.assign(this, { levels: [0, 0, 0], trends: [0, 0], guesses: new Array(8).fill(0) });
    this.errors = new Array(8).fill(Math.max(size, 3276));
    this.size = Math.max(size, 1310);
    this.cells = [];
  }

  sizeClass() {
    const size = this.size + 1310, isFloat = this.kind === 'f32' || this.kind === 'f64';
    const octave = size < 2 ** 32 ? 31 - Math.clz32(size) : 63 - Math.clz32(size / 2 ** 32);
    const mantissa = Math.floor((size * ONE) / 2 ** octave);
    const above = (isFloat ? [92682] : [82571, 104032]).filter((limit) => mantissa >= limit).length;
    return clamp((octave - 16) * (isFloat ? 2 : 3) + above + (isFloat ? 12 : 18), 0, 60);
  }

  // The mean of all guesses, by how good they were.
  guess() {
    if (this.seen < 2 || this.kind === 'status') {
      this.guesses.fill(0);
      return 0;
    }
    this.guesses = [0, this.step, ...this.levels, ...this.trends, -this.step / 2];
    const best = Math.min(...this.errors) + 655;
    // Beyond that, products are not exact any more.
    if (Math.max(...this.errors, ...this.guesses.map(Math.abs)) >= 2 ** 37) return this.guessOfLarge(BigInt(best));
    let sum = 0, weights = 0;
    for (let place = 0; place < 8; place++) {
      const share = Math.floor((best * 4096) / (this.errors[place] + 655));
      const square = (share * share) >> 12;
      const weight = (square * square) >> 12;
      weights += weight;
      sum += weight * this.guesses[place];
    }
    return Math.floor(sum / weights);
  }

  guessOfLarge(best) {
    let sum = 0n, weights = 0n;
    for (let place = 0; place < 8; place++) {
      const share = (best << 12n) / BigInt(this.errors[place] + 655);
      const square = (share * share) >> 12n;
      const weight = (square * square) >> 12n;
      weights += weight;
      sum += weight * BigInt(this.guesses[place]);
    }
    const rest = ((sum % weights) + weights) % weights;
    return Number((sum - rest) / weights);
  }

  number(chances) {
    const guess = this.guess();
    const step = Math.floor((guess + ONE / 2) / ONE);
    const beside = guess - step * ONE;
    const side = Math.abs(beside) < 11141 ? 0 : beside > 0 ? 1 : 2;
    let number;
    if (this.seen === 0) number = this.hasBase ? 63 + (this.sizeClass() >> 2) : 62;
    else number = this.seen === 1 && this.kind === 'counter' ? 61 : this.sizeClass();
    let residual = chances.residual(number, side, this.after);
    if (side === 2) residual = subtract(0, residual);
    const value = add(add(this.last, step), residual);
    this.learn(bounded(subtract(value, this.last)) * ONE, Math.abs(bounded(residual)) * ONE);
    this.last = value;
    this.after = residual === 0 ? 0 : 1;
    this.seen = Math.min(this.seen + 1, 2);
    return value;
  }

  learn(step, residual) {
    if (this.seen === 2) {
      this.errors = this.errors.map((own, place) => own + part(Math.abs(step - this.guesses[place]) - own, 15));
      this.trends = this.trends.map((own, place) => own + part(step - own, place === 0 ? 77 : 15));
    } else if (this.seen === 1) {
      this.trends = [step, step];
    }
    if (this.seen > 0) {
      this.levels = this.levels.map((own, place) => part(own - step, [51, 102, 166][place]));
      this.step = step;
    }
    if (this.seen === 2 || (this.seen === 1 && this.kind !== 'counter')) {
      const most = Math.min(residual, 8 * this.size + 4 * ONE);
      this.size += part(most - this.size, this.kind === 'status' ? 13 : 23);
    }
  }

  take(chances, hasGaps) {
    if (hasGaps) this.wasThere = chances.bit(THERE + this.wasThere);
    this.cells.push(this.wasThere ? this.number(chances) : null);
  }
}

function adaptiveColumns(data, flags, rows, kinds, places, model) {
  check(model !== null, 'the schema has no model for it');
  const chances = new Chances(model, data);
  const times = flags & IRREGULAR ? [new Column('counter', 24, null)] : [];
  const base = (place) => (model.base === null ? null : model.base[place]);
  const found = places.map((place, at) => new Column(kinds[at], model.scales[place], base(place)));
  for (let row = 0; row < rows; row++) {
    for (const column of times) column.take(chances, false);
    for (const column of found) column.take(chances, flags & GAPS);
  }
  check(chances.at >= data.length, 'too long');
  return [...times, ...found].map((column) => column.cells);
}

function simpleColumn(data, isRice, rows, kind, hasGaps) {
  let bits = null;
  if (hasGaps) {
    const mark = data.byte();
    check(mark <= 1, 'an unknown mark of empty cells');
    if (mark === 1) bits = data.take(Math.ceil(rows / 8));
  }
  const isThere = (row) => bits === null || ((bits[row >> 3] >> (7 - (row & 7))) & 1) === 1;
  let k = null, place = 0, last = 0, step = 0;
  const next = () => {
    let difference;
    if (!isRice || place === 0) difference = data.zigzag();
    else {
      if (k === null) {
        k = data.byte();
        data.bitsLeft = 0;
        check(k <= 40 || k === 255, 'an unknown Rice code');
      }
      difference = k === 255 ? 0 : data.rice(k);
    }
    step = kind === 'counter' && place > 1 ? add(step, difference) : difference;
    last = add(last, step);
    place += 1;
    return last;
  };
  const cells = [];
  for (let row = 0; row < rows; row++) cells.push(isThere(row) ? next() : null);
  return cells;
}

function simpleColumns(data, flags, rows, kinds) {
  const isRice = (flags & RICE) !== 0;
  const times = flags & IRREGULAR ? [simpleColumn(data, isRice, rows, 'counter', false)] : [];
  const found = kinds.map((kind) => simpleColumn(data, isRice, rows, kind, (flags & GAPS) !== 0));
  check(data.left === 0, 'too long');
  return [...times, ...found];
}

// The columns of a frame that has not all of them.
function readPlaces(data, known) {
  const places = [];
  for (let left = data.count(), end = 0; left > 0; left--) {
    const gap = Number(data.number()), count = Number(data.number());
    check(count > 0 && end + gap + count <= known, 'a column that the schema does not have');
    for (let place = end + gap; place < end + gap + count; place++) places.push(place);
    end += gap + count;
  }
  check(places.length > 0, 'no columns');
  return places;
}

// The numbers of so many readings at most; those without runs go on without an end.
function readNumbers(data, isInRuns, cells) {
  let before = data.number();
  const first = before;
  if (!isInRuns) return { of: (place) => unsigned(add(first, place)), count: null };
  const numbers = [];
  for (let groups = data.number(); groups > 0; groups--) {
    let own = add(before, data.zigzag());
    const count = data.number(), runs = data.number();
    const all = Number(count) * Number(runs);
    check(all > 0 && all <= cells - numbers.length, 'more numbers than readings');
    const step = runs > 1 ? data.zigzag() : 0;
    for (let run = 0; run < runs; run++, own = add(own, step)) {
      for (let more = 0; more < count; more++) numbers.push(unsigned(add(own, more)));
      before = add(own, count);
    }
  }
  return { of: (place) => numbers[place], count: numbers.length };
}

// Quality, reason and age in ms by cell.
function readNotGood(data, cells, texts) {
  const found = new Map();
  for (let count = data.count(), cell = -1; count > 0; count--) {
    cell = cell + 1 + Number(data.number());
    check(cell < cells, 'a reading that is not there');
    const code = data.byte(), reason = data.number();
    check((code === 1 || code === 2) && reason < texts.length, 'an unknown quality or reason');
    found.set(cell, { quality: code === 1 ? 'stale' : 'bad', reason: texts[reason], age: Number(data.number()) });
  }
  return found;
}

// The cells of the columns, and when their rows were taken.
function readBody(schema, data, flags, rows, places, step) {
  const kinds = places.map((place) => (schema.kinds[place] === 'text' ? 'status' : schema.kinds[place]));
  const found = flags & ADAPTIVE
    ? adaptiveColumns(data.take(data.left), flags, rows, kinds, places, schema.model)
    : simpleColumns(data, flags, rows, kinds);
  if (flags & IRREGULAR) return { after: found[0], columns: found.slice(1) };
  const after = [0];
  while (after.length < rows) after.push(add(after[after.length - 1], step));
  return { after, columns: found };
}

// Adds the readings of a frame, and returns how many cells the others may have.
function readFrame(schema, series, data, cellsLeft, readings) {
  const flags = Number(BigInt.asUintN(9, BigInt(data.number()))), rows = data.number(), start = data.zigzag();
  check(rows > 0, 'no rows');
  const step = rows > 1 && !(flags & IRREGULAR) ? data.zigzag() : 0;
  const known = schema.kinds.length;
  const places = flags & SOME_COLUMNS ? readPlaces(data, known) : Array.from({ length: known }, (_, place) => place);
  cellsLeft -= Number(rows) * (places.length + 1);
  check(cellsLeft >= 0, 'too many cells');
  const numbers = readNumbers(data, flags & NUMBERS, rows * places.length);
  const texts = [];
  for (let count = flags & TEXTS ? data.count() : 0; count > 0; count--) texts.push(data.text());
  const notGood = flags & NOT_GOOD ? readNotGood(data, rows * places.length, texts) : new Map();
  const { after, columns } = readBody(schema, data, flags, rows, places, step);
  let count = 0;
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < places.length; column++) {
      const place = places[column], cell = columns[column][row];
      const not = notGood.get(row * places.length + column);
      if (cell === null && not === undefined) continue; // the point was not read then
      const isText = cell !== null && schema.kinds[place] === 'text';
      check(!isText || (cell >= 0 && cell < texts.length), 'a text that is not there');
      readings.push({
        series,
        number: numbers.of(count),
        topic: schema.topics[place],
        unit: schema.units[place],
        time: add(start, after[row]),
        clockSet: !(flags & CLOCK_UNSET),
        type: schema.types[place],
        value: cell === null ? null : schema.value(place, cell, texts),
        quality: not ? not.quality : 'good',
        reason: not ? not.reason : null,
        age: not ? not.age / 1000 : 0,
      });
      count += 1;
    }
  }
  check(numbers.count === null || numbers.count === count, 'more numbers than readings, or fewer');
  return cellsLeft;
}

// The name of the schema that a message needs, or null.
function hashOf(message) {
  if (message.length < 5 || message[0] !== 1) return null;
  return Buffer.from(message.subarray(1, 5)).toString('hex');
}

// The readings of a message in the order of their numbers; `schema` is a Schema or its document.
function decode(schema, message) {
  const own = schema instanceof Schema ? schema : new Schema(schema);
  check(hashOf(message) === own.hash, 'another version or schema');
  const data = new Bytes(message.subarray(5));
  const series = data.number(), sizes = [], count = data.count();
  while (sizes.length + 1 < count) sizes.push(data.number());
  const readings = [];
  let cellsLeft = MOST_CELLS;
  for (const size of sizes) cellsLeft = readFrame(own, series, new Bytes(data.take(size)), cellsLeft, readings);
  readFrame(own, series, new Bytes(data.take(data.left)), cellsLeft, readings);
  return readings.sort((one, other) => (one.number < other.number ? -1 : one.number > other.number ? 1 : 0));
}

// The readings of the text of a message in the format `columns`, which says neither units nor types.
function decodeColumns(text) {
  const summed = (steps, order) => {
    const numbers = steps.filter((step) => step !== null);
    for (let place = order; place > 0; place--) {
      for (let at = place; at < numbers.length; at++) numbers[at] += numbers[at - 1];
    }
    let next = 0;
    return steps.map((step) => (step === null ? null : numbers[next++]));
  };
  const readings = [];
  for (const frame of JSON.parse(text)) {
    const times = summed(frame.times, 2);
    const columns = frame.values.map((values, column) => summed(values, frame.order[column]));
    const notGood = new Map((frame.quality || []).map(([column, row, ...rest]) => [column + ' ' + row, rest]));
    const run = ([first, count]) => Array.from({ length: count }, (_, more) => first + more);
    const numbers = (frame.numbers || []).flatMap(run);
    for (let row = 0, count = 0; row < times.length; row++) {
      columns.forEach((values, column) => {
        const [quality, reason, age] = notGood.get(column + ' ' + row) || ['good', null, 0];
        if (values[row] === null && quality === 'good') return; // the point was not read then
        const decimals = frame.decimals[column];
        const value = values[row] !== null && decimals ? values[row] / 10 ** decimals : values[row];
        readings.push({
          series: frame.series ?? null,
          number: numbers.length > 0 ? numbers[count++] : null,
          topic: frame.base + frame.names[column],
          unit: null,
          time: times[row],
          clockSet: frame.clock !== 'unset',
          type: null,
          value,
          quality,
          reason,
          age,
        });
      });
    }
  }
  return readings;
}

if (typeof module !== 'undefined') module.exports = { Schema, decode, decodeColumns, hashOf };
