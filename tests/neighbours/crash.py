#!/usr/bin/env python3
"""(c) kill -9 at random moments under load from an SMTP client and the command line. Every message that got its 250 or
exit 0 arrives. A second copy of one is allowed only for what was in flight at a kill: at most MaxUnsettled of them per
kill, and the log after the restart names each."""
from lab import *

KILLS = 25 if FULL else 5
UNSETTLED = 200
seed = int(os.environ.get("SEED", random.SystemRandom().randrange(1 << 32)))
rng = random.Random(seed)


class Ledger:
    """What was promised: tags in the order their 250 or exit 0 came."""

    def __init__(self):
        self.promised, self.stopping = {}, False


async def smtp_client(kvmta, ledger, number):
    """Sends for ever; whatever breaks, it connects again."""
    n = 0
    while not ledger.stopping:
        client = Client()
        try:
            await asyncio.wait_for(client.open(kvmta.port), 5)
            while not ledger.stopping:
                tag = f"smtp{number}-{n}"
                n += 1
                data = message(tag, rng.choice((10, 3000, 60_000)))
                recipients = [f"r{i}@sink.example" for i in range(rng.choice((1, 1, 1, 5)))]
                code, _ = await client.send("a@load.example", recipients, data, final_limit=20)
                if code == 250:
                    ledger.promised[tag] = recipients
        except (OSError, ConnectionError, ValueError, asyncio.TimeoutError):
            await asyncio.sleep(0.02)


def command_line(kvmta, ledger, number):
    """Submits for ever through the sendmail command."""
    n = 0
    while not ledger.stopping:
        tag = f"cli{number}-{n}"
        n += 1
        try:
            # An ordinary user, as most are: root would open the queue himself while the daemon is down, log to syslog, and
            # make the attempt by his own command line.
            status = kvmta.submit(message(tag, 1500).replace(b"\r\n", b"\n"), "a@load.example", "c@sink.example",
                                  user="nobody" if os.geteuid() == 0 else None)
        except subprocess.TimeoutExpired:
            continue
        if status == 0:
            ledger.promised[tag] = ["c@sink.example"]


with Scenario("crash") as s:
    print(f"  SEED={seed}")
    sink = s.sink().start()
    os.environ["HOME"] = str(s.dir)                 # a submission without a daemon saves dead.letter there
    kvmta = s.kvmta(smart_host=sink.port, MaxUnsettled=str(UNSETTLED))
    kvmta.start()
    ledger, threads = Ledger(), []

    async def clients():
        await asyncio.gather(*(smtp_client(kvmta, ledger, n) for n in range(8)))
    threads.append(threading.Thread(target=lambda: asyncio.run(clients())))
    threads += [threading.Thread(target=command_line, args=(kvmta, ledger, n)) for n in range(2)]
    for t in threads:
        t.start()
    starts = []
    try:
        for _ in range(KILLS):
            time.sleep(rng.uniform(0.2, 2.5))
            kvmta.kill()
            starts.append(kvmta.start())
        time.sleep(1)
    finally:
        ledger.stopping = True
        for t in threads:
            t.join()
    print(f"  {KILLS} kills, {len(ledger.promised)} messages promised, restart to banner {max(starts):.2f} s at most")
    s.check(len(ledger.promised) > 20 * KILLS, "there was load", len(ledger.promised))

    def copies():
        return Counter((tag_of(a.data), r) for a in sink.arrivals for r in a.recipients)
    due = {(tag, r) for tag, recipients in ledger.promised.items() for r in recipients}
    wait_for(lambda: due <= set(copies()) and kvmta.count() == 0, 90, 0.5)
    missing = due - set(copies())
    s.check(not missing, "everything promised arrived", (len(missing), sorted(missing)[:5]))
    s.check(kvmta.count() == 0, "queue empty", kvmta.count())
    extra = {key: n - 1 for key, n in copies().items() if n > 1}
    total = sum(extra.values())
    print(f"  {total} extra copies ({total / KILLS:.1f} per kill)")
    s.check(total <= UNSETTLED * KILLS, f"extra copies within MaxUnsettled ({UNSETTLED}) per kill", total)
    twice = {tag for tag, _ in extra}
    ids = {queue_id_of(a.data) for a in sink.arrivals if tag_of(a.data) in twice}
    log = kvmta.log()
    unnamed = [i for i in ids if not re.search(rf"{i}: .*(in flight|twice|unsettled)", log)]
    s.check(not unnamed, "the log names each", unnamed[:5])
    kvmta.stop()
    s.check(*((r := kvmta.dump_check())[0], "kvmta-dump --check finds nothing", r[1]))
