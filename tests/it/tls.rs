//! The TLS handshake with both our sides, over a pipe inside the process and over loopback.

use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use jiff::tz::TimeZone;
use kvmta::accept::received::Received;
use kvmta::config::Config;
use kvmta::config::options::{self, Draft, Turn};
use kvmta::config::raw::Origin;
use kvmta::config::tls::{Halves, NamedFile, Tls};
use kvmta::mail::time::Timestamp;
use kvmta::maillog::events::Side;
use kvmta::maillog::{self, Maillog, Sink};
use kvmta::world::real::RealNet;
use kvmta::world::tls::{ClientTls, ServerTls, SetUp, set_up_beside};
use kvmta::world::{Net, Stream, TlsAccept, TlsFacts, Verify};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType,
    IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber, date_time_ymd,
};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpListener, TcpStream};

/// An authority, and certificates from it and from others, as files.
struct Files {
    directory: TempDir,
    authority: CertifiedIssuer<'static, KeyPair>,
}

impl Files {
    /// `cert.pem` of this host and `key.pem`, by the authority in `roots.pem`.
    fn for_host(host: &str) -> Files {
        let authority = issuer("authority");
        let files = Files { directory: TempDir::new().unwrap(), authority };
        files.write("roots.pem", &files.authority.pem());
        files.certify("cert.pem", "key.pem", params(host), &files.authority);
        files
    }

