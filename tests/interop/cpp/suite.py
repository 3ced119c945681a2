"""What producers and consumers of the C++ client see, through its Python face: NAME_SERVER.

The client speaks an old dialect: numbers among the ext fields, no serialize type, enum ordinals in heartbeats.
It reads bodies as C strings, so they hold no zero byte; and it marks batches with a word that servers do not
take for yes, so there is no check of batches here. Producers and consumers of one process share one network
client: checks run one after another.
"""
import collections
import contextlib
import ctypes
import os
import pathlib
import random
import re
import subprocess
import sys
import threading
import time

from rocketmq import ffi
from rocketmq.client import Message, Producer, PullConsumer, PushConsumer, RecvMessage
from rocketmq.exceptions import ProducerSendSyncFailed, ffi_check
from rocketmq.ffi import MessageModel, _CConsumeStatus, dll

NAME_SERVER = sys.argv[1]
CLIENT = "cpp"
PATIENCE_S = 40
LIMIT_S = 150
CONSUME_SUCCESS = _CConsumeStatus.CONSUME_SUCCESS.value
RECONSUME_LATER = _CConsumeStatus.RECONSUME_LATER.value
ADMIN = pathlib.Path(__file__).resolve().parents[1] / "admin.py"

Letter = collections.namedtuple("Letter", "number body tags keys stadt")


class SendFailure(ctypes.Structure):
    """What the library says of an asynchronous send that failed. The package has other lengths, and finds no text."""
    _fields_ = [("error", ctypes.c_int), ("line", ctypes.c_int), ("file", ctypes.c_char * 256),
                ("msg", ctypes.c_char * 512), ("type", ctypes.c_char * 128)]


ffi.SEND_EXCEPTION_CALLBACK = ctypes.CFUNCTYPE(None, SendFailure)
dll.SendMessageAsync.argtypes = [*dll.SendMessageAsync.argtypes[:-1], ffi.SEND_EXCEPTION_CALLBACK]


def unused(prefix):
    return f"{prefix}-{random.getrandbits(52):x}"


def topic(queues=4):
    name = unused("interop-cpp")
    done = subprocess.run([sys.executable, ADMIN, NAME_SERVER, "topic", name, str(queues)], capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"cannot create a topic: {done.stderr}")
    return name


def letters(count, tags=("tag0", "tag1", "tag2")):
    """Messages with everything a producer can set, each different."""
    alphabet = "abcdefgäöü消息🚀 "
    return [Letter(number=str(n), body="".join(random.choices(alphabet, k=random.randint(1, 500))), tags=tags[n % len(tags)],
                   keys=f"order-{n} größe-{n % 7}", stadt=f"Zürich {n % 5}") for n in range(count)]


def message(topic_name, letter):
    m = Message(topic_name)
    m.set_body(letter.body)
    m.set_tags(letter.tags)
    m.set_keys(letter.keys)
    m.set_property("number", letter.number)
    m.set_property("stadt", letter.stadt)
    return m


class TooFew(AssertionError):
    """Not as many messages came as were sent."""


def allowing_for_drops(attempt):
    """A busy server may drop what its client never asks about again; not three times in a row."""
    for _ in range(2):
        with contextlib.suppress(TooFew):
            return attempt()
    return attempt()


class Inbox:
    """What a consumer was given, in the order it came; contents are copied, for a message is valid in its callback only."""

    def __init__(self):
        self.arrived = threading.Condition()
        self.items = []

    def take(self, m):
        letter = Letter(text(m.get_property("number")), text(m.body), text(m.tags), text(m.keys), text(m.get_property("stadt")))
        with self.arrived:
            self.items.append((m.queue_id, m.reconsume_times, letter))
            self.arrived.notify_all()
        return CONSUME_SUCCESS

    def wait(self, count, seconds=PATIENCE_S):
        with self.arrived:
            if not self.arrived.wait_for(lambda: len(self.items) >= count, seconds):
                raise TooFew(f"{len(self.items)} of {count} messages came within {seconds} s")

    def letters_after(self, count, seconds=PATIENCE_S):
        """Waits for `count` messages, then a little longer for one too many."""
        self.wait(count, seconds)
        time.sleep(1)
        return [letter for _, _, letter in self.items]


