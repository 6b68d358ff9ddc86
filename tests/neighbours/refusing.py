#!/usr/bin/env python3
"""(b) The sink refuses: everything stays queued, listings agree, a selection tries only what it names, a plain -q drains
everything once the sink is back. And a message that arrives while a list of 100 000 goes out leaves within 2 s."""
from lab import *

COUNT = 2_000 if FULL else 300
LIST = 100_000 if FULL else 10_000

with Scenario("refusing") as s:
    sink = s.sink()
    kvmta = s.kvmta(smart_host=sink.port)
    kvmta.start()
    codes = Counter(send(kvmta.port, "a@load.example", [f"user{n}@sink.example"], message(f"n{n}"))[0] for n in range(COUNT))
    s.check(codes == {250: COUNT}, "all accepted while the sink is down", codes)
    status = lambda: re.findall(r"\((Deferred[^)]*)\)", kvmta.listing())
    wait_for(lambda: len(status()) == COUNT, 30, 0.5)
    s.check(len(kvmta.ids()) == COUNT, "-bp lists them all", len(kvmta.ids()))
    s.check(kvmta.count() == kvmta.total() == COUNT, "-bP and -bp agree", (kvmta.count(), kvmta.total()))
    s.check(any("Connection refused" in t for t in status()), "-bp says why", Counter(status()).most_common(2))

    kvmta.stop()
    kvmta.start()
    s.check(kvmta.count() == COUNT, "all there after a restart", kvmta.count())

    sink.start()
    time.sleep(2)                                   # what must not happen needs time not to happen
    s.check(not sink.arrivals, "the sink's return alone sends nothing at -q15m", len(sink.arrivals))
    r = kvmta.run("-qRuser3@")
    s.check(r.returncode == 0, "-qRuser3@ is taken", r)
    sink.wait(1, 10)
    time.sleep(1)
    s.check(set(sink.recipients()) == {"user3@sink.example"}, "-qRuser3@ tries only those", sink.recipients().most_common(3))
    kvmta.run("-q")
    sink.wait(COUNT, 60)
    s.check(len(sink.recipients()) == COUNT and kvmta.wait_total(0, 10), "a plain -q drains everything",
            (len(sink.recipients()), kvmta.count()))
    s.check(max(sink.recipients().values()) == 1, "each once")

    # A long list and a short message behind it.
    before = len(sink.arrivals)
    print(f"  {kvmta.rss_mb('VmHWM')} MiB at most so far")
    began = t0 = time.monotonic()
    code, text = send(kvmta.port, "a@load.example", [f"r{n}@list.example" for n in range(LIST)], message("list", 20_000))
    s.check(code == 250, f"a list of {LIST} recipients is accepted", text)
    print(f"  in {time.monotonic() - t0:.1f} s")
    delays, running = [], 0
    for n in range(5):
        left = LIST - sum(len(a.recipients) for a in sink.arrivals[before:] if tag_of(a.data) == "list")
        running += left > 0
        t0 = time.monotonic()
        send(kvmta.port, "a@load.example", ["short@sink.example"], message(f"short{n}", 500))
        wait_for(lambda: any(tag_of(a.data) == f"short{n}" for a in sink.arrivals[before:]), 30, 0.01)
        delays.append(time.monotonic() - t0)
    s.check(running > 0 or not FULL, "the list was still going out", running)
    s.check(max(delays) < 2, "new mail leaves within 2 s", [round(d, 2) for d in delays])
    got = lambda: Counter(r for a in sink.arrivals[before:] if tag_of(a.data) == "list" for r in a.recipients)
    wait_for(lambda: len(got()) >= LIST, 240, 0.5)
    s.check(len(got()) == LIST and max(got().values()) == 1, "the list reaches everybody once", len(got()))
    print(f"  in {time.monotonic() - began:.1f} s; {kvmta.rss_mb('VmHWM')} MiB at most")
    s.check(kvmta.wait_total(0, 20), "queue empty", kvmta.count())
    s.check(*((r := kvmta.dump_check())[0], "kvmta-dump --check finds nothing", r[1]))
