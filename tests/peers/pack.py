"""Decodes packed frames: one line of JSON in, with kinds, model and frame, one line with what is in the frame out."""
import json
import sys

LEVELS, TRENDS, FAR = (51, 102, 166), (77, 15), 1 << 30


def signed(n):
    return (n + (1 << 63)) % (1 << 64) - (1 << 63)


class Bytes:
    def __init__(self, data):
        self.data, self.at, self.bit_at = data, 0, 0

    def byte(self):
        self.at += 1
        return self.data[self.at - 1]

    def number(self):
        n = shift = 0
        while True:
            b = self.byte()
            n |= (b & 127) << shift
            shift += 7
            if b < 128:
                return n

    def zigzag(self):
        n = self.number()
        return n >> 1 ^ -(n & 1)

    def text(self):
        length = self.number()
        self.at += length
        return self.data[self.at - length:self.at].decode()

    def bits(self, count):
        n = 0
        for _ in range(count):
            if self.bit_at == 0:
                self.last, self.bit_at = self.byte(), 8
            self.bit_at -= 1
            n = n << 1 | self.last >> self.bit_at & 1
        return n


def rice(b, count):
    steps = [b.zigzag()] if count else []
    if count < 2:
        return steps
    k, b.bit_at = b.byte(), 0
    for _ in range(count - 1):
        ones = 0
        while k < 255 and ones < 40 and b.bits(1):
            ones += 1
        n = 0 if k == 255 else b.bits(64) if ones == 40 else ones << k | b.bits(k)
        steps.append(n >> 1 ^ -(n & 1))
    return steps


def summed(steps, kind):
    last = step = 0
    for place, n in enumerate(steps):
        step = signed(step + n) if kind == "counter" and place > 1 else n
        last = signed(last + step)
        yield last


def packed(b, rows, kinds, gaps, is_rice, times):
    def column(kind, gaps):
        there = [True] * rows
        if gaps and b.byte():
            there, b.bit_at = [bool(b.bits(1)) for _ in range(rows)], 0
        count = sum(there)
        numbers = summed(rice(b, count) if is_rice else [b.zigzag() for _ in range(count)], kind)
        return [next(numbers) if is_there else None for is_there in there]
    return (column("counter", False) if times else None), [column(kind, gaps) for kind in kinds]


class Chances(dict):
    """Of a 1, in 1/65536, and how many bits each has seen."""
    def __missing__(self, key):
        return (32768, 0)


class RangeDecoder:
    def __init__(self, data, chances):
        self.data, self.chances, self.at = data, chances, 4
        self.code, self.range = int.from_bytes((data + bytes(4))[:4], "big"), 2**32 - 1

    def normalize(self):
        while self.range < 1 << 24:
            self.range <<= 8
            self.code = self.code << 8 | (self.data[self.at] if self.at < len(self.data) else 0)
            self.at += 1

    def bit(self, place):
        p, seen = self.chances[place]
        bound, rate = self.range * p >> 16, 6 if seen >= 30 else (1, 2, 3, 3, 4, 4, 4, 5)[min(seen, 7)]
        bit = self.code < bound
        if bit:
            self.range, p = bound, p + (65535 - p >> rate)
        else:
            self.code, self.range, p = self.code - bound, self.range - bound, p - (p >> rate)
        self.chances[place] = min(max(p, 48), 65487), min(seen + 1, 250)
        self.normalize()
        return bit

    def even(self, count):
        n = 0
        for _ in range(count):
            self.range >>= 1
            bit = self.code >= self.range
            self.code -= self.range if bit else 0
            n = n << 1 | bit
            self.normalize()
        return n


