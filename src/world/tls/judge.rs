//! Certificates of other hosts: taken as they come in the handshake, judged after it.
//!
//! The handshake itself takes any certificate ([`TakeAny`]); afterwards a [`Judge`] says whether it leads to an authority
//! that is believed, is in its time, fit for its role and not revoked. As in sendmail, the name in it is not part of that:
//! the name that a host was found by is only what DNS said. What a verdict is used for is not decided here.

use std::collections::HashSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore,
    SignatureScheme,
};

use crate::world::Verify;

/// Whom to believe.
pub(super) struct Judge {
    /// The authorities, octet by octet.
    known: HashSet<CertificateDer<'static>>,
    servers: Arc<WebPkiServerVerifier>,
    clients: Arc<dyn ClientCertVerifier>,
    checks_revocation: bool,
}

impl Judge {
    /// Believes these authorities; none when there is no usable one. With `lists`, a certificate passes only when a list covers it.
    ///
    /// # Errors
    /// A revocation list that cannot be used, in the library's words.
    pub(super) fn new(
        authorities: Vec<CertificateDer<'static>>,
        lists: Vec<CertificateRevocationListDer<'static>>,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Option<Judge>, String> {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(authorities.iter().cloned());
        if roots.is_empty() {
            return Ok(None);
        }
        let roots = Arc::new(roots);
        let servers = WebPkiServerVerifier::builder_with_provider(roots.clone(), provider.clone())
            .with_crls(lists.iter().cloned())
            .enforce_revocation_expiration()
            .build()
            .map_err(|error| error.to_string())?;
        let checks_revocation = !lists.is_empty();
        let clients = WebPkiClientVerifier::builder_with_provider(roots, provider.clone())
            .with_crls(lists)
            .enforce_revocation_expiration()
            .build()
            .map_err(|error| error.to_string())?;
        let known = authorities.into_iter().collect();
        Ok(Some(Judge { known, servers, clients, checks_revocation }))
    }

    /// Of the certificate that a server has shown; that it holds the key was part of the handshake.
    pub(super) fn of_server(&self, chain: &[CertificateDer<'_>]) -> Verify {
        let [end_entity, intermediates @ ..] = chain else { return Verify::Fail };
        // The name is looked at last, so a wrong one says that everything else is right.
        let nobody = ServerName::from(IpAddr::from(Ipv4Addr::UNSPECIFIED));
        let found = self.servers.verify_server_cert(
            end_entity,
            intermediates,
            &nobody,
            &[],
            UnixTime::now(),
        );
        match found.err() {
            None
            | Some(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Verify::Ok,
            Some(error) => self.unless_known(end_entity, &error),
        }
    }

    /// Of the certificate that a client has shown.
    pub(super) fn of_client(&self, chain: &[CertificateDer<'_>]) -> Verify {
        let [end_entity, intermediates @ ..] = chain else { return Verify::No };
        match self.clients.verify_client_cert(end_entity, intermediates, UnixTime::now()) {
            Ok(_) => Verify::Ok,
            Err(error) => self.unless_known(end_entity, &error),
        }
    }

    /// A self-signed certificate that calls itself an authority (what `openssl req -x509` makes) is none of a host's to
    /// webpki. To OpenSSL it is good when it is itself among the authorities, and in its time: webpki looks at that first.
    fn unless_known(&self, end_entity: &CertificateDer<'_>, error: &Error) -> Verify {
        let of_form = matches!(error, Error::InvalidCertificate(CertificateError::Other(_)));
        // What cannot be read had its signature in the handshake let go.
        let readable = ParsedCertificate::try_from(end_entity).is_ok();
        match of_form && readable && !self.checks_revocation && self.known.contains(end_entity) {
            true => Verify::Ok,
            false => Verify::Fail,
        }
    }
}

/// Takes any certificate (RFC 7435: encrypted to somebody is better than in clear to everybody).
///
/// The handshake's signature still has to be right, so that a certificate which passes the check afterwards was shown
/// by its owner. Only where webpki cannot read the certificate at all (not version 3), which no check passes later,
/// the signature is let go.
pub(super) struct TakeAny {
    pub(super) provider: Arc<CryptoProvider>,
}

impl TakeAny {
    fn tls12(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        checked(certificate, || verify_tls12_signature(message, certificate, signed, algorithms))
    }

    fn tls13(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        checked(certificate, || verify_tls13_signature(message, certificate, signed, algorithms))
    }

    fn schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

fn checked(
    certificate: &CertificateDer<'_>,
    check: impl FnOnce() -> Result<HandshakeSignatureValid, Error>,
) -> Result<HandshakeSignatureValid, Error> {
    match ParsedCertificate::try_from(certificate) {
        Ok(_) => check(),
        Err(_) => Ok(HandshakeSignatureValid::assertion()),
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
        self.tls12(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.tls13(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes()
    }
}

/// A client is asked, and may have none. No authorities are named to it: all names of a system do not fit into one record,
/// and any certificate is taken.
impl ClientCertVerifier for TakeAny {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.tls12(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.tls13(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes()
    }
}
