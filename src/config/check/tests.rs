//! What a file and a command line make of a configuration, and what they are told.

use std::time::Duration;

use super::*;
use crate::config::{DeliveryMode, GivingUp};

/// Loads `file` (none for "") with the command line `options` (`Name=value ...` by blanks), for the system's queue.
fn load(file: &str, options: &str) -> Result<(Config, Vec<String>), ConfigError> {
    load_at(SYSTEM_QUEUE, file, options)
}

fn load_at(queue: &str, file: &str, options: &str) -> Result<(Config, Vec<String>), ConfigError> {
    let location = Location {
        queue_directory: queue.into(),
        config_file: (!file.is_empty()).then(|| "/x.cf".into()),
    };
    let host = HostNames {
        full: "mx.example.com".into(),
        short: "mx".into(),
        addresses: ["127.0.0.1", "192.0.2.25", "2001:db8::25"].map(|a| a.parse().unwrap()).into(),
    };
    let options: Vec<_> = options.split_whitespace().map(Setting::long).collect();
    let read = |path: &Path| match path.to_str() {
        Some("/x.cf") => Ok(file.to_owned()),
        Some("/switch") => Ok("aliases files\nhosts dns nis files\n".to_owned()),
        Some("/names") => Ok("# names\na.example b.example\nC.Example.\n".to_owned()),
        _ => Err(io::Error::from_raw_os_error(2)),
    };
    let sources =
        Sources { location: &location, host: &host, options: &options, macros: &[], read: &read };
    let (config, diagnostics) = Config::load(&sources)?;
    Ok((config, diagnostics.iter().map(|d| format!("{:?} {d}", d.severity)).collect()))
}

fn config(file: &str, options: &str) -> Config {
    let (config, said) = load(file, options).unwrap();
    assert_eq!(said, Vec::<String>::new());
    config
}

fn said(file: &str) -> Vec<String> {
    load(file, "").unwrap().1
}

#[test]
fn nothing_is_needed() {
    let config = config("", "");
    assert_eq!(config.host_name, "mx.example.com");
    let own = ["[127.0.0.1]", "[192.0.2.25]", "[ipv6:2001:db8::25]"];
    let names = [&own[..], &["localhost", "mx", "mx.example.com"]].concat();
    assert!(config.local_names.iter().eq(names));
    let ports: Vec<_> = config.daemons.iter().map(|d| d.address.to_string()).collect();
    assert_eq!(ports, ["0.0.0.0:25", "[::]:25"]);
    assert!(!config.per_user);
    let (config, _) = load_at("/tmp/q", "", "").unwrap();
    assert_eq!(config.daemons, [Daemon::at("MTA", "127.0.0.1:2525".parse().unwrap())]);
    assert!(config.per_user);
}

