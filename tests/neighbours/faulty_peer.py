#!/usr/bin/env python3
"""(d) A sink that refuses, drops and falls silent at every step. For each: what stays in the queue and why, what is
reported to the sender and when, what the log says; and after the sink has recovered one -q delivers the rest, once."""
from lab import *

SHORT = {f"Timeout.{t}": "2s" for t in ("initial", "connect", "iconnect", "helo", "mail", "rcpt", "datainit", "datablock",
                                        "datafinal", "rset", "quit")}
FAULTS = [                                     # event, what the sink does, what becomes of the message
    ("connect", "421 4.3.2 Too busy", "deferred"),
    ("connect", "554 5.3.2 Go away", "any"),   # RFC 5321 3.1 leaves it open: sendmail defers, others bounce
    ("connect", DROP, "deferred"),
    ("connect", HANG, "deferred"),
    ("ehlo", DROP, "deferred"),
    ("ehlo", HANG, "deferred"),
    ("ehlo", "421 4.3.2 Shutting down", "deferred"),
    ("mail", "451 4.7.1 Greylisted", "deferred"),
    ("mail", "550 5.7.1 Sender refused", "bounced"),
    ("mail", DROP, "deferred"),
    ("mail", HANG, "deferred"),
    ("rcpt", "450 4.2.1 Mailbox busy", "deferred"),
    ("rcpt", "550 5.1.1 No such user", "bounced"),
    ("rcpt", DROP, "deferred"),
    ("rcpt", HANG, "deferred"),
    ("data", "451 4.3.0 Not now", "deferred"),
    ("data", "554 5.5.1 Never", "bounced"),
    ("data", DROP, "deferred"),
    ("data", HANG, "deferred"),
    ("mid-data", DROP, "deferred"),
    ("dot", "452 4.3.1 Disk full", "deferred"),
    ("dot", "554 5.6.0 Content refused", "bounced"),
    ("dot", "nonsense", "deferred"),
    ("dot", DROP, "deferred"),
    ("dot", HANG, "deferred"),
    ("dot", TAKE_AND_DROP, "twice"),           # RFC 5321 6.1: it was taken and we cannot know
    ("quit", DROP, "delivered"),
    ("quit", HANG, "delivered"),
]
NAMES = {id(DROP): "drops", id(HANG): "falls silent", id(TAKE_AND_DROP): "takes and drops"}


def fault(s, event, action, fate, number):
    label = f"{event}: {NAMES.get(id(action), action)}"
    active = True

    def plan(what, text, session):
        if active and what == event:
            # A report to the sender passes, where the step lets us tell: it is the second witness.
            report = (what == "mail" and "<>" in text) or text.startswith("sender@") or session.recipients[:1] == ["sender@load.example"]
            return None if report else action
    sink = s.sink(plan=plan).start()
    kvmta = s.kvmta(f"q{number:02}", smart_host=sink.port, **SHORT)
    kvmta.start()
    code, text = send(kvmta.port, "sender@load.example", ["b@sink.example"], message(f"m{number}", 200_000))
    if not s.check(code == 250, f"{label}: accepted", text):
        return
    wait_for(lambda: sink.events[event] > 0 or event == "mid-data", 10)
    ours = lambda: [a for a in sink.arrivals if tag_of(a.data) == f"m{number}" and a.sender]
    if fate in ("deferred", "twice"):
        deferred = wait_for(lambda: re.search(r"^\s+(8BITMIME\s+)?\(.+\)$", kvmta.listing(), re.M), 15)
        s.check(deferred and kvmta.count() == 1, f"{label}: stays queued with a reason", kvmta.listing()[-300:])
        s.check(wait_for(lambda: re.search(r"to=<b@sink\.example>.*stat=Deferred", kvmta.log()), 3), f"{label}: logged",
                kvmta.log()[-300:])
        s.check(not sink.reports(), f"{label}: nobody is told yet")
        active = False
        kvmta.run("-q")
        wait_for(lambda: kvmta.count() == 0, 20, 0.1)
        expected = 2 if fate == "twice" else 1
        s.check(len(ours()) == expected and kvmta.count() == 0, f"{label}: delivered by -q after recovery",
                (len(ours()), kvmta.count(), kvmta.log()[-300:]))
    elif fate == "bounced":
        wait_for(sink.reports, 15)
        reports = sink.reports()
        s.check(len(reports) == 1 and reports[0].recipients == ["sender@load.example"], f"{label}: one report to the sender",
                kvmta.log()[-500:])
        if reports:
            body = reports[0].data
            s.check(re.search(rb"^Final-Recipient: rfc822; ?b@sink\.example", body, re.M | re.I) and
                    re.search(rb"^Action: failed", body, re.M | re.I) and re.search(rb"^Status: 5\.", body, re.M | re.I) and
                    b"multipart/report" in body, f"{label}: the report says so by RFC 3464", body[-800:])
        s.check(wait_for(lambda: re.search(r"to=<b@sink\.example>.*dsn=5\.", kvmta.log()), 3), f"{label}: logged")
        s.check(kvmta.wait_total(0, 10) and not ours(), f"{label}: nothing left", kvmta.listing()[-300:])
    elif fate == "delivered":
        wait_for(ours, 10)
        s.check(kvmta.wait_total(0, 10) and len(ours()) == 1, f"{label}: delivered once", (len(ours()), kvmta.count()))
    else:
        settled = wait_for(lambda: sink.reports() or "Deferred" in kvmta.listing(), 15)
        s.check(settled, f"{label}: reported or deferred, not lost", kvmta.listing())
    kvmta.stop()
    sink.stop()


