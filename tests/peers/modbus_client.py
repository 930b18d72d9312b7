"""Reads a simulator with pymodbus: modbus_client.py PORT | /path  UNIT  (holding|input|coil|discrete)  ADDRESS  COUNT

Prints the values, or `exception N`, or `silent`.
"""
import sys

from pymodbus.client import ModbusSerialClient, ModbusTcpClient
from pymodbus.exceptions import ModbusIOException

where, unit, table, address, count = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4]), int(sys.argv[5])
if where.startswith("/"):
    client = ModbusSerialClient(where, baudrate=19200, parity="N", timeout=1, retries=0)
else:
    client = ModbusTcpClient("127.0.0.1", port=int(where), timeout=1, retries=0)
assert client.connect()
read = {
    "holding": client.read_holding_registers,
    "input": client.read_input_registers,
    "coil": client.read_coils,
    "discrete": client.read_discrete_inputs,
}[table]
try:
    answer = read(address, count=count, device_id=unit)
    if answer.isError():
        print("exception", answer.exception_code)
    else:
        values = answer.registers if table in ("holding", "input") else [int(bit) for bit in answer.bits[:count]]
        print(*values)
except ModbusIOException:
    print("silent")
client.close()
