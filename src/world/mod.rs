//! The doors to outside: clock, DNS, network. Everything that can go wrong out there comes in by one of them,
//! so that a test can stand in any doorway. [`real`] is their real form.
//!
//! Timers (deadlines, waits) are tokio's, which a test can pause; the [`Clock`] gives the calendar time that is stored.

pub mod dns;
#[doc(hidden)]
pub mod fake;
pub mod hosts;
pub mod real;
pub mod tls;

use std::fmt;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};

use crate::mail::time::Timestamp;

/// A future in a box: what a door's asynchronous answers are.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The doors, handed down to whoever needs one.
#[derive(Clone)]
pub struct World {
    /// Calendar time.
    pub clock: Arc<dyn Clock>,
    /// Names.
    pub dns: Arc<dyn Dns>,
    /// Connections.
    pub net: Arc<dyn Net>,
    /// The machine.
    pub load: Arc<dyn Load>,
    /// TLS for connections that come in; none without a certificate.
    pub tls: Option<Arc<dyn TlsAccept>>,
}

/// How busy the machine is.
pub trait Load: Send + Sync {
    /// The load average of the last minute, rounded as sendmail does; 0 where the system does not say. Cheap: a reading
    /// is kept for some seconds.
    fn average(&self) -> u32;
}

/// Calendar time.
pub trait Clock: Send + Sync {
    /// Now.
    fn now(&self) -> Timestamp;
}

/// Names. Answers are cached with their TTL behind this door.
pub trait Dns: Send + Sync {
    /// The MX records of `domain` as (preference, host), unsorted; hosts in lower case without final dot,
    /// empty for the root (null MX). [`DnsError::NoData`] when the name exists and has none.
    fn mx<'a>(&'a self, domain: &'a str) -> Answer<'a, Result<Vec<(u16, String)>, DnsError>>;

    /// The IPv4 and IPv6 addresses of `host`, IPv6 first when the machine has such a route.
    fn addresses<'a>(&'a self, host: &'a str) -> Answer<'a, Result<Vec<IpAddr>, DnsError>>;

    /// The name of an address, checked forward; [`DnsError::NoData`] when there is none that agrees.
    fn name_of(&self, address: IpAddr) -> Answer<'_, Result<String, DnsError>>;
}

/// What DNS said instead of an answer. Only the first two are final.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DnsError {
    /// NXDOMAIN.
    #[error("host not found")]
    NoSuchDomain,
    /// The name exists, the record type does not.
    #[error("no such record")]
    NoData,
    /// SERVFAIL, REFUSED, timeout, garbage: ask again later.
    #[error("{0}")]
    Temporary(String),
}

/// A byte stream to a peer, plain or TLS.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Connections to other hosts. Time limits are the caller's.
pub trait Net: Send + Sync {
    /// TCP to `address`; from `source` when one is given.
    fn connect(
        &self,
        address: SocketAddr,
        source: Option<IpAddr>,
    ) -> Answer<'_, io::Result<Box<dyn Stream>>>;

    /// A Unix socket (LMTP).
    fn connect_path<'a>(&'a self, path: &'a Path) -> Answer<'a, io::Result<Box<dyn Stream>>>;

    /// TLS over `stream` as the client, opportunistic: any certificate is taken and said so in [`TlsFacts`].
    /// `server_name` is the host connected to, or an address literal. The stream must hold no plaintext that was
    /// read and not used: whoever hands it in ends the connection instead (CVE-2021-38371).
    fn start_tls<'a>(
        &'a self,
        stream: Box<dyn Stream>,
        server_name: &'a str,
    ) -> Answer<'a, io::Result<(Box<dyn Stream>, TlsFacts)>>;

    /// The addresses of this machine, loopback included: mail routed to one of them is a loop.
    fn own_addresses(&self) -> Vec<IpAddr>;
}

/// TLS as the server, over a connection that was accepted elsewhere.
pub trait TlsAccept: Send + Sync {
    /// The handshake after STARTTLS. The stream must hold no plaintext that was read and not used: whoever hands it
    /// in has thrown such bytes away (CVE-2011-0411). Time limits are the caller's.
    fn accept(
        &self,
        stream: Box<dyn Stream>,
    ) -> Answer<'_, io::Result<(Box<dyn Stream>, TlsFacts)>>;
}

/// What a handshake agreed on, for the log (`STARTTLS=client, ..., version=, verify=, cipher=, bits=`).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TlsFacts {
    /// `TLSv1.3`
    pub version: String,
    /// `TLS_AES_256_GCM_SHA384`
    pub cipher: String,
    /// Key bits of the cipher.
    pub bits: u16,
    /// What became of the other side's certificate.
    pub verify: Verify,
}

/// What became of the other side's certificate, in sendmail's words (`${verify}`) for a handshake that was made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verify {
    /// `OK`: it leads to an authority that we believe, in its time, and is not revoked. Its name is not looked at.
    Ok,
    /// `NO`: asked for, and none was shown.
    No,
    /// `NOT`: not asked for.
    Not,
    /// `FAIL`: shown, and not to be believed.
    Fail,
}

impl fmt::Display for Verify {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Verify::Ok => "OK",
            Verify::No => "NO",
            Verify::Not => "NOT",
            Verify::Fail => "FAIL",
        })
    }
}
