"""Reads a simulator with pymodbus: modbus_client.py PORT | /path  UNIT  (holding|input|coil|discrete|file:N)  ADDRESS  COUNT

Prints the values, or `exception N`, or `silent`.
"""
import sys

from pymodbus.client import ModbusSerialClient, ModbusTcpClient
from pymodbus.exceptions import ModbusIOException
from pymodbus.pdu.file_message import FileRecord

where, unit, table, address, count = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4]), int(sys.argv[5])
if where.startswith("/"):
    client = ModbusSerialClient(where, baudrate=19200, parity="N", timeout=1, retries=0)
else:
    client = ModbusTcpClient("127.0.0.1", port=int(where), timeout=1, retries=0)
assert client.connect()


def read_file(address, count, device_id):
    record = FileRecord(file_number=int(table.split(":")[1]), record_number=address, record_length=2 * count)
    answer = client.read_file_record([record], device_id=device_id)
    if not answer.isError():
        data = answer.records[0].record_data
        answer.registers = [int.from_bytes(data[at : at + 2], "big") for at in range(0, len(data), 2)]
    return answer


read = {
    "holding": client.read_holding_registers,
    "input": client.read_input_registers,
    "coil": client.read_coils,
    "discrete": client.read_discrete_inputs,
}.get(table, read_file)
try:
    answer = read(address, count=count, device_id=unit)
    if answer.isError():
        print("exception", answer.exception_code)
    else:
        values = answer.registers if table not in ("coil", "discrete") else [int(bit) for bit in answer.bits[:count]]
        print(*values)
except ModbusIOException:
    print("silent")
client.close()
