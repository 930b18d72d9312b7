#!/usr/bin/env python3
"""Turns messages of the format `pack` into readings, one line of JSON each.

    mosquitto_sub -i reader -c -q 1 -t 'oilco/s7/#' -F '%t %x' | python3 pack.py

A line is a topic and a payload in hexadecimal. The filter must cover the topic of the messages and `<topic>/meta/+`,
where their schemas are retained. Messages without a schema (format `columns`) are read by columns.py beside this file.
"""
import base64
import json
import struct
import sys
from typing import NamedTuple, Optional, Union

import columns

MOST_CELLS = 1 << 20
ADAPTIVE, IRREGULAR, GAPS, SOME_COLUMNS, NOT_GOOD, CLOCK_UNSET, NUMBERS, RICE, TEXTS = (1 << bit for bit in range(9))
FAR, ONE = 1 << 30, 1 << 16
SIGNS, LENGTHS, TREES, THERE = 474, 632, 5688, 25912  # where the chances of each use begin; those of zeros begin at 0


class Reading(NamedTuple):
    series: Optional[int]  # that of an outbox; a reading that comes twice has its series and number twice
    number: Optional[int]
    topic: str
    unit: Optional[str]
    time: int  # ms since 1970
    clock_set: bool  # False: the time is worthless, because the clock of the gateway was not set
    type: Optional[str]  # bool, int, uint, decimal, f32, f64, text, list, none; None without a schema
    value: Union[bool, int, float, str, list, None]
    quality: str  # good, stale, bad
    reason: Optional[str]
    age: float  # s


def check(is_right, what):
    if not is_right:
        raise ValueError("no packed message: " + what)


def signed(number):
    """The number of the lowest 64 bits."""
    return (number + (1 << 63)) % (1 << 64) - (1 << 63)


def unzigzag(number):
    return number >> 1 ^ -(number & 1)


class Bytes:
    def __init__(self, data):
        self.data, self.at, self.bits_left = data, 0, 0

    def take(self, count):
        check(count <= len(self.data) - self.at, "cut short")
        self.at += count
        return self.data[self.at - count:self.at]

    def byte(self):
        return self.take(1)[0]

    def number(self):
        number = shift = 0
        while True:
            byte = self.byte()
            number |= (byte & 127) << shift
            shift += 7
            check(number < 1 << 64 and shift <= 70, "a number out of range")
            if byte < 128:
                return number

    def zigzag(self):
        return unzigzag(self.number())

    def count(self):
        """Of what takes at least one byte each."""
        count = self.number()
        check(count <= len(self.data) - self.at, "cut short")
        return count

    def bits(self, count):
        number = 0
        for _ in range(count):
            if not self.bits_left:
                self.last, self.bits_left = self.byte(), 8
            self.bits_left -= 1
            number = number << 1 | self.last >> self.bits_left & 1
        return number

    def rice(self, k):
        ones = 0
        while ones < 40 and self.bits(1):
            ones += 1
        return unzigzag(self.bits(64) if ones == 40 else ones << k | self.bits(k))


class Schema:
    """A schema document, a dict or the text of one."""
    def __init__(self, document):
        document = document if isinstance(document, dict) else json.loads(document)
        check(document["version"] == 1, "the schema is of another version")
        self.hash, self.kinds, self.types = document["hash"], document["kinds"], document["types"]
        self.topics = [document["base"] + name for name in document["names"]]
        self.units, self.decimals, self.model = document["units"], document["decimals"], None
        lists = (self.kinds, self.types, self.units, self.decimals)
        check(all(len(own) == len(self.topics) for own in lists), "lists of different lengths")
        if document.get("model") is not None:
            self.model = self.read_model(Bytes(base64.b64decode(document["model"])))

    def read_model(self, data):
        """For each column the size of its steps and where it begins, and chances by their places."""
        scales = struct.unpack(f"{len(self.kinds)}b", data.take(len(self.kinds)))
        base = [data.zigzag() for _ in scales] if data.byte() else [None] * len(scales)
        chances, place = {}, 0
        while data.at < len(data.data):
            place += data.number()
            chances[place] = (data.byte() << 8 | 128, data.byte())
            check(place < THERE + 2 and 3 <= chances[place][1] <= 24, "a chance out of range")
            place += 1
        return list(zip(scales, base)), chances

    def value(self, place, number, texts):
        of = self.types[place]
        if self.kinds[place] == "text":
            text = texts[number]
            return json.loads(text) if of == "list" else text
        if of == "f32":
            check(-1 << 31 <= number < 1 << 31, "a number that is no value of its column")
            return struct.unpack(">f", struct.pack(">I", number if number >= 0 else 0x7FFF_FFFF - number))[0]
        if of == "f64":
            return struct.unpack(">d", struct.pack(">q", number if number >= 0 else -(1 << 63) - 1 - number))[0]
        check(of in ("bool", "int", "uint", "decimal"), "a number that is no value of its column")
        if of == "decimal":
            return number / 10 ** self.decimals[place]
        return number != 0 if of == "bool" else number % (1 << 64) if of == "uint" else number


