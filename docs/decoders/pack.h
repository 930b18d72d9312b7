/* Turns messages of the format `pack` into readings. C99 (and C++); needs nothing but the C library.
 *
 *     static void on_reading(void *context, const struct pack_reading *reading) { ... }
 *     ...
 *     uint32_t hash;         // its schema is at <topic of the messages>/meta/<hash>, retained
 *     if (pack_hash_of(message, size, &hash) == PACK_OK) {
 *         const struct pack_schema *schema = yours(hash);
 *         int result = pack_decode(schema, message, size, on_reading, context);
 *
 * The caller parses the schema document, which is JSON, with a library of its own, and fills in `struct pack_schema`.
 * A message is read twice: first to check it, then to tell its readings, so that of a damaged one nothing is told.
 * Memory, from malloc, while a message is read: 9 bytes for each cell of a frame, rows times columns, of which there
 * are at most PACK_MOST_CELLS, and 80 kB and 232 bytes for each column if the schema has a model.
 */
#ifndef WELLHEAD_PACK_H
#define WELLHEAD_PACK_H

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#ifndef PACK_MOST_CELLS
#define PACK_MOST_CELLS (1u << 20) /* a message may have more only if it is no message of wellhead */
#endif

enum pack_result { PACK_OK, PACK_DAMAGED, PACK_OTHER_SCHEMA, PACK_NO_MEMORY };
enum pack_kind { PACK_KIND_SCALED, PACK_KIND_COUNTER, PACK_KIND_STATUS, PACK_KIND_F32, PACK_KIND_F64, PACK_KIND_TEXT };
enum pack_type {
    PACK_BOOL, PACK_INT, PACK_UINT, PACK_DECIMAL, PACK_F32, PACK_F64, PACK_TEXT, PACK_LIST, PACK_NONE
};
enum pack_quality { PACK_GOOD, PACK_STALE, PACK_BAD };

/* What a schema document says; the arrays have one element for each column. */
struct pack_schema {
    uint32_t hash;           /* `hash`, which is hexadecimal there */
    size_t columns;
    const uint8_t *kinds;    /* `kinds`: enum pack_kind */
    const uint8_t *types;    /* `types`: enum pack_type */
    const uint8_t *decimals; /* `decimals` */
    const uint8_t *model;    /* `model`, which is Base64 there; NULL without one */
    size_t model_size;
};

struct pack_text {
    const char *bytes; /* UTF-8, within the message, not ended by 0 */
    size_t size;
};

struct pack_reading {
    uint64_t series; /* that of an outbox; a reading that comes twice has its series and number twice */
    uint64_t number;
    size_t column;   /* in the schema: its topic is `base` and `names[column]`, its unit `units[column]` */
    int64_t time_ms; /* since 1970 */
    int clock_set;   /* 0: the time is worthless, because the clock of the gateway was not set */
    int has_value;
    union {
        int truth;             /* PACK_BOOL */
        int64_t integer;       /* PACK_INT */
        uint64_t natural;      /* PACK_UINT */
        float f32;             /* PACK_F32 */
        double f64;            /* PACK_F64 and PACK_DECIMAL */
        struct pack_text text; /* PACK_TEXT, and PACK_LIST in JSON */
    } value;                   /* of types[column] */
    enum pack_quality quality;
    struct pack_text reason; /* of a reading that is not good */
    uint64_t age_ms;
};

typedef void pack_on_reading(void *context, const struct pack_reading *reading);

/* Flags of a frame. */
enum {
    PACK_FLAG_ADAPTIVE = 1, PACK_FLAG_IRREGULAR = 2, PACK_FLAG_GAPS = 4, PACK_FLAG_SOME_COLUMNS = 8,
    PACK_FLAG_NOT_GOOD = 16, PACK_FLAG_CLOCK_UNSET = 32, PACK_FLAG_NUMBERS = 64, PACK_FLAG_RICE = 128,
    PACK_FLAG_TEXTS = 256
};

/* ---- Integers: those of 64 bits wrap, and shifts of negative ones round down. ---- */

static inline int64_t pack_signed(uint64_t bits) {
    int64_t number;
    memcpy(&number, &bits, sizeof number);
    return number;
}

static inline int64_t pack_add(int64_t one, int64_t other) { return pack_signed((uint64_t)one + (uint64_t)other); }

static inline int64_t pack_subtract(int64_t one, int64_t other) {
    return pack_signed((uint64_t)one - (uint64_t)other);
}

static inline int64_t pack_shift(int64_t number, unsigned by) {
    return number < 0 ? ~(~number >> by) : number >> by;
}

static inline int64_t pack_unzigzag(uint64_t number) { return pack_signed((number >> 1) ^ (0 - (number & 1))); }

static inline int64_t pack_least(int64_t one, int64_t other) { return one < other ? one : other; }

