/* A Modbus server by libmodbus: libmodbus_server PORT | /path/of/a/serial/device. Unit 1; holding and input register n hold 1000 + n and
   2000 + n, coils and discrete inputs with an odd number are set; 200 of each. */
#include <modbus.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

int main(int argc, char **argv) {
    uint8_t query[MODBUS_TCP_MAX_ADU_LENGTH];
    int is_serial = argc == 2 && argv[1][0] == '/';
    modbus_t *bus = is_serial ? modbus_new_rtu(argv[1], 19200, 'N', 8, 1) : modbus_new_tcp("127.0.0.1", atoi(argv[1]));
    modbus_mapping_t *map = modbus_mapping_new(200, 200, 200, 200);
    int listener = -1;
    for (int n = 0; n < 200; n++) {
        map->tab_registers[n] = 1000 + n;
        map->tab_input_registers[n] = 2000 + n;
        map->tab_bits[n] = map->tab_input_bits[n] = n % 2;
    }
    modbus_set_slave(bus, 1);
    if (is_serial) {
        if (modbus_connect(bus)) { perror("connect"); return 1; }
    } else if ((listener = modbus_tcp_listen(bus, 4)) < 0) {
        perror("listen");
        return 1;
    }
    puts("ready");
    fflush(stdout);
    for (;;) {
        int length;
        if (!is_serial) modbus_tcp_accept(bus, &listener);
        while ((length = modbus_receive(bus, query)) >= 0)
            if (length > 0) modbus_reply(bus, query, length, map);
        if (!is_serial) modbus_close(bus);
    }
}
