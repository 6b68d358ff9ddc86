#!/usr/bin/env python3
"""Asks the real sendmail what it makes of the messages in a case file, for a next hop without 8BITMIME, and writes its answers there.

    tests/mime/ask_sendmail.py ROOT FILE...        ROOT holds Debian's sendmail unpacked (tests/neighbours/fetch)

For the format of a case file see tests/it/mime.rs. Received: is taken out and the queue ID replaced by 6AM6LJX7021711, nothing else.
"""
import os, re, socket, subprocess, sys, tempfile, threading
from pathlib import Path

SELF = Path(__file__).resolve()


def expand(text):
    text = re.sub(r"\{\{(\\x[0-9A-F]{2}|.)\*(\d+)\}\}", lambda m: m[1] * int(m[2]), text)
    return re.sub(rb"\\x([0-9A-F]{2})|\\\\", lambda m: bytes([int(m[1], 16)]) if m[1] else b"\\", text.encode())


def write(line):
    text = "".join("\\\\" if b == 92 else chr(b) if 32 <= b < 127 or b == 9 else f"\\x{b:02X}" for b in line)
    return re.sub(r"([^{}\\])\1{99,}", lambda m: "{{%s*%d}}" % (m[1], len(m[0])), text)


class Sink:
    def __init__(self):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.got = None
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            peer, _ = self.listener.accept()
            f = peer.makefile("rwb")

            def say(text):
                f.write(text + b"\r\n")
                f.flush()
            say(b"220 sink ESMTP")
            for line in f:
                verb = line[:4].upper()
                if verb == b"DATA":
                    say(b"354 go")
                    lines = []
                    for line in f:
                        if line == b".\r\n":
                            break
                        lines.append(line[1:] if line[:1] == b"." else line)
                    self.got = b"".join(lines)
                    say(b"250 taken")
                elif verb == b"QUIT":
                    say(b"221 bye")
                    break
                else:
                    say(b"250-sink\r\n250 ENHANCEDSTATUSCODES" if verb == b"EHLO" else b"250 ok")
            peer.close()


class Lab:
    def __init__(self, root, scratch):
        self.root, self.scratch, self.sink = root, scratch, Sink()
        (scratch / "service.switch").write_text("hosts files\n")
        (scratch / "queue").mkdir(mode=0o700)
        mc = (SELF.parent.parent / "neighbours/sendmail.mc").read_text()
        (scratch / "x.mc").write_text(mc.replace("SINK_PORT", str(self.sink.port)).replace("SCRATCH", str(scratch))
                                      .replace("MAILER(`local')", "MODIFY_MAILER_FLAGS(`RELAY', `-8')dnl\nMAILER(`local')"))
        cf_dir = root / "usr/share/sendmail/cf"
        cf = subprocess.run([root / "usr/bin/m4", f"-D_CF_DIR_={cf_dir}/", "m4/cf.m4", scratch / "x.mc"], cwd=cf_dir, capture_output=True, check=True)
        (scratch / "sendmail.cf").write_bytes(cf.stdout)
        libraries = sorted({str(p.parent) for p in root.rglob("*.so*")})
        self.env = {**os.environ, "LC_ALL": "C", "LD_LIBRARY_PATH": ":".join(libraries)}

    def ask(self, message, words):
        """What the sink got, or what the sender was told."""
        options = [f"-OEightBitMode={words.get('mode', 'pass')}"]
        if "limits" in words:
            options.append(f"-OMaxMimeHeaderLength={words['limits']}")
        if "charset" in words:
            options.append(f"-ODefaultCharSet={words['charset']}")
        if "labelled" in words:
            options.append("-B8BITMIME")
        self.sink.got = None
        argv = [str(self.root / "usr/libexec/sendmail/sendmail"), "-C", str(self.scratch / "sendmail.cf"), f"-OQueueDirectory={self.scratch}/queue",
                "-OErrorMode=p", "-odi", "-Am", "-i", "-v", *options, "-fa@load.example", "b@sink.example"]
        if os.geteuid() == 0:   # It waits a minute for a host name with a dot; in a name space of ours there is one.
            argv = ["unshare", "--uts", "sh", "-c", 'echo neighbour.example >/proc/sys/kernel/hostname && exec "$@"', "sh", *argv]
        run = subprocess.run(argv, env=self.env, input=message, capture_output=True, timeout=60)
        return self.sink.got, (run.stdout + run.stderr).decode("latin-1")


def main():
    root, files = Path(sys.argv[1]).resolve(), sys.argv[2:]
    with tempfile.TemporaryDirectory() as scratch:
        lab = Lab(root, Path(scratch))
        for name in files:
            cases = re.split(r"^(?=== )", Path(name).read_text(), flags=re.M)
            out = [cases[0]]
            for case in cases[1:]:
                lines = case.splitlines()
                words = dict(w.partition("=")[::2] for l in lines if l.startswith("set ") for w in l[4:].split())
                message = b"".join(expand(l[2:]) + b"\n" for l in lines if l.startswith("> ") or l == ">")
                got, said = lab.ask(message, words)
                kept = [l for l in lines if not l.startswith(("<", "refused")) and l]
                if got is None:
                    kept.append("refused " + repr(said))
                elif b"report-type=delivery-status" in got:
                    text = re.search(rb"^5\d\d (5\.6\..*)\r$", got, flags=re.M)[1].decode()
                    kept.append("refused " + re.sub(r" \S+\.\.\. \[127\.0\.0\.1\]", " HOST", text))
                else:
                    got = re.sub(rb"^Received:.*\r\n(?:[ \t].*\r\n)*", b"", got)
                    got = re.sub(rb" id [0-9A-Za-z]{14}\r\n", b" id 6AM6LJX7021711\r\n", got)
                    kept += [("< " + write(l)).rstrip(" ") if l == b"" else "< " + write(l) for l in got.split(b"\r\n")[:-1]]
                if os.environ.get("VERBOSE"):
                    print(case.splitlines()[0], said[-1500:])
                out.append("\n".join(kept) + "\n\n")
            Path(name).write_text("".join(out).rstrip("\n") + "\n")


main()