static inline int64_t pack_most(int64_t one, int64_t other) { return one > other ? one : other; }

static inline int64_t pack_distance(int64_t number) { return number < 0 ? -number : number; }

/* ---- Bytes: what is not there or out of range sets `failed`, and is 0. ---- */

struct pack_bytes {
    const uint8_t *at, *end;
    int failed;
    unsigned last, bits_left;
};

static inline struct pack_bytes pack_bytes_of(const uint8_t *data, size_t size) {
    struct pack_bytes bytes = {NULL, NULL, 0, 0, 0};
    bytes.at = data;
    bytes.end = data + size;
    return bytes;
}

static inline void pack_check(struct pack_bytes *bytes, int is_right) {
    if (!is_right) {
        bytes->failed = 1;
        bytes->at = bytes->end;
    }
}

static inline size_t pack_left(const struct pack_bytes *bytes) { return (size_t)(bytes->end - bytes->at); }

static inline const uint8_t *pack_take(struct pack_bytes *bytes, uint64_t count) {
    const uint8_t *taken = bytes->at;
    pack_check(bytes, count <= pack_left(bytes));
    if (bytes->failed) return NULL;
    bytes->at += count;
    return taken;
}

static inline unsigned pack_byte(struct pack_bytes *bytes) {
    const uint8_t *byte = pack_take(bytes, 1);
    return byte ? *byte : 0;
}

static inline uint64_t pack_number(struct pack_bytes *bytes) {
    uint64_t number = 0;
    unsigned shift;
    for (shift = 0; shift < 64; shift += 7) {
        unsigned byte = pack_byte(bytes);
        pack_check(bytes, shift < 63 || (byte & 127) < 2);
        number |= (uint64_t)(byte & 127) << shift;
        if (byte < 128) return bytes->failed ? 0 : number;
    }
    pack_check(bytes, 0);
    return 0;
}

static inline int64_t pack_zigzag(struct pack_bytes *bytes) { return pack_unzigzag(pack_number(bytes)); }

/* Of what takes at least one byte each. */
static inline size_t pack_count(struct pack_bytes *bytes) {
    uint64_t count = pack_number(bytes);
    pack_check(bytes, count <= pack_left(bytes));
    return bytes->failed ? 0 : (size_t)count;
}

static inline uint64_t pack_bits(struct pack_bytes *bytes, unsigned count) {
    uint64_t number = 0;
    for (; count > 0; count--) {
        if (bytes->bits_left == 0) {
            bytes->last = pack_byte(bytes);
            bytes->bits_left = 8;
        }
        bytes->bits_left--;
        number = number << 1 | (bytes->last >> bytes->bits_left & 1);
    }
    return number;
}

static inline int64_t pack_rice(struct pack_bytes *bytes, unsigned k) {
    uint64_t ones = 0;
    while (ones < 40 && pack_bits(bytes, 1)) ones++;
    return pack_unzigzag(ones == 40 ? pack_bits(bytes, 64) : ones << k | pack_bits(bytes, k));
}

static inline int pack_is_utf8(const uint8_t *at, const uint8_t *end) {
    while (at < end) {
        unsigned first = *at++, more, least = 0x80, most = 0xBF;
        if (first < 0x80) continue;
        if (first < 0xC2 || first > 0xF4) return 0;
        more = first < 0xE0 ? 1 : first < 0xF0 ? 2 : 3;
        if (first == 0xE0) least = 0xA0;
        if (first == 0xED) most = 0x9F;
        if (first == 0xF0) least = 0x90;
        if (first == 0xF4) most = 0x8F;
        for (; more > 0; more--, least = 0x80, most = 0xBF) {
            if (at == end || *at < least || *at > most) return 0;
            at++;
        }
    }
    return 1;
}

/* ---- The adaptive coder: bits by the chances that they are 1, which follow the bits. ---- */

/* Where the chances of each use begin; those of zeros begin at 0. */
enum { PACK_SIGNS = 474, PACK_LENGTHS = 632, PACK_TREES = 5688, PACK_THERE = 25912, PACK_CHANCES = 25914 };

struct pack_chances {
    uint16_t of_one[PACK_CHANCES]; /* in 1/65536 */
    uint8_t seen[PACK_CHANCES];
};

struct pack_coder {
    struct pack_bytes bytes;
    uint32_t code, range;
    struct pack_chances *chances;
};

static inline void pack_next_byte(struct pack_coder *coder) {
    uint32_t byte = pack_left(&coder->bytes) ? pack_byte(&coder->bytes) : 0; /* zeros follow the last one */
    coder->code = coder->code << 8 | byte;
}

static inline void pack_normalize(struct pack_coder *coder) {
    while (coder->range < 1u << 24) {
        coder->range <<= 8;
        pack_next_byte(coder);
    }
}