class Chances:
    """Of a 1, in 1/65536, and how many bits each has seen; decodes bits by them."""
    FIRST_RATES = (1, 2, 3, 3, 4, 4, 4, 5)

    def __init__(self, learned, data):
        self.chances, self.data, self.at = dict(learned), data + bytes(4), 4
        self.code, self.range = int.from_bytes(self.data[:4], "big"), 0xFFFF_FFFF

    def is_at_end(self):
        return self.at >= len(self.data) - 4

    def normalize(self):
        while self.range < 1 << 24:
            byte = self.data[self.at] if self.at < len(self.data) else 0
            self.range, self.code, self.at = self.range << 8, (self.code << 8 | byte) & 0xFFFF_FFFF, self.at + 1

    def bit(self, place):
        of_one, seen = self.chances.get(place, (32768, 0))
        bound, rate = self.range * of_one >> 16, 6 if seen >= 30 else self.FIRST_RATES[min(seen, 7)]
        bit = self.code < bound
        if bit:
            self.range, of_one = bound, of_one + (65535 - of_one >> rate)
        else:
            self.code, self.range, of_one = self.code - bound, self.range - bound, of_one - (of_one >> rate)
        self.chances[place] = min(max(of_one, 48), 65487), min(seen + 1, 250)
        self.normalize()
        return bit

    def even_bits(self, count):
        number = 0
        for _ in range(count):
            self.range >>= 1
            bit = self.code >= self.range
            self.code -= self.range if bit else 0
            number = number << 1 | bit
            self.normalize()
        return number

    def residual(self, number, side, after):
        """How far a number is from where it was expected."""
        place = 2 * number + (side != 0)
        if self.bit(3 * place + after):
            return 0
        is_negative, length = self.bit(SIGNS + place), 1
        while length < 64 and self.bit(LENGTHS + 64 * number + length):
            length += 1
        tree, size, left = TREES + 8 * (32 * number + min(length, 32) - 1), 1, length - 1
        while left and size < 8:
            left, size = left - 1, size << 1 | self.bit(tree + size)
        size = size << left | self.even_bits(left)
        return signed(-size if is_negative else size)


