//! TLS on both sides of STARTTLS (RFC 3207) and from the start of a connection (RFC 8314), by rustls with ring.
//!
//! Both sides are opportunistic (RFC 7435): any certificate is taken, and what the check against the authorities said is told
//! afterwards as [`Verify`]. The server shows ServerCertFile and may ask for the client's; the client shows ClientCertFile
//! when asked. Files are read by [`set_up`], at start and again at a reload; one that cannot be used is told and left out.
//! TLS 1.2 and 1.3 only. Never falls back by itself: that is a decision of whoever asked. After the peer's close_notify
//! nothing more is read, whatever follows on the wire.

mod files;
mod judge;

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use rustls::crypto::ring::cipher_suite;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::{CertificateRevocationListDer, ServerName};
use rustls::{
    ClientConfig, CommonState, ProtocolVersion, ServerConfig, SupportedCipherSuite,
    SupportedProtocolVersion, version,
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::{Answer, Stream, TlsAccept, TlsFacts, Verify};
use crate::config::tls::ciphers::Suite;
use crate::config::tls::{Authorities, Role, Tls};
pub use files::{FileFault, TlsFault};
use judge::{Judge, TakeAny};

/// Where systems keep the authorities they trust; the first that exists counts.
const SYSTEM_AUTHORITIES: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];
/// The protocol we speak inside TLS. A client that asks for another one (a browser led astray, ALPACA) is refused.
const ALPN: &[u8] = b"smtp";

/// Both sides, as far as their files allow.
pub struct SetUp {
    /// Our client.
    pub client: ClientTls,
    /// Our server; none without a usable certificate.
    pub server: Option<ServerTls>,
    /// Files that could not be used: everything goes on without them ([`TlsFault::without_it`]).
    pub faults: Vec<TlsFault>,
}

/// Both sides as configured. Without authorities of its own the client believes the system's.
pub fn set_up(tls: &Tls) -> SetUp {
    set_up_beside(tls, SYSTEM_AUTHORITIES.map(PathBuf::from).to_vec())
}

/// As [`set_up`], with the files where the system's authorities may be: the first that exists counts.
pub fn set_up_beside(tls: &Tls, system: Vec<PathBuf>) -> SetUp {
    let provider = Arc::new(provider(tls));
    let (lists, mut faults) = files::revocation_lists(&tls.revoked);
    // Lists that were asked for and are not there: nobody can be believed.
    let lists = (tls.revoked.is_empty() || !lists.is_empty()).then_some(lists);
    let authorities = tls.authorities_of_client();
    let for_clients = judge(tls, &tls.authorities, lists.as_deref(), &provider, &mut faults);
    let for_servers = match authorities == tls.authorities {
        true => for_clients.clone(),
        false => judge(tls, &authorities, lists.as_deref(), &provider, &mut faults),
    };
    let believed = match authorities.is_empty() {
        true => Believed::System { files: system, lists, judge: OnceLock::new() },
        false => Believed::Named(for_servers),
    };
    let client =
        ClientTls { config: client_config(tls, &provider, &mut faults), provider, believed };
    let server = server(tls, for_clients, &mut faults);
    SetUp { client, server, faults }
}

fn judge(
    tls: &Tls,
    authorities: &Authorities,
    lists: Option<&[CertificateRevocationListDer<'static>]>,
    provider: &Arc<CryptoProvider>,
    faults: &mut Vec<TlsFault>,
) -> Option<Arc<Judge>> {
    let (certificates, found) = files::certificates(authorities);
    // Both roles may share a file: it is told once.
    faults.extend(found.into_iter().filter(|new| faults_lack(faults, new)).collect::<Vec<_>>());
    match Judge::new(certificates, lists?.to_vec(), provider) {
        Ok(judge) => judge.map(Arc::new),
        Err(reason) => {
            let file = tls.revoked.file.as_ref().or(tls.revoked.directory.as_ref())?;
            let fault = FileFault::Unfit { path: file.path.clone(), reason };
            let fault = TlsFault::new(file, fault);
            if faults_lack(faults, &fault) {
                faults.push(fault);
            }
            None
        }
    }
}

fn faults_lack(faults: &[TlsFault], new: &TlsFault) -> bool {
    faults.iter().all(|fault| fault.file != new.file)
}

/// The client's side. One per configuration: it remembers sessions.
pub struct ClientTls {
    config: Arc<ClientConfig>,
    provider: Arc<CryptoProvider>,
    believed: Believed,
}

/// Whom the client believes.
enum Believed {
    /// Authorities of the configuration; none when none of them can be used.
    Named(Option<Arc<Judge>>),
    /// The system's, read at the first handshake.
    System {
        files: Vec<PathBuf>,
        lists: Option<Vec<CertificateRevocationListDer<'static>>>,
        judge: OnceLock<Option<Judge>>,
    },
}

impl ClientTls {
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
        let stream = TlsConnector::from(self.config.clone()).connect(name, stream).await?;
        let (_, state) = stream.get_ref();
        let judge = match &self.believed {
            Believed::Named(judge) => judge.as_deref(),
            Believed::System { files, lists, judge } => judge
                .get_or_init(|| {
                    let certificates = files::system_certificates(files);
                    Judge::new(certificates, lists.clone()?, &self.provider).ok().flatten()
                })
                .as_ref(),
        };
        // That the peer holds the key was part of the handshake: `TakeAny` lets a bad signature pass only for
        // certificates that fail here.
        let chain = state.peer_certificates().unwrap_or_default();
        let verify = judge.map_or(Verify::Fail, |judge| judge.of_server(chain));
        let facts = facts(state, verify);
        Ok((Box::new(stream), facts))
    }
}