static inline unsigned pack_bit(struct pack_coder *coder, size_t place) {
    static const uint8_t first_rates[7] = {1, 2, 3, 3, 4, 4, 4};
    uint32_t of_one = coder->chances->of_one[place], seen = coder->chances->seen[place];
    uint32_t bound = (uint32_t)((uint64_t)coder->range * of_one >> 16);
    unsigned rate = seen >= 30 ? 6 : seen >= 7 ? 5 : first_rates[seen];
    unsigned bit = coder->code < bound;
    of_one = bit ? of_one + ((65535 - of_one) >> rate) : of_one - (of_one >> rate);
    coder->chances->of_one[place] = (uint16_t)(of_one < 48 ? 48 : of_one > 65487 ? 65487 : of_one);
    coder->chances->seen[place] = (uint8_t)(seen < 250 ? seen + 1 : 250);
    coder->code -= bit ? 0 : bound;
    coder->range = bit ? bound : coder->range - bound;
    pack_normalize(coder);
    return bit;
}

static inline uint64_t pack_even_bits(struct pack_coder *coder, unsigned count) {
    uint64_t number = 0;
    for (; count > 0; count--) {
        unsigned bit;
        coder->range >>= 1;
        bit = coder->code >= coder->range;
        coder->code -= bit ? coder->range : 0;
        number = number << 1 | bit;
        pack_normalize(coder);
    }
    return number;
}

/* How far a number is from where it was expected. */
static inline int64_t pack_residual(struct pack_coder *coder, size_t class_of, int side, size_t after) {
    size_t place = 2 * class_of + (side != 0), tree;
    unsigned is_negative, length = 1, left;
    uint64_t size = 1;
    if (pack_bit(coder, 3 * place + after)) return 0;
    is_negative = pack_bit(coder, PACK_SIGNS + place);
    while (length < 64 && pack_bit(coder, PACK_LENGTHS + 64 * class_of + length)) length++;
    tree = PACK_TREES + 8 * (32 * class_of + (length < 32 ? length : 32) - 1);
    for (left = length - 1; left > 0 && size < 8; left--) size = size << 1 | pack_bit(coder, tree + (size_t)size);
    if (left > 0) size = size << left | pack_even_bits(coder, left);
    return pack_signed(is_negative ? 0 - size : size);
}

#define PACK_ONE INT64_C(65536) /* 1 as a fraction */
#define PACK_FAR INT64_C(1073741824)

/* A column: each number is predicted out of those before it. */
struct pack_column {
    int kind, has_base, side;
    unsigned seen, was_there;
    size_t after;
    int64_t last, step, levels[3], trends[2], guesses[8], errors[8], size;
};

static inline void pack_begin(struct pack_column *column, int kind, int scale, const int64_t *base) {
    static const int64_t quarters[4] = {65536, 77936, 92682, 110218};
    int octave = (scale + 128) / 4 - 32, place;
    int64_t size = quarters[(scale + 128) % 4];
    octave = octave < -16 ? -16 : octave > 30 ? 30 : octave;
    size = octave < 0 ? size >> -octave : size << octave;
    memset(column, 0, sizeof *column);
    column->kind = kind;
    column->has_base = base != NULL;
    column->last = base ? *base : 0;
    column->was_there = 1;
    column->after = 2;
    column->size = pack_most(size, 1310);
    for (place = 0; place < 8; place++) column->errors[place] = pack_most(size, 3276);
}

static inline size_t pack_size_class(const struct pack_column *column) {
    static const int64_t limits[3] = {92682, 82571, 104032};
    int is_float = column->kind == PACK_KIND_F32 || column->kind == PACK_KIND_F64, octave = 0;
    int64_t size = column->size + 1310, mantissa, class_of;
    while (size >> octave > 1) octave++;
    mantissa = pack_signed((uint64_t)size << 16) >> octave;
    if (is_float) {
        class_of = (octave - 16) * 2 + (mantissa >= limits[0]) + 12;
    } else {
        class_of = (octave - 16) * 3 + (mantissa >= limits[1]) + (mantissa >= limits[2]) + 18;
    }
    return (size_t)pack_least(pack_most(class_of, 0), 60);
}

/* The mean of all guesses, by how good they were. */
static inline int64_t pack_guess(struct pack_column *column) {
    int64_t best, sum = 0, weights = 0;
    int place;
    memset(column->guesses, 0, sizeof column->guesses);
    if (column->seen < 2 || column->kind == PACK_KIND_STATUS) return 0;
    column->guesses[1] = column->step;
    for (place = 0; place < 3; place++) column->guesses[2 + place] = column->levels[place];
    for (place = 0; place < 2; place++) column->guesses[5 + place] = column->trends[place];
    column->guesses[7] = -column->step / 2;
    best = column->errors[0];
    for (place = 1; place < 8; place++) best = pack_least(best, column->errors[place]);
    best += 655;
    for (place = 0; place < 8; place++) {
        int64_t share = best * 4096 / (column->errors[place] + 655);
        int64_t square = share * share >> 12, weight = square * square >> 12;
        weights += weight;
        sum += weight * column->guesses[place];
    }
    return sum / weights - (sum % weights < 0);
}

