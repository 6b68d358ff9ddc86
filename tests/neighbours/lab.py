"""What the scenarios beside this file share: kvmta under test, a sink that can misbehave, a client that keeps a ledger.

A scenario is a Python file of its own: `sizes.py [--full]`. It prints one line per thing it looked at and a last one,
PASS or FAIL, and exits accordingly; queue directories, logs and dumps stay in target/neighbours/run/NAME.
The ledgers are the judges: what a client got a 250 (or exit 0) for, and what a sink took. "The daemon came up" is not
a result. kvmta comes from $KVMTA, $KVMTA_DUMP and $KVMTA_LOAD, else from target/release.
"""
import asyncio, contextlib, hashlib, os, random, re, shutil, signal, socket, subprocess, sys, threading, time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BASE = ROOT / "target/neighbours"
KVMTA = os.environ.get("KVMTA", str(ROOT / "target/release/kvmta"))
KVMTA_DUMP = os.environ.get("KVMTA_DUMP", str(ROOT / "target/release/kvmta-dump"))
KVMTA_LOAD = os.environ.get("KVMTA_LOAD", str(ROOT / "target/release/kvmta-load"))
KVMTA_QUEUE = os.environ.get("KVMTA_QUEUE", str(Path(KVMTA_DUMP).with_name("kvmta-queue")))
FULL = "--full" in sys.argv
LOCAL = "127.0.0.1"


# --- programs of the neighbours ---------------------------------------------------------------------------------------

def tool_env(group):
    """The environment in which an unpacked program of `group` finds its libraries and modules."""
    root = BASE / group
    libraries = sorted({str(p.parent) for p in root.rglob("*.so*")})
    return {**os.environ, "LC_ALL": "C", "LD_LIBRARY_PATH": ":".join(libraries),
            "PERL5LIB": f"{root}/usr/share/perl5:{root}/usr/lib/x86_64-linux-gnu/perl5/5.36",
            "GIT_EXEC_PATH": f"{root}/usr/lib/git-core"}


def tool(group, path, *args, **kwargs):
    """Starts BASE/group/path; `kwargs` go to Popen."""
    return subprocess.Popen([str(BASE / group / path), *map(str, args)], env=tool_env(group), **kwargs)


def as_nobody():
    """smtp-sink wants to know whom to become when root starts it."""
    return ["-u", "nobody"] if os.geteuid() == 0 else []


def free_port():
    with socket.socket() as s:
        s.bind((LOCAL, 0))
        return s.getsockname()[1]


def wait_for(what, limit, poll=0.05):
    """The first true value of `what()` within `limit` seconds, else its last one."""
    end = time.monotonic() + limit
    while True:
        value = what()
        if value or time.monotonic() > end:
            return value
        time.sleep(poll)


# --- judging ----------------------------------------------------------------------------------------------------------

class Scenario:
    """Counts failures; ends everything it started, also when a check raises."""

    def __init__(self, name):
        self.name, self.failed, self.stack = name, 0, contextlib.ExitStack()
        self.dir = BASE / "run" / name
        self.t0 = time.monotonic()

    def __enter__(self):
        shutil.rmtree(self.dir, ignore_errors=True)
        self.dir.mkdir(parents=True)
        return self

    def __exit__(self, kind, error, trace):
        if error is not None and not isinstance(error, SystemExit):
            import traceback
            traceback.print_exception(kind, error, trace)
            self.failed += 1
        self.stack.close()
        verdict = "FAIL" if self.failed else "PASS"
        print(f"{verdict} {self.name} ({time.monotonic() - self.t0:.1f} s; logs in {self.dir})", flush=True)
        sys.exit(1 if self.failed else 0)

    def check(self, good, text, detail=""):
        print(f"  {'ok  ' if good else 'FAIL'} {text}{'' if good or detail == '' else f': {detail}'}", flush=True)
        self.failed += not good
        return good

    def kvmta(self, name="queue", **options):
        k = Kvmta(self.dir / name, **options)
        self.stack.callback(k.kill)
        return k

    def background(self, directory, *args):
        """`kvmta -bd`, which may not start; what it leaves running ends with the scenario."""
        pid = self.dir / f"{Path(directory).name}.pid"

        def end():
            with contextlib.suppress(OSError, ValueError, IndexError):
                os.kill(int(pid.read_text().split()[0]), signal.SIGKILL)
        self.stack.callback(end)
        return subprocess.run([KVMTA, "-bd", f"-oQ{directory}", "-O", f"PidFile={pid}", *args], capture_output=True, timeout=60)

    def sink(self, **kwargs):
        s = Sink(**kwargs)
        self.stack.callback(s.close)
        return s

    def process(self, popen):
        def end():
            popen.kill()
            popen.wait()
        self.stack.callback(end)
        return popen


