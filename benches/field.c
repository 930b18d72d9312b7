/* A libmodbus client that reads ten holding registers again and again: field PORT COUNT. Prints microseconds of CPU a transaction. */
#include <modbus.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>

static double seconds(struct timeval t) { return t.tv_sec + t.tv_usec / 1e6; }

int main(int argc, char **argv) {
    modbus_t *bus = modbus_new_tcp("127.0.0.1", atoi(argv[1]));
    int count = atoi(argv[2]);
    uint16_t words[10];
    struct rusage before, after;
    if (argc != 3 || modbus_connect(bus)) { fprintf(stderr, "no connection\n"); return 1; }
    modbus_set_slave(bus, 1);
    for (int i = 0; i < 200; i++) modbus_read_registers(bus, 0, 10, words);
    getrusage(RUSAGE_SELF, &before);
    for (int i = 0; i < count; i++)
        if (modbus_read_registers(bus, 0, 10, words) != 10) { fprintf(stderr, "failed\n"); return 1; }
    getrusage(RUSAGE_SELF, &after);
    double used = seconds(after.ru_utime) + seconds(after.ru_stime) - seconds(before.ru_utime) - seconds(before.ru_stime);
    printf("%.3f\n", used * 1e6 / count);
    return 0;
}
