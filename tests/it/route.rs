//! Plays the scenario files in `tests/route/`: where addresses go, whom we serve, and which hosts are tried.
//!
//! ```text
//! set KEY VALUE               host_name, local, relay_domain, relay_network, smart_host, local_relay, smtp_port,
//!                             daemon, fallback_mx, fallback_smart, try_null_mx, only_to, own (an address of this machine); a second `set` of a class adds to it
//! dns NAME TYPE DATA          a record, see kvmta::world::fake::Zone
//! client ADDRESS|local        who speaks in the checks below
//! expect to ADDRESS = DESTINATION or reply
//! expect mail ADDRESS = ok or reply
//! expect rcpt ADDRESS = ok, reply, or `syntax` when it is no address at all
//! expect hops DESTINATION = HOST SOCKET...; HOST SOCKET...  (or status and text)
//!                             `{...; ...}` for those in random order
//! forget                      everything set so far
//! ```

use std::fmt::Write as _;
use std::path::Path;

use kvmta::config::{Config, Daemon, Network};
use kvmta::mail::address::{Address, ReversePath};
use kvmta::mail::job::{Destination, Mailer};
use kvmta::mail::status::Reply;
use kvmta::route::{self, Client, Hop};
use kvmta::world::fake::{FakeWorld, Zone};

struct Scenario {
    config: Config,
    zone: Zone,
    world: FakeWorld,
    client: Client,
}

impl Scenario {
    fn new() -> Scenario {
        let client = Client { address: None, name: None, helo: "client.example".into() };
        let (config, zone) = (Config::default(), Zone::default());
        Scenario { config, zone, world: FakeWorld::default(), client }
    }

    fn set(&mut self, key: &str, value: &str) {
        let config = &mut self.config;
        match key {
            "host_name" => config.host_name = value.into(),
            "local" => drop(config.local_names.insert(value.into())),
            "relay_domain" => drop(config.relay_domains.insert(value.into())),
            "relay_network" => {
                let (address, prefix) = value.split_once('/').unwrap();
                let network =
                    Network { address: address.parse().unwrap(), prefix: prefix.parse().unwrap() };
                config.relay_networks.push(network);
            }
            "smart_host" => config.smart_host = Some(value.into()),
            "local_relay" => config.local_relay = Some(value.into()),
            "smtp_port" => config.smtp_port = value.parse().unwrap(),
            "daemon" => {
                let address = value.parse().unwrap();
                config.daemons.push(Daemon::at("MTA", address));
            }
            "own" => {
                let own = value.split_whitespace().map(|address| address.parse().unwrap());
                self.world.net.set_own_addresses(own.collect());
            }
            "fallback_mx" => config.fallback_mx_host = Some(value.into()),
            "fallback_smart" => config.fallback_smart_host = Some(value.into()),
            "try_null_mx" => config.try_null_mx_list = value == "true",
            "only_to" => config.connect_only_to = Some(value.parse().unwrap()),
            _ => panic!("unknown key {key}"),
        }
    }

    fn ask(&self, what: &str, of: &str) -> String {
        let done = |answer: Result<(), Reply>| match answer {
            Ok(()) => "ok".to_owned(),
            Err(reply) => reply.to_string(),
        };
        match what {
            "hops" => self.hops(of),
            "mail" if of == "<>" => {
                done(route::check_mail(&self.config, &self.client, &ReversePath::Null))
            }
            _ => match of.parse::<Address>() {
                Err(_) => "syntax".to_owned(),
                Ok(address) => match what {
                    "to" => route::destination(&self.config, &address)
                        .map_or_else(|reply| reply.to_string(), |to| to.to_string()),
                    "rcpt" => done(route::check_rcpt(&self.config, &self.client, &address)),
                    "mail" => {
                        let from = ReversePath::Mailbox(address);
                        done(route::check_mail(&self.config, &self.client, &from))
                    }
                    _ => panic!("unknown question {what}"),
                },
            },
        }
    }

    fn hops(&self, destination: &str) -> String {
        let (mailer, next_hop) = destination.split_once(':').unwrap();
        let mailers = [Mailer::Esmtp, Mailer::Relay, Mailer::Lmtp, Mailer::Local];
        let mailer = mailers.into_iter().find(|known| known.name() == mailer).unwrap();
        let destination = Destination { mailer, next_hop: next_hop.into() };
        self.world.dns.set(self.zone.clone());
        let world = self.world.world();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        match runtime.block_on(route::hops(&world, &self.config, &destination)) {
            Ok(hops) => hops.iter().map(shown).collect::<Vec<_>>().join("; "),
            Err(report) => format!("{} {}", report.status, report.text),
        }
    }
}

