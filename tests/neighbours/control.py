#!/usr/bin/env python3
"""(n) What sendmail's own tools ask for: smcontrol.pl at ControlSocketName, and mailstats for StatusFile."""
from lab import *

ROOTED = BASE / "sendmail"

with Scenario("control") as s:
    sink = s.sink().start()
    status_file = s.dir / "statistics"
    status_file.touch()
    kvmta = s.kvmta(smart_host=sink.port, ControlSocketName="smcontrol", StatusFile=status_file, MaxDaemonChildren="50", **{"Timeout.control": "2s"})
    kvmta.start()
    name = kvmta.dir / "smcontrol"
    found = name.stat()
    s.check(found.st_mode & 0o777 == 0o600 and found.st_uid == os.geteuid(), "the socket: 0600, the daemon's", oct(found.st_mode))

    def smcontrol(command):
        r = subprocess.run(["perl", ROOTED / "usr/share/sendmail/smcontrol.pl", "-f", name, command], capture_output=True, text=True, timeout=30)
        return r.returncode, r.stdout.replace("\r", "") + r.stderr

    def raw(line):
        with socket.socket(socket.AF_UNIX) as c:
            c.settimeout(10)
            c.connect(str(name))
            c.sendall(line)
            answer = b""
            while part := c.recv(4096):
                answer += part
            return answer

    def expect(command, pattern):
        status, said = smcontrol(command)
        s.check(status == 0 and re.search(pattern, said), f"smcontrol {command}", (status, said))

    pid = kvmta.process.pid
    with socket.create_connection((LOCAL, kvmta.port)) as client:
        client.recv(200)
        expect("status", rf"^Daemon Status: \(process {pid}\) Accepting connections\n\nCurrent number of children: 1 \(maximum 50\)\n"
               rf"QueueDir free disk space \(in blocks\): \d+\nLoad average: \d+\nChild Process {pid} Status: SMTP sessions: 1\n")
    kvmta.submit(b"Subject: x\n\nhi\n", "a@load.example", "queued@sink.example", args=("-odq",))
    expect("mstat", rf"^C:\d\nM:50\nL:\d+\nQ:{kvmta.dir}:1\nD:0/{kvmta.dir}/\d+\nP:{pid} accepting connections\n")
    expect("help", r"^214-2\.0\.0 Help for smcontrol:\n(214-2\.0\.0 \w+\t+[A-Z].*\n){6}214 2\.0\.0 End of HELP info\n")
    expect("memdump", r"^Memory dump unavailable\.\n")
    s.check(raw(b"nothing of that kind\n") == b"Bad command (nothing)\r\n", "another command")

    # Clients that say nothing, and one that says too much.
    idle = []
    for _ in range(12):
        idle.append(socket.socket(socket.AF_UNIX))
        idle[-1].connect(str(name))
    t = time.monotonic()
    s.check(raw(b"status\n").startswith(b"0/50/"), f"behind twelve that say nothing: answered after {time.monotonic() - t:.1f} s")
    for c in idle:
        c.close()
    with contextlib.suppress(ConnectionError):
        raw(b"x" * 100_000)
    s.check(raw(b"status\n").startswith(b"0/50/"), "a line without end ends its connection alone")

    inode = name.stat().st_ino
    expect("restart", r"^OK\n")
    s.check(wait_for(lambda: "restarting configuration due to control socket\n" in kvmta.log(), 10), "restart: the configuration is read", kvmta.log()[-500:])
    kvmta.process.send_signal(signal.SIGHUP)
    wait_for(lambda: "due to signal SIGHUP" in kvmta.log(), 10)
    s.check(name.stat().st_ino == inode and raw(b"status\n"), "SIGHUP keeps it")
    kvmta.kill()
    s.check(name.exists(), "kill -9 leaves it")
    kvmta.start()
    s.check(re.match(rb"\d/50/", raw(b"status\n")), "the next daemon replaces it")

    # The figures, by sendmail's own program.
    for n in range(5):
        send(kvmta.port, "a@load.example", [f"s{n}@sink.example"], message(f"s{n}", 3000 * n))
    for n in range(3):
        kvmta.submit(b"Subject: x\n\nhi\n", "a@load.example", f"c{n}@sink.example")
    send(kvmta.port, "a@load.example", ["nobody@elsewhere.example"], b"x", mail=" BODY=NONSENSE")
    s.check(kvmta.run("-q").returncode == 0 and wait_for(lambda: sink.recipients()["c2@sink.example"], 10), "mail for the figures")
    expect("shutdown", r"^OK\n")
    s.check(kvmta.process.wait(30) == 0, "shutdown: it ends with 0")
    s.check("stopping daemon, reason=control socket\n" in kvmta.log() and not name.exists(), "shutdown: says why, and takes the socket away", kvmta.log()[-500:])

    (s.dir / "service.switch").write_text("hosts files\n")
    mc = (Path(__file__).parent / "sendmail.mc").read_text().replace("SINK_PORT", str(sink.port)).replace("SCRATCH", str(s.dir))
    (s.dir / "sendmail.mc").write_text(mc)
    cf_dir = ROOTED / "usr/share/sendmail/cf"
    cf = subprocess.run([ROOTED / "usr/bin/m4", f"-D_CF_DIR_={cf_dir}/", "m4/cf.m4", s.dir / "sendmail.mc"], cwd=cf_dir, capture_output=True, check=True).stdout
    (s.dir / "sendmail.cf").write_bytes(cf)
    (s.dir / "mailstats").symlink_to(KVMTA)

    def theirs(*flags):
        argv = [ROOTED / "usr/libexec/sendmail/mailstats", "-C", s.dir / "sendmail.cf", "-f", status_file, *flags]
        return subprocess.run(argv, env=tool_env("sendmail"), capture_output=True, text=True, timeout=30).stdout

    def ours(*flags):
        return subprocess.run([s.dir / "mailstats", f"-oQ{kvmta.dir}", *flags], capture_output=True, text=True, timeout=30).stdout
    s.check(status_file.stat().st_size == 1448, "StatusFile: 1448 octets", status_file.stat().st_size)
    for flags in ([], ["-o"], ["-P"]):
        # The second number of the first line of -P is the time of asking.
        plain = lambda text: re.sub(r"^(\d+) \d+$", r"\1", text, count=1, flags=re.M)
        good = plain(theirs(*flags)) == plain(ours(*flags)) and re.search(r"^ T +[1-9]", ours(*flags), re.M)
        s.check(good, f"mailstats {' '.join(flags)}: theirs says what ours says".replace(" :", ":"), theirs(*flags) + ours(*flags))
    (s.dir / "mailstats.txt").write_text(theirs())

    # Emptied: counting begins anew, in the queue as well.
    status_file.write_bytes(b"")
    kvmta.start()
    s.check(wait_for(lambda: status_file.stat().st_size == 1448, 5) and re.search(r"^ T +9 ", theirs(), re.M), "an empty file gets the figures", theirs())
    status_file.write_bytes(b"")
    kvmta.stop()
    s.check(re.search(r"^ T +0 .*\n C +0 ", theirs(), re.M) and theirs() == ours(), "emptied: both begin anew", theirs() + ours())
    status_file.unlink()
    kvmta.start()
    kvmta.stop()
    s.check(not status_file.exists() and f"StatusFile {status_file}: is not there" in kvmta.log(), "not there: not made, and said", kvmta.log()[-600:])
