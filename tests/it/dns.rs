//! What a DNS server may answer, and what our resolver makes of it: found, gone, or ask again.

use std::net::IpAddr;
use std::time::Duration;

use kvmta::world::dns::{DnsOptions, HostSource, Resolver};
use kvmta::world::{Dns, DnsError};

use crate::fake::name_server::NameServer;

const ZONE: &str = "
b.example        MX 20 MX2.b.example
b.example        MX 10 mx1.b.example
mx1.b.example    A 192.0.2.1
mx2.b.example    A 192.0.2.2
mx2.b.example    A 192.0.2.3
v6.example       AAAA 2001:db8::1
null.example     MX 0 .
bare.example     A 192.0.2.4
alias.example    CNAME b.example
mxalias.example  CNAME mx1.b.example
dangling.example CNAME gone.example
looped.example   CNAME looped.example
down.example     SERVFAIL
refused.example  REFUSED
silent.example   TIMEOUT
big.example      TRUNCATED
big.example      MX 5 mx1.b.example
odd.example      GARBAGE
half.example     A 192.0.2.5
half.example     AAAA SERVFAIL
halfgone.example AAAA SERVFAIL
halfgone.example NODATA
192.0.2.1        PTR mx1.b.example
192.0.2.9        PTR mx1.b.example
192.0.2.8        PTR down.example
2001:db8::1      PTR v6.example
";

async fn resolver() -> (NameServer, Resolver) {
    let server = NameServer::start(ZONE).await;
    let options = DnsOptions {
        name_servers: vec![server.address],
        timeout: Duration::from_millis(200),
        attempts: 1,
        ..DnsOptions::default()
    };
    let resolver = Resolver::new(&options).unwrap();
    (server, resolver)
}

/// The answer, with every trouble as `temporary`: its words are the library's.
fn shown<T: std::fmt::Debug>(answer: Result<T, DnsError>) -> String {
    match answer {
        Ok(found) => format!("{found:?}"),
        Err(DnsError::NoSuchDomain) => "gone".into(),
        Err(DnsError::NoData) => "no data".into(),
        Err(DnsError::Temporary(_)) => "temporary".into(),
    }
}

