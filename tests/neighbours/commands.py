#!/usr/bin/env python3
"""(j) The command line as scripts know it: exit statuses, -bs, -v, -odi, no daemon, two daemons, ETRN, DSN, held reports, SIGTERM."""
from lab import *


def plan(what, text, session):
    if what == "rcpt":
        return {"hard@x.example": "550 5.1.1 No such user", "soft@x.example": "450 4.2.1 Busy",
                "nohost@x.example": "550 5.1.2 No such host"}.get(text)
    if what == "mail" and "<>" in text and session.sink.no_reports:
        return "550 5.7.1 No reports here"


with Scenario("commands") as s:
    home = s.dir / "home"
    home.mkdir()
    os.environ["HOME"] = str(home)
    sink = s.sink(plan=plan, extensions=("PIPELINING", "8BITMIME", "DSN", "ENHANCEDSTATUSCODES")).start()
    sink.no_reports = False
    kvmta = s.kvmta(smart_host=sink.port)
    settings = [x for name, value in kvmta.options.items() for x in ("-O", f"{name}={value}")]
    text = b"Subject: x\n\nhi\n"
    dead = home / "dead.letter"

    def expect(exit, args, stdin=text, out=None, err=None, label=None):
        r = kvmta.run(*settings, *args, stdin=stdin)
        good = r.returncode == exit and (out is None or re.search(out, r.stdout, re.S)) and (err is None or re.search(err, r.stderr, re.S))
        s.check(good, f"{label or ' '.join(args)}: exit {exit}", (r.returncode, r.stdout[-600:], r.stderr[-600:]))
        return r

    # Nobody there, no queue.
    expect(75, ["-i", "a@x.example"], err=rb"no queue in .*Saved message in", label="no queue: 75 and dead.letter")
    s.check(dead.exists() and dead.read_bytes().endswith(text + b"\n"), "dead.letter has the message")
    expect(75, ["-bp"], label="no queue: -bp")

    kvmta.start()
    dead.unlink(missing_ok=True)
    expect(67, ["-i", "nosuch"], err=rb"nosuch\.\.\. User unknown\n.*dead\.letter\.\.\. Saved message in .*dead\.letter\n")
    s.check(dead.exists(), "-i nosuch: saved")
    dead.unlink(missing_ok=True)
    expect(67, ["-i", "-oeq", "nosuch"], err=rb"^$")
    s.check(not dead.exists(), "-oeq: not saved")
    for mode in ("m", "w"):
        expect(67, ["-i", f"-oe{mode}", "nosuch"])
        s.check(dead.exists(), f"-oe{mode}: what is not taken is saved")
        dead.unlink(missing_ok=True)
    expect(0, ["-i", "-oee", "nosuch"])
    s.check(dead.exists(), "-oee: exit 0 only because it is saved")
    expect(64, ["-i"], err=rb"Recipient names must be specified")
    expect(64, ["-Z", "root"], err=rb"illegal option -- Z")
    expect(64, ["-bz", "root"], err=rb"Frozen configurations unsupported")
    expect(0, ["-t", "-i"], err=rb"No recipient addresses found in header")
    expect(72, ["-C", "/nonexistent.cf", "-bp"], err=rb"/nonexistent\.cf: line 0: cannot open: No such file or directory")
    expect(70, ["-O", "NoSuchOption=1", "-bp"], err=rb"readcf: unknown option name NoSuchOption")
    expect(64, ["-q1x"], err=rb"Invalid time unit `x'")
    expect(64, ["-i", "-N", "bogus", "root"], err=rb"Invalid -N argument")
    expect(0, ["-qInosuchid", "-v"], out=rb"^$")
    expect(0, ["-bs"], stdin=b"", out=rb"^220 \S+ ESMTP .*\r\n$", label="-bs without input")
    r = expect(0, ["-bs"], stdin=b"EHLO x\r\nMAIL FROM:<root>\r\nRCPT TO:<nosuch>\r\nRCPT TO:<bs@x.example>\r\nDATA\r\nSubject: bs\r\n\r\nhi\r\n.\r\nQUIT\r\n",
               out=rb"250 2\.1\.0 <root>\.\.\. Sender ok\r\n550 5\.1\.1 <nosuch>\.\.\. User unknown\r\n250 2\.1\.5 .*354 .*250 2\.0\.0 \w+ Message accepted for delivery\r\n221 2\.0\.0 ",
               label="-bs session")
    wait_for(lambda: sink.recipients()["bs@x.example"], 10)
    s.check([a.sender.startswith("root@") for a in sink.arrivals if "bs@x.example" in a.recipients] == [True], "-bs: a local sender goes out with our name",
            [a.sender for a in sink.arrivals])

    # -odi: what the attempt said is the exit status.
    expect(0, ["-odi", "-i", "ok@x.example"])
    expect(0, ["-odi", "-i", "soft@x.example"])
    expect(67, ["-odi", "-i", "-f", "me@x.example", "hard@x.example"])
    # sendmail goes by the code of RCPT: 550 is an unknown user, whatever the enhanced code says.
    expect(67, ["-odi", "-i", "-f", "me@x.example", "nohost@x.example"])
    expect(0, ["-odq", "-i", "queued@x.example"])
    s.check(not sink.recipients()["queued@x.example"] and "queued@x.example" in kvmta.listing(), "-odq: queued, not tried")
    expect(0, ["-v", "-i", "-f", "me@x.example", "verbose@x.example"],
           out=rb"^verbose@x\.example\.\.\. Connecting to .* via relay\.\.\.\n220 .*\n>>> EHLO .*\n250-.*\n>>> MAIL From:<me@x\.example>.*\n>>> RCPT To:<verbose@x\.example>.*\n"
               rb">>> DATA\n.*354 .*\n>>> \.\n250 .*\nverbose@x\.example\.\.\. Sent \(.*\)\nClosing connection to .*\n>>> QUIT\n221 ")
    r = expect(0, ["-q", "-v"], out=rb"\nRunning \S+/\w+ \(sequence 1 of \d+\)\n")
    s.check(sink.recipients()["queued@x.example"] == 1 and b"queued@x.example... Sent" in r.stdout, "-q -v tells and delivers", r.stdout[-500:])

    # DSN requests by flag and over SMTP travel to the next hop.
    expect(0, ["-odi", "-i", "-R", "hdrs", "-N", "success,delay", "-V", "env1", "dsn@x.example"])
    got = [a for a in sink.arrivals if "dsn@x.example" in a.recipients]
    s.check(got and "RET=HDRS" in got[0].mail and "ENVID=env1" in got[0].mail, "-R and -V travel", got and got[0].mail)
    code, reply = send(kvmta.port, "a@load.example", ["dsn2@x.example"], message("dsn2"), " RET=FULL ENVID=e+2B2")
    wait_for(lambda: sink.recipients()["dsn2@x.example"], 10)
    got = [a for a in sink.arrivals if "dsn2@x.example" in a.recipients]
    s.check(got and "RET=FULL" in got[0].mail and "ENVID=e+2B2" in got[0].mail, "RET and ENVID travel", got and got[0].mail)

    # ETRN runs the queue of a domain.
    kvmta.submit(text, "me@x.example", "etrn@y.example", args=("-odq",))

    def etrn(domain):
        async def go():
            client = Client()
            await client.open(kvmta.port)
            reply = await client.command(f"ETRN {domain}")
            await client.quit()
            return reply
        return asyncio.run(go())
    code, reply = etrn("@y.example")
    s.check(code in (250, 251, 252, 253), "ETRN is answered", reply)
    s.check(wait_for(lambda: sink.recipients()["etrn@y.example"] == 1, 10), "ETRN runs it", kvmta.listing())

    # A report that nobody takes is held for the postmaster to see, not dropped.
    sink.no_reports = True
    expect(67, ["-odi", "-i", "-f", "gone@x.example", "hard@x.example"], label="a report with no way out")
    held = wait_for(lambda: re.search(r"QUARANTINE: (.*)", kvmta.listing("-qQ")), 10)
    s.check(held, "a report with no way out is held, and -bp -qQ says why", kvmta.listing("-qQ"))
    sink.no_reports = False

    # Holding, letting go, looking, forgetting: sendmail's words.
    kvmta.submit(text, "me@x.example", "hold@y.example", args=("-odq",))
    one = kvmta.ids("-qRhold@y")[0]
    expect(0, ["-Qtesting", "-qRhold@y", "-v"], out=rf"^Processing \S+:\n{one}: Quarantined with \"testing\"\n1 change\n$".encode())
    s.check("hold@y.example" not in kvmta.listing() and f"{one} " in kvmta.listing("-qQtest"), "-Q: only -bp -qQ shows it", kvmta.listing())
    s.check("     QUARANTINE: testing\n" in kvmta.listing("-qQ"), "-bp -qQ says why")
    expect(0, ["-Qother", "-qQtest", "-v"], out=rb'Quarantine changed from "testing" to "other"\n1 change\n')
    expect(0, ["-q", "-v"], label="-Q: a plain run passes it over")
    s.check(not sink.recipients()["hold@y.example"], "-Q: not tried")
    other = kvmta.run(*settings, "-Q", "-qQ", user="nobody") if os.geteuid() == 0 else None
    s.check(other is None or other.returncode == 64 and b"Permission denied" in other.stderr, "-Q: not for everybody", other)
    expect(0, ["-Q", "-qQother", "-v"], out=rb'Removed quarantine of "other"\n1 change\n')
    s.check(wait_for(lambda: sink.recipients()["hold@y.example"], 10), "-Q: what is let go is tried at once")
    expect(0, ["-bh"], out=rb"^ -+ Hostname -+ How long ago -+Results-+\n \[127\.0\.0\.1\] +\d\d:\d\d:\d\d 250 ")
    expect(0, ["-bH", "-O", "Timeout.hoststatus=1h"], out=rb"^$")
    expect(0, ["-bv", "a@x.example"], out=rb"^a@x\.example\.\.\. deliverable: mailer relay, host \[127\.0\.0\.1\]:\d+, user a@x\.example\n$")
    expect(67, ["-bv", "nosuch"], out=rb"^nosuch\.\.\. User unknown\n$")
    expect(0, ["-bt"], stdin=b"/parse root\n/quit\n", out=rb"^ADDRESS TEST MODE .*\nmailer local, user root\n> $")
    aliases = s.dir / "aliases"
    aliases.write_text("postmaster: root\nlist: a@x.example, b@x.example\n")
    expect(0, ["-bi", "-O", f"AliasFile={aliases}"], out=rb"/aliases: 2 aliases, longest 24 bytes, 42 bytes total\n$")
    aliases.write_text("postmaster\n")
    expect(70, ["-bi", "-O", f"AliasFile={aliases}"], out=rb"/aliases: line 1: missing colon\n.*: 0 aliases, ")
    expect(0, ["-bO"], out=rb"\nSmartHost=\[127\.0\.0\.1\]:\d+  \(command line\)\n")
    expect(0, ["-d0.1", "-bv", "a@x.example"], out=rb"^Version kvmta/\S+\n Compiled with: .*SYSTEM IDENTITY.*\$j = ")

    mailstats = s.dir / "mailstats"
    mailstats.symlink_to(KVMTA)

    def stats(*args):
        return subprocess.run([mailstats, f"-oQ{kvmta.dir}", *args], capture_output=True, text=True, timeout=60)
    r = stats()
    s.check(r.returncode == 0 and re.search(r"^Statistics from .*\n M   msgsfr .*\n 3 +[1-9]\d* +[1-9]\d*K .*  local\n( .*\n)* 8 .*  relay\n=+\n T .*\n C ", r.stdout), "mailstats", r)
    r = stats("-p")
    s.check(r.returncode == 0 and re.match(r"\d+ \d+\n 3 ", r.stdout), "mailstats -p", r)
    r = stats("-P")
    s.check(re.fullmatch(r"\d+ \d+\n T +0 +0 +0 +0 +0 +0 +0\n C +0 +0 +0\n", r.stdout), "mailstats -p began anew", r)

    # One queue has one daemon.
    t0 = time.monotonic()
    other = s.background(kvmta.dir, "-O", f"DaemonPortOptions=Port={free_port()},Addr={LOCAL}")
    s.check(other.returncode == 69 and other.stderr.count(b"in use by another process") == 1 and time.monotonic() - t0 < 5,
            "a second daemon says so, once, and ends at once", (other.returncode, other.stderr))
    other = s.background(f"{s.dir}/second", *settings)
    s.check(other.returncode == 71 and other.stderr.count(b"Address already in use") == 1, "-bd on a port in use: 71 from the parent",
            (other.returncode, other.stderr))

    # Any user hands mail in; while the daemon restarts he waits, and when it stays away nothing is lost.
    if os.geteuid() == 0:
        saved = Path("/var/tmp/dead.letter-nobody")
        s.stack.callback(lambda: saved.unlink(missing_ok=True))

        def nobody(*args, home=None):
            env = {k: v for k, v in os.environ.items() if k != "HOME"} | ({"HOME": home} if home else {})
            return subprocess.Popen([KVMTA, f"-oQ{kvmta.dir}", "-i", *args], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                    stderr=subprocess.PIPE, user="nobody", group="nogroup", extra_groups=[], env=env)
        if (p := nobody("nobody@x.example")).communicate(text)[1] or p.returncode:
            s.check(False, "another user hands mail in", p.returncode)
        wait_for(lambda: sink.recipients()["nobody@x.example"], 10)
        s.check([a.sender for a in sink.arrivals if "nobody@x.example" in a.recipients][0].startswith("nobody@"), "another user hands mail in, as himself")
        kvmta.stop()
        waiting = nobody("-v", "waits@x.example")
        waiting.stdin.write(text)
        waiting.stdin.close()
        line = waiting.stdout.readline()
        s.check(line.startswith(b"Waiting up to 10 seconds for the queue in "), "-v says that it waits for the daemon", line)
        kvmta.start()
        s.check(waiting.wait(30) == 0 and wait_for(lambda: sink.recipients()["waits@x.example"] == 1, 10), "a restart is waited for",
                waiting.stderr.read())
        kvmta.stop()
        for home in (None, "/proc"):
            saved.unlink(missing_ok=True)
            p = nobody("gone@x.example", home=home)
            _, err = p.communicate(text)
            s.check(p.returncode == 75 and b"Saved message in /var/tmp/dead.letter-nobody" in err and saved.read_bytes().endswith(text + b"\n"),
                    f"nobody there, HOME {home}: 75, saved and said", (p.returncode, err))
        kvmta.start()
        s.check(kvmta.total() >= 0 and "gone@x.example" not in kvmta.listing(), "and not queued as well")

    # SIGTERM under load: what got its 250 is there afterwards.
    taken = {}

    def some():
        with contextlib.suppress(OSError, ConnectionError, RuntimeError, asyncio.IncompleteReadError):
            for n in range(100_000):
                tag = f"term-{threading.get_ident()}-{n}"
                data = message(tag, 1000)
                code, _ = send(kvmta.port, "a@load.example", ["load@x.example"], data)
                if code != 250:
                    return
                taken[tag] = data
    threads = [threading.Thread(target=some) for _ in range(4)]
    for thread in threads:
        thread.start()
    time.sleep(2)
    t0 = time.monotonic()
    s.check(kvmta.stop(60) == 0, "SIGTERM under load: exit 0", kvmta.log()[-500:])
    print(f"  stopped in {time.monotonic() - t0:.1f} s after {len(taken)} messages")
    for thread in threads:
        thread.join()

    # Without a daemon: the command opens the store itself.
    expect(0, ["-bp"], label="without a daemon: -bp")
    expect(0, ["-bP"], out=rb"entries=\d+|is empty", label="without a daemon: -bP")
    expect(0, ["-i", "-f", "me@x.example", "child@x.example"], out=rb"^$", err=rb"^$", label="without a daemon: saved at once, nothing said")
    s.check(wait_for(lambda: sink.recipients()["child@x.example"] == 1, 15), "without a daemon: a child tries it once", kvmta.listing())
    expect(67, ["-odi", "-i", "-f", "me@x.example", "hard@x.example"], label="without a daemon: -odi says what the attempt said")
    expect(0, ["-q", "-v"], label="without a daemon: -q runs the queue")
    wrong = {t: n for t in taken if (n := sink.tags()[t]) != 1}
    s.check(not wrong, "every message with a 250 arrived once", list(wrong.items())[:5])
    s.check(*((r := kvmta.dump_check())[0], "kvmta-dump --check finds nothing", r[1]))
