"""Makes the table of RESULTS.md out of the lines that `compare` prints.

    table.py LINES RESULTS.md COMMIT SHAPE_OF_THE_RUN

LINES has a row per measurement, separated by tabs: server, round, case, what `telstar bench --json` said. The table replaces what
stands between the two marks in RESULTS.md; every goal is listed, met or not, and what was not measured says so.
"""

import json
import os
import re
import statistics
import sys

BEGIN, END = "<!-- compare: begin -->", "<!-- compare: end -->"

SENDS = [
    ("send_1k_4x64", "send 1 KiB, 4 connections × 64"),
    ("send_1k_64x1", "send 1 KiB, 64 connections × 1"),
    ("send_1k_1x1", "send 1 KiB, 1 connection × 1"),
    ("send_10b_4x256", "send 10 bytes, 4 × 256"),
    ("send_10b_batches", "send 10 bytes, 4 × 16 batches of 100"),
    ("consume_backlog", "consume a backlog, 4 × 32"),
    ("e2e_1000", "end to end at 1,000/s"),
    ("e2e_10000", "end to end at 10,000/s"),
    ("e2e_10000_long", "end to end at 10,000/s, the long run"),
    ("sync_send_1k_64x1", "synchronous flush, 64 connections × 1"),
    ("sync_send_1k_4x64", "synchronous flush, 4 connections × 64"),
    ("sync_send_1k_1x1", "synchronous flush, 1 connection × 1"),
    ("send_1k_16_queues", "send 1 KiB, 4 × 64, to 16 queues"),
    ("send_1k_50000_queues", "send 1 KiB, 4 × 64, to 50,000 queues that are there"),
]


class Lines:
    """What was measured, by server and case: one reading for each round."""

    def __init__(self, path):
        self.readings = {}
        for line in open(path):
            server, _, case, said = line.rstrip("\n").split("\t")
            try:
                self.readings.setdefault((server, case), []).append(json.loads(said))
            except ValueError:
                print(f"{server} {case}: no figures: {said!r}", file=sys.stderr)

    def values(self, server, case, *keys):
        """The figures at `keys` of every round that has them."""
        values = []
        for reading in self.readings.get((server, case), []):
            for key in keys:
                reading = reading.get(key) if isinstance(reading, dict) else None
            if reading is not None:
                values.append(reading)
        return values

    def median(self, server, case, *keys):
        values = self.values(server, case, *keys)
        return statistics.median(values) if values else None


def rate(value):
    return f"{value:,.0f}/s"


def micros(us):
    return f"{us:.0f} µs" if us < 1_000 else f"{us / 1_000:.3g} ms"


def cell(lines, server, case):
    rates = lines.values(server, case, "messagesPerSecond")
    if not rates:
        return "", "", ""
    spread = f" ({min(rates):,.0f} to {max(rates):,.0f})" if len(rates) > 1 else ""
    p50, p99, p999 = (lines.median(server, case, "latencyUs", key) for key in ("p50", "p99", "p999"))
    cpu = lines.median(server, case, "serverCpuUsPerMessage")
    errors = sum(sum(e["count"] for e in errors.values()) for errors in lines.values(server, case, "errors"))
    refused = f", {errors:,} refused" if errors else ""
    latency = f"{micros(p50)} / {micros(p99)} / {micros(p999)}"
    return rate(statistics.median(rates)) + spread + refused, latency, f"{cpu:.3g} µs" if cpu is not None else ""


def measured(lines):
    yield "| Case | Telstar | Java | Ratio | p50 / p99 / p99.9, Telstar | Java | CPU a message, Telstar | Java |"
    yield "|---|---|---|---|---|---|---|---|"
    for case, name in SENDS:
        ours, theirs = cell(lines, "telstar", case), cell(lines, "java", case)
        if not ours[0] and not theirs[0]:
            continue
        a, b = (lines.median(server, case, "messagesPerSecond") for server in ("telstar", "java"))
        ratio = f"{a / b:.1f}" if a and b and not case.startswith("e2e") else ""
        yield f"| {name} | {ours[0]} | {theirs[0]} | {ratio} | {ours[1]} | {theirs[1]} | {ours[2]} | {theirs[2]} |"


