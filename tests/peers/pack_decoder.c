/* Reads messages by docs/decoders/pack.h. A line has hash, kinds, types and digits as one digit for each column, model
 * and message in hexadecimal; `-` is nothing. Prints the readings of each in JSON, or null if it is damaged. */
#include "../../docs/decoders/pack.h"

#include <inttypes.h>
#include <stdio.h>

struct output {
    const struct pack_schema *schema;
    char before; /* the next reading */
};

static void print_text(struct pack_text text) {
    size_t at;
    putchar('"');
    for (at = 0; at < text.size; at++) {
        unsigned char byte = (unsigned char)text.bytes[at];
        if (byte < 32 || byte == '"' || byte == '\\') {
            printf("\\u%04x", byte);
        } else {
            putchar(byte);
        }
    }
    putchar('"');
}

static void print_value(int type, const struct pack_reading *reading) {
    uint64_t bits;
    uint32_t bits_of_f32;
    switch (type) {
    case PACK_BOOL: printf("\"bool\",%s", reading->value.truth ? "true" : "false"); break;
    case PACK_INT: printf("\"int\",%" PRId64, reading->value.integer); break;
    case PACK_UINT: printf("\"uint\",%" PRIu64, reading->value.natural); break;
    case PACK_F32:
        memcpy(&bits_of_f32, &reading->value.f32, sizeof bits_of_f32);
        printf("\"f32\",\"%08" PRIx32 "\"", bits_of_f32);
        break;
    case PACK_TEXT:
    case PACK_LIST: /* still in JSON */
        printf(type == PACK_TEXT ? "\"text\"," : "\"list\",");
        print_text(reading->value.text);
        break;
    default:
        memcpy(&bits, &reading->value.f64, sizeof bits);
        printf("\"f64\",\"%016" PRIx64 "\"", bits);
    }
}

static void on_reading(void *context, const struct pack_reading *reading) {
    static const char *const qualities[] = {"good", "stale", "bad"};
    struct output *output = (struct output *)context;
    printf("%c[%" PRIu64 ",%zu,%" PRId64 ",%s,", output->before, reading->number, reading->column, reading->time_ms,
           reading->clock_set ? "true" : "false");
    output->before = ',';
    if (reading->has_value) {
        print_value(output->schema->types[reading->column], reading);
    } else {
        printf("null,null");
    }
    printf(",\"%s\",", qualities[reading->quality]);
    if (reading->quality == PACK_GOOD) {
        printf("null");
    } else {
        print_text(reading->reason);
    }
    printf(",%" PRIu64 ",%" PRIu64 "]", reading->age_ms, reading->series);
}

/* A block of exactly these bytes, so that a read behind them is found. */
static uint8_t *bytes_of(const char *text, unsigned base, size_t *size) {
    size_t digits = base == 16 ? 2 : 1, at;
    uint8_t *bytes;
    *size = text[0] == '-' ? 0 : strlen(text) / digits;
    bytes = (uint8_t *)malloc(*size + (*size == 0));
    if (bytes == NULL) abort();
    for (at = 0; at < *size; at++) {
        char number[3] = {0};
        memcpy(number, text + digits * at, digits);
        bytes[at] = (uint8_t)strtoul(number, NULL, (int)base);
    }
    return bytes;
}

static void take(char *line) {
    char *fields[6], *field = strtok(line, " \n");
    uint8_t *bytes[5];
    size_t sizes[5], at;
    struct pack_schema schema;
    struct output output;
    for (at = 0; at < 6 && field != NULL; at++, field = strtok(NULL, " \n")) fields[at] = field;
    if (at < 6) abort();
    for (at = 0; at < 5; at++) bytes[at] = bytes_of(fields[at + 1], at < 3 ? 10 : 16, &sizes[at]);
    schema.hash = (uint32_t)strtoul(fields[0], NULL, 16);
    schema.columns = sizes[0];
    schema.kinds = bytes[0];
    schema.types = bytes[1];
    schema.decimals = bytes[2];
    schema.model = sizes[3] > 0 ? bytes[3] : NULL;
    schema.model_size = sizes[3];
    output.schema = &schema;
    output.before = '[';
    if (pack_decode(&schema, bytes[4], sizes[4], on_reading, &output) == PACK_OK) {
        puts(output.before == '[' ? "[]" : "]");
    } else {
        puts("null");
    }
    for (at = 0; at < 5; at++) free(bytes[at]);
}

int main(void) {
    static char line[1 << 20];
    while (fgets(line, sizeof line, stdin) != NULL) take(line);
    return 0;
}
