#!/usr/bin/env python3
"""The administration the suites need, spoken to a server by hand: standard library only.

    admin.py NS await BROKERS            wait until that many master brokers are registered and answer
    admin.py NS topic NAME [QUEUES [ATTRIBUTES]]
                                         create a topic on every broker and wait for its route
    admin.py NS order TOPIC QUEUES       order the topic over all brokers, in so many queues of each, and wait until routes say so
    admin.py NS await-committed GROUP TOPIC OFFSET QUEUES
                                         wait until the group has committed that offset for every queue
"""
import json
import re
import socket
import struct
import sys
import time

CONSUMER_OFFSET = 14
CREATE_TOPIC = 17
MAX_OFFSET = 30
ROUTE = 105
CLUSTERS = 106
PUT_KV = 100
NAME_SERVER_SETTINGS = 318

PATIENCE_S = 60
BROKER_NAME = re.compile(r'"brokerName"\s*:\s*"([^"]+)"')
MASTER_ADDRESS = re.compile(r'[{,]\s*"?0"?\s*:\s*"([^"]+:\d+)"')  # Java writes numbers as keys, without quotes


class Refused(Exception):
    """The server answered with an error."""


def ask(address, code, fields=(), body=b"", timeout_s=10):
    """One request on a connection of its own: returns the ext fields and the body of the reply."""
    host, port = address.rsplit(":", 1)
    header = json.dumps({"code": code, "language": "JAVA", "version": 435, "opaque": 7, "flag": 0,
                         "serializeTypeCurrentRPC": "JSON", "extFields": {k: str(v) for k, v in dict(fields).items()}}).encode()
    with socket.create_connection((host, int(port)), timeout_s) as stream, stream.makefile("rb") as replies:
        stream.sendall(struct.pack(">II", 4 + len(header) + len(body), len(header)) + header + body)
        prefix = replies.read(8)
        if len(prefix) < 8:
            raise ConnectionError(f"{address} hung up")
        length, header_len = struct.unpack(">II", prefix)
        header_len &= 0xFFFFFF
        frame = replies.read(length - 4)
    reply = json.loads(frame[:header_len])
    if reply["code"] != 0:
        raise Refused(f"request {code} at {address}: response code {reply['code']}, {reply.get('remark')}")
    return reply.get("extFields") or {}, frame[header_len:].decode()


def master_brokers(name_server):
    return sorted(set(MASTER_ADDRESS.findall(ask(name_server, CLUSTERS)[1])))


def patiently(probe, wanted):
    """Repeats `probe` until it returns something true."""
    deadline = time.monotonic() + PATIENCE_S
    trouble = "not so"
    while time.monotonic() < deadline:
        try:
            if probe():
                return
        except (OSError, Refused) as error:
            trouble = error
        time.sleep(0.1)
    sys.exit(f"{wanted}: {trouble}, after {PATIENCE_S} s")


def await_brokers(name_server, count):
    def all_answer():
        brokers = master_brokers(name_server)
        for broker in brokers:
            ask(broker, MAX_OFFSET, {"topic": "TBW102", "queueId": 0})
        return len(brokers) >= count
    patiently(all_answer, f"{count} brokers at {name_server}")


def create_topic(name_server, topic, queues=8, attributes=None):
    brokers = master_brokers(name_server)
    for broker in brokers:
        ask(broker, CREATE_TOPIC, {
            "topic": topic, "defaultTopic": "TBW102", "readQueueNums": queues, "writeQueueNums": queues, "perm": 6,
            "topicFilterType": "SINGLE_TAG", "topicSysFlag": 0, "order": "false",
            **({"attributes": attributes} if attributes else {})})

    def routed():
        route = ask(name_server, ROUTE, {"topic": topic})[1]
        return all(f'"{broker}"' in route for broker in brokers)
    patiently(routed, f"route of {topic}")


def order_topic(name_server, topic, queues):
    """What mqadmin's updateOrderConf does, and the switch that lets clients know."""
    brokers = sorted(set(BROKER_NAME.findall(ask(name_server, ROUTE, {"topic": topic})[1])))
    order = ";".join(f"{broker}:{queues}" for broker in brokers)
    ask(name_server, PUT_KV, {"namespace": "ORDER_TOPIC_CONFIG", "key": topic, "value": order})
    ask(name_server, NAME_SERVER_SETTINGS, body=b"orderMessageEnable=true")
    patiently(lambda: f'"{order}"' in ask(name_server, ROUTE, {"topic": topic})[1], f"order of {topic}")


def await_committed(name_server, group, topic, offset, queues):
    def all_committed():
        return all(ask(broker, CONSUMER_OFFSET, {"consumerGroup": group, "topic": topic, "queueId": queue})[0]["offset"] == offset
                   for broker in master_brokers(name_server) for queue in range(int(queues)))
    patiently(all_committed, f"offset {offset} of {group}")


def main(name_server, command, *rest):
    if command == "await":
        await_brokers(name_server, int(rest[0]))
    elif command == "topic":
        create_topic(name_server, *rest)
    elif command == "order":
        order_topic(name_server, *rest)
    elif command == "await-committed":
        await_committed(name_server, *rest)
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    try:
        main(*sys.argv[1:])
    except (OSError, Refused) as error:
        sys.exit(f"{type(error).__name__}: {error}")