class Column:
    def __init__(self, kind, scale, base):
        octave, quarter = divmod(scale, 4)
        octave = min(max(octave, -16), 30)
        size = (65536, 77936, 92682, 110218)[quarter]
        size = size << octave if octave > 0 else size >> -octave
        self.kind, self.based, self.seen, self.last, self.step = kind, base is not None, 0, base or 0, 0
        self.levels, self.trends, self.guesses = [0] * 3, [0] * 2, [0] * 8
        self.errors, self.size, self.after, self.was_there = [max(size, 3276)] * 8, max(size, 1310), 2, 1

    def size_class(self):
        size, floats = self.size + 1310, self.kind in ("f32", "f64")
        octave = size.bit_length() - 1
        mantissa = (size << 16) >> octave
        above = sum(mantissa >= limit for limit in ((92682,) if floats else (82571, 104032)))
        return min(max((octave - 16) * (2 if floats else 3) + above + (12 if floats else 18), 0), 60)

    def predict(self):
        """Step, whether it is off a whole number and above it, and the class."""
        guess, self.guesses = 0, [0] * 8
        if self.seen == 2 and self.kind != "status":
            half = -(self.step // 2) if self.step % 2 == 0 else -self.step // 2
            self.guesses = [0, self.step, *self.levels, *self.trends, half]
            best, total, weights = min(self.errors) + 655, 0, 0
            for one, error in zip(self.guesses, self.errors):
                share = (best << 12) // (error + 655)
                weight = (share * share >> 12) ** 2 >> 12
                total, weights = total + weight * one, weights + weight
            guess = total // weights
        step = guess + 32768 >> 16
        beside = guess - (step << 16)
        side = 0 if abs(beside) < 11141 else 1 if beside > 0 else 2
        if self.seen == 0:
            number = 63 + self.size_class() // 4 if self.based else 62
        else:
            number = 61 if self.seen == 1 and self.kind == "counter" else self.size_class()
        return step, side, number

    def number(self, d):
        step, side, number = self.predict()
        residual = residual_of(d, number, side, self.after)
        residual = signed(-residual) if side == 2 else residual
        value = signed(self.last + step + residual)
        self.take(value, residual)
        return value

    def take(self, value, residual):
        step = min(max(signed(value - self.last), -FAR), FAR) << 16
        if self.seen == 2:
            self.errors = [e + ((abs(step - g) - e) * 15 >> 8) for e, g in zip(self.errors, self.guesses)]
            self.trends = [t + ((step - t) * rate >> 8) for t, rate in zip(self.trends, TRENDS)]
        elif self.seen == 1:
            self.trends = [step] * 2
        if self.seen:
            self.levels, self.step = [(level - step) * keeps >> 8 for level, keeps in zip(self.levels, LEVELS)], step
            if self.seen == 2 or self.kind != "counter":
                bounded = min(min(abs(residual), FAR) << 16, 8 * self.size + (4 << 16))
                self.size += (bounded - self.size) * (13 if self.kind == "status" else 23) >> 8
        self.after, self.last, self.seen = int(residual != 0), value, min(self.seen + 1, 2)


def residual_of(d, number, side, after):
    place = 2 * number + (side != 0)
    if d.bit(("zero", place, after)):
        return 0
    negative, length, node = d.bit(("sign", place)), 1, 1
    while length < 64 and d.bit(("length", number, length)):
        length += 1
    size, left = 1, length - 1
    while left and node < 8:
        left, bit = left - 1, d.bit(("tree", number, min(length, 32) - 1, node))
        size, node = size << 1 | bit, node << 1 | bit
    size = size << left | d.even(left)
    return -size if negative else signed(size)


def place_name(n):
    """The name of the chance of a number in a model."""
    if n < 474:
        return "zero", n // 3, n % 3
    if n < 632:
        return "sign", n - 474
    if n < 5688:
        return "length", *divmod(n - 632, 64)
    number, rest = divmod(n - 5688, 256)
    return ("there", n - 25912) if n >= 25912 else ("tree", number, *divmod(rest, 8))


def model_of(data, columns):
    b, base, chances, place = Bytes(data), None, Chances(), 0
    scales = [signed_byte(b.byte()) for _ in range(columns)]
    if b.byte():
        base = [b.zigzag() for _ in range(columns)]
    while b.at < len(data):
        place += b.number()
        chances[place_name(place)] = (b.byte() << 8 | 128, b.byte())
        place += 1
    return scales, base or [None] * columns, chances


def signed_byte(n):
    return n - 256 if n > 127 else n


def adaptive(b, rows, kinds, places, gaps, times, model):
    scales, base, chances = model
    d, clock = RangeDecoder(b.data[b.at:], chances), Column("counter", 24, None)
    columns, found, after = [Column(k, scales[p], base[p]) for k, p in zip(kinds, places)], [[] for _ in kinds], []
    for _ in range(rows):
        if times:
            after.append(clock.number(d))
        for column, cells in zip(columns, found):
            if gaps:
                column.was_there = d.bit(("there", int(column.was_there)))
            cells.append(column.number(d) if column.was_there else None)
    return after, found


def decode(kinds, model, data):
    b = Bytes(data)
    assert b.byte() == 1, "version"
    flags, frame = b.byte(), {}
    b.at += 4
    frame["series"], frame["first"], rows, start = b.number(), b.number(), b.number(), b.zigzag()
    step = b.zigzag() if rows > 1 and not flags & 2 else 0
    places, texts, frame["not_good"] = list(range(len(kinds))), [], []
    if flags & 8:
        places, place = [], -1
        for _ in range(b.number()):
            place += b.number() + 1
            places.append(place)
    if flags & 128:
        texts = [b.text() for _ in range(b.number())]
    cell = -1
    for _ in range(b.number() if flags & 16 else 0):
        cell += b.number() + 1
        quality, reason, age = ("", "stale", "bad")[b.byte()], texts[b.number()], b.number()
        frame["not_good"].append([*divmod(cell, len(places)), quality, reason, age])
    own = ["status" if kinds[place] == "text" else kinds[place] for place in places]
    if flags & 1:
        after, columns = adaptive(b, rows, own, places, flags & 4, flags & 2, model_of(model, len(kinds)))
    else:
        after, columns = packed(b, rows, own, flags & 4, flags & 64, flags & 2)
    frame["times"] = [signed(start + (after[row] if flags & 2 else step * row)) for row in range(rows)]
    frame["clock_set"] = not flags & 32
    named = lambda place, n: texts[n] if kinds[place] == "text" and n is not None else n  # noqa: E731
    frame["columns"] = [[place, [named(place, n) for n in cells]] for place, cells in zip(places, columns)]
    return frame


for line in sys.stdin:
    asked = json.loads(line)
    print(json.dumps(decode(asked["kinds"], bytes.fromhex(asked["model"]), bytes.fromhex(asked["frame"]))), flush=True)
