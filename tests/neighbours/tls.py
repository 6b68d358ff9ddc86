#!/usr/bin/env python3
"""(i) TLS both ways with real certificates: openssl s_client and smtplib speak to kvmta, one kvmta relays to another, and the real
sendmail shows kvmta its certificate and is shown ours."""
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

    # Certificates of an authority, checked and told in sendmail's words.
    def openssl(*args):
        r = subprocess.run(["openssl", *map(str, args)], capture_output=True, text=True)
        if r.returncode != 0:
            raise RuntimeError(r.stderr)

    def certify(name, by=None):
        key, cert, request = (s.dir / f"{name}.{end}" for end in ("key", "pem", "csr"))
        openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", key)
        key.chmod(0o600)
        subject = ("-subj", f"/CN={name}.example")
        if by is None:
            return openssl("req", "-x509", "-new", "-key", key, "-out", cert, "-days", "30", *subject)
        openssl("req", "-new", "-key", key, "-out", request, *subject)
        (s.dir / "ext").write_text(f"subjectAltName=DNS:{name}.example\n")
        openssl("x509", "-req", "-in", request, "-CA", s.dir / f"{by}.pem", "-CAkey", s.dir / f"{by}.key", "-CAcreateserial", "-days", "30",
                "-extfile", s.dir / "ext", "-out", cert)
    for name in ("authority", "elsewhere"):
        certify(name)
    for name, by in (("server", "authority"), ("client", "authority"), ("stranger", "elsewhere")):
        certify(name, by)
    (s.dir / "authorities").mkdir()
    openssl("x509", "-in", s.dir / "authority.pem", "-out", s.dir / "authorities/authority.pem")
    openssl("rehash", s.dir / "authorities")
    authority = s.dir / "authority.pem"
    shown = dict(ServerCertFile=s.dir / "server.pem", ServerKeyFile=s.dir / "server.key")

    def verdicts(k, side):
        return re.findall(rf"STARTTLS={side}, relay=\S*(?: \[\S*\])?, version=(\S+), verify=(\w+), cipher=(\S+), bits=(\d+/\d+)", k.log())

    def hello(port, *args, starttls=True):
        """One session by openssl s_client that says QUIT; its output."""
        start = ("-starttls", "smtp") if starttls else ()
        return subprocess.run(["openssl", "s_client", "-connect", f"{LOCAL}:{port}", *start, *map(str, args), "-crlf", "-quiet", "-ign_eof"],
                              input=b"EHLO x\nQUIT\n", capture_output=True, timeout=30)
    tls_port = free_port()
    asks = s.kvmta("asks", smart_host=sink.port, CACertPath=s.dir / "authorities", **shown, O=f"Port={tls_port},Addr={LOCAL},Name=TLS,M=s")
    asks.start()
    mute = s.kvmta("mute", smart_host=sink.port, CACertFile=authority, TLSSrvOptions="V", ServerSSLOptions="SSL_OP_NO_TLSv1_2", **shown)
    mute.start()
    for k, name, expected in ((asks, None, "NO"), (asks, "client", "OK"), (asks, "stranger", "FAIL"), (mute, "client", "NOT")):
        args = () if name is None else ("-cert", s.dir / f"{name}.pem", "-key", s.dir / f"{name}.key")
        said = hello(k.port, *args)
        got = verdicts(k, "server")
        s.check(b"250-PIPELINING" in said.stdout and got and got[-1] == ("TLSv1.3", expected, "TLS_AES_256_GCM_SHA384", "256/256"),
                f"s_client shows {name}: verify={expected}", (got[-1:], said.stderr[-300:]))
    said = hello(asks.port, "-tls1_2", "-cipher", "ECDHE-ECDSA-CHACHA20-POLY1305")
    s.check(verdicts(asks, "server")[-1] == ("TLSv1.2", "NO", "ECDHE-ECDSA-CHACHA20-POLY1305", "256/256"), "TLS 1.2 and its suites have OpenSSL's names",
            verdicts(asks, "server")[-1])
    said = hello(mute.port, "-tls1_2")
    s.check(b"250-PIPELINING" not in said.stdout, "ServerSSLOptions=SSL_OP_NO_TLSv1_2: no TLS 1.2", said.stdout[-200:])
    said = hello(tls_port, "-CAfile", authority, "-verify_return_error", starttls=False)
    s.check(said.stdout.startswith(b"220 ") and b"250-PIPELINING" in said.stdout and b"STARTTLS" not in said.stdout,
            "Modify=s: TLS before the greeting", (said.stdout[-300:], said.stderr[-300:]))

    # The real sendmail comes with its certificate, and is gone to with ours.
    safe = dict(DontBlameSendmail="groupwritabledirpathsafe,truststickybit", CACertFile=authority, CACertPath=s.dir / "authorities")
    theirs = RealSendmail(s, "client", asks.port)
    sent = theirs.run("-Am", "-i", "-odi", "-v", "-fa@load.example", "sm@sink.example", stdin=message("sm-to-us").replace(b"\r\n", b"\n"), **safe,
                      ClientCertFile=s.dir / "client.pem", ClientKeyFile=s.dir / "client.key")
    arrived = lambda tag: next((a for a in sink.arrivals if tag_of(a.data) == tag), None)
    wait_for(lambda: arrived("sm-to-us"), 20)
    got = arrived("sm-to-us")
    s.check(got and b"bits=256 verify=OK)" in got.data.split(b"Received:")[1] and verdicts(asks, "server")[-1][1] == "OK",
            "the real sendmail shows us its certificate: verify=OK in log and Received", (got and got.data[:300], sent.stdout[-500:]))
    theirs = RealSendmail(s, "server", sink.port)
    port = theirs.listen(**safe, **shown, DeliveryMode="i")
    mine, mykey = s.dir / "mine.pem", s.dir / "mine.key"

    def show(name):
        shutil.copy(s.dir / f"{name}.pem", mine), shutil.copy(s.dir / f"{name}.key", mykey)
    show("client")
    shows = s.kvmta("shows", smart_host=port, CACertFile=authority, ClientCertFile=mine, ClientKeyFile=mykey, ConnectionCacheSize=0)
    shows.start()

    def through(tag, verdict):
        send(shows.port, "a@load.example", ["us@sink.example"], message(tag))
        wait_for(lambda: arrived(tag), 30)
        got = arrived(tag)
        s.check(got and f"bits=256 verify={verdict})".encode() in got.data.split(b"Received:")[1], f"{tag}: the real sendmail says verify={verdict} of us",
                (got and got.data[:300], shows.log()[-500:]))
    through("with-ours", "OK")
    s.check(verdicts(shows, "client")[-1:] == [("TLSv1.3", "OK", "TLS_AES_256_GCM_SHA384", "256/256")], "and we say verify=OK of it",
            verdicts(shows, "client"))
    show("stranger")
    shows.process.send_signal(signal.SIGHUP)
    wait_for(lambda: "restarting configuration" in shows.log(), 10)
    through("after-sighup", "FAIL")
    mykey.write_text("no key\n")
    shows.process.send_signal(signal.SIGHUP)
    s.check(wait_for(lambda: "the one before stays" in shows.log(), 10) and f"option ClientKeyFile: no private key in {mykey}" in shows.log(),
            "a bad key file: told with option and file, and not taken", shows.log()[-400:])
    through("with-the-one-before", "FAIL")

    # A host that offers TLS and cannot: sendmail's words, and clear text only when told.
    def breaks(event, text, session):
        if text.upper() == "STARTTLS":
            asyncio.get_running_loop().call_later(0.3, session.transport.abort)
            return "220 go"
    ill = s.sink(extensions=("PIPELINING", "STARTTLS"), plan=breaks).start()
    for name, clear in (("insists", "false"), ("yields", "true")):
        k = s.kvmta(name, smart_host=ill.port, TLSFallbacktoClear=clear)
        k.start()
        send(k.port, "a@load.example", ["ill@sink.example"], message(name))
        wait_for(lambda: "stat=" in k.log(), 20)
        s.check("ruleset=tls_server, arg1=SOFTWARE, relay=[127.0.0.1], reject=454 4.7.0 TLS handshake failed." in k.log(),
                f"TLSFallbacktoClear={clear}: a failed handshake is told as by sendmail", k.log()[-600:])
        stat = "stat=Sent" if clear == "true" else "dsn=4.7.0, stat=Deferred: 454 4.7.0 TLS handshake failed."
        s.check(stat in k.log() and len(ill.arrivals) == (clear == "true"), f"and {stat}", k.log()[-600:])
        k.stop()
    for k in (asks, mute, shows):
        k.stop()
