#!/usr/bin/env python3
"""(f) The way back: kvmta-dump writes deferred mail as spool files, the real sendmail lists them as kvmta did and
delivers them unchanged."""
from lab import *

with Scenario("dump") as s:
    sink = s.sink()                                 # down for now
    kvmta = s.kvmta(smart_host=sink.port)
    kvmta.start()
    messages = {
        "plain": (["x@sink.example"], ""), "list": ([f"l{n}@sink.example" for n in range(40)], ""),
        "8bit": (["e@sink.example"], " BODY=8BITMIME"),
        "null": (["n@sink.example"], ""), "dsn": (["d@sink.example"], " RET=HDRS ENVID=env+2Bid"),
        "folded": (["f@sink.example"], ""),
    }
    for n in range(1000 if FULL else 100):
        messages[f"one-{n}"] = ([f"u{n}@sink.example"], "")
    sent = {}
    for tag, (recipients, mail) in messages.items():
        extra = "X-Folded: one\r\n two\r\n\tthree\r\nX-Empty:\r\n" if tag == "folded" else ""
        sent[tag] = message(tag, 3000, eight_bit=tag == "8bit", extra=extra)
        code, text = send(kvmta.port, "" if tag == "null" else "a@load.example", recipients, sent[tag], mail)
        if code != 250 or not tag.startswith("one-"):
            s.check(code == 250, f"{tag}: accepted", text)
    wait_for(lambda: kvmta.listing().count("(Deferred") == len(messages), 20, 0.3)

    def rows(listing):
        """{queue ID: (size, when, sender, status, recipients)} of a mailq listing, without brackets of addresses."""
        found = {}
        for block in re.split(r"^(?=[0-9A-Za-z]{14,}[ *X?-])", listing, flags=re.M)[1:]:
            head = re.match(r"(\w+)[ *X?-]\s*(\d+) (.{16}) (.*)", block)
            lines = [l.strip().strip("<>") for l in block.splitlines()[1:] if l.startswith("\t\t\t")]
            status = re.search(r"\((.*)\)$", block, re.M)
            found[head[1]] = (head[2], head[3], head[4].strip("<>"), status and status[1], tuple(sorted(lines)))
        return found
    ours = rows(kvmta.listing())
    s.check(len(ours) == len(messages), "-bp lists them", kvmta.listing())

    def dump(name):
        spool = s.dir / name
        spool.mkdir(mode=0o700)
        r = subprocess.run([KVMTA_DUMP, f"-oQ{kvmta.dir}", str(spool)], capture_output=True, text=True)
        s.check(r.returncode == 0, f"kvmta-dump into {name}", r.stderr)
        modes = {oct(p.stat().st_mode & 0o777) for p in spool.iterdir()}
        s.check(modes == {"0o600"}, f"{name}: files are 0600", modes)
        return spool
    live = dump("live")
    kvmta.stop()
    spool = dump("mqueue")
    names = lambda d: {p.name: p.read_bytes() for p in d.iterdir()}
    s.check(names(live) == names(spool), "a running daemon's dump is that of the stopped store")

    # Real sendmail with a configuration made from Debian's m4 files.
    root = BASE / "sendmail"
    (s.dir / "service.switch").write_text("hosts files\n")
    mc = (Path(__file__).parent / "sendmail.mc").read_text().replace("SINK_PORT", str(sink.port)).replace("SCRATCH", str(s.dir))
    (s.dir / "sendmail.mc").write_text(mc)
    cf_dir = root / "usr/share/sendmail/cf"
    cf = subprocess.run([root / "usr/bin/m4", f"-D_CF_DIR_={cf_dir}/", "m4/cf.m4", s.dir / "sendmail.mc"], cwd=cf_dir,
                        capture_output=True, check=True).stdout
    (s.dir / "sendmail.cf").write_bytes(cf)

    def sendmail(*args):
        argv = [str(root / "usr/libexec/sendmail/sendmail"), "-C", str(s.dir / "sendmail.cf"), f"-oQ{spool}", *args]
        if os.geteuid() == 0:       # It waits a minute for a host name with a dot; in a name space of ours there is one.
            argv = ["unshare", "--uts", "sh", "-c", 'echo neighbour.example >/proc/sys/kernel/hostname && exec "$@"', "sh", *argv]
        return subprocess.run(argv, env=tool_env("sendmail"), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=900)
    theirs = sendmail("-bp", "-Am")
    (s.dir / "mailq.sendmail").write_text(theirs.stdout + theirs.stderr)

    def comparable(rows):
        """A size in octets as received is a line end longer per line than that of a body file; a null reverse-path has
        two names."""
        return {id: ("" if sender == "MAILER-DAEMON" else sender, when, status, to) for id, (_, when, sender, status, to) in rows.items()}
    theirs = rows(theirs.stdout)
    wrong = {id: (row, comparable(theirs).get(id)) for id, row in comparable(ours).items() if comparable(theirs).get(id) != row}
    s.check(len(theirs) == len(ours) and not wrong, "sendmail's mailq shows the same", list(wrong.items())[:2])
    s.check(all(status and status.startswith("Deferred: Connection refused") for _, _, _, status, _ in ours.values()),
            "with the reason", list(ours.values())[:2])
    differ = [(id, row, theirs[id]) for id, row in ours.items() if id in theirs and row[0] != theirs[id][0]]
    s.check(not differ, "and the same sizes", differ[:2])

    sink.start()
    run = sendmail("-q", "-v", "-oT1000d")
    (s.dir / "run.sendmail").write_text(run.stdout + run.stderr)
    sink.wait(len(messages), 120)
    left = [p.name for p in spool.iterdir() if p.name.startswith("qf")]
    s.check(not left, "sendmail -q delivers all of them", (left, run.stderr[-500:]))
    body = lambda data: data.split(b"\r\n\r\n", 1)[1]
    header = lambda data: data.split(b"\r\n\r\n", 1)[0].split(b"\r\n")
    wrong = []
    for a in sink.arrivals:
        tag = tag_of(a.data)
        lost = [l for l in header(sent[tag]) if l not in header(a.data)]
        if sorted(a.recipients) != sorted(messages[tag][0]) or body(a.data) != body(sent[tag]) or lost:
            wrong.append((tag, a.recipients, len(body(a.data)), len(body(sent[tag])), lost))
    s.check(not wrong, "recipients, header and body of each are as sent", wrong[:3])
    s.check(sink.tags() == Counter(list(sent)), "each once", len(sink.arrivals))
    s.check({a.sender for a in sink.arrivals} == {"", "a@load.example"}, "senders", {a.sender for a in sink.arrivals})