def text(value):
    return value.decode() if isinstance(value, bytes) else value


def same(actual, expected, what):
    if actual != expected:
        raise AssertionError(f"{what} should be {expected} but is {actual}")


def same_letters(arrived, sent):
    missing = collections.Counter(sent) - collections.Counter(arrived)
    extra = collections.Counter(arrived) - collections.Counter(sent)
    if missing or extra:
        raise AssertionError(f"{missing.total()} missing {list(missing)[:2]}, {extra.total()} too many {list(extra)[:2]}")


@contextlib.contextmanager
def started(client):
    client.set_namesrv_addr(NAME_SERVER)
    client.start()
    try:
        yield client
    finally:
        client.shutdown()


@contextlib.contextmanager
def producer():
    """A producer that is connected.

    Its first heartbeat, 10 ms after its start, connects as well as its first send; while the one does, the other fails at
    once for want of a connection.
    """
    with started(Producer(unused("producers"), timeout=15_000)) as p:
        send(p, topic(1), letters(1)[0])
        yield p


def send(p, topic_name, letter):
    """Sends, again when the server is busy or cannot be reached for the moment; "no route" is what the client says to both."""
    for attempt in range(5):
        try:
            return p.send_sync(message(topic_name, letter))
        except ProducerSendSyncFailed as error:
            if attempt == 4 or not any(passing in str(error) for passing in ("No route info", "busy")):
                raise
            time.sleep(1)


def push(topic_name, callback, expression="*", orderly=False, model=MessageModel.CLUSTERING, group=None):
    consumer = PushConsumer(group or unused("consumers"), orderly, model)
    consumer.set_instance_name(unused("client"))
    # Not `consumer.subscribe`: there a callback refuses by raising, and what the library then reads as its answer is undefined.
    ffi_check(dll.Subscribe(consumer._handle, topic_name.encode(), expression.encode()))
    consumer._register_callback(lambda _, handle: callback(RecvMessage(handle)))
    return started(consumer)


# ---- checks

def sync_sends_arrive_once_with_all_they_carry():
    name, sent, inbox = topic(), letters(150), Inbox()
    with push(name, inbox.take), producer() as p:
        results = [send(p, name, letter) for letter in sent]
        same({result.status for result in results}, {0}, "send statuses")
        same(len({result.msg_id for result in results}), len(sent), "distinct message ids")
        same_letters(inbox.letters_after(len(sent)), sent)


def async_sends_arrive_once_with_all_they_carry():
    name, sent, inbox = topic(), letters(100), Inbox()
    done, failures = threading.Semaphore(0), []

    def fail(error):
        failures.append(error)
        done.release()

    with push(name, inbox.take), producer() as p:
        for letter in sent:
            p.send_async(message(name, letter), lambda result: done.release(), fail)
        for n in range(len(sent)):
            if not done.acquire(timeout=PATIENCE_S):
                raise AssertionError(f"{len(sent) - n} sends without an answer")
        same(failures, [], "failed sends")
        same_letters(inbox.letters_after(len(sent)), sent)


def one_way_sends_arrive_once_with_all_they_carry():
    def attempt():
        name, sent, inbox = topic(), letters(80), Inbox()
        with push(name, inbox.take), producer() as p:
            for letter in sent:
                p.send_oneway(message(name, letter))
                time.sleep(0.002)
            same_letters(inbox.letters_after(len(sent), 20), sent)

    allowing_for_drops(attempt)


def orderly_consumer_sees_send_order_in_every_queue():
    name, sent, inbox = topic(), letters(160), Inbox()
    with push(name, inbox.take, orderly=True), producer() as p:
        for letter in sent:
            p.send_orderly(message(name, letter), int(letter.number) % 8)
        inbox.letters_after(len(sent))
    by_key = collections.defaultdict(list)
    for queue, _, letter in inbox.items:
        by_key[int(letter.number) % 8].append((queue, int(letter.number)))
    for key, places in by_key.items():
        same(len({queue for queue, _ in places}), 1, f"queues of key {key}")
        same([number for _, number in places], list(range(key, len(sent), 8)), f"numbers of key {key}")


