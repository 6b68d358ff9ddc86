#!/usr/bin/env python3
"""(i) STARTTLS both ways with a real certificate: openssl s_client and smtplib speak to kvmta, and one kvmta relays to another."""
import smtplib, ssl
from lab import *

with Scenario("tls") as s:
    key, cert = s.dir / "key.pem", s.dir / "cert.pem"
    made = subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", cert, "-days", "30",
                           "-subj", "/CN=inner.example", "-addext", "subjectAltName=DNS:inner.example"], capture_output=True, text=True)
    s.check(made.returncode == 0, "openssl makes a certificate", made.stderr[-300:])
    key.chmod(0o600)
    sink = s.sink().start()
    inner = s.kvmta("inner", smart_host=sink.port, ServerCertFile=cert, ServerKeyFile=key)
    inner.start()
    outer = s.kvmta("outer", smart_host=inner.port)
    outer.start()

    seen = subprocess.run(["openssl", "s_client", "-connect", f"{LOCAL}:{inner.port}", "-starttls", "smtp", "-CAfile", cert, "-verify_return_error",
                           "-crlf", "-quiet", "-ign_eof"], input=b"EHLO x\nQUIT\n", capture_output=True, timeout=30)
    s.check(b"250-PIPELINING" in seen.stdout and b"STARTTLS" not in seen.stdout.split(b"250-PIPELINING")[-1] and seen.returncode == 0,
            "openssl s_client: a session inside TLS, which offers STARTTLS no more", (seen.returncode, seen.stdout[-300:], seen.stderr[-300:]))
    with smtplib.SMTP(LOCAL, inner.port) as smtp:
        smtp.ehlo()
        s.check(smtp.has_extn("starttls"), "smtplib: STARTTLS is offered", smtp.esmtp_features)
        context = ssl.create_default_context(cafile=cert)
        context.check_hostname = False
        smtp.starttls(context=context)
        smtp.sendmail("a@load.example", ["s@sink.example"], message("smtplib", 100_000).decode())
    with smtplib.SMTP(LOCAL, outer.port) as smtp:
        smtp.ehlo()
        s.check(not smtp.has_extn("starttls"), "without a certificate it is not offered")
    code, text = send(outer.port, "a@load.example", ["o@sink.example"], message("relayed", 300_000))
    s.check(code == 250 and sink.wait(2, 15), "both arrive", text)
    for tag in ("smtplib", "relayed"):
        got = [a for a in sink.arrivals if tag_of(a.data) == tag]
        s.check(len(got) == 1 and re.search(rb"with ESMTPS\b", got[0].data) and re.search(rb"TLSv1\.3|TLSv1\.2", got[0].data),
                f"{tag}: our Received says that it came over TLS", got and got[0].data[:400])
        s.check(got and got[0].data.endswith(message(tag, 100_000 if tag == "smtplib" else 300_000)), f"{tag}: unchanged")
    s.check(re.search(r"STARTTLS=client, relay=\S* ?\[127", outer.log()), "logged by the client", outer.log()[-500:])
    s.check(re.search(r"STARTTLS=server, relay=\S* ?\[127", inner.log()), "logged by the server", inner.log()[-500:])

    # Garbage in place of the handshake ends that connection and nothing else.
    with socket.create_connection((LOCAL, inner.port), 5) as c:
        c.settimeout(10)
        c.recv(200)
        c.sendall(b"EHLO x\r\n")
        c.recv(2000)
        c.sendall(b"STARTTLS\r\nMAIL FROM:<injected@load.example>\r\n")
        with contextlib.suppress(OSError):
            c.recv(2000)
            c.sendall(b"this is no handshake\r\n" * 50)
            c.recv(2000)
    code, text = send(inner.port, "a@load.example", ["p@sink.example"], message("after"))
    s.check(code == 250 and sink.wait(3, 15), "garbage in place of a handshake hurts nobody else", text)
    s.check(not any(a.sender == "injected@load.example" for a in sink.arrivals), "what came before the handshake is not obeyed after it")
    outer.stop(), inner.stop()
