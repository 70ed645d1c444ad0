"""Changes what a compacted topic says is true, and keeps a map of it current.

python state.py 127.0.0.1:7420 rooms
"""

import sys
import time

import grpc
from statecast.v1.admin_pb2 import CLEANUP_COMPACT, CreateTopicRequest, TopicConfig
from statecast.v1.admin_pb2_grpc import AdminStub
from statecast.v1.log_pb2 import RecordPosition
from statecast.v1.state_pb2 import (Absent, DeleteRequest, ExpectedVersion, GetRequest, PutRequest,
                                    WatchFrom, WatchRequest, Write)
from statecast.v1.state_pb2_grpc import StateStub

address, topic = sys.argv[1:]
channel = grpc.insecure_channel(address, [
    ("grpc.max_receive_message_length", 16 << 20),
    ("grpc.keepalive_time_ms", 10_000),  # A broker that vanished is noticed.
])
try:
    config = TopicConfig(cleanup=CLEANUP_COMPACT)
    AdminStub(channel).CreateTopic(CreateTopicRequest(name=topic, partitions=2, config=config))
except grpc.RpcError as error:
    if error.code() != grpc.StatusCode.ALREADY_EXISTS:
        raise
state = StateStub(channel)


def put(key, value, expected):
    write = Write(key=key, value=value, expected=expected)
    return state.Put(PutRequest(topic=topic, writes=[write])).written[0].version


def watch():
    """What is true now, and again after each change, over lost connections."""
    known, offsets = {}, {}
    while True:
        positions = [RecordPosition(partition=p, offset=o) for p, o in offsets.items()]
        start = {"from": WatchFrom(next_offsets=positions)} if offsets else {}
        try:
            for heard in state.Watch(WatchRequest(topic=topic, **start)):
                if heard.HasField("opened"):  # A snapshot counts once it is complete.
                    building = {} if heard.opened.snapshot else known
                for entry in heard.entries.entries:
                    building[entry.partition, entry.key] = entry.value
                for change in heard.changes.changes:
                    at = change.put if change.HasField("put") else change.removed
                    if change.HasField("put"):
                        building[at.partition, at.key] = at.value
                    else:
                        building.pop((at.partition, at.key), None)
                    if building is known:
                        offsets[at.partition] = at.offset + 1
                for at in [*heard.synced.next_offsets, *heard.progress.next_offsets]:
                    known = building
                    offsets[at.partition] = at.offset
                if building is known and (heard.HasField("synced") or heard.HasField("changes")):
                    yield known
        except grpc.RpcError as error:
            if error.code() == grpc.StatusCode.OUT_OF_RANGE:
                offsets = {}  # Compaction removed what comes next: a snapshot is needed.
            elif error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.ABORTED):
                raise
            time.sleep(1)


absent = ExpectedVersion(absent=Absent())
put(b"garden", b"free", absent)
free = put(b"hall", b"free", absent)
put(b"hall", b"taken", ExpectedVersion(version=free))
try:
    put(b"hall", b"mine", ExpectedVersion(version=free))
except grpc.RpcError as error:
    print("too late:", error.code().name)
print("hall:", state.Get(GetRequest(topic=topic, key=b"hall")).entry.value)

for rooms in watch():
    print({key: value for (_, key), value in sorted(rooms.items(), key=lambda room: room[0][1])})
    if not rooms:
        break
    state.Delete(DeleteRequest(topic=topic, key=max(key for _, key in rooms)))