static inline void pack_learn(struct pack_column *column, int64_t step, int64_t residual) {
    static const int64_t rates[2] = {77, 15}, keeps[3] = {51, 102, 166};
    int place;
    for (place = 0; place < 8 && column->seen == 2; place++) {
        int64_t error = pack_distance(step - column->guesses[place]);
        column->errors[place] += pack_shift((error - column->errors[place]) * 15, 8);
    }
    for (place = 0; place < 2; place++) {
        if (column->seen == 1) column->trends[place] = step;
        if (column->seen == 2) column->trends[place] += pack_shift((step - column->trends[place]) * rates[place], 8);
    }
    if (column->seen == 0) return;
    for (place = 0; place < 3; place++) {
        column->levels[place] = pack_shift((column->levels[place] - step) * keeps[place], 8);
    }
    column->step = step;
    if (column->seen == 2 || column->kind != PACK_KIND_COUNTER) {
        int64_t bounded = pack_least(residual, 8 * column->size + 4 * PACK_ONE);
        column->size += pack_shift((bounded - column->size) * (column->kind == PACK_KIND_STATUS ? 13 : 23), 8);
    }
}

static inline int64_t pack_bounded(int64_t number) { return pack_least(pack_most(number, -PACK_FAR), PACK_FAR); }

static inline int64_t pack_adaptive(struct pack_column *column, struct pack_coder *coder) {
    int64_t guess = pack_guess(column), step = pack_shift(guess + PACK_ONE / 2, 16), residual, value;
    int64_t beside = guess - step * PACK_ONE;
    int side = pack_distance(beside) < 11141 ? 0 : beside > 0 ? 1 : 2;
    size_t class_of = pack_size_class(column);
    if (column->seen == 0) {
        class_of = column->has_base ? 63 + class_of / 4 : 62;
    } else if (column->seen == 1 && column->kind == PACK_KIND_COUNTER) {
        class_of = 61;
    }
    residual = pack_residual(coder, class_of, side, column->after);
    if (side == 2) residual = pack_subtract(0, residual);
    value = pack_add(pack_add(column->last, step), residual);
    pack_learn(column, pack_bounded(pack_subtract(value, column->last)) * PACK_ONE,
               pack_distance(pack_bounded(residual)) * PACK_ONE);
    column->after = residual != 0;
    column->last = value;
    column->seen += column->seen < 2;
    return value;
}

/* ---- Frames ---- */

struct pack_frame {
    const struct pack_schema *schema;
    uint64_t series, flags;
    size_t rows, columns;
    int64_t start, step;
    size_t *places; /* of its columns in the schema */
    struct pack_bytes numbers, not_good;
    uint64_t number_count;
    struct pack_text *texts;
    size_t text_count;
    int64_t *after, *cells; /* times of the rows since the first, numbers row by row */
    uint8_t *there;         /* 1: the cell has a number */
};

static inline int pack_has(const struct pack_frame *frame, unsigned flag) { return (frame->flags & flag) != 0; }

/* As coders take it. */
static inline int pack_kind_of(const struct pack_frame *frame, size_t column) {
    int kind = frame->schema->kinds[frame->places[column]];
    return kind == PACK_KIND_TEXT ? PACK_KIND_STATUS : kind;
}

/* What the adaptive coder knows before a frame. */
static inline int64_t *pack_read_model(const struct pack_schema *schema, struct pack_chances *chances,
                                       int64_t *base, int *failed) {
    struct pack_bytes bytes = pack_bytes_of(schema->model, schema->model_size);
    uint64_t place;
    size_t column;
    for (place = 0; place < PACK_CHANCES; place++) chances->of_one[place] = 32768;
    memset(chances->seen, 0, sizeof chances->seen);
    pack_take(&bytes, schema->columns);
    if (pack_byte(&bytes)) {
        for (column = 0; column < schema->columns; column++) base[column] = pack_zigzag(&bytes);
    } else {
        base = NULL;
    }
    for (place = 0; pack_left(&bytes) > 0; place++) {
        uint64_t skipped = pack_number(&bytes);
        unsigned of_one = pack_byte(&bytes), seen = pack_byte(&bytes);
        pack_check(&bytes, skipped < PACK_CHANCES - place && seen >= 3 && seen <= 24);
        if (bytes.failed) break;
        place += skipped;
        chances->of_one[place] = (uint16_t)(of_one << 8 | 128);
        chances->seen[place] = (uint8_t)seen;
        if (place + 1 == PACK_CHANCES) {
            pack_check(&bytes, pack_left(&bytes) == 0);
            break;
        }
    }
    *failed = bytes.failed;
    return base;
}