    fn certify(
        &self,
        certificate: &str,
        key: &str,
        params: CertificateParams,
        by: &CertifiedIssuer<'static, KeyPair>,
    ) {
        let pair = KeyPair::generate().unwrap();
        self.write(certificate, &params.signed_by(&pair, by).unwrap().pem());
        self.write(key, &pair.serialize_pem());
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A file by its name here, as an option on line 7 names it.
    fn named(&self, option: &'static str, name: &str) -> NamedFile {
        let origin = Origin::File { path: Path::new("/x.cf").into(), line: 7 };
        NamedFile { option, origin, path: self.path(name) }
    }

    /// Options in the words of a configuration: `CACertFile=roots.pem TLSSrvOptions=V`; files by their names here.
    fn options(&self, text: &str) -> Tls {
        let file = |option, name: &str| Some(self.named(option, name));
        let mut draft = Draft::new(Config::default());
        let (mut server, mut client) = (Halves::default(), Halves::default());
        for word in text.split_whitespace() {
            let (name, value) = word.split_once('=').unwrap();
            let tls = &mut draft.config.tls;
            match name {
                "ServerCertFile" => server.chain = file("ServerCertFile", value),
                "ServerKeyFile" => server.key = file("ServerKeyFile", value),
                "ClientCertFile" => client.chain = file("ClientCertFile", value),
                "ClientKeyFile" => client.key = file("ClientKeyFile", value),
                "CACertFile" => tls.authorities.file = file("CACertFile", value),
                "CACertPath" => tls.authorities.directory = file("CACertPath", value),
                "ClientCACertFile" => tls.client_authorities.file = file("ClientCACertFile", value),
                "CRLFile" => tls.revoked.file = file("CRLFile", value),
                "CRLPath" => tls.revoked.directory = file("CRLPath", value),
                _ => {
                    let turn = Turn { first: true, command_line: false };
                    options::find(name).unwrap().0.set(&mut draft, value, turn).unwrap();
                }
            }
        }
        let mut tls = draft.config.tls;
        tls.server_certificate = server.whole().unwrap();
        tls.client_certificate = client.whole().unwrap();
        tls
    }

    /// Both sides by these options, and what was wrong with their files. The system has no authorities.
    fn set_up(&self, options: &str) -> SetUp {
        set_up_beside(&self.options(options), Vec::new())
    }

    fn server(&self, options: &str) -> ServerTls {
        let options = format!("ServerCertFile=cert.pem ServerKeyFile=key.pem {options}");
        let set_up = self.set_up(&options);
        set_up.server.unwrap_or_else(|| panic!("{options}: {:?}", set_up.faults))
    }

    fn client(&self, options: &str) -> ClientTls {
        self.set_up(options).client
    }
}

fn issuer(name: &str) -> CertifiedIssuer<'static, KeyPair> {
    let mut params = params(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

fn params(host: &str) -> CertificateParams {
    let mut params = CertificateParams::new(vec![host.to_owned()]).unwrap();
    params.distinguished_name.push(DnType::CommonName, host);
    params
}

/// Shakes hands over a pipe, sends a line each way, and returns what each side says of it.
async fn talk(server: &ServerTls, client: &ClientTls, name: &str) -> (TlsFacts, TlsFacts) {
    let (ours, theirs) = tokio::io::duplex(4096);
    let (client_side, server_side) =
        tokio::join!(client.connect(Box::new(ours), name), server.accept(Box::new(theirs)));
    let ((mut c, client_facts), (mut s, server_facts)) =
        (client_side.unwrap(), server_side.unwrap());
    echo(&mut c, &mut s).await;
    echo(&mut s, &mut c).await;
    (client_facts, server_facts)
}

async fn echo(from: &mut Box<dyn Stream>, to: &mut Box<dyn Stream>) {
    from.write_all(b"EHLO x\r\n").await.unwrap();
    from.flush().await.unwrap();
    let mut line = [0; 8];
    to.read_exact(&mut line).await.unwrap();
    assert_eq!(&line, b"EHLO x\r\n");
}

/// The name in a certificate is not looked at, as in sendmail.
#[tokio::test]
async fn any_certificate_is_taken_and_judged() {
    let files = Files::for_host("mx.example");
    let (server, client) = (files.server(""), files.client("CACertFile=roots.pem"));
    for name in ["mx.example", "MX.Example.", "other.example", "[192.0.2.1]", "[ipv6:2001:db8::1]"]
    {
        let (ours, theirs) = talk(&server, &client, name).await;
        assert_eq!(ours.verify, Verify::Ok, "{name}");
        assert_eq!((ours.version.as_str(), ours.bits), ("TLSv1.3", 256));
        assert_eq!(ours.cipher, "TLS_AES_256_GCM_SHA384");
        assert_eq!(theirs, TlsFacts { verify: Verify::Not, ..ours });
    }
    let of_server = async |client: ClientTls| talk(&server, &client, "mx.example").await.0.verify;
    let stranger = Files::for_host("mx.example");
    assert_eq!(of_server(stranger.client("CACertFile=roots.pem")).await, Verify::Fail);
    // ClientCACertFile counts in place of CACertFile, and the system's authorities when there is neither.
    stranger.write("ours.pem", &files.authority.pem());
    let both = stranger.client("CACertFile=roots.pem ClientCACertFile=ours.pem");
    assert_eq!(of_server(both).await, Verify::Ok);
    assert_eq!(of_server(files.client("")).await, Verify::Fail);
    let system = vec![files.path("missing.pem"), files.path("roots.pem")];
    let system = set_up_beside(&Tls::default(), system).client;
    assert_eq!(of_server(system).await, Verify::Ok);
}

/// What a server says of its client: CACertFile asks, TLSSrvOptions=V does not.
#[tokio::test]
async fn clients_are_asked_and_never_refused() {
    let files = Files::for_host("mx.example");
    let good = params("client.example");
    files.certify("client.pem", "client.key", good.clone(), &files.authority);
    files.certify("strange.pem", "strange.key", good.clone(), &issuer("stranger"));
    let mut late = good;
    (late.not_before, late.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2021, 1, 1));
    files.certify("late.pem", "late.key", late, &files.authority);
    const GOOD: &str = "ClientCertFile=client.pem ClientKeyFile=client.key";
    const STRANGE: &str = "ClientCertFile=strange.pem ClientKeyFile=strange.key";
    const LATE: &str = "ClientCertFile=late.pem ClientKeyFile=late.key";
    for (server, client, verify) in [
        ("", "", Verify::Not),
        ("", GOOD, Verify::Not),
        ("CACertFile=roots.pem", "", Verify::No),
        ("CACertFile=roots.pem", GOOD, Verify::Ok),
        ("CACertFile=roots.pem", STRANGE, Verify::Fail),
        ("CACertFile=roots.pem", LATE, Verify::Fail),
        ("CACertFile=strange.pem", GOOD, Verify::Fail),
        ("CACertFile=missing.pem", GOOD, Verify::Fail),
        ("CACertFile=roots.pem TLSSrvOptions=V", GOOD, Verify::Not),
        ("ClientCACertFile=roots.pem", GOOD, Verify::Not),
    ] {
        for version in ["", "ClientSSLOptions=SSL_OP_NO_TLSv1_3"] {
            let (server_tls, client_tls) =
                (files.server(server), files.client(&format!("{client} {version}")));
            // The second handshake resumes the first one's session.
            for _ in 0..2 {
                let theirs = talk(&server_tls, &client_tls, "mx.example").await.1;
                assert_eq!(theirs.verify, verify, "{server}; {client}; {version}");
            }
        }
    }
}

/// What `openssl req -x509` makes: good where it is itself among the authorities, for as long as it is in its time.
#[tokio::test]
async fn self_signed_certificates_are_believed_one_by_one() {
    let files = Files::for_host("mx.example");
    let sign = |name: &str, until: i32| {
        let key = KeyPair::generate().unwrap();
        let mut params = params("mx.example");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        (params.not_before, params.not_after) =
            (date_time_ymd(2020, 1, 1), date_time_ymd(until, 1, 1));
        files.write(&format!("{name}.pem"), &params.self_signed(&key).unwrap().pem());
        files.write(&format!("{name}.key"), &key.serialize_pem());
    };
    sign("one", 2099);
    sign("two", 2099);
    sign("late", 2021);
    for (shown, believed, verify) in
        [("one", "one", Verify::Ok), ("one", "two", Verify::Fail), ("late", "late", Verify::Fail)]
    {
        let (server, client) = (
            files.set_up(&format!("ServerCertFile={shown}.pem ServerKeyFile={shown}.key")),
            files.client(&format!("CACertFile={believed}.pem")),
        );
        let facts = talk(&server.server.unwrap(), &client, "mx.example").await.0;
        assert_eq!(facts.verify, verify, "{shown} {believed}");
    }
}

#[tokio::test]
async fn revoked_certificates_do_not_pass() {
    let files = Files::for_host("mx.example");
    for serial in [7, 8] {
        let mut params = params("mx.example");
        params.serial_number = Some(SerialNumber::from(serial));
        let (name, key) = (format!("{serial}.pem"), format!("{serial}.key"));
        files.certify(&name, &key, params, &files.authority);
    }
    let list = |by: &CertifiedIssuer<'static, KeyPair>, until| {
        let revoked = RevokedCertParams {
            serial_number: SerialNumber::from(7),
            revocation_time: date_time_ymd(2020, 2, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2020, 2, 1),
            next_update: date_time_ymd(until, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: vec![revoked],
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(by).unwrap().pem().unwrap()
    };
    files.write("lists/good.pem", &list(&files.authority, 2099));
    files.write("old.pem", &list(&files.authority, 2021));
    files.write("other.pem", &list(&issuer("stranger"), 2099));
    for (serial, lists, verify) in [
        (7, "", Verify::Ok),
        (7, "CRLFile=lists/good.pem", Verify::Fail),
        (8, "CRLFile=lists/good.pem", Verify::Ok),
        (7, "CRLPath=lists", Verify::Fail),
        (8, "CRLPath=lists", Verify::Ok),
        // Of no list, or of an old one, nobody knows whether it is revoked.
        (8, "CRLFile=other.pem", Verify::Fail),
        (8, "CRLFile=old.pem", Verify::Fail),
        (8, "CRLFile=missing.pem", Verify::Fail),
    ] {
        let server =
            files.set_up(&format!("ServerCertFile={serial}.pem ServerKeyFile={serial}.key"));
        let client = files.client(&format!("CACertFile=roots.pem {lists}"));
        let facts = talk(&server.server.unwrap(), &client, "mx.example").await.0;
        assert_eq!(facts.verify, verify, "{serial} {lists}");
    }
}

/// CACertPath: hashed names lead to files beside them, and what is no certificate is nobody's fault.
#[tokio::test]
async fn authorities_are_found_in_a_directory() {
    let files = Files::for_host("mx.example");
    files.write("all/README", "none here");
    files.write("all/other.pem", &issuer("other").pem());
    files.write("all/ours.crt", &files.authority.pem());
    std::os::unix::fs::symlink("ours.crt", files.path("all/5f1a02e1.0")).unwrap();
    std::os::unix::fs::symlink("nowhere", files.path("all/00000000.0")).unwrap();
    let set_up = files.set_up("CACertPath=all");
    assert!(set_up.faults.is_empty(), "{:?}", set_up.faults);
    let facts = talk(&files.server(""), &set_up.client, "mx.example").await.0;
    assert_eq!(facts.verify, Verify::Ok);
}

/// Protocols and suites are those that the options leave, under OpenSSL's names.
#[tokio::test]
async fn protocols_and_suites_are_those_of_the_options() {
    let files = Files::for_host("mx.example");
    for (server, client, agreed) in [
        ("", "", "TLSv1.3 TLS_AES_256_GCM_SHA384 256"),
        ("ServerSSLOptions=SSL_OP_NO_TLSv1_3", "", "TLSv1.2 ECDHE-ECDSA-AES256-GCM-SHA384 256"),
        ("", "ClientSSLOptions=SSL_OP_NO_TLSv1_3", "TLSv1.2 ECDHE-ECDSA-AES256-GCM-SHA384 256"),
        ("", "CipherSuites=TLS_AES_128_GCM_SHA256", "TLSv1.3 TLS_AES_128_GCM_SHA256 128"),
        (
            "CipherList=CHACHA20 ServerSSLOptions=SSL_OP_NO_TLSv1_3",
            "",
            "TLSv1.2 ECDHE-ECDSA-CHACHA20-POLY1305 256",
        ),
        // Whose order counts.
        (
            "CipherSuites=TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384",
            "",
            "TLSv1.3 TLS_AES_256_GCM_SHA384 256",
        ),
        (
            "CipherSuites=TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384 ServerSSLOptions=SSL_OP_CIPHER_SERVER_PREFERENCE",
            "",
            "TLSv1.3 TLS_AES_128_GCM_SHA256 128",
        ),
        ("ServerSSLOptions=SSL_OP_NO_TLSv1_2", "ClientSSLOptions=SSL_OP_NO_TLSv1_3", "nothing"),
        ("CipherList=aRSA", "ClientSSLOptions=SSL_OP_NO_TLSv1_3", "nothing"),
    ] {
        let (server_tls, client_tls) = (files.server(server), files.client(client));
        let (ours, theirs) = tokio::io::duplex(4096);
        let (client_side, server_side) = tokio::join!(
            client_tls.connect(Box::new(ours), "mx.example"),
            server_tls.accept(Box::new(theirs))
        );
        let found = match (client_side, server_side) {
            (Ok((_, TlsFacts { version, cipher, bits, .. })), Ok(_)) => {
                format!("{version} {cipher} {bits}")
            }
            _ => "nothing".into(),
        };
        assert_eq!(found, agreed, "{server}; {client}");
    }
}

#[tokio::test]
async fn a_name_that_is_none_is_refused_before_the_handshake() {
    let client = set_up_beside(&Tls::default(), Vec::new()).client;
    let (ours, _theirs) = tokio::io::duplex(4096);
    let refused = client.connect(Box::new(ours), "a b\\").await.err().unwrap();
    assert_eq!(refused.kind(), io::ErrorKind::InvalidInput);
}

#[tokio::test]
async fn plaintext_where_tls_is_expected_is_an_error() {
    let files = Files::for_host("mx.example");
    let (mut ours, theirs) = tokio::io::duplex(4096);
    ours.write_all(b"MAIL FROM:<a@b.example>\r\n").await.unwrap();
    assert!(files.server("").accept(Box::new(theirs)).await.is_err());
    let (ours, mut theirs) = tokio::io::duplex(4096);
    theirs.write_all(b"250 no TLS here\r\n").await.unwrap();
    assert!(files.client("").connect(Box::new(ours), "mx.example").await.is_err());
}

/// A socket that a shutdown leaves open, so that octets can follow the end of TLS.
struct KeptOpen(TcpStream);

impl AsyncRead for KeptOpen {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for KeptOpen {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_flush(cx)
    }
}

/// CVE-2026-45185: what follows the end of TLS on the wire is nobody's, be TLS ended properly or not.
#[tokio::test]
async fn nothing_is_read_after_tls_has_ended() {
    let files = Files::for_host("mx.example");
    let server = files.server("");
    let net = RealNet::new(files.client("CACertFile=roots.pem"));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    for ended_properly in [true, false] {
        let plain = net.connect(listener.local_addr().unwrap(), None).await.unwrap();
        let socket = listener.accept().await.unwrap().0.into_std().unwrap();
        let mut behind = TcpStream::from_std(socket.try_clone().unwrap()).unwrap();
        let socket = KeptOpen(TcpStream::from_std(socket).unwrap());
        let (accepted, connected) =
            tokio::join!(server.accept(Box::new(socket)), net.start_tls(plain, "mx.example"));
        let ((mut served, _), (mut stream, facts)) = (accepted.unwrap(), connected.unwrap());
        assert_eq!(facts.verify, Verify::Ok);
        echo(&mut served, &mut stream).await;
        if ended_properly {
            served.shutdown().await.unwrap();
        }
        behind.write_all(b"250 plaintext\r\n").await.unwrap();
        let mut rest = Vec::new();
        let end = stream.read_to_end(&mut rest).await;
        assert_eq!((end.is_ok(), rest.as_slice()), (ended_properly, b"".as_slice()));
    }
}

/// Option, file and line; and everything goes on without the file.
#[test]
fn a_fault_names_the_line_to_look_at() {
    let files = Files::for_host("mx.example");
    files.write("other.key", &KeyPair::generate().unwrap().serialize_pem());
    files.write("empty/README", "none here");
    files.write("crl.pem", "-----BEGIN X509 CRL-----\nMAA=\n-----END X509 CRL-----\n");
    const SERVER: &str = "ServerCertFile=cert.pem ServerKeyFile=key.pem";
    for (options, fault, without) in [
        (
            "ServerCertFile=missing.pem ServerKeyFile=key.pem",
            "option ServerCertFile: cannot read DIR/missing.pem: No such file or directory",
            "STARTTLS is not offered",
        ),
        (
            "ServerCertFile=key.pem ServerKeyFile=key.pem",
            "option ServerCertFile: no certificate in DIR/key.pem",
            "STARTTLS is not offered",
        ),
        (
            "ServerCertFile=cert.pem ServerKeyFile=cert.pem",
            "option ServerKeyFile: no private key in DIR/cert.pem",
            "STARTTLS is not offered",
        ),
        (
            "ServerCertFile=cert.pem ServerKeyFile=other.key",
            "option ServerKeyFile: cannot use DIR/other.key: ",
            "STARTTLS is not offered",
        ),
        (
            "ClientCertFile=cert.pem ClientKeyFile=other.key",
            "option ClientKeyFile: cannot use DIR/other.key: ",
            "our client shows no certificate",
        ),
        (
            "CACertFile=missing.pem",
            "option CACertFile: cannot read DIR/missing.pem: No such file or directory",
            "certificates are checked without it",
        ),
        (
            "CACertPath=empty CACertFile=roots.pem",
            "option CACertPath: no certificate in DIR/empty",
            "certificates are checked without it",
        ),
        (
            "CRLFile=crl.pem CACertFile=roots.pem",
            "option CRLFile: cannot use DIR/crl.pem: ",
            "no certificate passes (verify=FAIL)",
        ),
        (
            "CRLFile=roots.pem",
            "option CRLFile: no revocation list in DIR/roots.pem",
            "no certificate passes (verify=FAIL)",
        ),
    ] {
        let options = match options.contains("Server") {
            true => options.to_owned(),
            false => format!("{SERVER} {options}"),
        };
        let set_up = files.set_up(&options);
        let [found] = set_up.faults.as_slice() else { panic!("{options}: {:?}", set_up.faults) };
        let text = found.to_string().replace(files.directory.path().to_str().unwrap(), "DIR");
        assert!(text.starts_with(&format!("/x.cf: line 7: {fault}")), "{text}");
        assert_eq!(found.without_it(), without, "{options}");
        assert_eq!(found.is_of_server_certificate(), set_up.server.is_none(), "{options}");
    }
}

/// What a log was told.
#[derive(Clone, Default)]
struct Paper(Arc<Mutex<Vec<u8>>>);

impl io::Write for Paper {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(octets);
        Ok(octets.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The line of the log, and for a server the line of Received.
fn lines(side: Side, relay: &str, facts: &TlsFacts) -> String {
    let paper = Paper::default();
    let log = Maillog::open(maillog::Options {
        sink: Sink::Stream(Box::new(paper.clone())),
        tag: "kvmta".into(),
        level: 9,
        clock: Arc::new(|| Timestamp::ZERO),
        zone: TimeZone::UTC,
    })
    .unwrap();
    log.tls_started(side, relay, facts);
    assert!(log.flush(Duration::from_secs(20)));
    let logged = String::from_utf8(paper.0.lock().unwrap().clone()).unwrap();
    let logged = logged.trim_end().split_once("]: ").unwrap().1.to_owned();
    let received = Received {
        helo: Some("client.example"),
        relay,
        host: "neighbour.example",
        protocol: "ESMTPS",
        id: "6AMEOdbG026556".parse().unwrap(),
        tls: Some(facts),
        only_recipient: None,
        at: Timestamp::ZERO,
    };
    let received = String::from_utf8(received.field(&TimeZone::UTC)).unwrap();
    let received = received.lines().find(|line| line.contains("version=")).unwrap();
    match side {
        Side::Server => format!("{logged}\n{}", received.trim_end_matches(';')),
        Side::Client => logged,
    }
}

/// Log and Received are the real sendmail's for the same situation.
#[tokio::test]
async fn lines_are_those_of_the_real_sendmail() {
    let files = Files::for_host("mx.example");
    files.certify("client.pem", "client.key", params("client.example"), &files.authority);
    files.certify("stranger.pem", "stranger.key", params("stranger.example"), &issuer("other"));
    let mut own = params("self.example");
    own.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    files.write("self.pem", &own.self_signed(&key).unwrap().pem());
    files.write("self.key", &key.serialize_pem());
    let golden = include_str!("../golden/tls/sendmail.txt");
    let cases: Vec<_> = golden.trim_end().split("\n\n").skip(1).collect();
    assert_eq!(cases.len(), 11);
    for case in cases {
        let (situation, expected) = case.split_once('\n').unwrap();
        let (heard, other) = situation.split_once("; ").unwrap_or((situation, ""));
        let options = |text: &str| text.split_once(' ').unwrap_or_default().1.to_owned();
        let (heard_options, other_options) = (options(heard), options(other));
        let found = if heard.starts_with("server") {
            let (server, client) = (files.server(&heard_options), files.client(&other_options));
            let facts = talk(&server, &client, "mx.example").await.1;
            lines(Side::Server, "localhost [127.0.0.1]", &facts)
        } else {
            let (server, client) = (files.server(&other_options), files.client(&heard_options));
            let facts = talk(&server, &client, "[127.0.0.1]").await.0;
            lines(Side::Client, "[127.0.0.1]", &facts)
        };
        assert_eq!(found, expected, "{situation}");
    }
}