def mixed(s):
    """Three recipients, three fates, one message."""
    healed = False
    fates = {"soft@sink.example": "450 4.2.1 Busy", "hard@sink.example": "550 5.1.1 No such user"}

    def plan(what, text, session):
        if what == "rcpt" and not (healed and text.startswith("soft")):
            return fates.get(text)
    sink = s.sink(plan=plan).start()
    kvmta = s.kvmta("mixed", smart_host=sink.port, **SHORT)
    kvmta.start()
    send(kvmta.port, "sender@load.example", ["ok@sink.example", "soft@sink.example", "hard@sink.example"], message("mixed"))
    wait_for(lambda: "Deferred" in kvmta.listing(), 15)
    s.check(sink.recipients()["ok@sink.example"] == 1, "mixed: the good one is delivered at once", sink.recipients())
    listing = kvmta.listing()
    s.check("soft@" in listing and "ok@" not in listing and "hard@" not in listing, "mixed: only the soft one is listed", listing)
    healed = True
    kvmta.run("-q")
    wait_for(lambda: sink.reports() and sink.recipients()["soft@sink.example"], 20)
    s.check(sink.recipients()["soft@sink.example"] == 1, "mixed: -q delivers the soft one", sink.recipients())
    s.check(len(sink.reports()) == 1 and b"hard@sink.example" in sink.reports()[0].data and
            not re.search(rb"^Final-Recipient:.*(ok|soft)@", sink.reports()[0].data, re.M), "mixed: one report, on the hard one only")
    s.check(kvmta.wait_total(0, 10), "mixed: queue empty", kvmta.listing())


def retries(s):
    """-q4s: what was deferred, for its own sake or its host's, is tried again after 4 s and a little, not sooner and not never."""
    for label, event, action in (("a recipient's 450", "rcpt", "450 4.2.1 Busy"), ("a host's 421", "connect", "421 4.3.2 Busy"),
                                 ("silence", "ehlo", DROP)):
        tries = []

        def plan(what, text, session):
            if what == event:
                tries.append(time.monotonic())
                return action if len(tries) < 3 else None
        sink = s.sink(plan=plan).start()
        kvmta = s.kvmta(f"retry-{event}", smart_host=sink.port, interval="4s", **SHORT)
        kvmta.start()
        send(kvmta.port, "sender@load.example", ["b@sink.example"], message("retry"))
        s.check(sink.wait(1, 30), f"retry after {label}: delivered in the end", kvmta.log()[-500:])
        waits = [round(b - a, 1) for a, b in zip(tries, tries[1:])]
        s.check(len(waits) == 2 and all(3.9 <= wait <= 7 for wait in waits), f"retry after {label}: after the interval", waits)
        s.check(kvmta.wait_total(0, 10), f"retry after {label}: queue empty", kvmta.listing())
        kvmta.stop()


with Scenario("faulty_peer") as s:
    retries(s)
    for number, (event, action, fate) in enumerate(FAULTS):
        fault(s, event, action, fate, number)
    mixed(s)
