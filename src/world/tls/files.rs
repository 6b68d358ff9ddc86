//! The PEM files of TLS: certificates, keys, authorities, revocation lists.
//!
//! Read whole and bounded. What cannot be used becomes a [`TlsFault`] that names option, file and line; the rest is used.

use std::collections::HashSet;
use std::fmt;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};

use crate::config::check::reason;
use crate::config::tls::{Authorities, Certificate, NamedFile};

/// Octets of one file: all authorities of a system have a quarter of a mebibyte, large revocation lists some.
const FILE_OCTETS_MAX: u64 = 16 << 20;
/// Files looked at in a directory: systems have some three hundred.
const DIRECTORY_FILES_MAX: usize = 10_000;
/// Octets of authorities or lists kept in all.
const KEPT_OCTETS_MAX: usize = 64 << 20;

/// A file of an option that cannot be used.
#[derive(Debug)]
pub struct TlsFault {
    /// The option with its file.
    pub file: Box<NamedFile>,
    /// What is wrong with it.
    pub fault: FileFault,
}

/// What is wrong with a file.
#[derive(Debug, thiserror::Error)]
pub enum FileFault {
    /// Cannot be opened or read.
    #[error("cannot read {}: {}", .0.display(), reason(.1))]
    Read(PathBuf, #[source] io::Error),
    /// Not PEM, or none of the kind.
    #[error("no {what} in {}{}", .path.display(), detail(.source))]
    Empty {
        /// `certificate`, `private key`, `revocation list`.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// What PEM there is instead.
        source: Option<pem::Error>,
    },
    /// More than is kept.
    #[error("more in {} than is read: {KEPT_OCTETS_MAX} octets, {DIRECTORY_FILES_MAX} files", .0.display())]
    TooMuch(PathBuf),
    /// Read, and of a kind we cannot work with.
    #[error("cannot use {}: {reason}", .path.display())]
    Unfit {
        /// Which.
        path: PathBuf,
        /// The library's words.
        reason: String,
    },
}

fn detail(error: &Option<pem::Error>) -> String {
    match error {
        None | Some(pem::Error::NoItemsFound) => String::new(),
        Some(error) => format!(": {error}"),
    }
}

impl TlsFault {
    pub(super) fn new(file: &NamedFile, fault: FileFault) -> TlsFault {
        TlsFault { file: Box::new(file.clone()), fault }
    }

    /// Without ServerCertFile or ServerKeyFile there is no TLS for clients.
    pub fn is_of_server_certificate(&self) -> bool {
        matches!(self.file.option, "ServerCertFile" | "ServerKeyFile")
    }

    /// What happens when we go on all the same.
    pub fn without_it(&self) -> &'static str {
        match self.file.option {
            "ServerCertFile" | "ServerKeyFile" => "STARTTLS is not offered",
            "ClientCertFile" | "ClientKeyFile" => "our client shows no certificate",
            "CRLFile" | "CRLPath" => "no certificate passes (verify=FAIL)",
            _ => "certificates are checked without it",
        }
    }
}

/// `/etc/mail/kvmta.cf: line 12: option CACertFile: cannot read /x.pem: No such file or directory`
impl fmt::Display for TlsFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: option {}: {}", self.file.origin, self.file.option, self.fault)
    }
}

impl std::error::Error for TlsFault {}

/// A chain, own certificate first, and its key.
pub(super) type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// Reads a chain and its private key (PKCS 8, PKCS 1 or SEC 1).
pub(super) fn identity(certificate: &Certificate) -> Result<Identity, TlsFault> {
    let Certificate { chain, key } = certificate;
    let certificates: Result<Vec<_>, _> =
        CertificateDer::pem_slice_iter(&read(&chain.path).map_err(|f| TlsFault::new(chain, f))?)
            .collect();
    let certificates = match certificates {
        Ok(certificates) if !certificates.is_empty() => certificates,
        other => {
            let (path, source) = (chain.path.clone(), other.err());
            let fault = FileFault::Empty { what: "certificate", path, source };
            return Err(TlsFault::new(chain, fault));
        }
    };
    let octets = read(&key.path).map_err(|fault| TlsFault::new(key, fault))?;
    let private = PrivateKeyDer::from_pem_slice(&octets).map_err(|source| {
        let (path, source) = (key.path.clone(), Some(source));
        TlsFault::new(key, FileFault::Empty { what: "private key", path, source })
    })?;
    Ok((certificates, private))
}