static inline void pack_adaptive_rows(struct pack_frame *frame, struct pack_coder *coder, struct pack_column *columns) {
    struct pack_column clock;
    size_t row, column, cell = 0;
    pack_begin(&clock, PACK_KIND_COUNTER, 24, NULL);
    for (row = 0; row < frame->rows; row++) {
        if (pack_has(frame, PACK_FLAG_IRREGULAR)) frame->after[row] = pack_adaptive(&clock, coder);
        for (column = 0; column < frame->columns; column++, cell++) {
            struct pack_column *own = &columns[column];
            if (pack_has(frame, PACK_FLAG_GAPS)) own->was_there = pack_bit(coder, PACK_THERE + own->was_there);
            frame->there[cell] = (uint8_t)own->was_there;
            if (own->was_there) frame->cells[cell] = pack_adaptive(own, coder);
        }
    }
}

static inline enum pack_result pack_adaptive_body(struct pack_frame *frame, struct pack_bytes *bytes) {
    const struct pack_schema *schema = frame->schema;
    struct pack_coder coder;
    struct pack_column *columns;
    int64_t *base;
    size_t column;
    int failed = 0;
    if (schema->model == NULL || schema->model_size < schema->columns) return PACK_DAMAGED;
    coder.chances = (struct pack_chances *)malloc(sizeof *coder.chances);
    columns = (struct pack_column *)malloc((frame->columns + 1) * sizeof *columns);
    base = (int64_t *)malloc((schema->columns + 1) * sizeof *base);
    if (coder.chances && columns && base) {
        int64_t *known = pack_read_model(schema, coder.chances, base, &failed);
        for (column = 0; column < frame->columns; column++) {
            size_t place = frame->places[column];
            int scale = schema->model[place];
            scale = scale < 128 ? scale : scale - 256;
            pack_begin(&columns[column], pack_kind_of(frame, column), scale, known ? &known[place] : NULL);
        }
        coder.bytes = *bytes;
        coder.code = 0;
        coder.range = UINT32_MAX;
        for (column = 0; column < 4; column++) pack_next_byte(&coder);
        if (!failed) pack_adaptive_rows(frame, &coder, columns);
        pack_check(bytes, !failed && pack_left(&coder.bytes) == 0);
    }
    failed = coder.chances == NULL || columns == NULL || base == NULL;
    free(coder.chances);
    free(columns);
    free(base);
    return failed ? PACK_NO_MEMORY : PACK_OK;
}

/* A column of a simple coder; `stride` is how far its cells are apart. */
static inline void pack_simple_column(struct pack_frame *frame, struct pack_bytes *bytes, int kind, int64_t *cells,
                                      uint8_t *there, size_t stride) {
    const uint8_t *bits = NULL;
    int64_t last = 0, step = 0;
    size_t row, count = 0;
    unsigned k = 0;
    if (there && pack_has(frame, PACK_FLAG_GAPS)) {
        unsigned mark = pack_byte(bytes);
        pack_check(bytes, mark <= 1);
        if (mark == 1) bits = pack_take(bytes, (frame->rows + 7) / 8);
    }
    for (row = 0; row < frame->rows && !bytes->failed; row++) {
        int64_t difference;
        unsigned is_there = bits ? (unsigned)bits[row / 8] >> (7 - row % 8) & 1 : 1;
        if (there) there[row * stride] = (uint8_t)is_there;
        if (!is_there) continue;
        if (count == 1 && pack_has(frame, PACK_FLAG_RICE)) {
            k = pack_byte(bytes);
            bytes->bits_left = 0;
            pack_check(bytes, k <= 40 || k == 255);
            if (bytes->failed) return;
        }
        if (count == 0 || !pack_has(frame, PACK_FLAG_RICE)) {
            difference = pack_zigzag(bytes);
        } else {
            difference = k == 255 ? 0 : pack_rice(bytes, k);
        }
        step = kind == PACK_KIND_COUNTER && count > 1 ? pack_add(step, difference) : difference;
        last = pack_add(last, step);
        cells[row * stride] = last;
        count++;
    }
}

static inline void pack_simple_body(struct pack_frame *frame, struct pack_bytes *bytes) {
    size_t column;
    if (pack_has(frame, PACK_FLAG_IRREGULAR)) {
        pack_simple_column(frame, bytes, PACK_KIND_COUNTER, frame->after, NULL, 1);
    }
    for (column = 0; column < frame->columns; column++) {
        pack_simple_column(frame, bytes, pack_kind_of(frame, column), frame->cells + column, frame->there + column,
                           frame->columns);
    }
    pack_check(bytes, pack_left(bytes) == 0);
}

