#!/usr/bin/env python3
"""There and back: kvmta's queue is dumped, the real sendmail delivers a part of it, what it has left is loaded into kvmta again,
and that delivers the rest. Every recipient gets the message once."""
import json

from lab import *

FIRST = re.compile("now")                           # whom the host takes mail for while sendmail delivers


def parts(data):
    """(header without what relays add, body)"""
    header, body = data.split(b"\r\n\r\n", 1)
    fields = re.split(rb"\r\n(?![ \t])", header)
    return [f for f in fields if f.split(b":")[0].lower() not in (b"return-path", b"received")], body


def tool(*args):
    return subprocess.run([*map(str, args)], capture_output=True, text=True, timeout=600)


with Scenario("round_trip") as s:
    refusing = True
    def plan(event, text, session):
        if event == "rcpt" and refusing and not FIRST.search(text):
            return "451 4.2.1 later"
    sink = s.sink(plan=plan, extensions=("PIPELINING", "8BITMIME", "SMTPUTF8", "SIZE 0", "ENHANCEDSTATUSCODES", "DSN"))   # down for now
    first = s.kvmta("first", smart_host=sink.port, interval="1h")
    first.start()
    sent = {                                        # {tag: (data, sender, recipients, parameters of MAIL)}
        "now": ("a@load.example", ["now@sink.example"], ""), "later": ("a@load.example", ["later@sink.example"], ""),
        "both": ("a@load.example", ["now@sink.example", "later@sink.example"], " RET=HDRS ENVID=env+2Bid"),
        "null": ("", ["later@sink.example", "now@sink.example"], ""),
        "8bit": ("a@load.example", ["later@sink.example", "now@sink.example"], " BODY=8BITMIME"),
        "list": ("list@load.example", [f"{'now' if n % 3 else 'later'}{n}@sink.example" for n in range(300)], ""),
    }
    sent = {tag: (message(tag, 3000, eight_bit=tag == "8bit"), *rest) for tag, rest in sent.items()}
    for tag, (data, sender, recipients, mail) in sent.items():
        code, text = send(first.port, sender, recipients, data, mail)
        s.check(code == 250, f"{tag}: accepted", text)
    wait_for(lambda: first.listing().count("(Deferred") >= len(sent), 20, 0.3)

    mqueue = s.dir / "mqueue"
    for name in ["qf", "df", "xf"]:
        (mqueue / name).mkdir(parents=True, mode=0o700)
    mqueue.chmod(0o700)
    r = tool(KVMTA_DUMP, f"-oQ{first.dir}", mqueue)
    s.check(r.returncode == 0 and f"{len(sent)} messages written" in r.stderr, "kvmta-dump", r.stderr)
    r = tool(KVMTA_LOAD, f"-oQ{first.dir}", mqueue)
    s.check(r.returncode == 65 and r.stderr.count("dumped from this queue") == len(sent) == first.count(),
            "the queue it was dumped from does not take it as well", r.stderr[-500:])

    # The real sendmail delivers what the host takes now.
    root = BASE / "sendmail"
    (s.dir / "service.switch").write_text("hosts files\n")
    mc = (Path(__file__).parent / "sendmail.mc").read_text().replace("SINK_PORT", str(sink.port)).replace("SCRATCH", str(s.dir))
    (s.dir / "sendmail.mc").write_text(mc)
    cf_dir = root / "usr/share/sendmail/cf"
    cf = subprocess.run([root / "usr/bin/m4", f"-D_CF_DIR_={cf_dir}/", "m4/cf.m4", s.dir / "sendmail.mc"], cwd=cf_dir,
                        capture_output=True, check=True).stdout
    (s.dir / "sendmail.cf").write_bytes(cf)
    argv = [str(root / "usr/libexec/sendmail/sendmail"), "-C", str(s.dir / "sendmail.cf"), f"-oQ{mqueue}", "-q", "-v", "-oT1000d"]
    if os.geteuid() == 0:
        argv = ["unshare", "--uts", "sh", "-c", 'echo neighbour.example >/proc/sys/kernel/hostname && exec "$@"', "sh", *argv]
    sink.start()
    run = subprocess.run(argv, env=tool_env("sendmail"), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=900)
    (s.dir / "run.sendmail").write_text(run.stdout + run.stderr)
    expected = {(tag, r) for tag, (_, _, recipients, _) in sent.items() for r in recipients}
    got = lambda: Counter((tag_of(a.data), r) for a in sink.arrivals for r in a.recipients)
    early = {x for x in expected if FIRST.search(x[1])}
    s.check(set(got()) == early, "the real sendmail delivers a part", len(got()))
    left = [p.name for p in (mqueue / "qf").iterdir()]
    s.check(len(left) == len(sent) - 1, "and keeps the rest in its files", left)

    # Back, into another queue.
    second = s.kvmta("second", smart_host=sink.port, interval="1h")
    second.start()
    r = tool(KVMTA_LOAD, "--remove", f"-oQ{second.dir}", mqueue)
    (s.dir / "load.txt").write_text(r.stderr)
    s.check(r.returncode == 0 and f"{len(left)} messages loaded" in r.stderr and second.count() == len(left),
            "kvmta-load takes the rest", r.stderr[-500:])
    s.check(not [p for p in mqueue.rglob("*") if p.is_file()], "and its files are gone", list(mqueue.rglob("*")))
    shown = second.queue("list", "--json").stdout.decode().splitlines()
    shown = [json.loads(line) for line in shown]
    tried = [r["attempts"] for m in shown for r in m["recipients"]]
    s.check(tried and min(tried) >= 1, "it knows that they were tried", tried[:5])
    refusing = False
    # A run leaves alone what is in hand, as some of it may be still.
    wait_for(lambda: second.run("-q") and set(got()) == expected, 60, 1)
    s.check(set(got()) == expected, "kvmta delivers it", sorted(expected - set(got()))[:5])
    s.check(max(got().values()) == 1, "each recipient has it once", got().most_common(2))
    wrong = [(tag_of(a.data), a.sender) for a in sink.arrivals if a.sender != sent[tag_of(a.data)][1]
             or parts(a.data) != parts(sent[tag_of(a.data)][0])]
    s.check(not wrong, "sender, header and body are as they were sent", wrong[:3])
    dsn = [a.mail for a in sink.arrivals if tag_of(a.data) == "both"]
    s.check(all("RET=HDRS" in mail and "ENVID=env+2Bid" in mail for mail in dsn), "DSN parameters survive both ways", dsn)
    second.stop()
    s.check(second.dump_check()[0], "the store is sound", second.dump_check()[1])
