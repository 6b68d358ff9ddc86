#!/usr/bin/env python3
"""(m) tools/install and the units under systemd as PID 1, in a container of its own (systemd-nspawn, private network).

Says "skipped: ..." and passes where the machine cannot: not root, no systemd-nspawn, no cgroups to give away. A minimal system is
made once, in target/neighbours/systemd-root; each run boots it under an overlay in memory. --full adds the bound of a stop.
"""
import ctypes
from lab import *

TOOLS = BASE / "systemd/usr/bin"
SYSTEM = BASE / "systemd-root"
PACKAGES = "systemd,systemd-sysv,dbus,procps"
PORT = 2525


def skip(why):
    print(f"  --   skipped: {why}")
    sys.exit(0)


def make_system():
    """The system that is booted; kept for the next run."""
    if (SYSTEM / "usr/bin/complete").exists():
        return
    shutil.rmtree(SYSTEM, ignore_errors=True)
    release = re.search(r"^VERSION_CODENAME=\"?(\w+)", Path("/etc/os-release").read_text(), re.M)
    codename = release[1] if release else "stable"
    r = subprocess.run(["perl", TOOLS / "mmdebstrap", "--mode=root", "--variant=minbase", f"--include={PACKAGES}", codename, SYSTEM], capture_output=True, text=True)
    if r.returncode != 0:
        skip(f"no system to boot: mmdebstrap: {r.stderr.strip().splitlines()[-1:]}")
    (SYSTEM / "usr/bin/complete").touch()


class Box:
    """The booted system. `run` is a command in it; `root` its files; this process moves into its network."""

    def __init__(self, directory):
        self.log = open(directory / "console.log", "wb")
        # nspawn writes into /run of whoever starts it: a /run of its own.
        boot = ("mount -t tmpfs none /run && mkdir /run/lock && exec systemd-nspawn --directory=$0 --boot --register=no --keep-unit --quiet "
                "--private-network --volatile=overlay --machine=kvmta-try --console=pipe systemd.log_target=console")
        env = {**tool_env("systemd"), "PATH": f"{TOOLS}:/usr/sbin:/usr/bin:/sbin:/bin"}
        self.process = subprocess.Popen(["unshare", "-m", "sh", "-c", boot, SYSTEM], env=env, stdin=subprocess.DEVNULL, stdout=self.log,
                                        stderr=self.log, start_new_session=True)
        self.leader = None

    def is_up(self):
        if self.leader is None:
            children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
            if not children or Path(f"/proc/{children[0]}/comm").read_text().strip() != "systemd":
                return False
            self.leader = children[0]
        return self.run("systemctl", "is-system-running").stdout.strip() in (b"running", b"degraded")

    def ended(self):
        return self.process.poll() is not None

    @property
    def root(self):
        return Path(f"/proc/{self.leader}/root")

    def run(self, *args, stdin=b"", user=None, limit=120):
        by = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups"] if user else []
        return subprocess.run(["nsenter", "-t", self.leader, "-m", "-u", "-i", "-n", "-p", "-C", "env", "-i", "LC_ALL=C",
                               "PATH=/usr/sbin:/usr/bin:/sbin:/bin", *by, *map(str, args)], input=stdin, capture_output=True, timeout=limit)

    def sh(self, script, **kwargs):
        r = self.run("sh", "-c", script, **kwargs)
        return r.returncode, (r.stdout + r.stderr).decode(errors="replace")

    def join_network(self):
        with open(f"/proc/{self.leader}/ns/net") as space:
            if ctypes.CDLL(None, use_errno=True).setns(space.fileno(), 0) != 0:
                raise OSError(ctypes.get_errno(), "setns")

    def close(self):
        if not self.ended() and self.leader:
            os.kill(int(self.leader), signal.SIGRTMIN + 4)      # poweroff (systemd(1))
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(30)
        if not self.ended():
            if self.leader:
                os.kill(int(self.leader), signal.SIGKILL)
            self.process.kill()
            self.process.wait()