static inline void pack_read_places(struct pack_frame *frame, struct pack_bytes *bytes) {
    size_t known = frame->schema->columns, next = 0, runs;
    if (!pack_has(frame, PACK_FLAG_SOME_COLUMNS)) {
        for (; next < known; next++) frame->places[frame->columns++] = next;
        return;
    }
    for (runs = pack_count(bytes); runs > 0 && !bytes->failed; runs--) {
        uint64_t gap = pack_number(bytes), count = pack_number(bytes);
        pack_check(bytes, gap <= known - next && count > 0 && count <= known - next - gap);
        if (bytes->failed) return;
        for (next += (size_t)gap; count > 0; count--) frame->places[frame->columns++] = next++;
    }
    pack_check(bytes, frame->columns > 0);
}

/* The numbers of readings: runs of one length at equal distances. */
struct pack_numbers {
    struct pack_bytes bytes; /* the groups of runs to come */
    uint64_t groups, before, first, step, count, runs, left;
};

static inline void pack_next_group(struct pack_numbers *numbers) {
    numbers->groups--;
    numbers->first = numbers->before + (uint64_t)pack_zigzag(&numbers->bytes);
    numbers->count = pack_number(&numbers->bytes);
    numbers->runs = pack_number(&numbers->bytes);
    numbers->step = numbers->runs > 1 ? (uint64_t)pack_zigzag(&numbers->bytes) : 0;
    numbers->before = numbers->first + numbers->step * (numbers->runs - 1) + numbers->count;
    numbers->left = numbers->count;
}

static inline struct pack_numbers pack_numbers_of(const struct pack_frame *frame) {
    struct pack_numbers numbers;
    memset(&numbers, 0, sizeof numbers);
    numbers.bytes = frame->numbers;
    numbers.before = numbers.first = pack_number(&numbers.bytes);
    if (pack_has(frame, PACK_FLAG_NUMBERS)) {
        numbers.groups = pack_number(&numbers.bytes);
    } else {
        numbers.runs = 1;
        numbers.left = UINT64_MAX;
    }
    return numbers;
}

static inline uint64_t pack_next_number(struct pack_numbers *numbers) {
    if (numbers->left == 0 && numbers->runs > 1) {
        numbers->first += numbers->step - numbers->count;
        numbers->left = numbers->count;
        numbers->runs--;
    } else if (numbers->left == 0) {
        pack_next_group(numbers);
    }
    numbers->left--;
    return numbers->first++;
}

/* Leaves the bytes behind the numbers, and checks how many numbers there are. */
static inline void pack_read_numbers(struct pack_frame *frame, struct pack_bytes *bytes) {
    struct pack_numbers numbers;
    uint64_t cells = (uint64_t)frame->rows * frame->columns;
    frame->numbers = *bytes;
    numbers = pack_numbers_of(frame);
    while (numbers.groups > 0 && !numbers.bytes.failed) {
        uint64_t left = cells - frame->number_count;
        pack_next_group(&numbers);
        pack_check(&numbers.bytes, numbers.count > 0 && numbers.runs > 0 && numbers.runs <= left / numbers.count);
        if (!numbers.bytes.failed) frame->number_count += numbers.count * numbers.runs;
    }
    *bytes = numbers.bytes;
}

static inline int pack_read_texts(struct pack_frame *frame, struct pack_bytes *bytes) {
    size_t count = pack_has(frame, PACK_FLAG_TEXTS) ? pack_count(bytes) : 0;
    frame->texts = (struct pack_text *)malloc((count + 1) * sizeof *frame->texts);
    if (frame->texts == NULL) return 0;
    for (; frame->text_count < count && !bytes->failed; frame->text_count++) {
        size_t size = pack_count(bytes);
        const uint8_t *text = pack_take(bytes, size);
        pack_check(bytes, text != NULL && pack_is_utf8(text, text + size));
        frame->texts[frame->text_count].bytes = (const char *)text;
        frame->texts[frame->text_count].size = size;
    }
    return 1;
}

/* The readings of a frame that are not good, one after the other. */
struct pack_not_good {
    struct pack_bytes bytes;
    size_t left;
    uint64_t next, cell; /* the first cell of the ones to come, and that of the current one */
    unsigned quality;
    uint64_t reason, age_ms;
};

static inline struct pack_not_good pack_not_good_of(const struct pack_frame *frame) {
    struct pack_not_good not_good;
    memset(&not_good, 0, sizeof not_good);
    not_good.bytes = frame->not_good;
    not_good.left = pack_has(frame, PACK_FLAG_NOT_GOOD) ? pack_count(&not_good.bytes) : 0;
    not_good.cell = UINT64_MAX;
    return not_good;
}

