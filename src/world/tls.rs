//! TLS on both sides of STARTTLS (RFC 3207), by rustls with ring.
//!
//! The client is opportunistic (RFC 7435): it takes any certificate, and says afterwards whether it would have stood
//! a check against the system's authorities. The server shows one certificate, read from files at start and again on
//! demand; a reload that fails changes nothing. TLS 1.2 and 1.3 only. Never falls back by itself: that is a decision
//! of whoever asked. After the peer's close_notify nothing more is read, whatever follows on the wire.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    ClientConfig, CommonState, DigitallySignedStruct, Error, ProtocolVersion, RootCertStore,
    ServerConfig, SignatureScheme,
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::{Answer, Stream, TlsAccept, TlsFacts};

/// Where systems keep the authorities they trust; the first that exists counts.
const ROOT_FILES: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];
/// The protocol we speak inside TLS. A client that asks for another one (a browser led astray, ALPACA) is refused.
const ALPN: &[u8] = b"smtp";

/// The client's side. One per process: it remembers sessions.
pub struct ClientTls {
    config: Arc<ClientConfig>,
    provider: Arc<CryptoProvider>,
    /// Whom to believe when saying `verified`; read at the first handshake, none when there are none to read.
    judge: OnceLock<Option<Arc<WebPkiServerVerifier>>>,
    root_files: Vec<PathBuf>,
}

impl ClientTls {
    /// Checks certificates against the system's authorities.
    pub fn with_system_roots() -> ClientTls {
        ClientTls::with_root_files(ROOT_FILES.map(PathBuf::from).to_vec())
    }

    /// Checks certificates against the authorities in the first of these PEM files that exists.
    pub fn with_root_files(root_files: Vec<PathBuf>) -> ClientTls {
        let provider = Arc::new(ring::default_provider());
        let verifier = Arc::new(TakeAny { provider: provider.clone() });
        let config = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .expect("ring has suites for TLS 1.2 and 1.3")
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth();
        ClientTls { config: Arc::new(config), provider, judge: OnceLock::new(), root_files }
    }

    /// The handshake as the client; `server_name` is a host name (sent as SNI) or an address literal (not sent).
    ///
    /// # Errors
    /// `InvalidInput` when `server_name` is neither; else what the handshake or the connection met.
    pub async fn connect(
        &self,
        stream: Box<dyn Stream>,
        server_name: &str,
    ) -> io::Result<(Box<dyn Stream>, TlsFacts)> {
        let name = tls_name(server_name)?;
        let stream = TlsConnector::from(self.config.clone()).connect(name.clone(), stream).await?;
        let (_, state) = stream.get_ref();
        let verified = self.would_verify(state.peer_certificates().unwrap_or_default(), &name);
        let facts = facts(state, verified);
        Ok((Box::new(stream), facts))
    }

    /// Whether a client that insists would have gone on. That the peer holds the key was part of the handshake:
    /// [`TakeAny`] lets a bad signature pass only for certificates that fail here.
    fn would_verify(&self, chain: &[CertificateDer<'_>], name: &ServerName<'_>) -> bool {
        let judge = self.judge.get_or_init(|| self.read_roots());
        match (judge, chain) {
            (Some(judge), [end_entity, intermediates @ ..]) => judge
                .verify_server_cert(end_entity, intermediates, name, &[], UnixTime::now())
                .is_ok(),
            _ => false,
        }
    }

    /// Without authorities nothing is ever verified, and mail goes on: it only says `verify=FAIL` in the log.
    fn read_roots(&self) -> Option<Arc<WebPkiServerVerifier>> {
        let file = self.root_files.iter().find(|file| file.exists())?;
        let certificates = match CertificateDer::pem_file_iter(file) {
            Ok(certificates) => certificates,
            Err(error) => {
                tracing::warn!(file = %file.display(), %error, "cannot read authorities; verify=FAIL for all");
                return None;
            }
        };
        let mut roots = RootCertStore::empty();
        // One damaged certificate among a hundred does not cost the others.
        roots.add_parsable_certificates(certificates.filter_map(Result::ok));
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), self.provider.clone())
            .build()
            .inspect_err(|error| {
                tracing::warn!(file = %file.display(), %error, "no authorities; verify=FAIL for all");
            })
            .ok()
    }
}

/// The server's side.
pub struct ServerTls {
    certificate_file: PathBuf,
    key_file: PathBuf,
    config: RwLock<Arc<ServerConfig>>,
}

/// Why a certificate cannot be used; the file it names is the one to look at.
#[derive(Debug, thiserror::Error)]
pub enum TlsSetupError {
    /// Cannot be read, or holds nothing of the kind.
    #[error("cannot read {what} {}: {source}", .file.display())]
    Read {
        /// `certificate` or `private key`.
        what: &'static str,
        /// Which file.
        file: PathBuf,
        /// Why.
        #[source]
        source: pem::Error,
    },
    /// The file holds no certificate.
    #[error("no certificate in {}", .0.display())]
    Empty(PathBuf),
    /// They were read and do not go together, or are of a kind we do not know.
    #[error("cannot use certificate {} with private key {}: {source}", .certificate.display(), .key.display())]
    Use {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// Why.
        #[source]
        source: Error,
    },
}

