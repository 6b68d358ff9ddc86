//! The options of TLS (RFC 3207, RFC 8446), read as far as their words go: nothing is opened here.
//!
//! Files keep where they were asked for, so that whoever opens one (`world::tls`) can say which line to look at. Protocols
//! and suites are never empty: an option that would leave nothing is refused and what was there stays.

pub mod ciphers;

use std::path::PathBuf;

use super::options::Draft;
use super::raw::Origin;
use super::value::{self, ValueError};
use ciphers::{Chosen, Suite};

/// What TLS is done with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tls {
    /// ServerCertFile and ServerKeyFile: with them STARTTLS is offered.
    pub server_certificate: Option<Certificate>,
    /// ClientCertFile and ClientKeyFile: what our client shows to a server that asks.
    pub client_certificate: Option<Certificate>,
    /// CACertFile and CACertPath: whom we believe, in both roles.
    pub authorities: Authorities,
    /// ClientCACertFile and ClientCACertPath: each in place of its namesake when we are the client.
    pub client_authorities: Authorities,
    /// CRLFile and CRLPath: certificates that are not to be believed any more.
    pub revoked: Authorities,
    /// Clients are asked for a certificate when there is a CACertFile or CACertPath; TLSSrvOptions=V takes it away.
    pub asks_clients: bool,
    /// TLSFallbacktoClear: after a failed handshake the same host is tried in clear.
    pub falls_back_to_clear: bool,
    /// CipherSuites.
    pub suites13: Vec<Suite>,
    /// CipherList.
    pub suites12: Vec<Suite>,
    /// ServerSSLOptions.
    pub server: Role,
    /// ClientSSLOptions.
    pub client: Role,
}

impl Default for Tls {
    fn default() -> Tls {
        Tls {
            server_certificate: None,
            client_certificate: None,
            authorities: Authorities::default(),
            client_authorities: Authorities::default(),
            revoked: Authorities::default(),
            asks_clients: true,
            falls_back_to_clear: false,
            suites13: Suite::TLS13.into(),
            suites12: Suite::TLS12.into(),
            server: Role::default(),
            client: Role::default(),
        }
    }
}

impl Tls {
    /// Whom our client believes: the system's authorities when there is nothing in it.
    pub fn authorities_of_client(&self) -> Authorities {
        let (own, both) = (&self.client_authorities, &self.authorities);
        Authorities {
            file: own.file.clone().or_else(|| both.file.clone()),
            directory: own.directory.clone().or_else(|| both.directory.clone()),
        }
    }
}

/// A file or directory that an option names.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NamedFile {
    /// The option.
    pub option: &'static str,
    /// Where it was given.
    pub origin: Origin,
    /// The file.
    pub path: PathBuf,
}

impl NamedFile {
    /// One that no line of a configuration names.
    pub fn without_line(option: &'static str, path: impl Into<PathBuf>) -> NamedFile {
        NamedFile { option, origin: Origin::CommandLine, path: path.into() }
    }
}

/// A certificate chain and its private key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Certificate {
    /// Own certificate first.
    pub chain: NamedFile,
    /// Its key.
    pub key: NamedFile,
}

/// Certificates or lists in one file, in the files of a directory, or both.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Authorities {
    /// PEM, any number in it.
    pub file: Option<NamedFile>,
    /// Of files in PEM, hashed names or any.
    pub directory: Option<NamedFile>,
}

impl Authorities {
    /// Nothing was named.
    pub fn is_empty(&self) -> bool {
        self.file.is_none() && self.directory.is_none()
    }
}

/// Protocols of one role. At least one is on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Role {
    /// TLS 1.2 (RFC 5246).
    pub tls12: bool,
    /// TLS 1.3 (RFC 8446).
    pub tls13: bool,
    /// SSL_OP_CIPHER_SERVER_PREFERENCE: the server's order of suites counts, not the client's.
    pub own_order: bool,
}

impl Default for Role {
    fn default() -> Role {
        Role { tls12: true, tls13: true, own_order: false }
    }
}

/// A certificate and its key, each perhaps not given.
#[derive(Clone, Debug, Default)]
pub struct Halves {
    /// ServerCertFile, ClientCertFile.
    pub chain: Option<NamedFile>,
    /// ServerKeyFile, ClientKeyFile.
    pub key: Option<NamedFile>,
}

