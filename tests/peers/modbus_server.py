"""A Modbus server by pymodbus: modbus_server.py PORT | /path/of/a/serial/device

Unit 1 and 2. Holding registers: 0-1 a counter of 32 bits (grows by one with each read of it), 10-14 unit * 100 + index,
16-17 the float -1.5. Input registers 0-2: 7, 8, 9. Coils 0 and 2 are set, discrete inputs 1, 3, 5 .. are set. Holding register 30
answers exception 6 (busy).
"""
import asyncio
import sys

from pymodbus.constants import ExcCodes
from pymodbus.server import ModbusSerialServer, ModbusTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice

REGISTERS, BITS = DataType.REGISTERS, DataType.BITS


def device(unit):
    counter = 0

    async def action(function, start, address, count, registers, new):
        nonlocal counter
        if function == 3 and new is None and address <= 0 < address + count:
            counter += 1
            registers[0 - start] = counter >> 16
            registers[1 - start] = counter & 0xFFFF
        if function == 3 and address == 30:
            return ExcCodes.DEVICE_BUSY
        return None

    coils = [SimData(0, values=[True, False, True] + [False] * 13, datatype=BITS)]
    discrete = [SimData(0, values=[False, True] * 8, datatype=BITS)]
    holding = [
        SimData(0, values=[0, 0], datatype=REGISTERS),
        SimData(10, values=[unit * 100 + index for index in range(5)], datatype=REGISTERS),
        SimData(16, values=-1.5, datatype=DataType.FLOAT32),
        SimData(30, values=[0], datatype=REGISTERS),
    ]
    inputs = [SimData(0, values=[7, 8, 9], datatype=REGISTERS)]
    return SimDevice(unit, action=action, simdata=(coils, discrete, holding, inputs))


async def main(where):
    devices = [device(1), device(2)]
    if where.startswith("/"):
        server = ModbusSerialServer(devices, port=where, baudrate=19200, parity="N", stopbits=1)
    else:
        server = ModbusTcpServer(devices, address=("127.0.0.1", int(where)))
    await server.serve_forever(background=True)
    print("ready", flush=True)
    await asyncio.Event().wait()


asyncio.run(main(sys.argv[1]))