#[tokio::test]
async fn mail_exchangers() {
    let (_server, resolver) = resolver().await;
    for (domain, expected) in [
        ("b.example", r#"[(20, "mx2.b.example"), (10, "mx1.b.example")]"#),
        ("B.Example", r#"[(20, "mx2.b.example"), (10, "mx1.b.example")]"#),
        ("alias.example", r#"[(20, "mx2.b.example"), (10, "mx1.b.example")]"#),
        ("big.example", r#"[(5, "mx1.b.example")]"#),
        ("null.example", r#"[(0, "")]"#),
        ("bare.example", "no data"),
        ("nosuch.example", "gone"),
        ("dangling.example", "gone"),
        ("localhost", "no data"),
        ("x.invalid", "gone"),
        ("a..b", "gone"),
        ("looped.example", "temporary"),
        ("down.example", "temporary"),
        ("refused.example", "temporary"),
        ("silent.example", "temporary"),
        ("odd.example", "temporary"),
    ] {
        assert_eq!(shown(resolver.mx(domain).await), expected, "{domain}");
    }
}

#[tokio::test]
async fn addresses() {
    let (_server, resolver) = resolver().await;
    for (host, expected) in [
        ("mx2.b.example", "[192.0.2.2, 192.0.2.3]"),
        ("v6.example", "[2001:db8::1]"),
        ("mxalias.example", "[192.0.2.1]"),
        ("half.example", "[192.0.2.5]"),
        ("halfgone.example", "temporary"),
        ("b.example", "no data"),
        ("nosuch.example", "gone"),
        ("dangling.example", "gone"),
        ("192.0.2.1", "gone"),
        ("silent.example", "temporary"),
        ("down.example", "temporary"),
    ] {
        assert_eq!(shown(resolver.addresses(host).await), expected, "{host}");
    }
    let localhost = resolver.addresses("localhost").await.unwrap();
    assert!(localhost.iter().all(IpAddr::is_loopback), "{localhost:?}");
}

/// NameSearchList, HostsFile, ServiceSwitchFile and the two flags of ResolverOptions that act.
#[tokio::test]
async fn names_are_completed_and_looked_up_where_the_configuration_says() {
    const HOSTS: &str = "192.0.2.50 box.example box\n192.0.2.51 mx1.b.example\n";
    use HostSource::{Dns as D, Files as F};
    let server = NameServer::start(ZONE).await;
    let usual = DnsOptions {
        name_servers: vec![server.address],
        timeout: Duration::from_millis(200),
        attempts: 1,
        hosts: HOSTS.into(),
        ..DnsOptions::default()
    };
    let search =
        DnsOptions { search: vec!["nosuch.example".into(), "example".into()], ..usual.clone() };
    let wildcard = DnsOptions { has_wildcard_mx: true, ..search.clone() };
    let dns_first = DnsOptions { sources: vec![D, F], ..usual.clone() };
    let files_only = DnsOptions { sources: vec![F], ..usual.clone() };
    let dns_only = DnsOptions { sources: vec![D], ..usual.clone() };
    let around = DnsOptions { work_around_broken_aaaa: true, ..usual.clone() };
    let mx = r#"[(20, "mx2.b.example"), (10, "mx1.b.example")]"#;
    for (options, name, expected_mx, expected_addresses) in [
        (&usual, "b", "gone", "gone"),
        (&search, "b", mx, "no data"),
        (&search, "bare", "no data", "[192.0.2.4]"),
        (&search, "down", "temporary", "temporary"),
        (&search, "nosuch", "gone", "gone"),
        (&search, "b.example", mx, "no data"),
        (&wildcard, "b", "no data", "no data"),
        (&wildcard, "nosuch", "no data", "gone"),
        (&usual, "box", "no data", "[192.0.2.50]"),
        (&usual, "mx1.b.example", "no data", "[192.0.2.51]"),
        (&dns_first, "mx1.b.example", "no data", "[192.0.2.1]"),
        (&dns_first, "box", "no data", "[192.0.2.50]"),
        (&dns_only, "box", "gone", "gone"),
        (&files_only, "box", "no data", "[192.0.2.50]"),
        (&files_only, "b.example", "no data", "gone"),
        (&usual, "halfgone.example", "no data", "temporary"),
        (&around, "halfgone.example", "no data", "no data"),
    ] {
        let resolver = Resolver::new(options).unwrap();
        assert_eq!(shown(resolver.mx(name).await), expected_mx, "MX of {name} {options:?}");
        let found = shown(resolver.addresses(name).await);
        assert_eq!(found, expected_addresses, "{name} {options:?}");
    }
    let name = Resolver::new(&usual).unwrap().name_of("192.0.2.51".parse().unwrap()).await;
    assert_eq!(name.as_deref(), Ok("mx1.b.example"));
}

#[tokio::test]
async fn names_are_believed_only_when_they_agree() {
    let (_server, resolver) = resolver().await;
    for (address, expected) in [
        ("192.0.2.1", r#""mx1.b.example""#),
        ("::ffff:192.0.2.1", r#""mx1.b.example""#),
        ("2001:db8::1", r#""v6.example""#),
        ("192.0.2.9", "no data"),
        ("192.0.2.8", "temporary"),
        ("192.0.2.77", "gone"),
    ] {
        let address = address.parse().unwrap();
        assert_eq!(shown(resolver.name_of(address).await), expected, "{address}");
    }
}

#[tokio::test]
async fn an_answer_is_asked_for_once() {
    let (server, resolver) = resolver().await;
    for domain in ["b.example", "nosuch.example", "bare.example"] {
        let first = resolver.mx(domain).await;
        assert_eq!(resolver.mx(domain).await, first);
    }
    let asked = ["udp Mx b.example", "udp Mx nosuch.example", "udp Mx bare.example"];
    assert_eq!(server.questions(), asked);
}

#[tokio::test]
async fn trouble_is_not_kept() {
    let (server, resolver) = resolver().await;
    let mut seen = 0;
    for _ in 0..2 {
        assert_eq!(shown(resolver.mx("down.example").await), "temporary");
        assert!(server.questions().len() > seen, "the second question was not asked");
        seen = server.questions().len();
    }
}

#[tokio::test]
async fn a_truncated_answer_is_asked_for_by_tcp() {
    let (server, resolver) = resolver().await;
    assert!(resolver.mx("big.example").await.is_ok());
    assert_eq!(server.questions(), ["udp Mx big.example", "tcp Mx big.example"]);
}
