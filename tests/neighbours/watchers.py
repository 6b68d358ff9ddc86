#!/usr/bin/env python3
"""(k) Programs that watch sendmail: check_mailq reads mailq, logwatch's sendmail script and sma read the log."""
from lab import *

ROOTED = BASE / "watchers"


def plan(what, text, session):
    if what == "rcpt":
        return {"hard@x.example": "550 5.1.1 No such user", "soft@x.example": "450 4.2.1 Busy"}.get(text)


def syslog(text):
    """The lines as a syslog daemon writes them: with a host name, under the tag that Debian's daemon has."""
    return re.sub(r"^(\w{3} [ \d]\d [\d:]{8}) kvmta\[", r"\1 lab sm-mta[", text, flags=re.M)


with Scenario("watchers") as s:
    sink = s.sink(plan=plan, extensions=("PIPELINING", "8BITMIME", "ENHANCEDSTATUSCODES")).start()
    kvmta = s.kvmta(smart_host=sink.port, LogLevel="9")
    kvmta.start()

    # check_mailq asks the mailq that its module names: a copy of both, with ours.
    plugins, mailq = s.dir / "plugins", s.dir / "mailq"
    plugins.mkdir()
    (s.dir / "bin").mkdir()
    (s.dir / "bin/mailq").symlink_to(KVMTA)
    mailq.write_text(f"#!/bin/sh\nexec {s.dir}/bin/mailq -oQ{kvmta.dir} \"$@\"\n")
    mailq.chmod(0o755)
    for name in ("check_mailq", "utils.pm"):
        shutil.copy(ROOTED / "usr/lib/nagios/plugins" / name, plugins)
    module = plugins / "utils.pm"
    module.write_text(re.sub(r"^1;", f'$PATH_TO_MAILQ = "{mailq}";\n1;', module.read_text(), flags=re.M))

    def check_mailq(exit, text, warning=1, critical=3):
        r = subprocess.run(["perl", plugins / "check_mailq", "-M", "sendmail", "-w", str(warning), "-c", str(critical)], capture_output=True, text=True, timeout=60)
        s.check(r.returncode == exit and re.search(text, r.stdout), f"check_mailq: {text}", (r.returncode, r.stdout, r.stderr[-500:]))

    check_mailq(0, r"OK: sendmail mailq is empty")
    body = b"Subject: x\n\nThis is the body.\nSecond line.\n"
    kvmta.submit(body, "ann@load.example", "soft@x.example", args=("-odi",))
    s.check(re.search(r"^\w{14}[ *]      31 ", kvmta.listing(), re.M), "mailq: a body of 31 octets with LF line ends", kvmta.listing())
    check_mailq(0, r"OK: sendmail mailq \(1\) is below threshold", warning=2)
    for n in range(2):
        kvmta.submit(body, "ann@load.example", f"queued{n}@x.example", args=("-odq",))
    check_mailq(1, r"WARNING: sendmail mailq is 3", warning=2, critical=5)
    check_mailq(2, r"CRITICAL: sendmail mailq is 3", critical=2)

    # A log with a delivery, a refusal with its report, a deferral and mail that came by SMTP.
    kvmta.submit(body, "ann@load.example", "good@x.example", args=("-odi",))
    kvmta.submit(body, "ann@load.example", "hard@x.example", args=("-odi",))
    send(kvmta.port, "bob@load.example", ["more@x.example"], message("watched"))
    wait_for(lambda: sink.recipients()["more@x.example"] and sink.recipients()["ann@load.example"], 10)
    kvmta.stop()
    # What the daemon says to its terminal when it starts is no part of the log.
    log = syslog("".join(re.findall(r"^\w{3} [ \d]\d [\d:]{8} .*\n", kvmta.log(), re.M)))
    (s.dir / "mail.log").write_text(log)

    lines = re.sub(r"^\w{3} [ \d]\d [\d:]{8} \S+ sm-mta\[\d+\]: ", "", log, flags=re.M)
    lib = ROOTED / "usr/share/logwatch/lib"
    env = {**os.environ, "LOGWATCH_DETAIL_LEVEL": "10", "LOGWATCH_DEBUG": "0", "PERL5LIB": str(lib)}
    for line in (ROOTED / "usr/share/logwatch/default.conf/services/sendmail.conf").read_text().splitlines():
        if found := re.match(r"\$(\w+)\s*=\s*\"?([^\"]*)\"?\s*$", line):
            env[found[1].lower()] = found[2]
    script = ROOTED / "usr/share/logwatch/scripts/services/sendmail"
    r = subprocess.run(["perl", script], input=lines, capture_output=True, text=True, timeout=60, env=env)
    (s.dir / "logwatch.txt").write_text(r.stdout + r.stderr)
    s.check(r.returncode == 0, "logwatch: reads the log", r.stderr[-500:])
    s.check("Unmatched Entries" not in r.stdout, "logwatch: knows every line", r.stdout[-1500:])
    s.check(re.search(r"Messages To Recipients:\s+[1-9]", r.stdout), "logwatch: counts messages", r.stdout[:800])

    r = subprocess.run([ROOTED / "usr/bin/sma", "-F", "-a", "-L", "sm-mta", s.dir / "mail.log"], capture_output=True, text=True, timeout=60)
    (s.dir / "sma.txt").write_text(r.stdout + r.stderr)
    s.check(r.returncode == 0 and "ann@load.example" in r.stdout and "good@x.example" in r.stdout, "sma: names senders and recipients", (r.stdout + r.stderr)[-1500:])
