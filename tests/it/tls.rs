//! The TLS handshake with both our sides, over a pipe inside the process and over loopback.

use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};

use kvmta::world::real::RealNet;
use kvmta::world::tls::{ClientTls, ServerTls};
use kvmta::world::{Net, Stream, TlsAccept, TlsFacts};
use rcgen::{CertificateParams, CertifiedIssuer, KeyPair};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpListener, TcpStream};

/// An authority and a server's certificate from it, as files.
struct Files {
    directory: TempDir,
}

impl Files {
    fn for_host(host: &str) -> Files {
        let files = Files { directory: TempDir::new().unwrap() };
        files.write_certificate(host);
        files
    }

    /// A new authority, certificate and key in the same places.
    fn write_certificate(&self, host: &str) {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![host.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &authority).unwrap();
        self.write("roots.pem", &authority.pem());
        self.write("cert.pem", &certificate.pem());
        self.write("key.pem", &key.serialize_pem());
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn server(&self) -> ServerTls {
        ServerTls::load(&self.path("cert.pem"), &self.path("key.pem")).unwrap()
    }

    fn client(&self) -> ClientTls {
        ClientTls::with_root_files(vec![self.path("roots.pem")])
    }
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

#[tokio::test]
async fn any_certificate_is_taken_and_judged() {
    let files = Files::for_host("mx.example");
    let (server, client) = (files.server(), files.client());
    for (name, verified) in [
        ("mx.example", true),
        ("MX.Example.", true),
        ("mx.example", true),
        ("other.example", false),
        ("[192.0.2.1]", false),
        ("[ipv6:2001:db8::1]", false),
    ] {
        let (ours, theirs) = talk(&server, &client, name).await;
        assert_eq!(ours.verified, verified, "{name}");
        assert_eq!((ours.version.as_str(), ours.bits), ("TLSv1.3", 256));
        assert!(ours.cipher.starts_with("TLS_AES_256_"), "{}", ours.cipher);
        assert_eq!(theirs, TlsFacts { verified: false, ..ours });
    }
    let stranger = Files::for_host("mx.example");
    assert!(!talk(&server, &stranger.client(), "mx.example").await.0.verified);
    let nobody = ClientTls::with_root_files(Vec::new());
    assert!(!talk(&server, &nobody, "mx.example").await.0.verified);
}

#[tokio::test]
async fn a_name_that_is_none_is_refused_before_the_handshake() {
    let client = ClientTls::with_root_files(Vec::new());
    let (ours, _theirs) = tokio::io::duplex(4096);
    let refused = client.connect(Box::new(ours), "a b\\").await.err().unwrap();
    assert_eq!(refused.kind(), io::ErrorKind::InvalidInput);
}

#[tokio::test]
async fn plaintext_where_tls_is_expected_is_an_error() {
    let files = Files::for_host("mx.example");
    let (mut ours, theirs) = tokio::io::duplex(4096);
    ours.write_all(b"MAIL FROM:<a@b.example>\r\n").await.unwrap();
    assert!(files.server().accept(Box::new(theirs)).await.is_err());
    let (ours, mut theirs) = tokio::io::duplex(4096);
    theirs.write_all(b"250 no TLS here\r\n").await.unwrap();
    assert!(files.client().connect(Box::new(ours), "mx.example").await.is_err());
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
    let server = files.server();
    let net = RealNet::new(files.client());
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    for ended_properly in [true, false] {
        let plain = net.connect(listener.local_addr().unwrap(), None).await.unwrap();
        let socket = listener.accept().await.unwrap().0.into_std().unwrap();
        let mut behind = TcpStream::from_std(socket.try_clone().unwrap()).unwrap();
        let socket = KeptOpen(TcpStream::from_std(socket).unwrap());
        let (accepted, connected) =
            tokio::join!(server.accept(Box::new(socket)), net.start_tls(plain, "mx.example"));
        let ((mut served, _), (mut stream, facts)) = (accepted.unwrap(), connected.unwrap());
        assert!(facts.verified);
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

#[tokio::test]
async fn reload_takes_the_new_certificate_or_keeps_the_old() {
    let files = Files::for_host("mx.example");
    let server = files.server();
    files.write_certificate("mail.example");
    assert!(!talk(&server, &files.client(), "mail.example").await.0.verified);
    server.reload().unwrap();
    assert!(talk(&server, &files.client(), "mail.example").await.0.verified);
    files.write("key.pem", "");
    assert!(server.reload().is_err());
    assert!(talk(&server, &files.client(), "mail.example").await.0.verified);
}

#[test]
fn an_error_names_the_file_to_look_at() {
    let files = Files::for_host("mx.example");
    let load = |certificate: &Path, key: &Path| {
        ServerTls::load(certificate, key).err().expect("must be refused").to_string()
    };
    let (certificate, key) = (files.path("cert.pem"), files.path("key.pem"));
    let missing = files.path("missing.pem");
    assert!(load(&missing, &key).starts_with("cannot read certificate "));
    assert!(load(&certificate, &missing).starts_with("cannot read private key "));
    assert!(load(&certificate, &certificate).starts_with("cannot read private key "));
    assert!(load(&key, &key).starts_with("no certificate in "));
    files.write("key.pem", &KeyPair::generate().unwrap().serialize_pem());
    let unfit = load(&certificate, &key);
    assert!(unfit.starts_with("cannot use certificate ") && unfit.contains("key.pem"), "{unfit}");
}