# --- kvmta ------------------------------------------------------------------------------------------------------------

class Kvmta:
    """One queue directory and the daemon on it, in the foreground, its output in QUEUE.log."""

    def __init__(self, directory, smart_host=None, interval="15m", **options):
        self.dir, self.log_path = Path(directory), Path(f"{directory}.log")
        self.port, self.process, self.interval = free_port(), None, interval
        self.options = {"DaemonPortOptions": f"Port={self.port},Addr={LOCAL}", **options}
        if smart_host:
            self.options["SmartHost"] = f"[{LOCAL}]:{smart_host}"

    def start(self, limit=30):
        """Starts the daemon and returns the seconds until its banner."""
        self.dir.mkdir(parents=True, exist_ok=True)
        argv = [KVMTA, "-bD", f"-q{self.interval}", f"-oQ{self.dir}"]
        for name, value in self.options.items():
            argv += ["-O", f"{name}={value}"]
        t0 = time.monotonic()
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        while time.monotonic() - t0 < limit:
            if self.process.poll() is not None:
                raise RuntimeError(f"kvmta ended with {self.process.returncode}:\n{self.log()[-2000:]}")
            with contextlib.suppress(OSError):
                with socket.create_connection((LOCAL, self.port), 1) as s:
                    s.settimeout(limit)
                    if s.recv(64).startswith(b"220"):
                        s.sendall(b"QUIT\r\n")
                        return time.monotonic() - t0
            time.sleep(0.005)
        raise RuntimeError(f"kvmta gave no banner within {limit} s:\n{self.log()[-2000:]}")

    def stop(self, limit=30):
        """Asks it to end as an operator would; returns its exit status."""
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(limit)
        self.process = None
        return status

    def kill(self):
        """kill -9; nothing if it does not run."""
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.process = None

    def run(self, *args, stdin=b"", limit=120, user=None):
        """A command of kvmta on this queue, by this user."""
        return subprocess.run([KVMTA, f"-oQ{self.dir}", *args], input=stdin, capture_output=True, timeout=limit, user=user)

    def queue(self, *args, stdin=b"", limit=600, user=None):
        """kvmta-queue on this queue, by this user."""
        return subprocess.run([KVMTA_QUEUE, f"-oQ{self.dir}", *args], input=stdin, capture_output=True, timeout=limit, user=user)

    def submit(self, data, sender, *recipients, args=(), user=None):
        """Hands `data` (LF line ends) to the sendmail command; its exit status."""
        return self.run("-i", *args, "-f", sender, *recipients, stdin=data, user=user).returncode

    def listing(self, *args):
        return self.run("-bp", *args).stdout.decode(errors="replace")

    def ids(self, *args):
        """Queue IDs that -bp shows."""
        return re.findall(r"^([0-9A-Za-z]{14,})[ *X?-]", self.listing(*args), re.M)

    def total(self):
        """The number at the end of -bp."""
        found = re.search(r"Total requests: (\d+)", self.listing())
        return int(found[1]) if found else -1

    def count(self):
        """What -bP says."""
        said = self.run("-bP").stdout
        found = re.search(rb": entries=(\d+)\n", said)
        return int(found[1]) if found else 0 if said.endswith(b" is empty\n") else -1

    def wait_total(self, total, limit):
        return wait_for(lambda: self.count() == total, limit, 0.2)

    def log(self):
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def rss_mb(self, field="VmRSS"):
        """Of the daemon now; VmHWM is the highest so far."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(rf"^{field}:\s+(\d+)", text, re.M)[1]) // 1024

    def dump_check(self):
        """kvmta-dump --check: (found nothing, what it said)."""
        r = subprocess.run([KVMTA_DUMP, "--check", f"-oQ{self.dir}"], capture_output=True, text=True)
        return r.returncode == 0, (r.stdout + r.stderr).strip()


# --- the real sendmail ------------------------------------------------------------------------------------------------

class RealSendmail:
    """Debian's, unpacked, with the configuration of sendmail.mc: all it has goes to `port` on loopback."""

    def __init__(self, scenario, name, port):
        self.scenario, self.dir = scenario, scenario.dir / name
        self.root, self.spool = BASE / "sendmail", self.dir / "mqueue"
        self.spool.mkdir(parents=True, mode=0o700)
        (self.dir / "service.switch").write_text("hosts files\n")
        mc = (Path(__file__).parent / "sendmail.mc").read_text().replace("SINK_PORT", str(port)).replace("SCRATCH", str(self.dir))
        (self.dir / "sendmail.mc").write_text(mc)
        cf_dir = self.root / "usr/share/sendmail/cf"
        cf = subprocess.run([self.root / "usr/bin/m4", f"-D_CF_DIR_={cf_dir}/", "m4/cf.m4", self.dir / "sendmail.mc"], cwd=cf_dir,
                            capture_output=True, check=True).stdout
        (self.dir / "sendmail.cf").write_bytes(cf)

    def argv(self, *args, **options):
        argv = [str(self.root / "usr/libexec/sendmail/sendmail"), "-C", str(self.dir / "sendmail.cf"), f"-oQ{self.spool}",
                *(f"-O{name}={value}" for name, value in options.items()), *map(str, args)]
        if os.geteuid() == 0:       # It waits a minute for a host name with a dot; in a name space of ours there is one.
            argv = ["unshare", "--uts", "sh", "-c", 'echo neighbour.example >/proc/sys/kernel/hostname && exec "$@"', "sh", *argv]
        return argv

    def run(self, *args, stdin=b"", **options):
        return subprocess.run(self.argv(*args, **options), env=tool_env("sendmail"), input=stdin, capture_output=True, timeout=300)

    def listen(self, **options):
        """Starts it as a server; its port."""
        port = free_port()
        options["DaemonPortOptions"] = f"Port={port},Addr={LOCAL}"
        output = open(self.dir / "daemon.log", "wb")
        # Its children outlive a signal to it alone.
        process = subprocess.Popen(self.argv("-bD", **options), env=tool_env("sendmail"), stdin=subprocess.DEVNULL, stdout=output,
                                   stderr=output, start_new_session=True)

        def end():
            with contextlib.suppress(OSError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self.scenario.stack.callback(end)

        def answers():
            with contextlib.suppress(OSError), socket.create_connection((LOCAL, port), 5) as s:
                s.settimeout(60)
                return s.recv(64).startswith(b"220")
        if not wait_for(answers, 90, 0.2):
            raise RuntimeError("sendmail does not listen: " + (self.dir / "daemon.log").read_text(errors="replace"))
        return port


# --- messages ---------------------------------------------------------------------------------------------------------

def message(tag, size=2048, sender="a@load.example", extra="", eight_bit=False):
    """A message with CRLF line ends, different for each `tag`: `X-Tag:` in the header, a body of about `size` octets."""
    rng = random.Random(tag)
    head = (f"From: <{sender}>\r\nTo: list:;\r\nSubject: {tag}\r\nX-Tag: {tag}\r\n"
            f"Date: Sun, 22 Nov 2026 06:20:25 +0000\r\nMessage-Id: <{tag}@load.example>\r\n{extra}\r\n").encode()
    alphabet = "abcdefghijklmnopqrstuvwxyz .,0123456789" + ("äöü€" if eight_bit else "")
    lines, n = [], 0
    while n < size:
        line = "".join(rng.choices(alphabet, k=min(72, max(0, size - n - 2))))
        line = rng.choice(["", "", "", ".", "..", "From "]) + line       # what dot-stuffing and mbox trip over
        lines.append(line.encode() + b"\r\n")
        n += len(lines[-1])
    return head + b"".join(lines)


def tag_of(data):
    found = re.search(rb"^X-Tag: (\S+)", data, re.M)
    return found[1].decode() if found else None


def queue_id_of(data):
    """The queue ID in our topmost Received of a message a sink took."""
    found = re.search(rb"\bid ([0-9A-Za-z]{14,})", data)
    return found[1].decode() if found else None


def changed(sent, got):
    """How a relayed message differs from what was sent, but for trace fields put before it; none if it does not."""
    if not got.endswith(sent):
        return f"{len(sent)} octets sent are not the end of {len(got)} octets received"
    trace = got[:len(got) - len(sent)]
    for field in re.split(rb"\r\n(?![ \t])", trace)[:-1]:
        if not re.match(rb"(Received|Return-Path):", field, re.I):
            return f"added before it: {field[:80]!r}"
    return None


# --- the sink ---------------------------------------------------------------------------------------------------------

DROP, HANG, TAKE_AND_DROP = object(), object(), object()


class Arrival:
    """One message that the sink answered 250 for."""
    __slots__ = ("sender", "recipients", "data", "digest", "size", "at", "peer", "mail")

    def __init__(self, session, data, keep):
        self.sender, self.recipients, self.mail = session.sender, list(session.recipients), session.mail
        self.size, self.at = len(data), time.monotonic()
        self.data = bytes(data) if keep else bytes(data[:4096])
        self.digest = hashlib.sha256(data).digest()


class Session(asyncio.Protocol):
    """One connection to the sink (RFC 5321, pipelining, one reply per line however the client cuts its segments)."""

    def __init__(self, sink):
        self.sink, self.buffer, self.in_data, self.hung = sink, bytearray(), False, False
        self.scanned = 0
        self.reset()

    def reset(self):
        self.sender, self.recipients, self.mail = None, [], ""

    def connection_made(self, transport):
        self.transport = transport
        self.sink.sessions += 1
        self.sink.open.add(self)
        self.answer("connect", "", "220 sink.example ESMTP")

    def connection_lost(self, error):
        self.sink.open.discard(self)

    def answer(self, event, text, usual):
        """What the plan says to `event`, else `usual`. True if the answer was positive."""
        self.sink.events[event] += 1
        reply = self.sink.plan(event, text, self) if self.sink.plan else None
        reply = usual if reply is None else reply
        if reply is HANG:
            self.hung = True
        elif reply is DROP:
            self.transport.abort()
            self.hung = True
        elif reply is TAKE_AND_DROP:
            self.transport.abort()
            self.hung = True
            return True
        else:
            self.transport.write(reply.encode() + b"\r\n")
            return reply[0] in "23"
        return False

    def data_received(self, chunk):
        if self.hung:
            return
        self.buffer += chunk
        while not self.hung and not self.transport.is_closing():
            if self.in_data:
                if self.buffer.startswith(b".\r\n"):
                    end, after = 0, 3
                else:
                    end = self.buffer.find(b"\r\n.\r\n", max(0, self.scanned - 4))
                    if end < 0:
                        self.scanned = len(self.buffer)
                        if self.sink.plan and self.sink.plan("mid-data", "", self) is DROP:
                            self.transport.abort()
                        return
                    end, after = end + 2, end + 5
                data = self.buffer[:end].replace(b"\r\n..", b"\r\n.")
                if data.startswith(b".."):
                    del data[:1]
                del self.buffer[:after]
                self.in_data, self.scanned = False, 0
                if self.answer("dot", "", "250 2.0.0 Ok: taken"):
                    self.sink.take(Arrival(self, data, self.sink.keep))
                self.reset()
            else:
                end = self.buffer.find(b"\n")
                if end < 0:
                    return
                line = bytes(self.buffer[:end]).rstrip(b"\r").decode(errors="surrogateescape")
                del self.buffer[:end + 1]
                self.command(line)

    def command(self, line):
        verb = line[:4].upper()
        if verb == "EHLO":
            self.reset()
            extensions = self.sink.extensions
            lines = ["250-sink.example", *(f"250-{e}" for e in extensions[:-1]), f"250 {extensions[-1]}"]
            self.answer("ehlo", line, "\r\n".join(lines))
        elif verb == "HELO":
            self.answer("helo", line, "250 sink.example")
        elif verb == "MAIL":
            if self.answer("mail", line, "250 2.1.0 Ok"):
                self.sender, self.mail = line[line.find("<") + 1:line.find(">")], line
        elif verb == "RCPT":
            address = line[line.find("<") + 1:line.find(">")]
            if self.answer("rcpt", address, "250 2.1.5 Ok"):
                self.recipients.append(address)
        elif verb == "DATA":
            if not self.recipients:
                self.transport.write(b"554 5.5.1 No valid recipients\r\n")
            elif self.answer("data", line, "354 Go"):
                self.in_data = True
        elif verb == "RSET":
            self.reset()
            self.answer("rset", line, "250 2.0.0 Ok")
        elif verb == "QUIT":
            self.answer("quit", line, "221 2.0.0 Bye")
            self.transport.close()
        else:
            self.answer("other", line, "250 2.0.0 Ok")


class Loop:
    """An asyncio loop in a thread of its own."""

    def __init__(self):
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()

    def call(self, coroutine, limit=600):
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(limit)

    def close(self):
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()


class Sink:
    """An SMTP server on loopback that keeps what it took. `plan(event, text, session)` may return a reply line, DROP, HANG
    or TAKE_AND_DROP; None is the usual answer. Events: connect ehlo helo mail rcpt data mid-data dot rset quit."""

    def __init__(self, address=LOCAL, port=None, plan=None, keep=True,
                 extensions=("PIPELINING", "8BITMIME", "SMTPUTF8", "SIZE 0", "ENHANCEDSTATUSCODES")):
        self.address, self.port = address, port or free_port()
        self.plan, self.keep, self.extensions = plan, keep, extensions
        self.arrivals, self.events, self.sessions, self.open = [], Counter(), 0, set()
        self.loop, self.server = Loop(), None

    def start(self):
        async def go():
            return await asyncio.get_running_loop().create_server(
                lambda: Session(self), self.address, self.port, backlog=1000)
        self.server = self.loop.call(go())
        return self

    def stop(self):
        """From now on connections are refused, and those that stand break."""
        async def go():
            self.server.close()
            for session in list(self.open):
                session.transport.abort()
            await asyncio.sleep(0)
        if self.server:
            self.loop.call(go())
            self.server = None

    def close(self):
        self.stop()
        self.loop.close()

    def take(self, arrival):
        self.arrivals.append(arrival)

    def recipients(self):
        """How often each recipient has arrived."""
        return Counter(r for a in self.arrivals for r in a.recipients)

    def tags(self):
        return Counter(tag_of(a.data) for a in self.arrivals)

    def reports(self):
        """Delivery reports among the arrivals."""
        return [a for a in self.arrivals if a.sender == ""]

    def wait(self, messages, limit):
        return wait_for(lambda: len(self.arrivals) >= messages, limit)


# --- the client -------------------------------------------------------------------------------------------------------

class Client:
    """A plain SMTP client over one connection; `reply` texts come back as (code, text)."""

    async def open(self, port, address=LOCAL):
        self.reader, self.writer = await asyncio.open_connection(address, port, limit=1 << 20)
        code, text = await self.reply()
        if code != 220:
            raise ConnectionError(text)
        return await self.command("EHLO client.example")

    async def reply(self):
        while True:
            line = await self.reader.readline()
            if not line.endswith(b"\n"):
                raise ConnectionError("connection closed")
            if line[3:4] != b"-":
                return int(line[:3]), line.decode(errors="replace").strip()

    async def command(self, line):
        self.writer.write(line.encode() + b"\r\n")
        return await self.reply()

    async def send(self, sender, recipients, data, mail="", final_limit=120):
        """One transaction; the first negative reply, or that to the final dot."""
        code, text = await self.command(f"MAIL FROM:<{sender}>{mail}")
        if code != 250:
            return code, text
        for start in range(0, len(recipients), 100):
            part = recipients[start:start + 100]
            self.writer.write("".join(f"RCPT TO:<{r}>\r\n" for r in part).encode())
            await self.writer.drain()
            for _ in part:
                code, text = await self.reply()
                if code not in (250, 251):
                    return code, text
        code, text = await self.command("DATA")
        if code != 354:
            return code, text
        stuffed = data.replace(b"\r\n.", b"\r\n..")
        if stuffed.startswith(b"."):
            stuffed = b"." + stuffed
        for start in range(0, len(stuffed), 1 << 20):
            self.writer.write(stuffed[start:start + (1 << 20)])
            await self.writer.drain()
        self.writer.write(b".\r\n")
        return await asyncio.wait_for(self.reply(), final_limit)

    async def quit(self):
        with contextlib.suppress(OSError, ConnectionError):
            await self.command("QUIT")
        self.writer.close()


def send(port, sender, recipients, data, mail=""):
    """One message over one connection: (code, text)."""
    async def go():
        client = Client()
        await client.open(port)
        try:
            return await client.send(sender, recipients, data, mail)
        finally:
            await client.quit()
    return asyncio.run(go())


def load(port, connections, messages, recipient="b@sink.example", size=lambda tag: 2048):
    """`messages` distinct messages over `connections` kept connections. Returns {tag: digest} of those that got their
    250, and the refusals."""
    taken, refused = {}, []
    tags = iter(f"load-{n}" for n in range(messages))

    async def worker():
        client = Client()
        await client.open(port)
        for tag in tags:
            data = message(tag, size(tag))
            code, text = await client.send("a@load.example", [recipient], data)
            if code == 250:
                taken[tag] = data
            else:
                refused.append(text)
        await client.quit()

    async def go():
        await asyncio.gather(*(worker() for _ in range(connections)))
    asyncio.run(go())
    return taken, refused