fn shown(hop: &Hop) -> String {
    match hop {
        Hop::Path(path) => path.display().to_string(),
        Hop::Host { name, addresses } => {
            addresses.iter().fold(name.clone(), |mut text, address| {
                write!(text, " {address}").unwrap();
                text
            })
        }
    }
}

/// Whether what came is what was expected, the groups in braces in any order.
fn agrees(expected: &str, came: &str) -> bool {
    let Some((before, rest)) = expected.split_once('{') else {
        return expected == came;
    };
    let (group, after) = rest.split_once('}').unwrap();
    let mut wanted: Vec<&str> = group.split("; ").collect();
    let len = before.len() + group.len();
    let (Some(start), Some(middle), Some(end)) =
        (came.get(..before.len()), came.get(before.len()..len), came.get(len..))
    else {
        return false;
    };
    let mut got: Vec<&str> = middle.split("; ").collect();
    wanted.sort_unstable();
    got.sort_unstable();
    start == before && wanted == got && end == after
}

/// Runs one file and returns what disagreed and how many expectations there were.
fn play(file: &Path) -> (Vec<String>, usize) {
    let text = std::fs::read_to_string(file).unwrap();
    let mut scenario = Scenario::new();
    let (mut wrong, mut count) = (Vec::new(), 0);
    for (number, line) in text.lines().enumerate() {
        let words: Vec<&str> = line.splitn(3, ' ').collect();
        match words.as_slice() {
            [""] | ["#", ..] => {}
            ["forget"] => scenario = Scenario::new(),
            ["set", key, value] => scenario.set(key, value),
            ["dns", ..] => scenario.zone.add(&line["dns ".len()..]).unwrap(),
            ["client", "local"] => scenario.client.address = None,
            ["client", address] => scenario.client.address = Some(address.parse().unwrap()),
            ["expect", what, question] => {
                let (of, expected) = question.rsplit_once(" = ").unwrap();
                let came = scenario.ask(what, of);
                count += 1;
                if !agrees(expected, &came) {
                    wrong.push(format!(
                        "{}:{}: {line}\n    came: {came}",
                        file.display(),
                        number + 1
                    ));
                }
            }
            _ => panic!("{}:{}: {line}", file.display(), number + 1),
        }
    }
    (wrong, count)
}

#[test]
fn scenarios() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/route");
    let (mut wrong, mut files) = (Vec::new(), 0);
    for entry in std::fs::read_dir(directory).unwrap() {
        let file = entry.unwrap().path();
        if file.extension().is_some_and(|extension| extension == "txt") {
            let (disagreed, count) = play(&file);
            assert!(count > 0, "a scenario without an expectation");
            files += 1;
            wrong.extend(disagreed);
        }
    }
    assert!(files >= 3, "the scenario files are gone");
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// The spellings that open-relay tests try, crossed with every kind of sender: always refused to a stranger.
#[test]
fn no_spelling_makes_us_relay() {
    let mut scenario = Scenario::new();
    scenario.set("host_name", "h.example");
    for name in ["h.example", "d.example", "[192.0.2.25]"] {
        scenario.set("local", name);
    }
    scenario.set("relay_domain", "r.example");
    scenario.client.address = Some("198.51.100.7".parse().unwrap());
    let senders = ["x@t.example", "x@localhost", "x", "<>", "x@d.example", "x@[192.0.2.25]"];
    let recipients = include_str!("../route/relay-attacks.list");
    let recipients: Vec<&str> = recipients.lines().filter(|line| !line.starts_with('#')).collect();
    assert!(recipients.len() >= 24);
    for sender in senders {
        let sender_refused = scenario.ask("mail", sender) != "ok";
        assert_eq!(sender_refused, sender == "x", "{sender}");
        for recipient in &recipients {
            let said = scenario.ask("rcpt", recipient);
            let denied = said == "syntax" || said.starts_with("550 5.7.1 ");
            assert!(denied, "{recipient} from {sender}: {said}");
        }
    }
    for ours in
        ["x@d.example", "x@D.Example.", "x@h.example", "x@[192.0.2.25]", "x@a.r.example", "x"]
    {
        assert_eq!(scenario.ask("rcpt", ours), "ok", "{ours}");
    }
}

/// RFC 5321 5.1: hosts of one preference share the load.
#[test]
fn equal_preferences_take_turns() {
    let mut scenario = Scenario::new();
    for line in ["b.example MX 10 x.example", "b.example MX 10 y.example"] {
        scenario.zone.add(line).unwrap();
    }
    for line in ["x.example A 192.0.2.1", "y.example A 192.0.2.2"] {
        scenario.zone.add(line).unwrap();
    }
    let first = |_| scenario.hops("esmtp:b.example").starts_with("x.example");
    let x_first = (0..200).map(first).filter(|first| *first).count();
    // The odds of missing this range with a fair coin are below one in 10^9.
    assert!((50..150).contains(&x_first), "{x_first} of 200");
}