#[test]
fn interfaces_are_probed_unless_told() {
    let own = |file: &str| {
        let names = config(file, "").local_names;
        names.into_iter().filter(|name| name.starts_with('[')).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(own("O DontProbeInterfaces\n"), "");
    assert_eq!(own("O DontProbeInterfaces=loopback\n"), "[192.0.2.25] [ipv6:2001:db8::25]");
    assert_eq!(own("O DontProbeInterfaces=no\n"), "[127.0.0.1] [192.0.2.25] [ipv6:2001:db8::25]");
}

/// F=e of the M lines, and what HoldExpensive makes of it.
#[test]
fn expensive_mailers_are_read_off_the_m_lines() {
    use crate::mail::job::Mailer;
    let lines =
        "Mesmtp, P=[IPC], F=mDFMuXae, S=11, A=TCP $h\nMlocal, P=/x, F=lsDF\nMrelay, P=[IPC], F=e\n";
    let (found, _) = load(&format!("O HoldExpensive\n{lines}"), "").unwrap();
    assert_eq!(found.expensive_mailers, [Mailer::Esmtp, Mailer::Relay].into());
    assert!(found.is_held_for_runs(Mailer::Relay) && !found.is_held_for_runs(Mailer::Lmtp));
    let (found, _) = load(lines, "").unwrap();
    assert!(!found.is_held_for_runs(Mailer::Esmtp));
    let (found, _) = load("O ExpensiveMailers=lmtp, esmtp\n", "c= v").unwrap();
    assert_eq!(found.expensive_mailers, [Mailer::Esmtp, Mailer::Lmtp].into());
    assert!(!found.is_held_for_runs(Mailer::Esmtp), "-v asks for it now");
    assert!(load("", "ExpensiveMailers=pigeon").is_err());
}

/// F=8 of the M lines: those of Debian's sendmail.cf, and others.
#[test]
fn eight_bit_mailers_are_read_off_the_m_lines() {
    use crate::mail::job::Mailer;
    let stock = "Mlocal, P=/x, F=lsDFMAw5:/|@qSPfhn9\nMsmtp, P=[IPC], F=mDFMuX\nMesmtp, P=[IPC], F=mDFMuXa\n\
                 Msmtp8, P=[IPC], F=mDFMuX8\nMrelay, P=[IPC], F=mDFMuXa8\n";
    let found = |lines| load(lines, "").unwrap().0.eight_bit_mailers;
    assert_eq!(found(stock), [Mailer::Relay].into());
    assert_eq!(found(""), [Mailer::Relay].into());
    assert_eq!(found("Mrelay, P=[IPC], F=mDF\nMesmtp, P=[IPC], F=8\n"), [Mailer::Esmtp].into());
}

#[test]
fn mime_options() {
    let limits = |value: &str| config(&format!("O MaxMimeHeaderLength={value}\n"), "").mime_limits;
    assert_eq!((limits("140/50").field, limits("140/50").parameter), (141, 51));
    assert_eq!((limits("140").field, limits("140").parameter), (141, 71));
    assert_eq!((limits("140/0").field, limits("140/0").parameter), (141, 0));
    assert_eq!((limits("0").field, limits("0").parameter), (0, 0));
    assert_eq!(config("O DefaultCharSet=iso-8859-1\n", "").default_charset, "iso-8859-1");
    for line in [
        "O MaxMimeHeaderLength=65536\n",
        "O MaxMimeHeaderLength=x/1\n",
        "O DefaultCharSet=a b\n",
        "O DefaultCharSet=a;b\n",
        "O EightBitMode=x\n",
    ] {
        assert_eq!(said(line).len(), 1, "{line}");
    }
}

#[test]
fn host_status_needs_a_cache() {
    let (found, said) = load("O HostStatusDirectory=x\nO ConnectionCacheSize=0\n", "").unwrap();
    assert!(!found.host_status);
    assert!(said[0].contains("HostStatusDirectory disabled with ConnectionCacheSize = 0"));
}

#[test]
fn the_command_line_wins_over_the_file() {
    let file = "O QueueDirectory=/var/spool/other\nO DeliveryMode=q\nO MaxHopCount=30\n\
                O Timeout.queuereturn.non-urgent=7d\nO DaemonPortOptions=Port=26\nO DaemonPortOptions=Port=27\n";
    let found = config(file, "");
    assert_eq!(found.queue_directory, Path::new("/var/spool/other"));
    assert_eq!(found.daemons.len(), 2);
    assert_eq!(found.limits.hops, 30);
    let found = config(
        file,
        "QueueDirectory=/var/spool/kvmta d=i Timeout.queuereturn=now O=Port=2525,Addr=127.0.0.1",
    );
    assert_eq!(found.queue_directory, Path::new(SYSTEM_QUEUE));
    assert_eq!(found.delivery_mode, DeliveryMode::Interactive);
    assert!(found.queue_timeouts.iter().all(|class| class.giving_up == GivingUp::Now));
    assert_eq!(found.daemons, [Daemon::at("MTA", "127.0.0.1:2525".parse().unwrap())]);
}

#[test]
fn bare_numbers_count_what_the_option_counts() {
    let found = config(
        "O Timeout.queuereturn=3\nO Timeout.queuewarn.normal=6\nO MinQueueAge=27\nO MaxQueueAge=2h\nO Timeout.mail=2\nOT4/5h\nO Timeout.queuewarn.dsn=0\n",
        "",
    );
    let hours = |hours: u64| Duration::from_secs(hours * 3600);
    assert!(found.queue_timeouts.iter().all(|c| c.giving_up == GivingUp::After(hours(96))));
    assert_eq!(
        found.queue_timeouts.map(|c| c.warn),
        [Some(hours(5)), Some(hours(5)), Some(hours(5)), None]
    );
    assert_eq!(found.min_queue_age, Duration::from_secs(27 * 60));
    assert_eq!(found.max_queue_age, Some(hours(2)));
    assert_eq!(found.timeouts.mail, Duration::from_secs(120));
}

#[test]
fn deliver_by_may_be_below_nothing() {
    assert_eq!(config("", "").deliver_by_min, Some(0));
    assert_eq!(config("O DeliverByMin=90\n", "").deliver_by_min, Some(90));
    assert_eq!(config("O DeliverByMin=1h\n", "").deliver_by_min, Some(3600));
    assert_eq!(config("O DeliverByMin=-1\n", "").deliver_by_min, None);
}

#[test]
fn privacy_adds_up() {
    let privacy = |file, options| config(file, options).privacy;
    assert!(privacy("", "").authwarnings);
    assert!(!privacy("O PrivacyOptions=public\n", "").authwarnings);
    let p = privacy("O PrivacyOptions=noexpn\nOp novrfy,noetrn\n", "p=restrictqrun");
    assert!(p.noexpn && p.noverb && p.novrfy && p.noetrn && p.restrictqrun && !p.authwarnings);
    let p = privacy("", "PrivacyOptions=goaway");
    assert!(p.needmailhelo && p.novrfy && p.authwarnings && !p.noetrn && !p.restrictmailq);
}

#[test]
fn names_classes_and_relays() {
    let found = config(
        "Dj$w.example.org\nDSesmtp:[smart.Example]:587\nCwx.example Y.example.\nFw-o /missing\nFw/names %[^\\#]\n\
         CRexample.net 192.0.2 IPv6:2001:db8::1\nO RelayNetworks=10.0.0.0/8, 127.0.0.1\nTann\nPspecial=9\nO PidFile=/run/$j.pid\n",
        "",
    );
    assert_eq!(found.host_name, "mx.example.org");
    assert_eq!(found.smart_host.as_deref(), Some("[smart.example]:587"));
    for name in ["mx.example.org", "x.example", "y.example", "a.example", "b.example", "c.example"]
    {
        assert!(found.local_names.contains(name), "{name}");
    }
    assert!(found.relay_domains.iter().eq(["example.net"]));
    let networks: Vec<_> =
        found.relay_networks.iter().map(|n| (n.address.to_string(), n.prefix)).collect();
    let expected = [("10.0.0.0", 8), ("127.0.0.1", 32), ("192.0.2.0", 24), ("2001:db8::1", 128)];
    assert_eq!(networks, expected.map(|(a, p)| (a.to_owned(), p)));
    assert!(found.trusted_users.contains("ann") && found.trusted_users.contains("root"));
    assert_eq!(found.precedences.get("special"), Some(&9));
    assert_eq!(found.pid_file.as_deref(), Some(Path::new("/run/mx.example.org.pid")));
}

#[test]
fn whatever_cannot_be_used_is_said_with_its_line() {
    assert_eq!(
        said(
            "V10\nO NoSuchOption=1\nO MaxQ=5\nO MinQueue=5m\nO Timeout.mail=1x\nO Timeout.mail=0\nO SoftBounce=maybe\nO_x\n"
        ),
        [
            "Error /x.cf: line 2: readcf: unknown option name NoSuchOption; line ignored",
            "Error /x.cf: line 3: readcf: ambiguous option name MaxQ (matches MaxQueueAge and MaxQueueRunSize); line ignored",
            "Notice /x.cf: line 4: option MinQueue read as MinQueueAge",
            "Error /x.cf: line 5: option Timeout.mail: Invalid time unit `x'; it stays as it was",
            "Error /x.cf: line 6: option Timeout.mail: 0 would wait for ever; leave the option out for its default; it stays as it was",
            "Error /x.cf: line 7: option SoftBounce: \"maybe\" is neither true nor false; it stays as it was",
            "Error /x.cf: line 8: readcf: unknown option letter _; line ignored",
        ]
    );
    assert_eq!(
        said(
            "V11\nO SuperSafe=True\nO AliasFile=/etc/aliases\nOU/etc/db\nOU\nZ?\nFw/missing\nFw|prog\nPx=y\nCR?? a.example\nDj?\nDSa b\n"
        ),
        [
            "Warning /x.cf: line 1: syntax version \"11\" is not known; read as version 10",
            "Notice /x.cf: line 2: option SuperSafe has no effect: a message is durable before it is acknowledged, whether true, PostMilter, interactive or false",
            "Warning /x.cf: line 3: option AliasFile: newaliases reads it; mail for local users is LocalRelay's, with its aliases",
            "Error /x.cf: line 4: option UserDatabaseSpec: there is no user database; use aliases; it stays as it was",
            "Error /x.cf: line 6: unknown configuration line \"Z?\"; line ignored",
            "Error /x.cf: line 7: fileclass: cannot open '/missing': No such file or directory; line ignored",
            "Error /x.cf: line 8: Fw: \"|prog\" is not the path of a file; line ignored",
            "Error /x.cf: line 9: precedence \"x\" needs a number; line ignored",
            "Error /x.cf: line 10: class R: \"??\" is neither domain nor network; ignored",
            "Error /x.cf: line 11: Dj: \"?\" is no host name; line ignored",
            "Error /x.cf: line 12: DS: \"a b\" is not a host such as relay.example or [192.0.2.1]:25; line ignored",
        ]
    );
    assert_eq!(
        said(
            "S0\nR$*\t$@ x\nS1\nMlocal, P=/x\nKx hash /y\nO ServerCertFile=/c.pem\nO ErrorHeader=/missing\n"
        ),
        [
            "Warning /x.cf: line 5: 1 K line without effect: maps are not looked up yet",
            "Notice /x.cf: line 4: 1 M line without effect: the built-in mailers esmtp, relay, lmtp and local are used",
            "Warning /x.cf: line 1: 3 R and S lines without effect: rulesets are not interpreted: the built-in routing and policy decide",
            "Error /x.cf: line 6: ServerCertFile and ServerKeyFile need each other; STARTTLS is not offered",
            "Error /x.cf: line 0: ErrorHeader: cannot open /missing: No such file or directory; reports go without",
        ]
    );
}

/// How addresses may be written, where hosts are looked up, and the rest of what was idle once.
#[test]
fn options_of_addresses_names_and_time() {
    use crate::mail::address_list::Style;
    let style = |file: &str| config(file, "").address_style;
    let stock = Style { blanks_separate: true, blank_sub: '.', colons_belong: false };
    assert_eq!(style(""), stock);
    assert_eq!(style("O OldStyleHeaders=False\n"), Style { blanks_separate: false, ..stock });
    assert_eq!(style("OB_\n"), Style { blank_sub: '_', ..stock });
    assert_eq!(style("O BlankSub=\n"), Style { blank_sub: ' ', ..stock });
    assert_eq!(style("V5\n"), Style { colons_belong: true, ..stock });
    assert_eq!(style("V5\nO ColonOkInAddr=no\n"), stock);

    let found = config(
        "O NameServer=127.0.0.1:5353\nO NameSearchList=b.example, C.Example.\nOI+HasWildcardMX -debug WorkAroundBrokenAAAA\nO DialDelay=5\nO MaxRunnersPerQueue=5\nO TimeZoneSpec=JST-9\n",
        "",
    );
    assert_eq!(found.name_servers, ["127.0.0.1:5353".parse().unwrap()]);
    assert_eq!(found.name_search_list, ["b.example", "c.example"]);
    assert!(found.has_wildcard_mx && found.work_around_broken_aaaa);
    assert_eq!(found.dial_delay, Duration::from_secs(5));
    assert_eq!(found.destination_concurrency_max, 5);
    let noon = jiff::Timestamp::from_second(1_795_320_000).unwrap();
    let offset = |config: &Config| config.time_zone.to_offset(noon).seconds() / 3600;
    assert_eq!(offset(&found), 9);
    assert_eq!(config("O MaxRunnersPerQueue=0\n", "").destination_concurrency_max, 20);
    assert!(!config("O ResolverOptions=-HasWildcardMX\n", "").has_wildcard_mx);
    assert_eq!(
        said(
            "O ResolverOptions=foo\nO TimeZoneSpec=foo\nO NameSearchList=a..b\nO QueueFileMode=9\n"
        ),
        [
            "Error /x.cf: line 1: option ResolverOptions: readcf: I option value foo unrecognized; it stays as it was",
            "Error /x.cf: line 2: option TimeZoneSpec: \"foo\" is no time zone such as Europe/Berlin or EST5EDT; it stays as it was",
            "Error /x.cf: line 3: option NameSearchList: \"a..b\": Invalid route address; it stays as it was",
            "Notice /x.cf: line 4: option QueueFileMode has no effect: the files of the store are 0600, whatever it is: every command asks the daemon",
            "Error /x.cf: line 4: option QueueFileMode: \"9\" is not a mode such as 0600; it stays as it was",
        ]
    );
}

#[test]
fn hosts_are_looked_up_where_the_service_switch_says() {
    use crate::config::switch::HostSource::{Dns, Files};
    assert_eq!(config("", "").host_sources, [Files, Dns]);
    let found = load("O ServiceSwitchFile=/switch\nO HostsFile=/names\n", "").unwrap();
    assert_eq!(found.0.host_sources, [Dns, Files]);
    assert_eq!(found.0.hosts_file, Path::new("/names"));
    let nis =
        "Warning /x.cf: line 0: /switch: hosts are not looked up in nis, but in files and dns";
    assert_eq!(found.1, [nis]);
    assert_eq!(
        said("O ServiceSwitchFile=/missing\nO HostsFile=/missing\n"),
        [
            "Warning /x.cf: line 0: HostsFile: cannot open /missing: No such file or directory; hosts are looked up without it",
            "Warning /x.cf: line 0: ServiceSwitchFile: cannot open /missing: No such file or directory; hosts are looked up in files, then dns",
        ]
    );
}

#[test]
fn files_of_tls_know_their_line() {
    let file = "O ClientCertFile=/c.pem\nO ClientKeyFile=/k.pem\nO CACertPath=/certs\nO ClientCACertFile=/ca.pem\n";
    let tls = config(file, "").tls;
    let shown = |file: &Option<crate::config::tls::NamedFile>| {
        let file = file.as_ref().unwrap();
        format!("{} {} {}", file.origin, file.option, file.path.display())
    };
    let certificate = tls.client_certificate.clone().unwrap();
    assert_eq!(shown(&Some(certificate.key)), "/x.cf: line 2 ClientKeyFile /k.pem");
    let ours = tls.authorities_of_client();
    assert_eq!(shown(&ours.file), "/x.cf: line 4 ClientCACertFile /ca.pem");
    assert_eq!(shown(&ours.directory), "/x.cf: line 3 CACertPath /certs");
    assert_eq!(
        said("O ClientKeyFile=/k.pem\n"),
        [
            "Error /x.cf: line 1: ClientCertFile and ClientKeyFile need each other; our client shows no certificate"
        ]
    );
    let (found, _) = load(file, "ClientKeyFile=").unwrap();
    assert_eq!(found.tls.client_certificate, None);
}

/// What is without effect is one line; what would leave nothing is an error, and all stays as it was.
#[test]
fn ciphers_and_protocols_are_never_empty() {
    let (found, said) = load(
        "O CipherList=RC4-SHA:aRSA:!aNULL:FOO\nO CipherList=RC4:MD5\nO CipherSuites=TLS_AES_128_CCM_SHA256\n\
         O ServerSSLOptions=SSL_OP_NO_TLSv1_2 SSL_OP_PRIORITIZE_CHACHA\nO ServerSSLOptions=+SSL_OP_NO_TLSv1_3\n\
         O ClientSSLOptions=SSL_OP_NO_TLSv1_3\nO TLSSrvOptions=V, C\nO TLSSrvOptions=X\nO TLSFallbacktoClear\n",
        "",
    )
    .unwrap();
    assert_eq!(
        said,
        [
            "Warning /x.cf: line 1: option CipherList: without effect here: RC4-SHA FOO",
            "Error /x.cf: line 2: option CipherList: \"RC4:MD5\" leaves no cipher suite; it stays as it was",
            "Error /x.cf: line 3: option CipherSuites: \"TLS_AES_128_CCM_SHA256\" leaves no cipher suite; it stays as it was",
            "Warning /x.cf: line 4: option ServerSSLOptions: without effect here: SSL_OP_PRIORITIZE_CHACHA",
            "Error /x.cf: line 5: option ServerSSLOptions: \"+SSL_OP_NO_TLSv1_3\" leaves neither TLS 1.2 nor TLS 1.3; it stays as it was",
            "Warning /x.cf: line 7: option TLSSrvOptions: C has no effect: a server without certificate offers no TLS",
            "Error /x.cf: line 8: option TLSSrvOptions: \"X\" is none of V C; it stays as it was",
        ]
    );
    let tls = found.tls;
    assert_eq!((tls.suites12.len(), tls.suites13.len()), (3, 3));
    assert!(tls.server.tls13 && !tls.server.tls12 && tls.client.tls12 && !tls.client.tls13);
    assert!(!tls.asks_clients && tls.falls_back_to_clear);
}

#[test]
fn tls_from_the_start_needs_a_certificate() {
    let port = "O DaemonPortOptions=Name=TLS,Port=465,M=s\nO DaemonPortOptions=Port=25\n";
    let (found, said) = load(port, "").unwrap();
    assert_eq!(found.daemons.len(), 1);
    assert_eq!(
        said,
        [
            "Error /x.cf: line 0: DaemonPortOptions Name=TLS, Modify=s: TLS needs ServerCertFile and ServerKeyFile; port 465 stays closed"
        ]
    );
    let found = config(&format!("{port}O ServerCertFile=/c\nO ServerKeyFile=/k\n"), "");
    assert_eq!(found.daemons[0].tls, PortTls::FromTheStart);
    let found = config("O ClientPortOptions=Addr=127.0.0.1, M=S\n", "");
    assert!(!found.client_starttls);
}

/// A port that cannot be as safe as asked for stays closed, and no default takes its place.
#[test]
fn a_faulty_port_opens_nothing() {
    let (config, said) = load("O DaemonPortOptions=Port=587, M=a\n", "").unwrap();
    assert!(config.daemons.is_empty());
    assert!(
        said[0].starts_with("Error /x.cf: line 1: option DaemonPortOptions: modifier a"),
        "{said:?}"
    );
}

#[test]
fn faults_of_the_command_line_end_the_command() {
    let error = |options| load("", options).map(|_| ()).unwrap_err().to_string();
    assert_eq!(error("NoSuchOption=1"), "readcf: unknown option name NoSuchOption");
    assert_eq!(error("Timeout.mail=1x"), "option Timeout.mail: Invalid time unit `x'");
    let (_, said) = load("", "_=1 Z=1").unwrap();
    assert_eq!(said, ["Notice command line: readcf: unknown option letter _; ignored"]);
}

#[test]
fn a_missing_file_is_said_as_sendmail_does() {
    let location =
        Location { queue_directory: "/q".into(), config_file: Some("/nonexistent.cf".into()) };
    let host = HostNames { full: "a".into(), short: "a".into(), addresses: Vec::new() };
    let sources =
        Sources { location: &location, host: &host, options: &[], macros: &[], read: &read_file };
    let error = Config::load(&sources).map(|_| ()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "/nonexistent.cf: line 0: cannot open: No such file or directory"
    );
}