def goals(lines):
    """Rows of (what is aimed at, what was found, whether it is met or `None`)."""

    def get(server, case, *keys):
        return lines.median(server, case, *keys)

    def per_second(server, case):
        return get(server, case, "messagesPerSecond")

    def compare(name, value, limit, at_least, text):
        if value is None or limit is None:
            return name, "not measured", None
        return name, text(value), value >= limit if at_least else value <= limit

    def times(name, case, factor, pick=per_second, at_least=True):
        ours, theirs = pick("telstar", case), pick("java", case)
        value = ours / theirs if ours is not None and theirs else None
        return compare(name, value, factor, at_least, lambda v: f"{v:.2f}" if v < 1 else f"{v:.1f}")

    def share(name, part, whole, wanted):
        value = part / whole if part is not None and whole else None
        return compare(name, value, wanted, True, lambda v: f"{v:.0%}")

    def share_in_turn(name, part, whole, wanted):
        """Of the means: turns are of several kinds, as the system places worker and load, and the middle is of one of them."""
        value = statistics.mean(part) / statistics.mean(whole) if part and whole else None
        return compare(name, value, wanted, True, lambda v: f"{v:.0%}")

    def most(name, value, limit, text):
        return compare(name, value, limit, False, text)

    def cpu(server, case):
        return get(server, case, "serverCpuUsPerMessage")

    def latency(key):
        return lambda server, case: get(server, case, "latencyUs", key)

    ms = lambda v: f"{v:.3g} ms"
    us = lambda v: f"{v:.0f} µs"
    mib = lambda v: f"{round(v)} MiB"
    sends = lambda case: per_second("telstar", case)
    limits = lambda *keys: get("machine", "limits", *keys)

    yield times("4 × 64: rate ≥ 5 × Java", "send_1k_4x64", 5)
    yield times("4 × 64: CPU ≤ Java / 6", "send_1k_4x64", 1 / 6, cpu, False)
    yield share("4 × 64: ≥ 35 % of a sink that stores nothing", sends("send_1k_4x64"), per_second("machine", "sink_1k_4x64"), 0.35)
    yield times("64 × 1: rate ≥ 2.5 × Java", "send_1k_64x1", 2.5)
    yield times("64 × 1: p99 ≤ Java / 3", "send_1k_64x1", 1 / 3, latency("p99"), False)
    yield times("64 × 1: CPU ≤ Java / 5", "send_1k_64x1", 1 / 5, cpu, False)
    yield times("1 × 1: rate ≥ 1.5 × Java", "send_1k_1x1", 1.5)
    ours, echo = get("telstar", "send_1k_1x1", "latencyUs", "p50"), limits("echoUs", "p50")
    beyond = ours - echo if ours is not None and echo is not None else None
    yield most("1 × 1: p50 within 40 µs of an echo", beyond, 40, us)
    yield compare("10 bytes: ≥ 300,000/s", sends("send_10b_4x256"), 300_000, True, rate)
    yield times("10 bytes: rate ≥ 5 × Java", "send_10b_4x256", 5)
    yield compare("10 bytes in batches: ≥ 1,500,000/s", sends("send_10b_batches"), 1_500_000, True, rate)
    yield times("10 bytes in batches: rate ≥ 2.5 × Java", "send_10b_batches", 2.5)
    yield times("consume: rate ≥ 2 × Java", "consume_backlog", 2)
    yield times("consume: CPU ≤ Java / 3", "consume_backlog", 1 / 3, cpu, False)
    consumed = get("telstar", "consume_backlog", "megabytesPerSecond")
    yield share("consume: ≥ 50 % of a copy through a socket", consumed, limits("copiedMegabytesPerSecond"), 0.5)
    yield most("end to end at 1,000/s: p50 < 1 ms", get("telstar", "e2e_1000", "latencyUs", "p50"), 1_000, us)
    yield most("end to end at 1,000/s: p99 < 3 ms", get("telstar", "e2e_1000", "latencyUs", "p99"), 3_000, us)
    yield times("end to end at 1,000/s: p99 ≤ Java / 3", "e2e_1000", 1 / 3, latency("p99"), False)
    long = "e2e_10000_long"
    yield times("end to end at 10,000/s, long: p99.9 ≤ Java / 5", long, 1 / 5, latency("p999"), False)
    yield most("… no second with a p99 over 20 ms", get("telstar", long, "worstSecond", "p99Us"), 20_000, us)
    grown = [(get("telstar", long, key, "anonymousBytes") or 0) / 2**20 for key in ("serverMemoryBefore", "serverMemory")]
    grown = grown[1] - grown[0] if any(grown) else None
    yield most("… own memory grows by 4 MiB at most", grown, 4, mib)
    turns = lambda case: lines.values("telstar", case, "messagesPerSecond")
    flushes = lines.values("machine", "turn_limits", "flushesPerSecond")
    yield share_in_turn("synchronous, 64 × 1: ≥ 85 % of asynchronous", turns("turn_sync_send_1k_64x1"), turns("turn_send_1k_64x1"), 0.85)
    yield times("synchronous, 64 × 1: rate ≥ 2.5 × Java", "sync_send_1k_64x1", 2.5)
    yield share_in_turn("synchronous, 1 × 1: ≥ 60 % of bare fdatasync", turns("turn_sync_send_1k_1x1"), flushes, 0.6)
    yield share("50,000 queues: ≥ 90 % of 16 queues", sends("send_1k_50000_queues"), sends("send_1k_16_queues"), 0.9)
    memory = lambda case: (lambda kept: kept / 2**20 if kept else None)(get("telstar", case, "serverMemory", "anonymousBytes"))
    yield most("50,000 queues: under 400 MiB own", memory("send_1k_50000_queues"), 400, mib)
    alone, beside = (lines.readings.get(("telstar", "backlog"), [{}])[0].get(key, {}) for key in ("alone", "besideReaders"))
    yield share("beside readers of a backlog: ≥ 80 % of the sends", beside.get("messagesPerSecond"), alone.get("messagesPerSecond"), 0.8)
    p99s = [sent.get("latencyUs", {}).get("p99") for sent in (alone, beside)]
    yield most("… p99 ≤ 2 × that without them", p99s[1] / p99s[0] if all(p99s) else None, 2, lambda v: f"{v:.2f} ×")
    yield most("1,000 held pulls woken: the last within 50 ms", get("telstar", "hold_1000", "lastMs"), 50, ms)
    yield most("… in the worst round, too", get("telstar", "hold_1000", "worstMs"), 50, ms)
    yield most("1,000 clients at once: served within 1 s", get("telstar", "connect_1000", "allServedMs"), 1_000, ms)
    memories = lines.values("telstar", "connect_10000", "memory")
    grown = max(((after["anonymousBytes"] - before["anonymousBytes"]) / 2**20 for before, after in memories), default=None)
    yield most("9,500 idle clients: under 200 MiB more", grown, 200, mib)
    idle = get("telstar", "idle", "residentKib")
    yield most("idle: under 40 MiB resident", idle / 1024 if idle else None, 40, mib)
    yield most("idle: under 0.3 % of a core", get("telstar", "idle", "corePercent"), 0.3, lambda v: f"{v:.2f} %")
    yield most("start: under 60 ms to the first answer", get("telstar", "start", "ms"), 60, ms)


