#!/usr/bin/env python3
"""(a) Many messages over 50 connections through kvmta to a sink: every one arrives once, byte for byte but for trace
fields, the queue is empty after it, and kvmta-dump finds nothing broken. Once with a client and a sink that compare
contents, once with Postfix's smtp-source and smtp-sink."""
from lab import *

COUNT = 20_000 if FULL else 2_000
SIZES = (1, 700, 4096, 4096, 20_000, 100_000)      # in turn

with Scenario("throughput") as s:
    sink = s.sink().start()
    kvmta = s.kvmta(smart_host=sink.port)
    kvmta.start()
    t0 = time.monotonic()
    taken, refused = load(kvmta.port, 50, COUNT, size=lambda tag: SIZES[int(tag.split('-')[1]) % len(SIZES)])
    print(f"  {COUNT} messages accepted in {time.monotonic() - t0:.1f} s")
    s.check(not refused, "nothing refused", refused[:3])
    sink.wait(COUNT, 120)
    print(f"  and relayed in {time.monotonic() - t0:.1f} s over {sink.sessions} connections")
    tags = sink.tags()
    s.check(set(tags) == set(taken), "all arrived", f"{len(set(taken) - set(tags))} missing")
    s.check(all(n == 1 for n in tags.values()), "none twice", tags.most_common(3))
    wrong = [c for a in sink.arrivals if (c := changed(taken[tag_of(a.data)], a.data))]
    s.check(not wrong, "unchanged but for trace fields", wrong[:3])
    s.check(kvmta.wait_total(0, 10), "-bP says 0", kvmta.count())
    s.check(kvmta.total() == 0, "-bp says 0", kvmta.total())
    s.check(*((r := kvmta.dump_check())[0], "kvmta-dump --check finds nothing (running)", r[1]))
    kvmta.stop()
    s.check(*((r := kvmta.dump_check())[0], "kvmta-dump --check finds nothing (stopped)", r[1]))
    sink.stop()

    # The same door with the tools every Postfix administrator measures with.
    counts = s.dir / "smtp-sink.out"
    s.process(tool("postfix", "usr/sbin/smtp-sink", *as_nobody(), "-c", f"{LOCAL}:{sink.port}", 1000, stdout=open(counts, "wb")))
    kvmta.start()
    source = tool("postfix", "usr/sbin/smtp-source", "-s", 50, "-m", COUNT, "-l", 4096, "-N", "-f", "a@load.example",
                  "-t", "b@sink.example", f"{LOCAL}:{kvmta.port}", stderr=subprocess.PIPE)
    error = source.communicate(timeout=300)[1].decode()
    s.check(source.returncode == 0 and not error, "smtp-source is content", error[-300:])
    arrived = lambda: int((re.findall(rb"mesg=(\d+)", counts.read_bytes()[-200:]) or [0])[-1])
    wait_for(lambda: arrived() >= COUNT, 120)
    s.check(arrived() == COUNT, f"smtp-sink has {COUNT}", arrived())
    s.check(kvmta.wait_total(0, 10), "queue empty", kvmta.count())
