"""Reads what is in a topic as a member of a group, and commits what it printed.

python consumer.py 127.0.0.1:7420 lamps lighting
"""

import queue
import sys
import time

import grpc
from batches import records_of
from statecast.v1.groups_pb2 import Commit, CommitPosition, ConsumeRequest, Join, Leave, MemberHeartbeat, Revoked
from statecast.v1.groups_pb2_grpc import GroupsStub

address, topic, group = sys.argv[1:]
alive = [("grpc.keepalive_time_ms", 10_000), ("grpc.keepalive_timeout_ms", 5_000)]
channel = grpc.insecure_channel(address, [("grpc.max_receive_message_length", 16 << 20), *alive])


def consume():
    requests, silence = queue.Queue(), 0.3  # Seconds, until `joined` says how many.
    generations = {}  # Of the partitions that it has: commits name them.

    def say():
        yield ConsumeRequest(join=Join(group=group, topics=[topic]))
        while True:
            try:
                yield requests.get(timeout=silence)
            except queue.Empty:  # Nothing to say for so long, but alive.
                yield ConsumeRequest(heartbeat=MemberHeartbeat())

    for heard in GroupsStub(channel).Consume(say()):
        silence = heard.joined.heartbeat_interval_ms / 1000 or silence
        for got in heard.assigned.partitions:
            generations[got.topic, got.partition] = heard.assigned.generation
        for batch in heard.batches.batches:
            place = batch.topic, batch.batch.partition
            for offset, record in records_of(batch.batch):
                print("read", *place, offset, record.key)
            done = CommitPosition(topic=place[0], partition=place[1], offset=batch.batch.next_offset,
                                  generation=generations[place])
            requests.put(ConsumeRequest(commit=Commit(positions=[done])))
        for refused in heard.commit_result.refused:
            print("not committed:", refused.error.message, file=sys.stderr)
        if heard.HasField("truncated") or heard.HasField("quarantined"):
            print("missing records:", heard, file=sys.stderr)
        if heard.HasField("revoke"):  # All that came of these was printed and committed already.
            requests.put(ConsumeRequest(revoked=Revoked(partitions=heard.revoke.partitions,
                                                        generation=heard.revoke.generation)))
        for gone in [*heard.revoke.partitions, *heard.lost.partitions]:
            generations.pop((gone.topic, gone.partition), None)
        if heard.HasField("caught_up"):  # Without this it stays, and reads what comes.
            requests.put(ConsumeRequest(leave=Leave()))


while True:
    try:
        consume()
        break
    except grpc.RpcError as error:  # Such as STOPPING: what wasn't committed comes again.
        if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.ABORTED):
            raise
        print("joining again:", error.details(), file=sys.stderr)
        time.sleep(1)
