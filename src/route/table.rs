//! The routing table: which destination an address has, by configuration alone.
//!
//! In this order: a literal `user@[192.0.2.1]` goes to that address; a local name (class w, or no domain) goes to
//! LocalRelay; everything else goes to SmartHost when there is one, else to its own domain. The next hop is canonical
//! (lower case, A-labels of RFC 5890, no final dot), so that one place has one name in keys, limits and host status.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::config::Config;
use crate::mail::address::{Address, DOMAIN_MAX, check_domain, literal};
use crate::mail::job::{Destination, Mailer};
use crate::mail::status::{EnhancedStatus, Reply};

/// Octets of a Unix socket's path, as `sockaddr_un` has them, without the final NUL.
const SOCKET_PATH_MAX: usize = 107;

/// Where an address goes: no DNS, a pure function.
///
/// # Errors
/// The refusal for RCPT: 550 5.1.1 when it is local and there is no LocalRelay, 553 5.1.3 when its domain is no
/// domain of RFC 5891, 451 4.3.5 when SmartHost or LocalRelay is not a next hop.
pub fn destination(config: &Config, address: &Address) -> Result<Destination, Reply> {
    let domain = match address.domain() {
        None => return to_local(config, address),
        Some(domain) if is_in(&config.local_names, domain) => return to_local(config, address),
        Some(domain) => domain,
    };
    if let Some(ip) = literal(domain) {
        if config.local_names.contains(&bracketed(ip)) {
            return to_local(config, address);
        }
        return Ok(Destination { mailer: Mailer::Esmtp, next_hop: bracketed(ip) });
    }
    if let Some(smart_host) = &config.smart_host {
        return relay(smart_host).map_err(|error| misconfigured("SmartHost", &error));
    }
    let next_hop = canonical_domain(domain).map_err(|_| {
        let text = format!("<{address}>... Invalid domain name {domain}");
        Reply::new(553, Some(EnhancedStatus::new(5, 1, 3)), text)
    })?;
    Ok(Destination { mailer: Mailer::Esmtp, next_hop })
}

/// Whether an address is of this machine: in class w, or without a domain.
pub fn is_local(config: &Config, address: &Address) -> bool {
    address.domain().is_none_or(|domain| is_in(&config.local_names, domain))
}

fn to_local(config: &Config, address: &Address) -> Result<Destination, Reply> {
    match &config.local_relay {
        Some(text) => local_relay(text).map_err(|error| misconfigured("LocalRelay", &error)),
        None => Err(Reply::new(
            550,
            Some(EnhancedStatus::new(5, 1, 1)),
            format!("<{address}>... User unknown"),
        )),
    }
}

/// Ours to mend, so the mail waits: never 5yz.
fn misconfigured(option: &str, error: &NextHopError) -> Reply {
    let text = format!("Local configuration error: {option}: {error}");
    Reply::new(451, Some(EnhancedStatus::new(4, 3, 5)), text)
}

/// Why a text in the configuration names no place to send to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NextHopError {
    /// Neither `domain`, `domain:port`, `[host]`, `[host]:port` nor `[address]:port`.
    #[error("{0}: not a domain, [host] or [host]:port")]
    Host(String),
    /// LMTP to neither `[host]:port` nor an absolute path of a socket.
    #[error("{0}: not lmtp:[host]:port or lmtp:/path of at most 107 octets")]
    Lmtp(String),
}

/// The destination of a relay that somebody named: SmartHost, or one chosen by an operator for a message.
/// `domain` and `domain:port` look for MX records, `[host]` and `[host]:port` do not.
///
/// # Errors
/// `NextHopError::Host`.
pub fn relay(text: &str) -> Result<Destination, NextHopError> {
    let next_hop = canonical_place(text).ok_or_else(|| NextHopError::Host(text.into()))?;
    Ok(Destination { mailer: Mailer::Relay, next_hop })
}

/// The destination that LocalRelay names: LMTP behind `lmtp:`, else as [`relay`].
///
/// # Errors
/// `NextHopError`, whichever fits.
pub fn local_relay(text: &str) -> Result<Destination, NextHopError> {
    let Some(place) = text.strip_prefix("lmtp:") else {
        return relay(text);
    };
    let wrong = || NextHopError::Lmtp(text.into());
    let next_hop = if place.starts_with('/') {
        let fits = place.len() <= SOCKET_PATH_MAX && !place.bytes().any(|b| b < b' ' || b == 0x7f);
        if fits { place.to_owned() } else { return Err(wrong()) }
    } else if place.starts_with('[') {
        canonical_place(place).ok_or_else(wrong)?
    } else {
        return Err(wrong());
    };
    Ok(Destination { mailer: Mailer::Lmtp, next_hop })
}

/// What a next hop says once taken apart.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Place<'a> {
    /// What to connect to.
    pub host: PlaceHost<'a>,
    /// The port named, if one was.
    pub port: Option<u16>,
}