with Scenario("systemd") as s:
    t0 = time.monotonic()
    if os.geteuid() != 0:
        skip("no nspawn: not root")
    if not (TOOLS / "systemd-nspawn").exists():
        skip("no nspawn")
    make_system()
    box = Box(s.dir)
    s.stack.callback(box.close)
    if not wait_for(lambda: box.ended() or box.is_up(), 30) or box.ended():
        skip(f"no nspawn: it does not boot here: {(s.dir / 'console.log').read_text(errors='replace')[-500:]}")
    box.join_network()
    print(f"  --   booted after {time.monotonic() - t0:.1f} s: {box.sh('systemctl --version | head -1')[1].strip()}")

    def files():
        return set(box.sh("find /usr /etc /var /run -xdev ! -path '/var/log/*' ! -path '/run/log/*' ! -path '/run/systemd/*' ! -path '/etc/*-'")[1].splitlines())

    def install(*args, **env):
        words = " ".join(f"{name}={value}" for name, value in env.items())
        return box.sh(f"{words} /root/kvmta/tools/install {' '.join(args)}")

    def unit(name, prop):
        return box.sh(f"systemctl show -P {prop} {name}")[1].strip()

    def journal(*args):
        return box.sh("journalctl --no-pager -q -o cat " + " ".join(args))[1]

    shutil.copytree(ROOT / "tools", box.root / "root/kvmta/tools", symlinks=True)
    (box.root / "root/kvmta/target/release").mkdir(parents=True)
    for program in (KVMTA, KVMTA_DUMP, KVMTA_QUEUE, KVMTA_LOAD):
        shutil.copy(program, box.root / "root/kvmta/target/release" / Path(program).name)
    box.sh("useradd -m -u 2000 ann")

    # --- another mail system is here ---
    before = files()
    package = box.root / "root/other"
    (package / "DEBIAN").mkdir(parents=True)
    (package / "usr/sbin").mkdir(parents=True)
    (package / "usr/sbin/sendmail").write_text("#!/bin/sh\necho the other\n")
    (package / "usr/sbin/sendmail").chmod(0o755)
    (package / "DEBIAN/control").write_text("Package: other-mta\nVersion: 1\nArchitecture: all\nMaintainer: none <none@example.com>\n"
                                           "Provides: mail-transport-agent\nConflicts: mail-transport-agent\nDescription: another\n")
    status, said = box.sh("cd /root && dpkg-deb -b other other.deb && dpkg -i other.deb")
    s.check(status == 0, "another mail system is installed", said)
    with_other = files()
    status, said = install()
    s.check(status == 1 and "/usr/sbin/sendmail (of package other-mta)" in said, "install: refuses, and names the package", said)
    s.check(files() == with_other and box.sh("id kvmta")[0] == 1, "install: did nothing", files() ^ with_other)
    divert = re.search(r"^  (dpkg-divert .*/usr/sbin/sendmail)$", said, re.M)
    status, said = box.sh(divert[1]) if divert else (1, said)
    s.check(status == 0, "the dpkg-divert it prints works", said)
    status, said = install()
    s.check(status == 0, "install: beside what was diverted", said)
    s.check(box.sh("dpkg -i /root/other.deb && readlink /usr/sbin/sendmail")[1].strip().endswith("kvmta"), "an upgrade of the other package leaves our names")
    status, said = install("--uninstall")
    s.check(status == 0, "install --uninstall: done", said)
    box.sh("dpkg-divert --local --rename --remove /usr/sbin/sendmail")
    s.check(box.sh("/usr/sbin/sendmail")[1] == "the other\n", "the diversion taken back: the other is as it was")
    status, said = install("--force")
    s.check(status == 0 and box.sh("readlink /usr/sbin/sendmail")[1].strip() == "kvmta", "install --force: done", said)
    install("--uninstall")
    s.check(box.sh("/usr/sbin/sendmail")[1] == "the other\n", "--uninstall after --force: the other is as it was")
    box.sh("dpkg -P other-mta")

    # --- the units ---
    status, said = install()
    s.check(status == 0 and "systemctl enable --now kvmta.socket kvmta.service" in said, "install: done, and says what is next", said)
    entry = box.sh("getent passwd kvmta")[1]
    s.check(re.match(r"kvmta:x:\d+:\d+:kvmta mail:/var/spool/kvmta:\S*/nologin$", entry), "sysusers: the user", entry)
    status, said = box.sh("systemd-analyze verify --man=no kvmta.socket kvmta.service")
    s.check(status == 0 and not said, "systemd-analyze verify: nothing to say", said)
    status, said = box.sh("systemd-analyze security --no-pager kvmta.service | tail -1")
    exposure = float((re.search(r": ([\d.]+) ", said) or ["", "10"])[1])
    s.check(exposure < 1.6, f"systemd-analyze security: {exposure}", said)
    box.sh("rmdir /var/spool/kvmta; systemd-tmpfiles --create kvmta.conf")
    s.check(box.sh("stat -c '%a %U %G' /var/spool/kvmta")[1] == "711 kvmta kvmta\n", "tmpfiles: the queue directory")

    sink = s.sink(port=PORT).start()
    (box.root / "etc/mail/kvmta.cf").write_text(f"O SmartHost=[{LOCAL}]:{PORT}\nO LocalRelay=[{LOCAL}]:{PORT}\nO Timeout.queuereturn=5d\n")
    status, said = box.sh("systemctl enable --now kvmta.socket kvmta.service")
    s.check(status == 0 and unit("kvmta.service", "ActiveState") == "active", "systemctl enable --now: it runs", said)
    status, said = box.sh("ss -Hltn 2>/dev/null; cat /proc/$(systemctl show -P MainPID kvmta.service)/status")
    s.check(re.search(r"^CapEff:\s+0+$", said, re.M) and re.search(r"^Uid:\s+[1-9]", said, re.M), "it has no capability and is not root", said[-1500:])

    def pid():
        return unit("kvmta.service", "MainPID")

    letter = b"Subject: by %s\n\nhello\n"
    r = box.run("/usr/sbin/sendmail", "-i", "-f", "me@load.example", "root@sink.example", stdin=letter % b"root")
    s.check(r.returncode == 0 and not r.stderr, "root: /usr/sbin/sendmail", r)
    r = box.run("/usr/sbin/sendmail", "-i", "ann@sink.example", stdin=letter % b"ann", user=2000)
    s.check(r.returncode == 0 and not r.stderr, "a user: /usr/sbin/sendmail", r)
    code, text = send(25, "me@load.example", ["smtp@sink.example"], message("smtp"))
    s.check(code == 250, "SMTP to the port of the socket unit", text)
    for who in ("root", "ann", "smtp"):
        s.check(wait_for(lambda: sink.recipients()[f"{who}@sink.example"] == 1, 10), f"{who}: arrived")
    sender = [a.sender for a in sink.arrivals if "ann@sink.example" in a.recipients]
    s.check(sender and sender[0].startswith("ann@"), "a user: his own reverse-path", sender)
    lines = box.sh("journalctl --no-pager -q -o json -u kvmta.service")[1]
    s.check('"SYSLOG_FACILITY":"2"' in lines and "stat=Sent" in lines, "journal: facility mail, the lines of sendmail", lines[-800:])
    s.check(not re.search(r"[Pp]ermission denied|Operation not permitted|Bad message", journal("-u kvmta.service")), "journal: the sandbox is in nobody's way",
            journal("-u kvmta.service")[-1500:])

    # --- reload ---
    first = pid()
    cf = box.root / "etc/mail/kvmta.cf"
    cf.write_text(cf.read_text() + "O SmtpGreetingMessage=anew\n")
    status, said = box.sh("systemctl reload kvmta.service")

    def banner():
        with socket.create_connection((LOCAL, 25), 10) as c:
            c.settimeout(10)
            return c.recv(200)
    s.check(status == 0 and wait_for(lambda: b"anew" in banner(), 5) and pid() == first, "systemctl reload: the new greeting, the same process", said)
    s.check(wait_for(lambda: unit("kvmta.service", "ActiveState") == "active", 5), "systemctl reload: active again", unit("kvmta.service", "SubState"))

    install()
    box.sh("systemctl reload kvmta.service")
    s.check(wait_for(lambda: "due to signal SIGHUP; /usr/sbin/kvmta is another program than the one that runs" in journal("-u kvmta.service"), 10) and pid() == first,
            "a new program: the reload says that it does not run it", journal("-u kvmta.service -n 5"))

    # --- restarts while mail comes in ---
    stop, taken, later, refused = threading.Event(), [], [], []

    def submit(n):
        k = 0
        while not stop.is_set():
            k += 1
            tag = f"cmd-{n}-{k}"
            r = box.run("/usr/sbin/sendmail", "-i", "-f", "me@load.example", "b@sink.example", stdin=message(tag).replace(b"\r\n", b"\n"), user=2000 if n % 2 else None)
            (taken if r.returncode == 0 else refused).append((tag, r.returncode, r.stderr))

    async def once(tag):
        """One connection, one message: its reply, 421 too, which a daemon on its way out gives between two commands."""
        client = Client()
        code, text = await client.open(25)
        if code == 250:
            code, text = await client.send("a@load.example", ["b@sink.example"], message(tag))
        client.writer.close()
        return code, text

    def by_smtp(n):
        k = 0
        while not stop.is_set():
            k += 1
            tag = f"smtp-{n}-{k}"
            try:
                code, text = asyncio.run(once(tag))
            except OSError as error:
                code, text = 0, repr(error)
            (taken if code == 250 else later if code == 421 else refused).append((tag, code, text))
    threads = [threading.Thread(target=t, args=(n,)) for n in range(3) for t in (submit, by_smtp)]
    for thread in threads:
        thread.start()
    restarts = []
    for _ in range(4):
        time.sleep(1)
        t = time.monotonic()
        status, said = box.sh("systemctl restart kvmta.service")
        restarts.append(time.monotonic() - t)
        s.check(status == 0, f"systemctl restart under load: {restarts[-1]:.2f} s", said)
    stop.set()
    for thread in threads:
        thread.join()
    s.check(not refused and all(tag.startswith("smtp") for tag, *_ in later),
            f"restarts under load: {len(taken)} taken, {len(later)} SMTP sessions heard 421, nobody refused", (len(refused), refused[:5]))
    tags = {tag for tag, *_ in taken}
    s.check(wait_for(lambda: tags <= set(sink.tags()), 30), "restarts under load: nothing lost", sorted(tags - set(sink.tags()))[:5])
    again = {tag: n for tag, n in sink.tags().items() if tag and n > 1}
    s.check(not again, "restarts under load: nothing twice", again)

    # --- a program that hangs, and one that dies ---
    dropin = box.root / "run/systemd/system/kvmta.service.d"
    dropin.mkdir(parents=True)
    (dropin / "try.conf").write_text("[Service]\nWatchdogSec=2\n")
    box.sh("systemctl daemon-reload; systemctl restart kvmta.service")
    before_hang, t = pid(), time.monotonic()
    time.sleep(4)
    s.check(pid() == before_hang, "watchdog: one that works is left alone", journal("-u kvmta.service -n 20"))
    box.sh(f"kill -STOP {before_hang}")
    s.check(wait_for(lambda: pid() not in ("0", before_hang) and unit("kvmta.service", "ActiveState") == "active", 30, 0.2),
            "watchdog: one that hangs is started anew", journal("-u kvmta.service -n 20"))
    killed = pid()
    box.sh(f"kill -KILL {killed}")
    code, text = send(25, "me@load.example", ["after@sink.example"], message("after"))
    s.check(code == 250 and pid() not in ("0", killed), "kill -9: the connection of that moment is served by the next process", text)

    # --- what it cannot start with ---
    good = cf.read_text()
    cf.write_text(good + "O RunAsUser=nobody-of-that-name\n")
    box.sh("systemctl stop kvmta.service")
    status, said = box.sh("systemctl start kvmta.service")
    s.check(status != 0 and unit("kvmta.service", "ActiveState") == "failed" and unit("kvmta.service", "NRestarts") == "0",
            "a fault in the configuration: failed, and not tried over and over", (status, said, unit("kvmta.service", "NRestarts")))
    s.check("nobody-of-that-name: no such user" in journal("-u kvmta.service -n 20"), "a fault in the configuration: the journal says which",
            journal("-u kvmta.service -n 20"))
    # Something that comes right by itself, as a full disk does: here a certificate that is not there yet.
    (dropin / "try.conf").write_text("[Service]\nRestartSec=100ms\n")
    cf.write_text(good + "O ServerCertFile=/etc/mail/cert.pem\nO ServerKeyFile=/etc/mail/cert.pem\n")
    box.sh("systemctl daemon-reload; systemctl start --no-block kvmta.service")
    s.check(wait_for(lambda: int(unit("kvmta.service", "NRestarts")) > 8, 20, 0.2), "a shortage: tried again and again", journal("-u kvmta.service -n 20"))
    cf.write_text(good)
    s.check(wait_for(lambda: unit("kvmta.service", "ActiveState") == "active", 10, 0.2), "a shortage that ends: it is up by itself", journal("-u kvmta.service -n 20"))
    s.check(send(25, "me@load.example", ["mended@sink.example"], message("mended"))[0] == 250, "a shortage that ends: mail is taken")

    # --- stop ---
    if FULL:
        # Longer than the watchdog is patient: on its way out it is bound by TimeoutStopSec alone.
        (dropin / "try.conf").write_text("[Service]\nWatchdogSec=5\n")
        box.sh("systemctl daemon-reload; systemctl restart kvmta.service")
        sink.plan = lambda event, text, session: HANG if event == "data" else None
        send(25, "me@load.example", ["hang@sink.example"], message("hang"))
        wait_for(lambda: sink.events["data"], 10)
        t = time.monotonic()
        status, said = box.sh("systemctl stop kvmta.service", limit=100)
        took = time.monotonic() - t
        s.check(status == 0 and 20 < took < 90 and unit("kvmta.service", "Result") == "success", f"systemctl stop with a delivery that hangs: {took:.0f} s",
                journal("-u kvmta.service -n 20"))
        sink.plan = None
        box.sh("systemctl start kvmta.service")
        s.check(wait_for(lambda: sink.recipients()["hang@sink.example"] == 1, 10) or "hang@" in box.sh("mailq")[1], "what hung is still queued")
    t = time.monotonic()
    status, said = box.sh("systemctl stop kvmta.service")
    s.check(status == 0 and time.monotonic() - t < 5, f"systemctl stop: {time.monotonic() - t:.1f} s", said)
    s.check(unit("kvmta.service", "Result") == "success", "systemctl stop: success", unit("kvmta.service", "Result"))
    code, text = send(25, "me@load.example", ["woken@sink.example"], message("woken"))
    s.check(code == 250 and unit("kvmta.service", "ActiveState") == "active", "a connection to the socket unit starts it", text)

    # --- away ---
    status, said = install("--uninstall")
    s.check(status == 0, "install --uninstall: done", said)
    left = {path for path in files() - before if not path.startswith(("/var/spool/kvmta", "/etc/mail"))} - {"/var/spool"}
    s.check(not left, "install --uninstall: leaves nothing but queue and configuration", sorted(left))
    s.check(box.sh("systemctl list-unit-files 'kvmta*'")[1].count("0 unit files"), "install --uninstall: no unit is left", box.sh("systemctl list-unit-files 'kvmta*'")[1])
    s.check((box.root / "var/spool/kvmta/queue.redb").exists(), "install --uninstall: the queue is still there")
    status, said = box.sh("ls -l /proc/*/exe 2>/dev/null | grep kvmta")
    s.check(status == 1, "install --uninstall: nothing of it runs", said)