def tag_filter_lets_only_its_tags_pass():
    name, inbox = topic(), Inbox()
    sent = letters(100, tags=("red", "AaAa", "BBBB", "grün", "Red"))  # "AaAa" and "BBBB" have one hash code
    wanted = [letter for letter in sent if letter.tags in ("red", "AaAa", "grün")]
    with push(name, inbox.take, "red || AaAa || grün"), producer() as p:
        for letter in sent:
            send(p, name, letter)
        same_letters(inbox.letters_after(len(wanted)), wanted)


def broadcast_gives_every_consumer_every_message():
    name, group, sent, one, other = topic(), unused("broadcast"), letters(50), Inbox(), Inbox()
    with push(name, one.take, model=MessageModel.BROADCASTING, group=group), \
            push(name, other.take, model=MessageModel.BROADCASTING, group=group), producer() as p:
        for letter in sent:
            send(p, name, letter)
        same_letters(one.letters_after(len(sent)), sent)
        same_letters(other.letters_after(len(sent)), sent)


def pull_consumer_reads_what_was_sent():
    name, sent = topic(2), letters(60)
    with producer() as p:
        for letter in sent:
            send(p, name, letter)
    with started(PullConsumer(unused("consumers"))) as consumer:
        bodies = []
        deadline = time.monotonic() + PATIENCE_S
        while len(bodies) < len(sent) and time.monotonic() < deadline:
            bodies += [text(m.body) for m in consumer.pull(name)]  # goes on where the last one ended
        same(collections.Counter(bodies), collections.Counter(letter.body for letter in sent), "bodies")


def refused_message_comes_again_through_the_retry_topic():
    def attempt():
        name, sent, inbox = topic(2), letters(4), Inbox()

        def refuse_once(m):
            inbox.take(m)
            return RECONSUME_LATER if m.reconsume_times == 0 else CONSUME_SUCCESS

        with push(name, refuse_once), producer() as p:
            for letter in sent:
                send(p, name, letter)
            inbox.wait(2 * len(sent), 45)
        same(sorted(times for _, times, _ in inbox.items), [0] * 4 + [1] * 4, "reconsume times")
        same_letters([letter for _, _, letter in inbox.items], sent + sent)

    allowing_for_drops(attempt)  # this client does not look at the answer when it sends a message back


def delayed_messages_come_after_their_level_and_never_before():
    name, sent, inbox, arrivals = topic(2), letters(6), Inbox(), []

    def note(m):
        arrivals.append(time.time())
        inbox.take(m)
        return CONSUME_SUCCESS

    with push(name, note), producer() as p:
        began = time.time()
        for letter in sent:
            m = message(name, letter)
            m.set_delay_time_level(2)  # 5 s
            p.send_sync(m)
        inbox.wait(len(sent))
    same_letters([letter for _, _, letter in inbox.items], sent)
    same(min(arrivals) - began >= 5, True, "none came before its time")


CHECKS = [
    delayed_messages_come_after_their_level_and_never_before,
    sync_sends_arrive_once_with_all_they_carry,
    async_sends_arrive_once_with_all_they_carry,
    one_way_sends_arrive_once_with_all_they_carry,
    orderly_consumer_sees_send_order_in_every_queue,
    tag_filter_lets_only_its_tags_pass,
    broadcast_gives_every_consumer_every_message,
    pull_consumer_reads_what_was_sent,
    refused_message_comes_again_through_the_retry_topic,
]


def why_it_fails(check):
    """None when the check passes within its time."""
    outcome = []

    def body():
        try:
            check()
            outcome.append(None)
        except BaseException as error:
            outcome.append(" ".join(f"{type(error).__name__}: {error}".split())[:500])

    thread = threading.Thread(target=body, daemon=True)
    thread.start()
    thread.join(LIMIT_S)
    return outcome[0] if outcome else f"not done within {LIMIT_S} s"


def main():
    only = re.compile(os.environ.get("ONLY", ""))
    failed = 0
    for check in CHECKS:
        if only.search(check.__name__):
            why = why_it_fails(check)
            failed += why is not None
            print(f"ok {CLIENT}/{check.__name__}" if why is None else f"FAIL {CLIENT}/{check.__name__}: {why}", flush=True)
    os._exit(1 if failed else 0)  # the library may leave threads that never end


main()
