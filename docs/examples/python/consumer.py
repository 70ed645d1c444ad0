"""Reads what is in a topic as a member of a group, and commits what it printed.

python consumer.py 127.0.0.1:7420 lamps lighting
"""

import queue
import sys

import grpc
from batches import records_of
from statecast.v1.groups_pb2 import Commit, CommitPosition, ConsumeRequest, Join, Leave, MemberHeartbeat, Revoked
from statecast.v1.groups_pb2_grpc import GroupsStub

address, topic, group = sys.argv[1:]
channel = grpc.insecure_channel(address, [("grpc.max_receive_message_length", 16 << 20)])
requests = queue.Queue()


def say():
    yield ConsumeRequest(join=Join(group=group, topics=[topic]))
    while True:
        try:
            yield requests.get(timeout=3)
        except queue.Empty:  # Nothing to say for three seconds, but alive.
            yield ConsumeRequest(heartbeat=MemberHeartbeat())


for heard in GroupsStub(channel).Consume(say()):
    for batch in heard.batches.batches:
        for offset, record in records_of(batch.batch):
            print("read", batch.topic, batch.batch.partition, offset, record.key)
        done = CommitPosition(topic=batch.topic, partition=batch.batch.partition, offset=batch.batch.next_offset)
        requests.put(ConsumeRequest(commit=Commit(positions=[done])))
    for refused in heard.commit_result.refused:
        print("not committed:", refused.error.message, file=sys.stderr)
    if heard.HasField("revoke"):  # All that came of these was printed already.
        requests.put(ConsumeRequest(revoked=Revoked(partitions=heard.revoke.partitions)))
    if heard.HasField("caught_up"):  # Without this it stays, and reads what comes.
        requests.put(ConsumeRequest(leave=Leave()))