impl Halves {
    /// Both, nothing, or the one that lacks the other.
    ///
    /// # Errors
    /// The half that is there.
    pub fn whole(self) -> Result<Option<Certificate>, NamedFile> {
        match (self.chain, self.key) {
            (Some(chain), Some(key)) => Ok(Some(Certificate { chain, key })),
            (None, None) => Ok(None),
            (Some(half), None) | (None, Some(half)) => Err(half),
        }
    }
}

/// CipherList.
pub(super) fn cipher_list(draft: &mut Draft, value: &str) -> Result<(), ValueError> {
    let Chosen { suites, without } = ciphers::list(value)?;
    draft.config.tls.suites12 = suites;
    remark(draft, &without);
    Ok(())
}

/// CipherSuites.
pub(super) fn cipher_suites(draft: &mut Draft, value: &str) -> Result<(), ValueError> {
    let Chosen { suites, without } = ciphers::suites(value)?;
    draft.config.tls.suites13 = suites;
    remark(draft, &without);
    Ok(())
}

/// TLSSrvOptions: letters between blanks and commas.
pub(super) fn server_options(draft: &mut Draft, value: &str) -> Result<(), ValueError> {
    for letter in value.chars().filter(|c| !matches!(c, ' ' | '\t' | ',')) {
        match letter {
            'V' => draft.config.tls.asks_clients = false,
            'C' => draft
                .remarks
                .push("C has no effect: a server without certificate offers no TLS".into()),
            _ => return Err(ValueError::Word { word: letter.to_string(), allowed: "V C" }),
        }
    }
    Ok(())
}

/// ServerSSLOptions.
pub(super) fn server_ssl(draft: &mut Draft, value: &str) -> Result<(), ValueError> {
    let (role, without) = ssl_options(draft.config.tls.server, value)?;
    draft.config.tls.server = role;
    remark(draft, &without);
    Ok(())
}

/// ClientSSLOptions.
pub(super) fn client_ssl(draft: &mut Draft, value: &str) -> Result<(), ValueError> {
    let (role, without) = ssl_options(draft.config.tls.client, value)?;
    draft.config.tls.client = role;
    remark(draft, &without);
    Ok(())
}

fn remark(draft: &mut Draft, without: &[String]) {
    if !without.is_empty() {
        draft.remarks.push(format!("without effect here: {}", without.join(" ")));
    }
}

/// What a bit of SSL_CTX_set_options(3) means here.
#[derive(Clone, Copy)]
enum Meaning {
    NoTls12,
    NoTls13,
    OwnOrder,
    /// It is always so.
    Always,
    /// A workaround for old peers, on or off: there is nothing to work around.
    Workaround,
}

/// Names without SSL_OP_, and their bits in OpenSSL 3; 0 for what has none any more.
const SSL_OPTIONS: &[(&str, u64, Meaning)] = &[
    ("ALL", 0x8000_0850, Meaning::Workaround),
    ("TLSEXT_PADDING", 0x10, Meaning::Workaround),
    ("SAFARI_ECDHE_ECDSA_BUG", 0x40, Meaning::Workaround),
    ("DONT_INSERT_EMPTY_FRAGMENTS", 0x800, Meaning::Workaround),
    ("CRYPTOPRO_TLSEXT_BUG", 0x8000_0000, Meaning::Workaround),
    ("NO_ENCRYPT_THEN_MAC", 0x8_0000, Meaning::Workaround),
    ("NO_SSLv2", 0, Meaning::Always),
    ("NO_SSLv3", 0x0200_0000, Meaning::Always),
    ("NO_TLSv1", 0x0400_0000, Meaning::Always),
    ("NO_TLSv1_1", 0x1000_0000, Meaning::Always),
    ("NO_TLSv1_2", 0x0800_0000, Meaning::NoTls12),
    ("NO_TLSv1_3", 0x2000_0000, Meaning::NoTls13),
    ("CIPHER_SERVER_PREFERENCE", 0x0040_0000, Meaning::OwnOrder),
    ("NO_TICKET", 0x4000, Meaning::Always),
    ("NO_COMPRESSION", 0x2_0000, Meaning::Always),
    ("NO_SESSION_RESUMPTION_ON_RENEGOTIATION", 0x1_0000, Meaning::Always),
    ("NO_RENEGOTIATION", 0x4000_0000, Meaning::Always),
    ("ENABLE_MIDDLEBOX_COMPAT", 0x10_0000, Meaning::Always),
    ("SINGLE_ECDH_USE", 0, Meaning::Always),
    ("SINGLE_DH_USE", 0, Meaning::Always),
];