class Column:
    """A column of an adaptive frame: each number is predicted out of those before it."""
    def __init__(self, kind, scale, base):
        octave, quarter = divmod(scale, 4)
        octave = min(max(octave, -16), 30)
        size = (65536, 77936, 92682, 110218)[quarter] << 16 + octave >> 16
        self.kind, self.has_base, self.seen, self.last, self.step = kind, base is not None, 0, base or 0, 0
        self.levels, self.trends, self.guesses, self.errors = [0] * 3, [0] * 2, [0] * 8, [max(size, 3276)] * 8
        self.size, self.after, self.was_there, self.cells = max(size, 1310), 2, True, []

    def size_class(self):
        size, is_float = self.size + 1310, self.kind in ("f32", "f64")
        octave = size.bit_length() - 1
        above = sum((size << 16) >> octave >= limit for limit in ((92682,) if is_float else (82571, 104032)))
        return min(max((octave - 16) * (2 if is_float else 3) + above + (12 if is_float else 18), 0), 60)

    def guess(self):
        """The mean of all guesses, by how good they were."""
        self.guesses = [0] * 8
        if self.seen < 2 or self.kind == "status":
            return 0
        self.guesses = [0, self.step, *self.levels, *self.trends, -self.step // 2]
        best, total, weights = min(self.errors) + 655, 0, 0
        for guess, error in zip(self.guesses, self.errors):
            share = (best << 12) // (error + 655)
            weight = (share * share >> 12) ** 2 >> 12
            total, weights = total + weight * guess, weights + weight
        return total // weights

    def number(self, chances):
        guess = self.guess()
        step = guess + ONE // 2 >> 16
        beside = guess - step * ONE
        side = 0 if abs(beside) < 11141 else 1 if beside > 0 else 2
        if self.seen == 0:
            number = 63 + self.size_class() // 4 if self.has_base else 62
        else:
            number = 61 if self.seen == 1 and self.kind == "counter" else self.size_class()
        residual = chances.residual(number, side, self.after)
        residual = signed(-residual) if side == 2 else residual
        value = signed(self.last + step + residual)
        self.learn(min(max(signed(value - self.last), -FAR), FAR) * ONE, residual)
        self.last, self.after, self.seen = value, int(residual != 0), min(self.seen + 1, 2)
        return value

    def learn(self, step, residual):
        if self.seen == 2:
            self.errors = [own + ((abs(step - guess) - own) * 15 >> 8) for own, guess in zip(self.errors, self.guesses)]
            self.trends = [own + ((step - own) * rate >> 8) for own, rate in zip(self.trends, (77, 15))]
        elif self.seen == 1:
            self.trends = [step] * 2
        if self.seen:
            self.levels = [(own - step) * keeps >> 8 for own, keeps in zip(self.levels, (51, 102, 166))]
            self.step = step
        if self.seen == 2 or self.seen == 1 and self.kind != "counter":
            bounded = min(min(abs(residual), FAR) * ONE, 8 * self.size + 4 * ONE)
            self.size += (bounded - self.size) * (13 if self.kind == "status" else 23) >> 8

    def take(self, chances, has_gaps):
        self.was_there = chances.bit(THERE + self.was_there) if has_gaps else True
        self.cells.append(self.number(chances) if self.was_there else None)


def adaptive_columns(data, flags, rows, kinds, places, model):
    check(model is not None, "the schema has no model for it")
    scales_and_base, learned = model
    chances = Chances(learned, data)
    times = [Column("counter", 24, None)] if flags & IRREGULAR else []
    found = [Column(kind, *scales_and_base[place]) for kind, place in zip(kinds, places)]
    for _ in range(rows):
        for column in times:
            column.take(chances, False)
        for column in found:
            column.take(chances, flags & GAPS)
    check(chances.is_at_end(), "too long")
    return [column.cells for column in times + found]


def simple_column(data, is_rice, rows, kind, has_gaps):
    is_there = [True] * rows
    if has_gaps:
        mark = data.byte()
        check(mark <= 1, "an unknown mark of empty cells")
        if mark:
            bits = data.take((rows + 7) // 8)
            is_there = [bool(bits[row // 8] >> 7 - row % 8 & 1) for row in range(rows)]
    count = sum(is_there)
    if is_rice and count > 1:
        steps, k, data.bits_left = [data.zigzag()], data.byte(), 0
        check(k <= 40 or k == 255, "an unknown Rice code")
        steps.extend(0 if k == 255 else data.rice(k) for _ in range(count - 1))
    else:
        steps = [data.zigzag() for _ in range(count)]
    last, step, numbers = 0, 0, []
    for place, difference in enumerate(steps):
        step = signed(step + difference) if kind == "counter" and place > 1 else difference
        last = signed(last + step)
        numbers.append(last)
    left = iter(numbers)
    return [next(left) if own else None for own in is_there]


def simple_columns(data, flags, rows, kinds):
    times = [simple_column(data, flags & RICE, rows, "counter", False)] if flags & IRREGULAR else []
    found = [simple_column(data, flags & RICE, rows, kind, flags & GAPS) for kind in kinds]
    check(data.at == len(data.data), "too long")
    return times + found


def read_places(data, known):
    """The columns of a frame that has not all of them."""
    places, end = [], 0
    for _ in range(data.count()):
        first = end + data.number()
        end = first + data.number()
        check(first < end <= known, "a column that the schema does not have")
        places.extend(range(first, end))
    check(places, "no columns")
    return places


def read_numbers(data, is_in_runs, cells):
    """The numbers of so many readings at most; those without runs go on without an end."""
    before = data.number()
    if not is_in_runs:
        return None, before
    numbers = []
    for _ in range(data.number()):
        first, count, runs = before + data.zigzag(), data.number(), data.number()
        check(0 < count * runs <= cells - len(numbers), "more numbers than readings")
        step = data.zigzag() if runs > 1 else 0
        for run in range(runs):
            numbers.extend((first + step * run + more) % (1 << 64) for more in range(count))
        before = first + step * (runs - 1) + count
    return numbers, 0


def read_not_good(data, cells, texts):
    """Quality, reason and age in ms by cell."""
    found, cell = {}, -1
    for _ in range(data.count()):
        cell += data.number() + 1
        check(cell < cells, "a reading that is not there")
        code, reason = data.byte(), data.number()
        check(code in (1, 2) and reason < len(texts), "an unknown quality or reason")
        found[cell] = (("stale", "bad")[code - 1], texts[reason], data.number())
    return found


def frame(schema, series, data, cells_left):
    """The readings of a frame, and how many cells the others may have."""
    flags, rows, start = data.number(), data.number(), data.zigzag()
    check(rows > 0, "no rows")
    step = data.zigzag() if rows > 1 and not flags & IRREGULAR else 0
    places = read_places(data, len(schema.kinds)) if flags & SOME_COLUMNS else list(range(len(schema.kinds)))
    cells_left -= rows * (len(places) + 1)
    check(cells_left >= 0, "too many cells")
    numbers, first = read_numbers(data, flags & NUMBERS, rows * len(places))
    texts = [data.take(data.count()).decode() for _ in range(data.count())] if flags & TEXTS else []
    not_good = read_not_good(data, rows * len(places), texts) if flags & NOT_GOOD else {}
    kinds = [schema.kinds[place].replace("text", "status") for place in places]
    if flags & ADAPTIVE:
        found = adaptive_columns(data.data[data.at:], flags, rows, kinds, places, schema.model)
    else:
        found = simple_columns(data, flags, rows, kinds)
    after = found.pop(0) if flags & IRREGULAR else [step * row for row in range(rows)]
    readings = []
    for row in range(rows):
        for column, place in enumerate(places):
            number = found[column][row]
            quality, reason, age = not_good.get(row * len(places) + column, ("good", None, 0))
            if number is None and quality == "good":
                continue  # the point was not read then
            is_text = number is not None and schema.kinds[place] == "text"
            check(not is_text or 0 <= number < len(texts), "a text that is not there")
            check(numbers is None or len(readings) < len(numbers), "more readings than numbers")
            own = (first + len(readings)) % (1 << 64) if numbers is None else numbers[len(readings)]
            value = None if number is None else schema.value(place, number, texts)
            time, is_set = signed(start + after[row]), not flags & CLOCK_UNSET
            readings.append(Reading(series, own, schema.topics[place], schema.units[place], time, is_set,
                                    schema.types[place], value, quality, reason, age / 1000))
    check(numbers is None or len(readings) == len(numbers), "more numbers than readings")
    return readings, cells_left


def hash_of(message):
    """The name of the schema that a message needs: the last level of the topic on which that is retained."""
    return message[1:5].hex() if len(message) >= 5 and message[0] == 1 else None


def decode(schema, message):
    """Yields the readings of a message in the order of their numbers; `schema` is a Schema or its document."""
    schema = schema if isinstance(schema, Schema) else Schema(schema)
    check(hash_of(message) == schema.hash, "another version or schema")
    data, readings, cells_left = Bytes(message[5:]), [], MOST_CELLS
    series, count = data.number(), data.count()
    sizes = [data.number() for _ in range(count - 1)]
    for size in [*sizes, None]:
        own = data.take(len(data.data) - data.at if size is None else size)
        found, cells_left = frame(schema, series, Bytes(own), cells_left)
        readings.extend(found)
    yield from sorted(readings, key=lambda reading: reading.number)


def without_schema(payload):
    """The readings of a message in the format `columns`, which says neither units nor types."""
    for own in columns.readings(payload):
        yield Reading(own.get("series"), own.get("number"), own["topic"], None, own["ts"], "clock" not in own, None,
                      own["v"], own["q"], own["reason"], own["age"])


class Receiver:
    """Finds the schemas of messages, and lets messages wait for theirs."""
    MOST_WAITING = 1000

    def __init__(self):
        self.schemas, self.waiting = {}, []

    def take(self, topic, payload):
        """The readings that can be told when this message has come."""
        above, meta, name = topic.rpartition("/meta/")
        if meta and payload[:1] == b"{":
            self.schemas[above, name] = Schema(payload.decode())
            ready = [own for own in self.waiting if (own[0], hash_of(own[1])) == (above, name)]
            self.waiting = [own for own in self.waiting if own not in ready]
            return [reading for own in ready for reading in self.take(*own)]
        if payload[:1] in (b"x", b"["):
            return list(without_schema(payload))
        schema = self.schemas.get((topic, hash_of(payload)))
        if schema is None and hash_of(payload):
            self.waiting = [*self.waiting, (topic, payload)][-self.MOST_WAITING:]
        return [] if schema is None else list(decode(schema, payload))


if __name__ == "__main__":
    receiver = Receiver()
    for line in sys.stdin:
        topic, _, payload = line.rstrip("\n").rpartition(" ")
        for reading in receiver.take(topic, bytes.fromhex(payload)):
            print(json.dumps(reading._asdict()), flush=True)