impl ServerTls {
    /// Reads a PEM certificate chain, own certificate first, and its private key (PKCS 8, PKCS 1 or SEC 1).
    ///
    /// # Errors
    /// Names the file that is missing, unreadable, or does not fit.
    pub fn load(certificate: &Path, key: &Path) -> Result<ServerTls, TlsSetupError> {
        let config = RwLock::new(server_config(certificate, key)?);
        Ok(ServerTls { certificate_file: certificate.into(), key_file: key.into(), config })
    }

    /// Reads the same files again; later handshakes show what they hold now.
    ///
    /// # Errors
    /// As [`ServerTls::load`]; what was in use stays in use.
    pub fn reload(&self) -> Result<(), TlsSetupError> {
        let config = server_config(&self.certificate_file, &self.key_file)?;
        *self.config.write().unwrap_or_else(PoisonError::into_inner) = config;
        Ok(())
    }
}

impl TlsAccept for ServerTls {
    fn accept(
        &self,
        stream: Box<dyn Stream>,
    ) -> Answer<'_, io::Result<(Box<dyn Stream>, TlsFacts)>> {
        let config = self.config.read().unwrap_or_else(PoisonError::into_inner).clone();
        Box::pin(async move {
            let stream = TlsAcceptor::from(config).accept(stream).await?;
            // No certificate is asked of clients, so none is ever verified.
            let facts = facts(stream.get_ref().1, false);
            Ok((Box::new(stream) as Box<dyn Stream>, facts))
        })
    }
}

fn server_config(certificate: &Path, key: &Path) -> Result<Arc<ServerConfig>, TlsSetupError> {
    let read = |what, file: &Path| {
        let file = file.to_path_buf();
        move |source| TlsSetupError::Read { what, file, source }
    };
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect)
        .map_err(read("certificate", certificate))?;
    if chain.is_empty() {
        return Err(TlsSetupError::Empty(certificate.into()));
    }
    let private = PrivateKeyDer::from_pem_file(key).map_err(read("private key", key))?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("ring has suites for TLS 1.2 and 1.3")
        .with_no_client_auth()
        .with_single_cert(chain, private)
        .map_err(|source| TlsSetupError::Use {
            certificate: certificate.into(),
            key: key.into(),
            source,
        })?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(Arc::new(config))
}

/// A host name, or an address with or without brackets and RFC 5321 4.1.3's `IPv6:`.
fn tls_name(server_name: &str) -> io::Result<ServerName<'static>> {
    let bare = server_name.strip_prefix('[').and_then(|name| name.strip_suffix(']'));
    let bare = bare.unwrap_or(server_name).trim_end_matches('.');
    let bare = match bare.get(..5) {
        Some(tag) if tag.eq_ignore_ascii_case("ipv6:") => &bare[5..],
        _ => bare,
    };
    ServerName::try_from(bare.to_owned())
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))
}

/// What was agreed, in the words that OpenSSL's users know from their logs.
fn facts(state: &CommonState, verified: bool) -> TlsFacts {
    let version = match state.protocol_version() {
        Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
        Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
        _ => "unknown",
    };
    let suite = state.negotiated_cipher_suite();
    // rustls prefixes the suites of 1.3 by `TLS13_`, IANA does not.
    let cipher = suite.map_or_else(String::new, |suite| {
        format!("{:?}", suite.suite()).replacen("TLS13_", "TLS_", 1)
    });
    let bits = if cipher.contains("AES_128") { 128 } else { 256 };
    TlsFacts { version: version.into(), cipher, bits, verified }
}

/// Takes any certificate (RFC 7435: encrypted to somebody is better than in clear to everybody).
///
/// The handshake's signature still has to be right, so that a certificate which passes the check afterwards was shown
/// by its owner. Only where webpki cannot read the certificate at all (not version 3), which no check passes later,
/// the signature is let go.
struct TakeAny {
    provider: Arc<CryptoProvider>,
}

impl TakeAny {
    fn checked(
        &self,
        certificate: &CertificateDer<'_>,
        check: impl FnOnce() -> Result<HandshakeSignatureValid, Error>,
    ) -> Result<HandshakeSignatureValid, Error> {
        match ParsedCertificate::try_from(certificate) {
            Ok(_) => check(),
            Err(_) => Ok(HandshakeSignatureValid::assertion()),
        }
    }
}

impl fmt::Debug for TakeAny {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TakeAny")
    }
}

impl ServerCertVerifier for TakeAny {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        self.checked(cert, || verify_tls12_signature(message, cert, dss, algorithms))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        self.checked(cert, || verify_tls13_signature(message, cert, dss, algorithms))
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