/// `SSL_OP_NO_TLSv1_3 -SSL_OP_TLSEXT_PADDING 0x08000000`, on top of what is in force; and the words without effect.
fn ssl_options(mut role: Role, text: &str) -> Result<(Role, Vec<String>), ValueError> {
    let mut without = Vec::new();
    for word in text.split([' ', '\t', ',']).filter(|word| !word.is_empty()) {
        let (on, name) = match word.strip_prefix('-') {
            Some(name) => (false, name),
            None => (true, word.strip_prefix('+').unwrap_or(word)),
        };
        let number = match name.strip_prefix("0x").or_else(|| name.strip_prefix("0X")) {
            Some(digits) => u64::from_str_radix(digits, 16).ok(),
            None => name.parse::<u64>().ok(),
        };
        let bare = name.get(..7).filter(|start| start.eq_ignore_ascii_case("SSL_OP_"));
        let bare = bare.map_or(name, |_| &name[7..]);
        let mut rest = number.unwrap_or(0);
        let mut known = number == Some(0);
        for (option, bits, meaning) in SSL_OPTIONS {
            let is_meant = match number {
                Some(_) => *bits != 0 && rest & bits == *bits,
                None => bare.eq_ignore_ascii_case(option),
            };
            if is_meant {
                rest &= !bits;
                known = true;
                match meaning {
                    Meaning::NoTls12 => role.tls12 = !on,
                    Meaning::NoTls13 => role.tls13 = !on,
                    Meaning::OwnOrder => role.own_order = on,
                    Meaning::Always if !on => without.push(value::shown(word)),
                    Meaning::Always | Meaning::Workaround => {}
                }
            }
        }
        if !known {
            without.push(value::shown(word));
        } else if rest != 0 {
            without.push(format!("{rest:#x} of {}", value::shown(word)));
        }
    }
    if !role.tls12 && !role.tls13 {
        let text = value::shown(text);
        return Err(ValueError::Other(format!("{text:?} leaves neither TLS 1.2 nor TLS 1.3")));
    }
    Ok((role, without))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn options(text: &str) -> String {
        match ssl_options(Role::default(), text) {
            Ok((Role { tls12, tls13, own_order }, without)) => {
                let on = [(tls12, "1.2"), (tls13, "1.3"), (own_order, "own order")];
                let on: Vec<_> = on.iter().filter(|(on, _)| *on).map(|(_, name)| *name).collect();
                format!("{} | {}", on.join(" "), without.join(" "))
            }
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn options_of_openssl_are_protocols_and_order() {
        for (text, expected) in [
            ("", "1.2 1.3 | "),
            ("SSL_OP_ALL,-SSL_OP_TLSEXT_PADDING", "1.2 1.3 | "),
            ("SSL_OP_NO_SSLv3 SSL_OP_NO_TLSv1 SSL_OP_NO_TLSv1_1", "1.2 1.3 | "),
            ("+SSL_OP_NO_TLSv1_3 SSL_OP_CIPHER_SERVER_PREFERENCE", "1.2 own order | "),
            ("SSL_OP_NO_TLSv1_2", "1.3 | "),
            ("0x28000000 -0x08000000", "1.2 | "),
            ("-SSL_OP_NO_TLSv1 SSL_OP_NO_TLSv1_9", "1.2 1.3 | -SSL_OP_NO_TLSv1 SSL_OP_NO_TLSv1_9"),
            ("0x20000004", "1.2 | 0x4 of 0x20000004"),
            (
                "SSL_OP_NO_TLSv1_2 SSL_OP_NO_TLSv1_3",
                "\"SSL_OP_NO_TLSv1_2 SSL_OP_NO_TLSv1_3\" leaves neither TLS 1.2 nor TLS 1.3",
            ),
        ] {
            assert_eq!(options(text), expected, "{text}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(text in "\\PC{0,40}") {
            let _ = ssl_options(Role::default(), &text);
        }
    }
}
