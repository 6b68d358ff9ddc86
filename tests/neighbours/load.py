#!/usr/bin/env python3
"""The way in: queues of a real sendmail and a real Postfix are loaded and delivered unchanged, each message once; a busy
queue is copied and restored."""
from lab import *

ADDED = {b"return-path", b"received", b"date", b"from", b"message-id", b"x-authentication-warning", b"full-name"}


def parts(data):
    """(header lines that a relay does not add, body)"""
    header, body = data.split(b"\r\n\r\n", 1)
    fields = re.split(rb"\r\n(?![ \t])", header)
    return [f for f in fields if f.split(b":")[0].lower() not in ADDED], body


def loader(*args):
    return subprocess.run([KVMTA_LOAD, *map(str, args)], capture_output=True, text=True, timeout=600)


def dumper(*args):
    return subprocess.run([KVMTA_DUMP, *map(str, args)], capture_output=True, text=True, timeout=600)


def number(text, words):
    found = re.search(rf"(\d+) {words}", text)
    return int(found[1]) if found else 0


with Scenario("load") as s:
    sink = s.sink(extensions=("PIPELINING", "8BITMIME", "SMTPUTF8", "SIZE 0", "ENHANCEDSTATUSCODES", "DSN"))     # down for now
    count = 400 if FULL else 60

    # A real sendmail takes mail and keeps it (-odq).
    root, spool = BASE / "sendmail", s.dir / "mqueue"
    spool.mkdir(mode=0o700)
    (s.dir / "service.switch").write_text("hosts files\n")
    mc = (Path(__file__).parent / "sendmail.mc").read_text().replace("SINK_PORT", str(sink.port)).replace("SCRATCH", str(s.dir))
    (s.dir / "sendmail.mc").write_text(mc)
    cf_dir = root / "usr/share/sendmail/cf"
    cf = subprocess.run([root / "usr/bin/m4", f"-D_CF_DIR_={cf_dir}/", "m4/cf.m4", s.dir / "sendmail.mc"], cwd=cf_dir,
                        capture_output=True, check=True).stdout
    (s.dir / "sendmail.cf").write_bytes(cf)

    def sendmail(*args, stdin=b"", queue=spool):
        argv = [str(root / "usr/libexec/sendmail/sendmail"), "-C", str(s.dir / "sendmail.cf"), f"-oQ{queue}", *args]
        if os.geteuid() == 0:
            argv = ["unshare", "--uts", "sh", "-c", 'echo neighbour.example >/proc/sys/kernel/hostname && exec "$@"', "sh", *argv]
        return subprocess.run(argv, env=tool_env("sendmail"), input=stdin, capture_output=True, timeout=900)

    sent = {}                                       # {tag: (data, sender, recipients)}
    def queue(tag, recipients, args=(), sender="a@load.example", **kwargs):
        data = message(tag, **kwargs)
        lf = data.replace(b"\r\n", b"\n")
        r = sendmail("-odq", "-i", "-Am", f"-f{sender or '<>'}", *args, *recipients, stdin=lf)
        if r.returncode != 0:
            s.check(False, f"sendmail queues {tag}", r.stderr[-300:])
        sent[tag] = (data, sender, recipients)
    queue("sm-list", [f"l{n}@sink.example" for n in range(150)], size=3000)
    queue("sm-dsn", ["d@sink.example"], ("-N", "success,failure", "-R", "hdrs", "-V", "envid"))
    queue("sm-8bit", ["e@sink.example"], ("-B8BITMIME",), eight_bit=True)
    queue("sm-folded", ["f@sink.example"], extra="X-Folded: one\r\n two\r\n\tthree\r\n")
    queue("sm-large", ["huge@sink.example"], size=2_000_000)
    queue("sm-null", ["n@sink.example"], sender="")
    for n in range(count):
        queue(f"sm-{n}", [f"u{n}@sink.example"], size=100 + 300 * n)
    controls = sorted(p for p in spool.iterdir() if p.name.startswith("qf"))
    s.check(len(controls) == len(sent), "a real sendmail has them queued", len(controls))

    # What is torn or in hand stays; the rest is readable without a queue to load it into.
    torn, locked = spool / "qfTORN", controls[0]
    torn.write_bytes(controls[1].read_bytes()[:-4])
    torn.chmod(0o600)
    import fcntl
    hand = locked.open("rb+")
    fcntl.lockf(hand, fcntl.LOCK_EX | fcntl.LOCK_NB)            # as a sendmail without flock

    kvmta = s.kvmta(smart_host=sink.port, interval="1h")
    r = loader("--dry-run", f"-oQ{kvmta.dir}", spool)
    s.check(r.returncode == 65 and number(r.stderr, "messages could be loaded") == len(sent) - 1 and not kvmta.dir.exists(),
            "--dry-run reads all and loads nothing", r.stderr[-500:])
    kvmta.start()
    r = loader(f"-oQ{kvmta.dir}", spool)
    (s.dir / "load.txt").write_text(r.stderr)
    s.check(r.returncode == 65 and "qfTORN: line" in r.stderr and "without its final dot" in r.stderr,
            "what is torn is named with its line", r.stderr[-500:])
    s.check(f"{locked.name}: skipped: another process" in r.stderr, "what another has in hand is skipped", r.stderr[-500:])
    s.check(number(r.stderr, "messages loaded") == len(sent) - 1 == kvmta.count(), "the rest is loaded by a running daemon", r.stderr[-300:])
    hand.close()
    torn.unlink()
    r = loader(f"-oQ{kvmta.dir}", spool)
    s.check((r.returncode, number(r.stderr, "messages loaded"), number(r.stderr, "loaded before")) == (0, 1, len(sent) - 1),
            "loading it again loads what was left out, and nothing twice", r.stderr[-300:])
    s.check(kvmta.count() == len(sent), "each is there once", kvmta.count())

    # Without a daemon: loaded and removed by whoever opens the store; it is known although it came another way.
    kvmta.stop()
    r = loader("--remove", f"-oQ{kvmta.dir}", "-O", f"SmartHost=[{LOCAL}]:{sink.port}", spool)
    left = [p.name for p in spool.iterdir()]
    s.check(r.returncode == 0 and number(r.stderr, "loaded before") == len(sent) and not left,
            "--remove takes away what is durable, also of before", (r.stderr[-300:], left[:5]))
    s.check(kvmta.dump_check()[0], "the stopped store is sound", kvmta.dump_check()[1])

    # Postfix.
    if os.geteuid() == 0 and (BASE / "postfix").exists():
        script, home = str(ROOT / "benches/postfix.sh"), str(s.dir / "postfix")
        port = free_port()
        env = {**os.environ, "PORT": str(port), "NEXT_HOP": str(sink.port),
               "EXTRA": "smtpd_authorized_verp_clients = 127.0.0.1"}
        subprocess.run(["sh", script, home, "configure"], env=env, check=True)
        def postfix(*args, stdin=""):
            return subprocess.run(["sh", script, home, *args], env=env, input=stdin, capture_output=True, text=True, timeout=60)
        postfix("postfix", "start")
        try:
            wait_for(lambda: not socket.socket().connect_ex((LOCAL, port)), 20)
            before = len(sent)
            for tag, recipients, sender, mail in [
                ("pf-plain", ["x@sink.example"], "a@load.example", ""), ("pf-null", ["n@sink.example"], "", ""),
                ("pf-list", [f"p{n}@sink.example" for n in range(120)], "a@load.example", ""),
                ("pf-8bit", ["e@sink.example"], "a@load.example", " BODY=8BITMIME"),
                ("pf-quoted", ['"a b"@sink.example'], "a@load.example", " RET=HDRS ENVID=e+2Bid"),
                ("pf-verp", ["v1@sink.example", "v2@sink.example"], "list@load.example", " XVERP=+="),
                ("pf-long", ["long@sink.example"], "a@load.example", "")]:
                data = message(tag, 4000, eight_bit=tag == "pf-8bit")
                if tag == "pf-long":
                    data += b"x" * 900 + b"\r\n*** HEADER EXTRACTED deferred/x ***\r\n"
                code, text = send(port, sender, recipients, data, mail)
                s.check(code == 250, f"Postfix takes {tag}", text)
                sent[tag] = (data, sender, recipients)
            queued = lambda: [p for p in Path(home, "spool/deferred").rglob("*") if p.is_file()]
            wait_for(lambda: len(queued()) == len(sent) - before, 30, 0.2)
            r = loader(f"-oQ{kvmta.dir}", f"{home}/spool")
            s.check(r.returncode == 75 and "Postfix is running" in r.stderr, "a running Postfix is left alone", r.stderr)
            single = lambda: [p for p in queued() if b"X-Tag: pf-verp" not in p.read_bytes()]
            held = single()[0].name
            postfix("postsuper", "-h", held)
            printed = postfix("postcat", str(single()[0]))
        finally:
            postfix("postfix", "stop")
        wait_for(lambda: "Postfix is running" not in loader("--dry-run", f"{home}/spool").stderr, 20, 0.5)
        # A program leaves mail while Postfix is stopped.
        data = message("pf-drop")
        r = postfix("sendmail", "-i", "-f", "a@load.example", "dropped@sink.example", stdin=data.decode().replace("\r\n", "\n"))
        s.check(r.returncode == 0, "a stopped Postfix keeps mail in maildrop", r.stderr)
        sent["pf-drop"] = (data, "a@load.example", ["dropped@sink.example"])
        kvmta.start()
        (s.dir / "postcat.txt").write_text(printed.stdout)
        r = loader("-v", f"-oQ{kvmta.dir}", s.dir / "postcat.txt")
        s.check(r.returncode == 0 and number(r.stderr, "messages loaded") == 1, "what postcat prints is loaded", r.stderr)
        r = loader("-v", f"-oQ{kvmta.dir}", f"{home}/spool")
        (s.dir / "postfix.txt").write_text(r.stderr)
        s.check((r.returncode, number(r.stderr, "messages loaded"), number(r.stderr, "loaded before")) == (0, len(sent) - before, 1),
                "the queue of a stopped Postfix is loaded, with VERP for each recipient, and that one is known", r.stderr[-500:])
        s.check("on hold in Postfix" in kvmta.listing("-qQ"), "what is on hold stays so", kvmta.listing("-qQ"))
        on_hold = 1
    else:
        kvmta.start()
        on_hold = 0

    # A copy of the queue while mail comes in, and what it is worth.
    taken = {}
    def fill():
        for n in range(30 if not FULL else 300):
            data = message(f"late-{n}", 20_000 * (n % 5) + 500)
            if send(kvmta.port, "a@load.example", [f"late{n}@sink.example"], data)[0] == 250:
                taken[f"late-{n}"] = data
    filling = threading.Thread(target=fill)
    filling.start()
    r = dumper("--backup", s.dir / "backup", f"-oQ{kvmta.dir}")
    s.check(r.returncode == 0, "kvmta-dump --backup beside a busy daemon", r.stderr)
    filling.join()
    r = dumper("--backup", s.dir / "backup", f"-oQ{kvmta.dir}")
    s.check(r.returncode != 0 and "not empty" in r.stderr, "never over another one", r.stderr)
    restored = s.kvmta("restored", smart_host=sink.port, interval="1h")
    r = loader("--restore", s.dir / "backup", f"-oQ{restored.dir}")
    s.check(r.returncode == 0, "kvmta-load --restore", r.stderr + r.stdout)
    s.check(restored.dump_check()[0], "what was restored is sound", restored.dump_check()[1])
    r = loader("--restore", s.dir / "backup", f"-oQ{restored.dir}")
    s.check(r.returncode != 0 and "not empty" in r.stderr, "only into an empty directory", r.stderr)
    kvmta.kill()                                    # the machine burnt down
    mbox = s.dir / "all.mbox"
    r = dumper("--format", "mbox", f"-oQ{restored.dir}", mbox)
    messages = len(re.findall(rb"^From ", mbox.read_bytes(), re.M))
    s.check(r.returncode == 0 and messages >= len(sent), "as an mbox", (r.stderr, messages))

    # Half of the way back: sendmail gets the list and the large one from the restored queue; kvmta delivers all.
    back = s.dir / "back"
    for name in ["qf", "df", "xf"]:
        (back / name).mkdir(parents=True, mode=0o700)
    back.chmod(0o700)
    r = dumper(f"-oQ{restored.dir}", "-qRhuge@sink.example", back)
    s.check(r.returncode == 0 and [p.name[:2] for p in (back / "qf").iterdir()] == ["qf"], "a selection into subdirectories", r.stderr)
    sink.start()
    sendmail("-q", "-v", "-oT1000d", queue=back)
    sink.wait(1, 60)
    s.check([tag_of(a.data) for a in sink.arrivals] == ["sm-large"] and parts(sink.arrivals[0].data) == parts(sent["sm-large"][0]),
            "the real sendmail delivers it octet by octet", [tag_of(a.data) for a in sink.arrivals])
    sink.arrivals.clear()
    restored.start()
    restored.run("-q")
    wait_for(lambda: len({tag_of(a.data) for a in sink.arrivals} & set(sent)) >= len(sent) - on_hold, 120, 0.3)
    wrong, seen = [], Counter()
    for a in sink.arrivals:
        tag = tag_of(a.data)
        if tag not in sent:
            continue                                # late mail, and reports of success
        data, sender, recipients = sent[tag]
        seen.update((tag, r) for r in a.recipients)
        # As Postfix would have made it.
        sender = f"list+{a.recipients[0].replace('@', '=')}@load.example" if tag == "pf-verp" else sender
        if a.sender != sender or parts(a.data) != parts(data):
            wrong.append((tag, a.sender, sender, parts(a.data)[0], parts(data)[0]))
    s.check(not wrong, "sender, header and body of each are as they were sent", wrong[:2])
    missing = [(t, r) for t, (_, _, rs) in sent.items() for r in rs if seen[t, r] == 0]
    s.check(len({t for t, _ in missing}) == on_hold, "every recipient of every message, but of what is on hold", missing[:5])
    s.check(max(seen.values()) == 1, "each once", seen.most_common(2))
    lines = [a for a in sink.arrivals if tag_of(a.data) == "sm-dsn"]
    s.check(lines and "RET=HDRS" in lines[0].mail and "ENVID=envid" in lines[0].mail, "DSN parameters go on", [a.mail for a in lines])