static inline void pack_next_not_good(struct pack_not_good *not_good, uint64_t cells, size_t texts) {
    uint64_t gap;
    not_good->cell = UINT64_MAX;
    if (not_good->left == 0) return;
    not_good->left--;
    gap = pack_number(&not_good->bytes);
    not_good->quality = pack_byte(&not_good->bytes);
    not_good->reason = pack_number(&not_good->bytes);
    not_good->age_ms = pack_number(&not_good->bytes);
    pack_check(&not_good->bytes, gap < cells - not_good->next && not_good->reason < texts &&
                                     (not_good->quality == PACK_STALE || not_good->quality == PACK_BAD));
    if (not_good->bytes.failed) return;
    not_good->cell = not_good->next + gap;
    not_good->next = not_good->cell + 1;
}

static inline void pack_read_not_good(struct pack_frame *frame, struct pack_bytes *bytes) {
    struct pack_not_good not_good;
    frame->not_good = *bytes;
    not_good = pack_not_good_of(frame);
    while (not_good.left > 0 && !not_good.bytes.failed) {
        pack_next_not_good(&not_good, (uint64_t)frame->rows * frame->columns, frame->text_count);
    }
    *bytes = not_good.bytes;
}

/* Fills in the value of a reading; 0 if the number is no value of its column. */
static inline int pack_value(const struct pack_frame *frame, struct pack_reading *reading, int64_t number) {
    uint8_t kind = frame->schema->kinds[reading->column], type = frame->schema->types[reading->column];
    uint64_t bits = (uint64_t)number;
    uint32_t bits_of_f32;
    double unit = 1;
    unsigned digits;
    if (kind == PACK_KIND_TEXT) {
        if (bits >= frame->text_count || (type != PACK_TEXT && type != PACK_LIST)) return 0;
        reading->value.text = frame->texts[bits];
        return 1;
    }
    switch (type) {
    case PACK_BOOL: reading->value.truth = number != 0; return 1;
    case PACK_INT: reading->value.integer = number; return 1;
    case PACK_UINT: reading->value.natural = bits; return 1;
    case PACK_DECIMAL:
        for (digits = frame->schema->decimals[reading->column]; digits > 0; digits--) unit *= 10;
        reading->value.f64 = (double)number / unit;
        return 1;
    case PACK_F32:
        if (number < INT32_MIN || number > INT32_MAX) return 0;
        bits_of_f32 = (uint32_t)(number >= 0 ? number : INT32_MAX - number);
        memcpy(&reading->value.f32, &bits_of_f32, sizeof bits_of_f32);
        return 1;
    case PACK_F64:
        bits = number >= 0 ? bits : ~bits | (uint64_t)1 << 63;
        memcpy(&reading->value.f64, &bits, sizeof bits);
        return 1;
    default: return 0;
    }
}

/* Tells the readings of a frame, or only checks them if nobody asks for them. */
static inline void pack_tell(const struct pack_frame *frame, struct pack_bytes *bytes, pack_on_reading *on_reading,
                             void *context) {
    struct pack_numbers numbers = pack_numbers_of(frame);
    struct pack_not_good not_good = pack_not_good_of(frame);
    uint64_t cell, cells = (uint64_t)frame->rows * frame->columns, told = 0;
    pack_next_not_good(&not_good, cells, frame->text_count);
    for (cell = 0; cell < cells && !bytes->failed; cell++) {
        struct pack_reading reading;
        size_t row = (size_t)(cell / frame->columns);
        int is_good = not_good.cell != cell;
        if (!frame->there[cell] && is_good) continue; /* the point was not read then */
        memset(&reading, 0, sizeof reading);
        pack_check(bytes, !pack_has(frame, PACK_FLAG_NUMBERS) || told < frame->number_count);
        if (bytes->failed) return;
        told++;
        reading.series = frame->series;
        reading.number = pack_next_number(&numbers);
        reading.column = frame->places[cell % frame->columns];
        reading.time_ms = pack_add(frame->start, frame->after[row]);
        reading.clock_set = !pack_has(frame, PACK_FLAG_CLOCK_UNSET);
        reading.has_value = frame->there[cell];
        if (reading.has_value) pack_check(bytes, pack_value(frame, &reading, frame->cells[cell]));
        if (!is_good) {
            reading.quality = not_good.quality == PACK_STALE ? PACK_STALE : PACK_BAD;
            reading.reason = frame->texts[not_good.reason];
            reading.age_ms = not_good.age_ms;
            pack_next_not_good(&not_good, cells, frame->text_count);
        }
        if (on_reading && !bytes->failed) on_reading(context, &reading);
    }
    pack_check(bytes, !pack_has(frame, PACK_FLAG_NUMBERS) || told == frame->number_count);
}

