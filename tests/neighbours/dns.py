#!/usr/bin/env python3
"""(h) A real name server (nsd): MX order and fallback, no MX, null MX, NXDOMAIN against SERVFAIL, CNAME."""
import struct
from lab import *

A, MX = 1, 15

HOSTS = {n: f"127.0.0.{n}" for n in (2, 3, 4)}

ZONE = """$ORIGIN example.
$TTL 60
@        SOA  ns hostmaster 1 60 60 60 60
@        NS   ns
ns       A    127.0.0.1
ordered  MX   20 mx3
ordered  MX   10 mx2
mx2      A    127.0.0.2
mx3      A    127.0.0.3
plain    A    127.0.0.4
null     MX   0 .
alias    CNAME ordered
nothing  TXT  "exists, takes no mail"
"""
NOERROR, SERVFAIL, NXDOMAIN = 0, 2, 3


def query(port, name, kind):
    """(response code, number of answers) of the name server."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.settimeout(1)
        labels = b"".join(bytes([len(l)]) + l.encode() for l in name.split("."))
        s.sendto(struct.pack(">6H", 7, 0x100, 1, 0, 0, 0) + labels + b"\0" + struct.pack(">2H", kind, 1), (LOCAL, port))
        answer = s.recv(1500)
        return answer[3] & 15, struct.unpack(">H", answer[6:8])[0]


def check_name_server(s, port):
    """The witness is examined before it is heard."""
    def up():
        with contextlib.suppress(OSError):
            return query(port, "ns.example", A)[1] == 1
    s.check(wait_for(up, 10), "the name server answers")
    for name, kind, expected in [("ordered.example", MX, (NOERROR, 2)), ("plain.example", MX, (NOERROR, 0)),
                                 ("null.example", MX, (NOERROR, 1)), ("nxdomain.example", MX, (NXDOMAIN, 0)),
                                 ("mail.broken", MX, (SERVFAIL, 0)), ("alias.example", MX, (NOERROR, 3))]:
        s.check(query(port, name, kind) == expected, f"the name server on {name}", query(port, name, kind))


with Scenario("dns") as s:
    port, name_server = free_port(), free_port()
    sinks = {n: s.sink(address=address, port=port) for n, address in HOSTS.items()}
    for sink in sinks.values():
        sink.start()
    (s.dir / "example.zone").write_text(ZONE)
    # `broken.` has no zone file, which a name server answers with SERVFAIL.
    (s.dir / "nsd.conf").write_text(f"""server:
  ip-address: {LOCAL}@{name_server}
  username: ""
  zonesdir: "{s.dir}"
  database: ""
  pidfile: "{s.dir}/nsd.pid"
  xfrdfile: "{s.dir}/xfrd.state"
  zonelistfile: "{s.dir}/zone.list"
  xfrdir: "{s.dir}"
  logfile: "{s.dir}/nsd.log"
remote-control:
  control-enable: no
zone:
  name: example
  zonefile: example.zone
zone:
  name: broken
  zonefile: missing.zone
""")
    s.process(tool("dns", "usr/sbin/nsd", "-d", "-c", s.dir / "nsd.conf"))
    check_name_server(s, name_server)
    kvmta = s.kvmta(NameServers=f"[{LOCAL}]:{name_server}", SmtpPort=str(port), **{"Timeout.resolver.retrans": "1s"})
    kvmta.start()

    def to(address, tag):
        code, text = send(kvmta.port, "sender@plain.example", [address], message(tag))
        return s.check(code == 250, f"{tag}: accepted", text)

    def arrived_at(tag, limit=10):
        """Which hosts have it."""
        found = lambda: [n for n, sink in sinks.items() if any(tag_of(a.data) == tag and a.sender for a in sink.arrivals)]
        return wait_for(found, limit)

    def report(address, limit=15):
        """The status in the report on `address` that reached the sender's own host."""
        def found():
            for a in sinks[4].reports():
                if re.search(rb"Final-Recipient: rfc822; ?" + re.escape(address.encode()), a.data, re.I):
                    return re.search(rb"^Status: (\S+)", a.data, re.M)[1].decode()
        return wait_for(found, limit)

    to("a@ordered.example", "order")
    s.check(arrived_at("order") == [2], "the better MX gets it", arrived_at("order", 0))
    sinks[2].stop()
    to("a@ordered.example", "fallback")
    s.check(arrived_at("fallback") == [3], "the other MX when the better one is down", arrived_at("fallback", 0))
    sinks[2].start()
    to("a@plain.example", "nomx")
    s.check(arrived_at("nomx") == [4], "no MX: the address itself", arrived_at("nomx", 0))
    to("a@alias.example", "cname")
    s.check(arrived_at("cname") in ([2], [3]), "CNAME is followed", arrived_at("cname", 0))
    to("a@[127.0.0.3]", "literal")
    s.check(arrived_at("literal") == [3], "address literal", arrived_at("literal", 0))
    to("a@null.example", "null")
    s.check(report("a@null.example") in ("5.1.10", "5.1.2"), "null MX: reported 5.1.10", report("a@null.example", 0))
    to("a@nothing.example", "nodata")
    s.check(report("a@nothing.example"), "neither MX nor address: reported", kvmta.log()[-300:])
    to("a@nxdomain.example", "nxdomain")
    s.check(report("a@nxdomain.example") in ("5.1.2", "5.4.4"), "NXDOMAIN: reported at once", report("a@nxdomain.example", 0))
    to("a@mail.broken", "servfail")
    deferred = wait_for(lambda: re.search(r"\(Deferred: .*\)", kvmta.listing()), 30, 0.3)
    s.check(deferred and not report("a@mail.broken", 0), "SERVFAIL: deferred, nobody is told", kvmta.listing())
    s.check(kvmta.wait_total(1, 10), "only that one is left", kvmta.listing())
    if deferred:
        print(f"  {deferred[0]}")
