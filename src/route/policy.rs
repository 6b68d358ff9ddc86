//! Whom we serve: the checks of MAIL and RCPT that need no DNS (sendmail's check_mail and check_rcpt).
//!
//! A stranger may send to our users and to the domains we relay for; he may not make us send anywhere else, however
//! he spells the address. Programs of this machine and clients in RelayNetworks may send anywhere. The reverse-path
//! decides nothing: anybody can write one.

use std::collections::BTreeSet;

use super::Client;
use super::table::{canonical_domain, is_in};
use crate::config::Config;
use crate::mail::address::{Address, ReversePath};
use crate::mail::status::{EnhancedStatus, Reply};

/// Characters of a local part that some host further on might read as a route: `user%far`, `far!user`, `"user@far"`.
/// Neither we nor, for all we know, a domain we relay for means them so; a stranger has no use for them here.
const ROUTING_CHARACTERS: [char; 3] = ['%', '!', '@'];

/// May this client send this recipient's mail through us (check_rcpt)?
///
/// # Errors
/// The reply: `550 5.7.1 <address>... Relaying denied`.
pub fn check_rcpt(config: &Config, client: &Client, rcpt: &Address) -> Result<(), Reply> {
    let may_relay = match client.address {
        None => true,
        Some(address) => config.relay_networks.iter().any(|network| network.contains(address)),
    };
    if may_relay || (!names_a_route(rcpt) && is_served(config, rcpt)) {
        return Ok(());
    }
    let text = format!("<{rcpt}>... Relaying denied");
    Err(Reply::new(550, Some(EnhancedStatus::new(5, 7, 1)), text))
}

fn names_a_route(rcpt: &Address) -> bool {
    rcpt.local_part().contains(ROUTING_CHARACTERS)
}

/// Ours, or in a domain we relay for.
fn is_served(config: &Config, rcpt: &Address) -> bool {
    match rcpt.domain() {
        None => true,
        Some(domain) => {
            is_in(&config.local_names, domain) || is_below(&config.relay_domains, domain)
        }
    }
}

/// In one of the domains, or in a subdomain of one: whole labels only.
fn is_below(domains: &BTreeSet<String>, domain: &str) -> bool {
    let Ok(canonical) = canonical_domain(domain) else {
        return is_in(domains, domain);
    };
    let parents = std::iter::successors(Some(canonical.as_str()), |name| {
        name.split_once('.').map(|(_, parent)| parent)
    });
    is_in(domains, domain) || parents.into_iter().any(|name| domains.contains(name))
}

/// May it use this reverse-path (check_mail)? Only a program of this machine may leave the domain out.
///
/// # Errors
/// The reply: `553 5.5.4 <address>... Domain name required for sender address address`.
pub fn check_mail(_config: &Config, client: &Client, from: &ReversePath) -> Result<(), Reply> {
    match from.mailbox() {
        Some(address) if address.domain().is_none() && client.address.is_some() => {
            let text = format!("<{address}>... Domain name required for sender address {address}");
            Err(Reply::new(553, Some(EnhancedStatus::new(5, 5, 4)), text))
        }
        _ => Ok(()),
    }
}
