#!/usr/bin/env python3
"""(j) Operators: kvmta-queue finds, shows and changes the messages of a large queue, beside a running daemon and without one;
who may; and what it remembers of messages that are gone."""
import json
from lab import *

COUNT = 100_000 if FULL else 2_000
DOMAINS = 10

with Scenario("operations") as s:
    sink = s.sink()                                 # down for now
    kvmta = s.kvmta(smart_host=sink.port)
    kvmta.start()
    os.chmod(s.dir, 0o755)

    def queue(*args, code=0, out=None, err=None, stdin=b"", user=None, label=None):
        """kvmta-queue with these arguments: exit status, standard output and error as expected. Gives its output."""
        t0 = time.monotonic()
        r = kvmta.queue(*args, stdin=stdin, user=user)
        took = time.monotonic() - t0
        good = r.returncode == code and (out is None or re.search(out, r.stdout)) and (err is None or re.search(err, r.stderr))
        s.check(good, f"{label or ' '.join(args)} ({took:.2f} s)", (r.returncode, r.stdout[-300:], r.stderr[-300:]))
        return r.stdout

    def counted(*args):
        r = kvmta.queue("count", *args)
        return int(r.stdout) if r.returncode == 0 else r.stderr

    # A queue of many messages: a tenth of them for each domain, a few sizes, several senders, all deferred.
    def fill(port, count):
        async def worker(numbers):
            client = Client()
            await client.open(port)
            for n in numbers:
                tag = f"m{n}"
                code, text = await client.send(f"s{n % 4}@load.example", [f"u{n}@d{n % DOMAINS}.example"], message(tag, 5000 if n % 5 == 0 else 500))
                assert code == 250, text
            await client.quit()

        async def go():
            numbers = iter(range(count))
            await asyncio.gather(*(worker(numbers) for _ in range(20)))
        asyncio.run(go())
    t0 = time.monotonic()
    fill(kvmta.port, COUNT)
    print(f"  {COUNT} messages accepted in {time.monotonic() - t0:.1f} s")
    s.check(counted() == COUNT, "count says how many", counted())
    deferred = wait_for(lambda: counted("--deferred") == COUNT, 120 if FULL else 30, 0.5)
    s.check(deferred, "all are deferred", counted("--deferred"))
    tenth = COUNT // DOMAINS

    # Finding.
    memory = kvmta.rss_mb("VmHWM")
    rows = queue("list").decode().splitlines()
    s.check(len(rows) == COUNT + 1, "list gives each a line", len(rows))
    objects = [json.loads(line) for line in queue("list", "--json", "--domain", "d3.example").splitlines()]
    s.check(len(objects) == tenth and all(o["recipients"][0]["address"].endswith("@d3.example") and "Connection refused" in o["recipients"][0]["status"]
            and o["state"] == "deferred" for o in objects), "list --json says what was asked for", objects[:1])
    for args, expected in [
        (("--domain", "d1.example"), tenth), (("--not", "--domain", "d1.example"), COUNT - tenth),
        (("--sender", "s1@"), COUNT // 4), (("--sender", "s1@", "--domain", "d1.example"), COUNT // 20),
        (("--larger-than", "4K"), COUNT // 5), (("--status", "connection refused"), COUNT), (("--status", "timed out"), 0),
        (("--recipient", "u17@d7.example"), 1), (("--destination", f"[{LOCAL}]:{sink.port}"), COUNT), (("--held",), 0),
        (("--older-than", "1h"), 0), (("--younger-than", "1h"), COUNT),
    ]:
        s.check((n := counted(*args)) == expected, f"count {' '.join(args)}: {expected}", n)

    # Nothing happens by mistake, nor in a dry run.
    queue("remove", code=64, err=b"no queue ID and no selection", label="remove without a selection: 64")
    queue("remove", "--older", "soon", code=64, label="a selection that is none: 64")
    queue("remove", "--dry-run", "--domain", "d0.example", out=rb"^%d messages would be removed$" % tenth)
    listed = queue("hold", "-n", "-v", "--recipient", "u17@d7.example", out=b"1 message would be held")
    s.check(b"u17@d7.example" in listed and counted() == COUNT and counted("--held") == 0, "a dry run lists and changes nothing")

    # Holding and releasing, removing, by selection.
    queue("hold", "--domain", "d2.example", "--reason", "too many", out=rb"^%d messages held$" % tenth)
    s.check(counted("--held", "--reason", "too many") == tenth and f"QUARANTINE: too many" in kvmta.listing("-qQ"), "they are held, with the reason")
    queue("hold", "--domain", "d2.example", out=rb"^0 messages held$", label="those held already are left alone")
    queue("release", "--held", "--sender", "s0@", out=rb"^%d messages? released$" % (tenth // 2))
    queue("release", "--held", out=rb"^%d messages? released$" % (tenth - tenth // 2))
    queue("remove", "--domain", "d0.example", out=rb"^%d messages removed$" % tenth)
    s.check(counted() == COUNT - tenth and counted("--domain", "d0.example") == 0, "removed ones are gone", counted())
    objects = queue("list", "--json", "--domain", "d9.example").splitlines()
    ids = [json.loads(line)["id"] for line in objects]
    queue("remove", "-", stdin="\n".join(ids).encode(), out=rb"^%d messages removed$" % tenth, label="remove - takes the IDs of a list")
    queue("remove", ids[0], code=66, err=b"not in the queue", label="a message that is not there: 66")
    left = COUNT - 2 * tenth

    # Times.
    queue("reschedule", "--at", "+3h", "--domain", "d3.example", out=rb"^%d messages rescheduled$" % tenth)
    one = json.loads(queue("list", "--json", "--recipient", "u13@d3.example"))
    when = one["recipients"][0]["next_attempt"]
    s.check(2.9 < (time.mktime(time.strptime(when[:19], "%Y-%m-%dT%H:%M:%S")) - time.mktime(time.gmtime())) / 3600 < 3.1, "in three hours", when)
    queue("reschedule", "--at", "+9d", "--all", code=64, err=b"eight days")
    print(f"  daemon's memory: {memory} MB before, {kvmta.rss_mb('VmHWM')} MB at most")
    s.check(kvmta.rss_mb("VmHWM") < memory + 150, "memory does not grow with the queue", (memory, kvmta.rss_mb("VmHWM")))

    # One message wholly.
    other = s.sink(keep=True).start()
    shown = queue("show", one["id"]).decode()
    for part in [one["id"], "Sender      <s1@load.example>", "<u13@d3.example> open", "Connection refused", "rescheduled to", "by root" if os.geteuid() == 0 else "by ",
                 "X-Tag: m13", message("m13", 500).decode().split("\r\n\r\n")[1].split("\r\n")[0]]:
        s.check(part in shown, f"show has {part!r}", shown[:1500])
    body = kvmta.queue("show", "--body", one["id"]).stdout.lstrip(b"\n")
    s.check(body == message("m13", 500).split(b"\r\n\r\n", 1)[1].replace(b"\r\n", b"\n"), "show --body is the body", body[:200])
    lines = [json.loads(line) for line in queue("show", "--json", one["id"]).splitlines()]
    text = "".join(line["text"] for line in lines if line["type"] == "text")
    s.check(text.endswith(message("m13", 500).decode()) and {"message", "recipient", "event", "text"} == {line["type"] for line in lines}, "show --json has all of it")

    # Other ways: a relay for one domain, and back.
    queue("reroute", "--to", f"[{LOCAL}]:{other.port}", "--domain", "d3.example", out=rb"^%d messages rerouted$" % tenth)
    s.check(wait_for(lambda: len(other.arrivals) == tenth, 60 if FULL else 20), "they go there at once", len(other.arrivals))
    wrong = [a.recipients for a in other.arrivals if not a.recipients[0].endswith("@d3.example")]
    s.check(not wrong and set(other.recipients().values()) == {1}, "they alone, each once", wrong[:3])
    s.check(wait_for(lambda: counted() == left - tenth, 10), "and are gone", counted())
    left -= tenth
    dead = free_port()
    queue("reroute", "--to", f"[{LOCAL}]:{dead}", "--domain", "d4.example", out=rb"^%d messages rerouted$" % tenth)
    s.check(wait_for(lambda: counted("--destination", f"[{LOCAL}]:{dead}") == tenth, 10), "to a relay that is down", counted("--destination", f"[{LOCAL}]:{dead}"))
    queue("reroute", "--to", "nowhere at all", "--all", code=64)

    # Giving up: reports come the ordinary way.
    sink.start()
    queue("hold", "--all", out=rb"^%d messages held$" % left, label="hold --all")
    queue("bounce", "--domain", "d5.example", "--text", "This address is gone", out=rb"^%d messages bounced$" % tenth)
    s.check(wait_for(lambda: len(sink.reports()) == tenth, 120 if FULL else 30), "one report for each", len(sink.reports()))
    report = sink.reports()[0].data.decode()
    s.check("This address is gone" in report and "Status: 5.0.0" in report and "Action: failed" in report, "it says why", report[:1500])
    s.check(Counter(a.recipients[0].split("@")[0] for a in sink.reports()).keys() <= {f"s{n}" for n in range(4)}, "to the senders")
    left -= tenth
    s.check(wait_for(lambda: counted() == left, 10), "what was given up is gone", counted())

    # Back to routing, and now.
    queue("reroute", "--to", "route", "--domain", "d4.example", out=rb"^%d messages rerouted$" % tenth)
    s.check(counted("--destination", f"[{LOCAL}]:{sink.port}") == left, "routing decides again")
    before = len(sink.arrivals)
    queue("release", "--domain", "d4.example", out=rb"^%d messages released$" % tenth)
    queue("requeue", "--domain", "d4.example")
    s.check(wait_for(lambda: counted("--domain", "d4.example") == 0, 60 if FULL else 20), "released and due, they arrive", counted("--domain", "d4.example"))
    s.check(len(sink.arrivals) - before == tenth, "each once", len(sink.arrivals) - before)
    left -= tenth

    # A destination that was down is asked at once.
    sink.stop()
    kvmta.submit(b"Subject: later\n\nx\n", "me@x.example", "later@x.example")
    s.check(wait_for(lambda: counted("--recipient", "later@", "--deferred") == 1, 10), "another one is deferred")
    sink.start()
    queue("requeue", "--recipient", "later@x.example", out=b"^1 message requeued$")
    s.check(wait_for(lambda: sink.recipients()["later@x.example"] == 1, 5), "requeue asks a host that was down", kvmta.listing()[-500:])

    # What is gone is remembered.
    gone = queue("history", "--recipient", "later@x.example").decode()
    s.check(all(word in gone for word in ["accepted from=<me@x.example>", "deferred to=<later@x.example>", "requeued by", "sent to=<later@x.example>", "done"]),
            "history tells its life", gone)
    id = gone.split()[0]
    wait_for(lambda: counted("--recipient", "later@") == 0, 5)
    queue("show", id, err=b"gone from the queue", out=b"sent to=<later@x.example>", label="show of one that is gone")
    removed = queue("history", ids[0], out=b"removed by", label="history of a removed one").decode()
    s.check(removed.count("\n") in (2, 3), "accepted, perhaps attempted, removed", removed)
    events = [json.loads(line) for line in queue("history", "--json", "--domain", "d5.example").splitlines()]
    s.check(sum(e["event"] == "failed" for e in events) == tenth and sum(e["event"] == "reported" for e in events) == tenth, "history knows the bounces",
            Counter(e["event"] for e in events))
    queue("show", "6AM5g100000000", code=66, err=b"neither in the queue nor in its history", label="show of one that never was: 66")

    # Who may.
    if os.geteuid() == 0:
        kvmta.submit(b"Subject: mine\n\nx\n", "nobody@x.example", "mine@x.example", args=("-odq",), user="nobody")
        nobody = queue("list", user="nobody", label="a user may list his own").decode()
        s.check(nobody.count("\n") == 2 and "mine@x.example" in nobody, "and sees no others", nobody)
        for args in (["remove", "--all"], ["history"], ["hold", "--recipient", "mine@"]):
            queue(*args, code=77, user="nobody", label=f"a user may not {args[0]}: 77")
        queue("remove", "--recipient", "mine@x.example", out=b"^1 message removed$")

    # A long list.
    sink.stop()
    people = [f"p{n}@list{n % 3}.example" for n in range(5000 if FULL else 1200)]
    s.check(send(kvmta.port, "owner@load.example", people, message("list"))[0] == 250, "a list is accepted")
    s.check(wait_for(lambda: counted("--domain", "list1.example", "--deferred") == 1, 20), "a list is found by what is in it", kvmta.queue("list").stdout[-300:])
    s.check(counted("--recipient", "p7@list1.example") == 1 and counted("--domain", "list9.example") == 0, "and not by what is not")
    id = json.loads(queue("list", "--json", "--domain", "list1.example"))["id"]
    shown = queue("show", "--envelope", id).decode()
    s.check(all(f"<{p}> open" in shown for p in people), "show names every recipient")
    third = s.sink().start()
    queue("reroute", "--to", f"[{LOCAL}]:{third.port}", "--domain", "list1.example", out=b"^1 message rerouted$")
    s.check(wait_for(lambda: set(third.recipients()) == set(people), 30), "a list goes another way", len(third.recipients()))

    # A list given up: a handful of reports, each recipient in one of them.
    people = [f"q{n}@given{n % 3}.example" for n in range(2500)]
    send(kvmta.port, "owner@load.example", people, message("list2"))
    s.check(wait_for(lambda: counted("--domain", "given1.example", "--deferred") == 1, 20), "another list waits")
    queue("bounce", "--domain", "given1.example", out=b"^1 message bounced$")
    reports = len(sink.reports())
    sink.start()
    queue("requeue", "--sender", "<>")
    s.check(wait_for(lambda: counted("--sender", "<>") == 0, 20), "its reports go out", counted("--sender", "<>"))
    told = Counter(re.findall(rb"Final-Recipient: rfc822; (\S+)", b"".join(a.data for a in sink.reports()[reports:]), re.I))
    s.check(set(told) == {p.encode() for p in people} and set(told.values()) == {1}, "each recipient once", (len(told), Counter(told.values())))

    # Without a daemon.
    s.check(*((r := kvmta.dump_check())[0], "kvmta-dump --check finds nothing (running)", r[1]))
    kvmta.stop()
    s.check(counted() == left and counted("--held") == left, "without a daemon: count", counted())
    queue("release", "--domain", "d6.example", out=rb"^%d messages released$" % tenth, label="without a daemon: release")
    queue("bounce", "--domain", "d7.example", out=rb"^%d messages bounced$" % tenth, label="without a daemon: bounce")
    s.check(counted("--incoming", "--sender", "<>") == tenth, "without a daemon: the reports wait", counted("--sender", "<>"))
    queue("history", "--domain", "d7.example", out=b"failed to=<u7@d7.example>", label="without a daemon: history")
    s.check(*((r := kvmta.dump_check())[0], "kvmta-dump --check finds nothing (stopped)", r[1]))
    reports = len(sink.reports())
    kvmta.start()
    s.check(wait_for(lambda: len(sink.reports()) - reports == tenth, 60), "the daemon sends them", len(sink.reports()) - reports)
    s.check(wait_for(lambda: counted() == left - 2 * tenth, 60), "and what was released", counted())
    size = (kvmta.dir / "history.redb").stat().st_size
    print(f"  history.redb has {size >> 10} KiB")
    kvmta.stop()

    # Kept or not.
    kvmta.options["HistoryTime"] = "0"
    kvmta.start()
    queue("history", code=69, err=b"HistoryTime is 0", label="without a history: 69")
    s.check(not (kvmta.dir / "history.redb").exists(), "and no file")
    kvmta.stop()