/// Every certificate that these name, once; and what could not be used.
pub(super) fn certificates(from: &Authorities) -> (Vec<CertificateDer<'static>>, Vec<TlsFault>) {
    gather(from, "certificate", |octets| {
        // One damaged certificate among a hundred does not cost the others.
        CertificateDer::pem_slice_iter(octets).filter_map(Result::ok).collect()
    })
}

/// Every revocation list that these name, once; and what could not be used.
pub(super) fn revocation_lists(
    from: &Authorities,
) -> (Vec<CertificateRevocationListDer<'static>>, Vec<TlsFault>) {
    gather(from, "revocation list", |octets| {
        CertificateRevocationListDer::pem_slice_iter(octets).filter_map(Result::ok).collect()
    })
}

/// The authorities in the first of these files that exists, as systems have them; none when there is none.
pub(super) fn system_certificates(files: &[PathBuf]) -> Vec<CertificateDer<'static>> {
    let Some(path) = files.iter().find(|file| file.exists()) else { return Vec::new() };
    let file = Some(NamedFile::without_line("CACertFile", path));
    let (found, faults) = certificates(&Authorities { file, directory: None });
    for fault in faults {
        tracing::warn!(fault = %fault.fault, "no authorities of the system; verify=FAIL for all");
    }
    found
}

fn gather<T: AsRef<[u8]> + Clone + Eq + std::hash::Hash>(
    from: &Authorities,
    what: &'static str,
    parse: impl Fn(&[u8]) -> Vec<T>,
) -> (Vec<T>, Vec<TlsFault>) {
    let (mut kept, mut octets, mut known) = (Vec::new(), 0, HashSet::new());
    let mut faults = Vec::new();
    let mut keep = |items: Vec<T>| {
        for item in items {
            if known.insert(item.clone()) {
                octets += item.as_ref().len();
                kept.push(item);
            }
        }
        octets <= KEPT_OCTETS_MAX
    };
    if let Some(file) = &from.file {
        let fault = match read(&file.path).map(|octets| parse(&octets)) {
            Ok(items) if items.is_empty() => {
                Some(FileFault::Empty { what, path: file.path.clone(), source: None })
            }
            Ok(items) => (!keep(items)).then(|| FileFault::TooMuch(file.path.clone())),
            Err(fault) => Some(fault),
        };
        faults.extend(fault.map(|fault| TlsFault::new(file, fault)));
    }
    if let Some(directory) = &from.directory {
        let fault = in_directory(&directory.path, what, parse, &mut keep).err();
        faults.extend(fault.map(|fault| TlsFault::new(directory, fault)));
    }
    (kept, faults)
}

/// The items of all files in a directory: hashed names are links to files beside them, so each is met twice. A file of
/// another kind is nobody's fault, nor is a link that leads nowhere.
fn in_directory<T>(
    directory: &Path,
    what: &'static str,
    parse: impl Fn(&[u8]) -> Vec<T>,
    keep: &mut impl FnMut(Vec<T>) -> bool,
) -> Result<(), FileFault> {
    let failed = |error| FileFault::Read(directory.into(), error);
    let mut unread = None;
    let mut found = false;
    for (number, entry) in std::fs::read_dir(directory).map_err(failed)?.enumerate() {
        if number >= DIRECTORY_FILES_MAX {
            return Err(FileFault::TooMuch(directory.into()));
        }
        let path = entry.map_err(failed)?.path();
        if !path.is_file() {
            continue;
        }
        match read(&path).map(|octets| parse(&octets)) {
            Ok(items) => {
                found |= !items.is_empty();
                if !keep(items) {
                    return Err(FileFault::TooMuch(directory.into()));
                }
            }
            Err(fault) => unread = Some(fault),
        }
    }
    match unread {
        Some(fault) => Err(fault),
        None if !found => Err(FileFault::Empty { what, path: directory.into(), source: None }),
        None => Ok(()),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, FileFault> {
    let failed = |error| FileFault::Read(path.into(), error);
    let mut octets = Vec::new();
    let file = std::fs::File::open(path).map_err(failed)?;
    file.take(FILE_OCTETS_MAX + 1).read_to_end(&mut octets).map_err(failed)?;
    match octets.len() as u64 > FILE_OCTETS_MAX {
        true => Err(FileFault::TooMuch(path.into())),
        false => Ok(octets),
    }
}