/// The host of a [`Place`].
#[derive(Debug, PartialEq, Eq)]
pub(super) enum PlaceHost<'a> {
    /// Through its MX records.
    Domain(&'a str),
    /// By its own addresses.
    Host(&'a str),
    /// Itself.
    Address(IpAddr),
}

/// Takes `domain`, `domain:port`, `[host]`, `[host]:port`, `[192.0.2.1]`, `[ipv6:2001:db8::1]:port` apart; nothing
/// else passes. The names in it are not checked.
pub(super) fn place(text: &str) -> Option<Place<'_>> {
    let port_of = |text: &str| match text.parse() {
        Ok(0) | Err(_) => None,
        Ok(port) if text.bytes().all(|b| b.is_ascii_digit()) => Some(port),
        Ok(_) => None,
    };
    if let Some(rest) = text.strip_prefix('[') {
        let (host, rest) = rest.split_once(']')?;
        let port = match rest {
            "" => None,
            rest => Some(port_of(rest.strip_prefix(':')?)?),
        };
        let bare = match host.get(..5) {
            Some(tag) if tag.eq_ignore_ascii_case("ipv6:") => &host[5..],
            _ => host,
        };
        let host = match bare.parse() {
            Ok(address) => PlaceHost::Address(address),
            Err(_) => PlaceHost::Host(host),
        };
        return Some(Place { host, port });
    }
    match text.split_once(':') {
        None => Some(Place { host: PlaceHost::Domain(text), port: None }),
        Some((host, port)) => {
            Some(Place { host: PlaceHost::Domain(host), port: Some(port_of(port)?) })
        }
    }
}

/// The one way to write a place.
fn canonical_place(text: &str) -> Option<String> {
    let Place { host, port } = place(text)?;
    let host = match host {
        PlaceHost::Domain(name) => canonical_domain(name).ok()?,
        PlaceHost::Host(name) => format!("[{}]", canonical_domain(name).ok()?),
        PlaceHost::Address(address) => bracketed(address),
    };
    Some(match port {
        None => host,
        Some(port) => format!("{host}:{port}"),
    })
}

/// `[192.0.2.1]`, `[ipv6:2001:db8::1]`: RFC 5321 4.1.3 in lower case.
pub(super) fn bracketed(address: IpAddr) -> String {
    match address {
        IpAddr::V4(v4) => format!("[{v4}]"),
        IpAddr::V6(v6) => format!("[ipv6:{v6}]"),
    }
}

/// A text that is no domain name.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NotADomain;

/// Lower case, without final dot, labels outside ASCII as A-labels.
///
/// A label outside ASCII must be what its A-label stands for, else it is refused: mapping look-alikes (full-width
/// letters and the like) onto other names is for browsers, and would make one domain pass for another.
pub(super) fn canonical_domain(text: &str) -> Result<String, NotADomain> {
    let text = text.strip_suffix('.').unwrap_or(text);
    if text.starts_with('[') || text.ends_with('.') || check_domain(text).is_err() {
        return Err(NotADomain);
    }
    if text.is_ascii() {
        return Ok(text.to_ascii_lowercase());
    }
    let lower = text.to_lowercase();
    let ascii = idna::domain_to_ascii_strict(&lower).map_err(|_| NotADomain)?;
    let (back, valid) = idna::domain_to_unicode(&ascii);
    if valid.is_err() || back != lower || ascii.len() > DOMAIN_MAX {
        return Err(NotADomain);
    }
    Ok(ascii)
}

/// Whether a domain of an address is in a class, whichever way either is written.
pub(super) fn is_in(class: &BTreeSet<String>, domain: &str) -> bool {
    let lower = domain.strip_suffix('.').unwrap_or(domain).to_lowercase();
    let as_ascii = || canonical_domain(&lower).is_ok_and(|ascii| class.contains(&ascii));
    let as_unicode = || {
        let (unicode, valid) = idna::domain_to_unicode(&lower);
        valid.is_ok() && class.contains(&unicode)
    };
    class.contains(&lower)
        || (!lower.is_ascii() && as_ascii())
        || (lower.contains("xn--") && as_unicode())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn writes_a_place_in_one_way() {
        for (text, canonical) in [
            ("Relay.Example.", Some("relay.example")),
            ("relay.example:587", Some("relay.example:587")),
            ("[Relay.Example.]", Some("[relay.example]")),
            ("[relay.example]:2525", Some("[relay.example]:2525")),
            ("[192.0.2.1]", Some("[192.0.2.1]")),
            ("[IPv6:2001:DB8:0::1]:25", Some("[ipv6:2001:db8::1]:25")),
            ("[2001:db8::1]", Some("[ipv6:2001:db8::1]")),
            ("bücher.example", Some("xn--bcher-kva.example")),
            ("", None),
            ("relay.example..", None),
            ("[relay.example", None),
            ("[relay.example]2525", None),
            ("relay.example:0", None),
            ("relay.example:+25", None),
            ("relay.example:65536", None),
            ("relay example", None),
            ("2001:db8::1", None),
            ("[]", None),
            ("relay.example..", None),
        ] {
            assert_eq!(canonical_place(text).as_deref(), canonical, "{text:?}");
        }
    }

    #[test]
    fn local_relay_speaks_lmtp_when_told() {
        let next = |text| local_relay(text).map(|to| to.to_string());
        assert_eq!(next("lmtp:/run/Dovecot/lmtp"), Ok("lmtp:/run/Dovecot/lmtp".into()));
        assert_eq!(next("lmtp:[Mail.example]:24"), Ok("lmtp:[mail.example]:24".into()));
        assert_eq!(next("[mail.example]:26"), Ok("relay:[mail.example]:26".into()));
        for wrong in
            ["lmtp:", "lmtp:mail.example", "lmtp:/a\nb", &format!("lmtp:/{}", "a".repeat(107))]
        {
            assert_eq!(next(wrong), Err(NextHopError::Lmtp(wrong.into())));
        }
    }

    proptest! {
        #[test]
        fn canonical_is_canonical(text in "\\[?[a-zA-Z0-9:._ü-]{0,20}\\]?(:[0-9]{0,5})?") {
            if let Some(once) = canonical_place(&text) {
                prop_assert!(once.len() <= 320);
                prop_assert_eq!(canonical_place(&once), Some(once.clone()));
                prop_assert_eq!(once.to_lowercase(), once);
            }
        }
    }
}
