#!/usr/bin/env python3
"""(e) Sizes and character sets: 1 octet to 200 MB with an eye on memory, a header of 1 MB, 8-bit, SMTPUTF8."""
from lab import *

BIG = 200_000_000 if FULL else 50_000_000
RSS_GROWTH_MB = 64          # a message is never in memory as a whole, going in or out

with Scenario("sizes") as s:
    sink = s.sink().start()
    kvmta = s.kvmta(smart_host=sink.port, MaxMessageSize="0", MaxHeadersLength="2000000")
    kvmta.start()

    def relay(label, data, sender="a@load.example", recipient="b@sink.example", mail="", limit=30):
        before = len(sink.arrivals)
        code, text = send(kvmta.port, sender, [recipient], data, mail)
        if not s.check(code == 250, f"{label}: accepted", text):
            return None
        wait_for(lambda: len(sink.arrivals) > before, limit)
        if not s.check(len(sink.arrivals) == before + 1, f"{label}: arrived", kvmta.log()[-300:]):
            return None
        got = sink.arrivals[-1]
        s.check(got.recipients == [recipient] and got.sender == sender, f"{label}: envelope", (got.sender, got.recipients))
        return got

    for label, data in [
        ("1 octet of body", message("one", 0) + b"x\r\n"),
        ("no body", message("none", 0)),
        ("no header", b"\r\njust a body\r\n"),
        ("4 KiB", message("4k", 4096)),
        ("1 MB", message("1m", 1_000_000)),
        ("header of 1 MB", message("head", 100, extra="".join(f"X-Long-{n}: {'h' * 900}\r\n" for n in range(1100)))),
        ("8-bit body", message("8bit", 5000, eight_bit=True)),
        ("lines of dots", message("dots", 0) + b".\r\n..\r\n...\r\n.x\r\n" * 500),
    ]:
        got = relay(label, data, mail=" BODY=8BITMIME" if label == "8-bit body" else "")
        if got and label != "no header":            # a Date and a Message-Id may be added to that one
            s.check(not changed(data, got.data), f"{label}: unchanged", changed(data, got.data))
        if got and label == "8-bit body":
            s.check("8BITMIME" in got.mail.upper(), f"{label}: said so to the sink", got.mail)

    utf8 = message("utf8", 300, extra="X-Note: grün\r\n", eight_bit=True)
    got = relay("SMTPUTF8", utf8, "grå@load.example", "dömi@sink.example", " SMTPUTF8 BODY=8BITMIME")
    if got:
        s.check("SMTPUTF8" in got.mail.upper() and not changed(utf8, got.data), "SMTPUTF8: kept", (got.mail, changed(utf8, got.data)))

    # One message to very many: in, durable, and out again, each recipient once.
    many = 100_000 if FULL else 20_000
    before, hwm = sum(sink.recipients().values()), kvmta.rss_mb()
    recipients = [f"r{n}@d{n % 500}.example" for n in range(many)]
    t0 = time.monotonic()
    code, text = send(kvmta.port, "a@load.example", recipients, message("many", 300))
    print(f"  {many} recipients taken in {time.monotonic() - t0:.1f} s")
    if s.check(code == 250, f"{many} recipients: accepted", text):
        wait_for(lambda: sum(sink.recipients().values()) >= before + many, 300, 0.5)
        got = sink.recipients()
        print(f"  and delivered after {time.monotonic() - t0:.1f} s in {len(sink.arrivals)} transactions")
        s.check(all(got[r] == 1 for r in recipients), f"{many} recipients: each once",
                (sum(got[r] == 0 for r in recipients), sum(got[r] > 1 for r in recipients)))
        grown = kvmta.rss_mb("VmHWM") - hwm
        s.check(grown < RSS_GROWTH_MB, f"{many} recipients: memory grew by less than {RSS_GROWTH_MB} MB", f"{grown} MB")
        s.check(kvmta.wait_total(0, 60), "queue empty", kvmta.listing()[-300:])

    block = (b"m" * 74 + b"\r\n") * 1000
    big = message("big", 0) + block * (BIG // len(block))
    digest, size = hashlib.sha256(big).digest(), len(big)
    sink.keep, before = False, kvmta.rss_mb()
    got = relay(f"{size // 1_000_000} MB", big, limit=180)
    if got:
        s.check(size <= got.size < size + 2000, "big: size", got.size)
    grown = kvmta.rss_mb("VmHWM") - before
    s.check(grown < RSS_GROWTH_MB, f"big: memory grew by less than {RSS_GROWTH_MB} MB", f"{grown} MB")
    print(f"  resident before {before} MB, at most {kvmta.rss_mb('VmHWM')} MB")
    s.check(kvmta.wait_total(0, 20), "queue empty", kvmta.listing()[-300:])
    s.check(*((r := kvmta.dump_check())[0], "kvmta-dump --check finds nothing", r[1]))