/* Reads what a frame says before its body; 0 without memory. */
static inline int pack_read_head(struct pack_frame *frame, struct pack_bytes *bytes, uint64_t *cells_left) {
    uint64_t rows, row;
    frame->flags = pack_number(bytes);
    rows = pack_number(bytes);
    frame->start = pack_zigzag(bytes);
    pack_check(bytes, rows > 0 && rows <= PACK_MOST_CELLS);
    if (bytes->failed) return 1;
    frame->rows = (size_t)rows;
    frame->step = rows > 1 && !pack_has(frame, PACK_FLAG_IRREGULAR) ? pack_zigzag(bytes) : 0;
    frame->places = (size_t *)malloc((frame->schema->columns + 1) * sizeof *frame->places);
    if (frame->places == NULL) return 0;
    pack_read_places(frame, bytes);
    pack_check(bytes, frame->columns < *cells_left / rows);
    if (bytes->failed) return 1;
    *cells_left -= rows * (frame->columns + 1);
    pack_read_numbers(frame, bytes);
    if (!pack_read_texts(frame, bytes)) return 0;
    pack_read_not_good(frame, bytes);
    frame->after = (int64_t *)malloc(frame->rows * sizeof *frame->after);
    frame->cells = (int64_t *)malloc((frame->rows * frame->columns + 1) * sizeof *frame->cells);
    frame->there = (uint8_t *)malloc(frame->rows * frame->columns + 1);
    if (frame->after == NULL || frame->cells == NULL || frame->there == NULL) return 0;
    for (row = 0; row < rows; row++) frame->after[row] = pack_signed((uint64_t)frame->step * row);
    return 1;
}

static inline enum pack_result pack_read_frame(const struct pack_schema *schema, uint64_t series,
                                               struct pack_bytes bytes, uint64_t *cells_left,
                                               pack_on_reading *on_reading, void *context) {
    struct pack_frame frame;
    enum pack_result result = PACK_OK;
    memset(&frame, 0, sizeof frame);
    frame.schema = schema;
    frame.series = series;
    if (!pack_read_head(&frame, &bytes, cells_left)) {
        result = PACK_NO_MEMORY;
    } else if (!bytes.failed && pack_has(&frame, PACK_FLAG_ADAPTIVE)) {
        result = pack_adaptive_body(&frame, &bytes);
    } else if (!bytes.failed) {
        pack_simple_body(&frame, &bytes);
    }
    if (result == PACK_OK && !bytes.failed) pack_tell(&frame, &bytes, on_reading, context);
    free(frame.places);
    free(frame.texts);
    free(frame.after);
    free(frame.cells);
    free(frame.there);
    return result == PACK_OK && bytes.failed ? PACK_DAMAGED : result;
}

/* ---- Messages ---- */

/* The hash of the schema that a message needs. */
static inline enum pack_result pack_hash_of(const uint8_t *message, size_t size, uint32_t *hash) {
    if (size < 5 || message[0] != 1) return PACK_DAMAGED;
    *hash = (uint32_t)message[1] << 24 | (uint32_t)message[2] << 16 | (uint32_t)message[3] << 8 | message[4];
    return PACK_OK;
}

static inline enum pack_result pack_frames(const struct pack_schema *schema, const uint8_t *message, size_t size,
                                           pack_on_reading *on_reading, void *context) {
    struct pack_bytes bytes = pack_bytes_of(message + 5, size - 5), sizes, frame_bytes;
    uint64_t series, cells_left = PACK_MOST_CELLS;
    enum pack_result result = PACK_OK;
    size_t count, frame;
    series = pack_number(&bytes);
    count = pack_count(&bytes);
    sizes = bytes;
    for (frame = 1; frame < count; frame++) pack_number(&bytes);
    for (frame = 1; frame < count && result == PACK_OK && !bytes.failed; frame++) {
        uint64_t own_size = pack_number(&sizes);
        const uint8_t *own = pack_take(&bytes, own_size);
        if (own == NULL) return PACK_DAMAGED;
        frame_bytes = pack_bytes_of(own, (size_t)own_size);
        result = pack_read_frame(schema, series, frame_bytes, &cells_left, on_reading, context);
    }
    if (bytes.failed) return PACK_DAMAGED;
    if (result != PACK_OK) return result;
    return pack_read_frame(schema, series, bytes, &cells_left, on_reading, context);
}

/* Tells the readings of a message: all of them, or none if the result is not PACK_OK. Frames come one after the other:
 * those who want the readings in the order of their numbers sort them. */
static inline enum pack_result pack_decode(const struct pack_schema *schema, const uint8_t *message, size_t size,
                                           pack_on_reading *on_reading, void *context) {
    uint32_t hash;
    enum pack_result result = pack_hash_of(message, size, &hash);
    if (result != PACK_OK) return result;
    if (hash != schema->hash) return PACK_OTHER_SCHEMA;
    result = pack_frames(schema, message, size, NULL, NULL);
    return result == PACK_OK ? pack_frames(schema, message, size, on_reading, context) : result;
}

#endif