fn client_config(
    tls: &Tls,
    provider: &Arc<CryptoProvider>,
    faults: &mut Vec<TlsFault>,
) -> Arc<ClientConfig> {
    let builder = || {
        let verifier = Arc::new(TakeAny { provider: provider.clone() });
        ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&versions(tls.client))
            .expect("a configuration leaves suites of each version")
            .dangerous()
            .with_custom_certificate_verifier(verifier)
    };
    let Some(certificate) = &tls.client_certificate else {
        return Arc::new(builder().with_no_client_auth());
    };
    let shown = files::identity(certificate).and_then(|(chain, key)| {
        builder().with_client_auth_cert(chain, key).map_err(|error| {
            let (path, reason) = (certificate.key.path.clone(), error.to_string());
            TlsFault::new(&certificate.key, FileFault::Unfit { path, reason })
        })
    });
    Arc::new(shown.unwrap_or_else(|fault| {
        faults.push(fault);
        builder().with_no_client_auth()
    }))
}

/// The server's side.
pub struct ServerTls {
    config: Arc<ServerConfig>,
    /// Who judges what clients show; none when they are not asked.
    asks: Option<Asked>,
}

/// Clients are asked for a certificate.
struct Asked {
    /// None when none of the authorities can be used.
    judge: Option<Arc<Judge>>,
}

fn server(tls: &Tls, judge: Option<Arc<Judge>>, faults: &mut Vec<TlsFault>) -> Option<ServerTls> {
    let certificate = tls.server_certificate.as_ref()?;
    let provider = Arc::new(provider(tls));
    let asks = (tls.asks_clients && !tls.authorities.is_empty()).then_some(Asked { judge });
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&versions(tls.server))
        .expect("a configuration leaves suites of each version");
    let builder = match asks {
        Some(_) => builder.with_client_cert_verifier(Arc::new(TakeAny { provider })),
        None => builder.with_no_client_auth(),
    };
    let config = files::identity(certificate).and_then(|(chain, key)| {
        builder.with_single_cert(chain, key).map_err(|error| {
            let (path, reason) = (certificate.key.path.clone(), error.to_string());
            TlsFault::new(&certificate.key, FileFault::Unfit { path, reason })
        })
    });
    match config {
        Ok(mut config) => {
            config.alpn_protocols = vec![ALPN.to_vec()];
            config.ignore_client_order = tls.server.own_order;
            Some(ServerTls { config: Arc::new(config), asks })
        }
        Err(fault) => {
            faults.push(fault);
            None
        }
    }
}

impl TlsAccept for ServerTls {
    fn accept(
        &self,
        stream: Box<dyn Stream>,
    ) -> Answer<'_, io::Result<(Box<dyn Stream>, TlsFacts)>> {
        Box::pin(async move {
            let stream = TlsAcceptor::from(self.config.clone()).accept(stream).await?;
            let (_, state) = stream.get_ref();
            let chain = state.peer_certificates().unwrap_or_default();
            let verify = match &self.asks {
                None => Verify::Not,
                Some(_) if chain.is_empty() => Verify::No,
                Some(Asked { judge }) => {
                    judge.as_ref().map_or(Verify::Fail, |judge| judge.of_client(chain))
                }
            };
            let facts = facts(state, verify);
            Ok((Box::new(stream) as Box<dyn Stream>, facts))
        })
    }
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

/// ring with the suites of CipherSuites and CipherList.
fn provider(tls: &Tls) -> CryptoProvider {
    let cipher_suites = tls.suites13.iter().chain(&tls.suites12).map(|suite| ours(*suite));
    CryptoProvider { cipher_suites: cipher_suites.collect(), ..ring::default_provider() }
}

fn versions(role: Role) -> Vec<&'static SupportedProtocolVersion> {
    let versions = [(role.tls13, &version::TLS13), (role.tls12, &version::TLS12)];
    versions.into_iter().filter(|(on, _)| *on).map(|(_, version)| version).collect()
}

fn ours(suite: Suite) -> SupportedCipherSuite {
    match suite {
        Suite::Aes256Gcm => cipher_suite::TLS13_AES_256_GCM_SHA384,
        Suite::Chacha20 => cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        Suite::Aes128Gcm => cipher_suite::TLS13_AES_128_GCM_SHA256,
        Suite::EcdsaAes256Gcm => cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
        Suite::RsaAes256Gcm => cipher_suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
        Suite::EcdsaChacha20 => cipher_suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
        Suite::RsaChacha20 => cipher_suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
        Suite::EcdsaAes128Gcm => cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
        Suite::RsaAes128Gcm => cipher_suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
    }
}

/// What was agreed, in the words that OpenSSL's users know from their logs.
fn facts(state: &CommonState, verify: Verify) -> TlsFacts {
    let version = match state.protocol_version() {
        Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
        Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
        _ => "unknown",
    };
    let agreed = state.negotiated_cipher_suite().map(|suite| suite.suite());
    let suite = Suite::TLS13
        .into_iter()
        .chain(Suite::TLS12)
        .find(|suite| Some(ours(*suite).suite()) == agreed);
    let (cipher, bits) = suite.map_or(("unknown", 0), |suite| (suite.name(), suite.bits()));
    TlsFacts { version: version.into(), cipher: cipher.into(), bits, verify }
}