def hardware():
    model = re.search(r"model name\s*: (.*)", open("/proc/cpuinfo").read())
    memory = int(re.search(r"MemTotal:\s*(\d+)", open("/proc/meminfo").read())[1]) / 2**20
    model = model[1].strip() if model else "unknown"
    return f"{os.cpu_count()} × {model}, {memory:.0f} GiB, Linux {os.uname().release}"


def table(lines, commit, shape):
    yield f"Commit {commit}; {shape}; {hardware()}. Medians, in brackets the lowest and the highest round."
    yield ""
    yield from measured(lines)
    yield ""
    flushes = lines.median("machine", "limits", "flushesPerSecond")
    if flushes is not None:
        sink = lines.median("machine", "sink_1k_4x64", "messagesPerSecond")
        copied = lines.median("machine", "limits", "copiedMegabytesPerSecond")
        echo = lines.median("machine", "limits", "echoUs", "p50")
        yield (
            f"What the machine gave without a broker: {flushes:,.0f} fdatasync/s, {copied:,.0f} MB/s through a loopback socket, "
            f"an echo in {echo:.0f} µs, {sink or 0:,.0f} messages/s (4 × 64) to a sink that stores nothing."
        )
        in_turn = [
            (what, lines.values(server, case, key))
            for what, server, case, key in (
                ("64 × 1 asynchronously", "telstar", "turn_send_1k_64x1", "messagesPerSecond"),
                ("synchronously", "telstar", "turn_sync_send_1k_64x1", "messagesPerSecond"),
                ("1 × 1 synchronously", "telstar", "turn_sync_send_1k_1x1", "messagesPerSecond"),
                ("bare fdatasync", "machine", "turn_limits", "flushesPerSecond"),
                ("a server that does nothing but flush and answer", "machine", "turn_limits", "flushedEchoesPerSecond"),
            )
        ]
        if all(values for _, values in in_turn):
            means = ", ".join(f"{what} {rate(statistics.mean(values))}" for what, values in in_turn)
            yield f"In {len(in_turn[0][1])} turns of a second, means: {means}."
        yield ""
    yield "| Goal | Found | |"
    yield "|---|---|---|"
    for name, found, is_met in goals(lines):
        yield f"| {name} | {found} | {'' if is_met is None else 'met' if is_met else '**missed**'} |"


def main(lines_path, results_path, commit, shape):
    text = "\n".join(table(Lines(lines_path), commit, shape))
    results = open(results_path).read()
    begin, end = results.index(BEGIN) + len(BEGIN), results.index(END)
    open(results_path, "w").write(f"{results[:begin]}\n{text}\n{results[end:]}")
    print(text)


if __name__ == "__main__":
    main(*sys.argv[1:])
