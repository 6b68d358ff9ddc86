#!/usr/bin/env python3
"""(g) The programs people send mail with: swaks, smtplib, git send-email; and through the sendmail command s-nail, mutt, mailx, nmh,
alpine, PHP, logwatch and cron."""
import fcntl, pty, select, smtplib, struct, termios
from email.message import EmailMessage
from lab import *

with Scenario("clients") as s:
    sink = s.sink().start()
    kvmta = s.kvmta(smart_host=sink.port, LocalRelay=f"[{LOCAL}]:{sink.port}")
    kvmta.start()
    os.environ.update(HOME=str(s.dir), EMAIL="me@load.example", GIT_CONFIG_NOSYSTEM="1")
    # What a mail program calls: the sendmail command, on this queue.
    command = s.dir / "sendmail"
    command.write_text(f'#!/bin/sh\nexec {KVMTA} -oQ{kvmta.dir} "$@"\n')
    command.chmod(0o755)

    def expect(label, recipient, *parts):
        wait_for(lambda: sink.recipients()[recipient], 10)
        found = [a for a in sink.arrivals if recipient in a.recipients]
        if s.check(len(found) == 1, f"{label}: arrived once", (len(found), kvmta.log()[-300:])):
            for part in parts:
                s.check(part in found[0].data, f"{label}: has {part!r}", found[0].data[-600:])
            return found[0]
        return None

    def run(label, process, stdin=b""):
        out, _ = process.communicate(stdin, timeout=60)
        (s.dir / f"{label.replace(' ', '-')}.out").write_bytes(out)
        s.check(process.returncode == 0, f"{label}: exit 0", out[-600:])
        return out
    may_mount = os.geteuid() == 0 and subprocess.run(["unshare", "-m", "sh", "-c", "mount -t tmpfs none /run"], capture_output=True).returncode == 0
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    out = run("swaks", tool("swaks", "usr/bin/swaks", "--server", f"{LOCAL}:{kvmta.port}", "--from", "me@load.example", "--to",
              "swaks@sink.example", "--body", "line one\n.\nline three", "--header", "X-Try: swaks", **pipes))
    expect("swaks", "swaks@sink.example", b"X-Try: swaks\r\n", b"line one\r\n.\r\nline three")
    run("swaks pipelining", tool("swaks", "usr/bin/swaks", "--server", f"{LOCAL}:{kvmta.port}", "--from", "me@load.example", "--to",
        "p1@sink.example,p2@sink.example", "--pipeline", **pipes))
    expect("swaks pipelining", "p2@sink.example")

    mail = EmailMessage()
    mail["From"], mail["To"], mail["Subject"] = "me@load.example", "py@sink.example", "Grüße"
    mail.set_content("Hallo Welt, schöne Grüße\n")
    mail.add_attachment(bytes(range(256)) * 50, maintype="application", subtype="octet-stream", filename="all.bin")
    with smtplib.SMTP(LOCAL, kvmta.port) as smtp:
        s.check(smtp.send_message(mail) == {}, "smtplib: nobody refused")
        s.check(smtp.has_extn("8bitmime") and smtp.has_extn("pipelining") and smtp.has_extn("dsn"), "smtplib: extensions",
                smtp.esmtp_features)
    expect("smtplib", "py@sink.example", b"all.bin")

    run("s-nail", tool("snail", "usr/bin/s-nail", "-:/", "-Sv15-compat", f"-Smta={command}", "-Sfrom=me@load.example", "-s", "by s-nail",
        "nail@sink.example", **pipes), b"a body\n.\nafter a dot\n")
    expect("s-nail", "nail@sink.example", b"Subject: by s-nail\r\n")

    run("mutt", tool("mutt", "usr/bin/mutt", "-n", "-F", "/dev/null", "-e", f'set sendmail="{command} -oem -oi"', "-e",
        "set from=me@load.example use_from=yes use_envelope_from=yes copy=no", "-s", "by mutt", "mutt@sink.example", **pipes), b"from mutt\n.\nend\n")
    got = expect("mutt", "mutt@sink.example", b"Subject: by mutt\r\n", b"\r\n.\r\nend\r\n")
    if got:
        s.check(got.sender == "me@load.example", "mutt: reverse-path of -f", got.sender)

    repository = s.dir / "repository"
    git = lambda *args: tool("gitemail", "usr/bin/git", "-C", repository, "-c", "user.name=Me", "-c", "user.email=me@load.example", *args, **pipes)
    repository.mkdir()
    run("git init", git("init", "-q"))
    (repository / "file").write_text("one\n")
    run("git add", git("add", "file"))
    run("git commit", git("commit", "-q", "-m", "a change"))
    for label, server in (("git send-email by SMTP", [f"--smtp-server={LOCAL}", f"--smtp-server-port={kvmta.port}"]),
                          ("git send-email by command", [f"--smtp-server={command}"])):
        to = f"git{len(server)}@sink.example"
        run(label, git("send-email", "--from=me@load.example", f"--to={to}", "--confirm=never", "--suppress-cc=all", *server, "--root", "-1"))
        expect(label, to, b"[PATCH] a change", b"+one\r\n")

    (s.dir / ".mailrc").write_text(f"set sendmail={command}\n")
    run("bsd-mailx", tool("mailx", "usr/bin/bsd-mailx", "-s", "by mailx", "-a", "X-Try: mailx", "mailx@sink.example", **pipes), b"from mailx\n")
    expect("bsd-mailx", "mailx@sink.example", b"Subject: by mailx\r\n", b"X-Try: mailx\r\n", b"from mailx\r\n")

    mh = BASE / "nmh/usr/lib/mh"
    (s.dir / "Mail").mkdir()
    (s.dir / ".mh_profile").write_text(f"Path: Mail\npostproc: {mh}/post\nbuildmimeproc: {BASE}/nmh/usr/bin/mh/mhbuild\n")
    (s.dir / "mts.conf").write_text(f"mts: sendmail/pipe\nsendmail: {command}\n")
    os.environ["MHMTSCONF"] = str(s.dir / "mts.conf")
    draft = s.dir / "draft"
    draft.write_text("From: me@load.example\nTo: nmh@sink.example\nBcc: hidden@sink.example\nSubject: by nmh\n--------\nfrom nmh\n")
    run("nmh", tool("nmh", "usr/bin/mh/send", draft, **pipes))
    got = expect("nmh", "nmh@sink.example", b"Subject: by nmh\r\n", b"from nmh\r\n")
    if got:
        s.check(wait_for(lambda: sink.recipients()["hidden@sink.example"] == 1, 10), "nmh: Bcc gets a copy")
        s.check(b"hidden@" not in got.data, "nmh: Bcc is gone from the others'", got.data[:600])

    def type_to(program, *steps, limit=20):
        """Types at a program on a terminal: each step is (what the screen must show first, keys). Returns (exit, screen)."""
        ours, its = pty.openpty()
        fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))

        def own_terminal():
            os.setsid()
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)
        process = s.process(subprocess.Popen(program, env={**tool_env("alpine"), "TERM": "vt100"}, stdin=its, stdout=its, stderr=its, preexec_fn=own_terminal))
        os.close(its)
        end = time.monotonic() + limit

        def read_until(text):
            seen = b""
            while text is None or text not in seen:
                if not select.select([ours], [], [], max(0, end - time.monotonic()))[0]:
                    break
                try:
                    seen += os.read(ours, 65536)
                except OSError:         # it has closed its side
                    break
            return seen
        for shown, keys in steps:
            read_until(shown)
            os.write(ours, keys)
        screen = read_until(None)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(5)
        os.close(ours)
        return process.returncode, screen

    # alpine hands a message to its sendmail-path with -t; without one it talks to /usr/sbin/sendmail -bs.
    ours_as_the_systems = f"""mkdir {s.dir}/sbin && mount -t tmpfs none {s.dir}/sbin && cd {s.dir}/sbin && mkdir upper work
mount -t overlay overlay -o lowerdir=/usr/sbin,upperdir=upper,workdir=work /usr/sbin && rm -f /usr/sbin/sendmail && cp {command} /usr/sbin/sendmail
exec "$@" """
    for way, setting, before in (("-t", f"sendmail-path={command} -oem -t -oi\n", []), ("-bs", "", ["unshare", "-m", "sh", "-ec", ours_as_the_systems, "sh"])):
        if before and not may_mount:
            print("  --   alpine -bs: needs root and a mount name space")
            continue
        to = f"alpine{way}@sink.example"
        rc = s.dir / f"pinerc{way}"
        rc.write_text(f"personal-name=Me\nuser-domain=load.example\ndefault-fcc=\"\"\ninbox-path={s.dir}/inbox\nmail-directory={s.dir}/alpine\n"
                      f"feature-list=quit-without-confirm,send-without-confirm\nlast-version-used=9.99\n{setting}")
        exit, screen = type_to([*before, BASE / "alpine/usr/bin/alpine", "-p", rc, "-P", "/dev/null", to], (b"Message Text", b"\x0e\x0e"),
                               (b"Subject", b"by alpine\r"), (b"Message Text", b"from alpine\r.\rend"), (b"end", b"\x18"))
        s.check(exit == 0 and b"Sending mail" in screen, f"alpine {way}: sends", (exit, screen[-600:].replace(b"\0", b"")))
        expect(f"alpine {way}", to, b"Subject: by alpine\r\n", b"From: Me <root@load.example>\r\n", b"from alpine\r\n.\r\nend")

    mail_call = 'exit(mail("php@sink.example", "by PHP", "from PHP\\n.\\nend\\n", "X-Try: php\\r\\nCc: cc@sink.example", "-fphp@load.example") ? 0 : 1);'
    run("PHP", tool("php", "usr/bin/php8.2", "-n", "-d", f"sendmail_path={command} -t -i", "-r", mail_call, **pipes))
    got = expect("PHP", "php@sink.example", b"Subject: by PHP\r\n", b"X-Try: php\r\n", b"\r\n.\r\nend\r\n")
    if got:
        s.check(got.sender == "php@load.example" and "cc@sink.example" in sink.recipients(), "PHP: -f and Cc", (got.sender, got.recipients))

    # logwatch names its paths in its text; what it reports on is of no matter here.
    logwatch = BASE / "logwatch"
    for name in ("conf", "cache"):
        (s.dir / "logwatch" / name).mkdir(parents=True)
    script = (logwatch / "usr/share/logwatch/scripts/logwatch.pl").read_text()
    for before, after in (("/usr/share/logwatch", logwatch / "usr/share/logwatch"), ("/etc/logwatch", s.dir / "logwatch"),
                          ("/var/cache/logwatch", s.dir / "logwatch/cache")):
        script = script.replace(before, str(after))
    (s.dir / "logwatch.pl").write_text(script)
    (s.dir / "logwatch/conf/logwatch.conf").write_text(f'mailer = "{command} -t"\nTmpDir = {s.dir}/logwatch/cache\n')
    # A service that always has something to say.
    for name, text in (("conf/services/test.conf", "Title = test\nLogFile = NONE\n"), ("scripts/services/test", "print 'by logwatch', chr(10);\n")):
        path = s.dir / "logwatch" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    run("logwatch", subprocess.Popen(["perl", str(s.dir / "logwatch.pl"), "--output", "mail", "--mailto", "logwatch@sink.example", "--service",
        "test", "--range", "all"], env=tool_env("logwatch"), **pipes))
    expect("logwatch", "logwatch@sink.example", b"Subject: Logwatch for ", b"by logwatch\r\n")

    # cron: as Debian's calls it; and where root may have a name space, its own.
    r = kvmta.run("-FCronDaemon", "-i", "-B8BITMIME", "-oem", "root", stdin=b"From: root (Cron Daemon)\nTo: root\nSubject: Cron <root@here> x\n"
                  b"MIME-Version: 1.0\nContent-Type: text/plain; charset=UTF-8\nX-Cron-Env: <SHELL=/bin/sh>\n\nGr\xc3\xbc\xc3\x9fe\n")
    s.check(r.returncode == 0 and not r.stderr, "as cron calls it: exit 0, nothing said", r)
    local = wait_for(lambda: [a for a in sink.arrivals if b"X-Cron-Env" in a.data], 10)
    s.check(local and local[0].recipients[0].startswith("root@") and b"BODY=8BITMIME" in local[0].mail.encode(), "as cron calls it: to local root, 8 bits",
            local and (local[0].recipients, local[0].mail))
    own = f"""set -e
mkdir {s.dir}/over && mount -t tmpfs none {s.dir}/over && cd {s.dir}/over && mkdir sbin sbin.w etc etc.w
mount -t overlay overlay -o lowerdir=/usr/sbin,upperdir=sbin,workdir=sbin.w /usr/sbin
mount -t overlay overlay -o lowerdir=/etc,upperdir=etc,workdir=etc.w /etc
mount -t tmpfs none /run
mount -t tmpfs none /var/spool
mkdir -p /var/spool/cron/crontabs
echo crontab:x:999: >>/etc/group
cp {command} /usr/sbin/sendmail
mkdir -p /etc/cron.d /etc/pam.d
rm -f /etc/crontab /etc/cron.d/*
printf 'auth required pam_permit.so\naccount required pam_permit.so\nsession required pam_permit.so\n' >/etc/pam.d/cron
printf 'MAILTO=cron@sink.example\n@reboot root echo by cron\n' >/etc/cron.d/try
touch ready
exec {BASE}/cron/usr/sbin/cron -f"""
    if may_mount:
        cron = s.process(subprocess.Popen(["unshare", "-m", "sh", "-c", own], env=tool_env("cron"), stdout=open(s.dir / "cron.out", "wb"),
                                          stderr=subprocess.STDOUT))
        wait_for(lambda: sink.recipients()["cron@sink.example"] or cron.poll() is not None, 20)
        expect("cron", "cron@sink.example", b"(Cron Daemon)", b"by cron\r\n")
        cron.terminate()
    else:
        print("  --   cron itself: needs root and a mount name space")

    # What scripts do.
    r = kvmta.run("-t", "-i", stdin=b"To: t1@sink.example\nCc: t2@sink.example\nBcc: t3@sink.example\nSubject: -t\n\nhello\n")
    s.check(r.returncode == 0, "-t: exit 0", r)
    got = expect("-t", "t3@sink.example", b"Subject: -t\r\n")
    if got:
        s.check(not re.search(rb"^Bcc:.*t3", got.data, re.M | re.I), "-t: Bcc is gone")
        s.check({"t1@sink.example", "t2@sink.example"} <= set(sink.recipients()), "-t: To and Cc too")
        s.check(re.search(rb"^Message-Id:", got.data, re.M | re.I) and re.search(rb"^Date:", got.data, re.M), "-t: completed header")
    r = kvmta.run("-f", "me@load.example", "dot@sink.example", stdin=b"Subject: dot\n\nbefore\n.\nafter\n")
    got = expect("without -i", "dot@sink.example", b"before\r\n")
    if got:
        s.check(b"after" not in got.data, "without -i a dot ends the message")
    p = subprocess.Popen([KVMTA, f"-oQ{kvmta.dir}", "-bs"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def say(line):
        """Sends a line, if any, and reads one reply."""
        if line:
            p.stdin.write(line + b"\r\n")
            p.stdin.flush()
        for reply in p.stdout:
            if reply[3:4] != b"-":
                return reply
    replies = [say(line) for line in (b"", b"EHLO me", b"MAIL FROM:<me@load.example>", b"RCPT TO:<bs@sink.example>", b"DATA",
                                      b"Subject: bs\r\n\r\nhi\r\n.", b"QUIT")]
    s.check([r[:3] for r in replies] == [b"220", b"250", b"250", b"250", b"354", b"250", b"221"] and p.wait(10) == 0,
            "-bs: a session on standard input", replies)
    expect("-bs", "bs@sink.example", b"Subject: bs\r\n")
    s.check(kvmta.wait_total(0, 10), "queue empty", kvmta.listing())
