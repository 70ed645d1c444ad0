"""Creates a topic, produces records to it and reads all of its records.

python client.py 127.0.0.1:7420 lamps
"""

import sys

import grpc
from batches import records_of
from statecast.v1.admin_pb2 import CreateTopicRequest
from statecast.v1.admin_pb2_grpc import AdminStub
from statecast.v1.log_pb2 import FetchRequest, ProduceRequest
from statecast.v1.log_pb2_grpc import LogStub
from statecast.v1.record_pb2 import Header, Record, RecordBatch

address, topic = sys.argv[1:]
channel = grpc.insecure_channel(address, [("grpc.max_receive_message_length", 16 << 20)])
try:
    AdminStub(channel).CreateTopic(CreateTopicRequest(name=topic, partitions=2))
except grpc.RpcError as error:
    if error.code() != grpc.StatusCode.ALREADY_EXISTS:
        raise

log = LogStub(channel)
batch = RecordBatch(records=[
    Record(key=b"hall", value=b"on"),
    Record(key=b"garden", value=b"on", headers=[Header(name="by", value=b"timer")]),
    Record(key=b"hall"),  # No value: a tombstone.
])
for position in log.Produce(ProduceRequest(topic=topic, batch=batch)).positions:
    print("produced", position.partition, position.offset)

for response in log.Fetch(FetchRequest(topic=topic, until_end=True)):
    for fetched in response.batches.batches:
        for offset, record in records_of(fetched):
            value = record.value if record.HasField("value") else None
            print("fetched", fetched.partition, offset, record.key, value)
