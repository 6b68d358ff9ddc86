//! DaemonPortOptions and ClientPortOptions: `Key=value, ...` lists whose keys count by their first letter.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::options::Draft;
use super::value::{self, ValueError};
use super::{Daemon, DeliveryMode, PortTls};

/// One listener from `Port=2525, Addr=127.0.0.1, Name=MTA`.
///
/// Of keys that begin alike, delayLA and DeliveryMode, refuseLA and RcvBufSize, the case of a lone first letter decides.
/// A key that does nothing here is said in `remarks`. What would make the port less safe than asked for (AUTH demanded)
/// is refused, so that the port is not opened at all.
///
/// # Errors
/// [`ValueError`] that names key and value.
pub fn daemon(text: &str, remarks: &mut Vec<String>) -> Result<Daemon, ValueError> {
    let mut daemon = Daemon::at("MTA", SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 25));
    let (mut address, mut family) = (None, Family::Any);
    for (key, value) in pairs(text) {
        let key = key?;
        match key.chars().next().unwrap_or_default() {
            'N' | 'n' => daemon.name = value.to_owned(),
            'P' | 'p' => daemon.address.set_port(port(value)?),
            'A' | 'a' => address = Some(listen_address(value)?),
            'F' | 'f' => family = Family::parse(value)?,
            'L' | 'l' => daemon.backlog = value::number(value, 1, 65_535)? as u32,
            'M' | 'm' => modify(&mut daemon, value, remarks)?,
            'I' | 'i' if value.is_empty() => {}
            'Q' | 'q' => daemon.load.queue = Some(load(value)?),
            // These two names begin alike: of their first letters the small one counts, as in sendmail.
            'D' | 'd' if begins(key, "delayLA", 'd') => daemon.load.delay = Some(load(value)?),
            'D' | 'd' => daemon.delivery_mode = Some(delivery_mode(value)?),
            'R' | 'r' if begins(key, "refuseLA", 'r') => daemon.load.refuse = Some(load(value)?),
            'C' | 'c' | 'I' | 'i' | 'R' | 'r' | 'S' | 's' => {
                remarks.push(format!("{key}= has no effect on a single port"));
            }
            _ => return Err(unknown(key)),
        }
    }
    let address = match (address, family) {
        (Some(address), family) if family.fits(address) => address,
        (Some(address), _) => {
            return Err(ValueError::Other(format!("Addr={address} is not of its Family")));
        }
        (None, Family::Inet6) => Ipv6Addr::UNSPECIFIED.into(),
        (None, Family::Inet | Family::Any) => Ipv4Addr::UNSPECIFIED.into(),
    };
    daemon.address.set_ip(address);
    Ok(daemon)
}

/// The address our client comes from, of ClientPortOptions; `first` replaces what was there.
///
/// # Errors
/// [`ValueError`] that names key and value.
pub fn client(draft: &mut Draft, text: &str, first: bool) -> Result<(), ValueError> {
    if first {
        draft.config.client_addresses.clear();
        draft.config.client_starttls = true;
    }
    let (mut address, mut family, mut starttls) = (None, Family::Any, true);
    for (key, value) in pairs(text) {
        let key = key?;
        match key.chars().next().unwrap_or_default() {
            'A' | 'a' => address = Some(listen_address(value)?),
            'F' | 'f' => family = Family::parse(value)?,
            'M' | 'm' => {
                let (known, others): (Vec<char>, Vec<char>) =
                    value.chars().partition(|letter| *letter == 'S');
                starttls &= known.is_empty();
                if !others.is_empty() {
                    let others: String = others.into_iter().collect();
                    draft
                        .remarks
                        .push(format!("{key}={others} of ClientPortOptions has no effect"));
                }
            }
            'P' | 'p' | 'R' | 'r' | 'S' | 's' => {
                draft.remarks.push(format!("{key}= of ClientPortOptions has no effect"));
            }
            _ => return Err(unknown(key)),
        }
    }
    draft.config.client_starttls &= starttls;
    let known = &mut draft.config.client_addresses;
    if let Some(address) = address {
        if !family.fits(address) {
            return Err(ValueError::Other(format!("Addr={address} is not of its Family")));
        }
        known.retain(|other| other.is_ipv4() != address.is_ipv4());
        known.push(address);
    }
    Ok(())
}

/// Family=
#[derive(Clone, Copy)]
enum Family {
    Any,
    Inet,
    Inet6,
}

impl Family {
    fn parse(value: &str) -> Result<Family, ValueError> {
        match value.to_ascii_lowercase().as_str() {
            "inet" => Ok(Family::Inet),
            "inet6" => Ok(Family::Inet6),
            _ => Err(ValueError::Word { word: value::shown(value), allowed: "Family=inet, inet6" }),
        }
    }

    fn fits(self, address: IpAddr) -> bool {
        match self {
            Family::Any => true,
            Family::Inet => address.is_ipv4(),
            Family::Inet6 => address.is_ipv6(),
        }
    }
}

fn pairs(text: &str) -> impl Iterator<Item = (Result<&str, ValueError>, &str)> {
    text.split(',').map(str::trim).filter(|pair| !pair.is_empty()).map(|pair| {
        match pair.split_once('=') {
            Some((key, value)) => (Ok(key.trim()), value.trim()),
            None => {
                let shown = value::shown(pair);
                (Err(ValueError::Other(format!("{shown:?} is not of the form Key=value"))), "")
            }
        }
    })
}

/// Whether `key` means `name`, by itself or by four letters of it in any case, else by its first letter, which is `letter`.
fn begins(key: &str, name: &str, letter: char) -> bool {
    match key.get(..4) {
        Some(begin) => name.get(..4).is_some_and(|name| name.eq_ignore_ascii_case(begin)),
        None => key.starts_with(letter),
    }
}

fn load(value: &str) -> Result<u32, ValueError> {
    Ok(value::number(value, 0, 100_000)? as u32)
}

fn delivery_mode(value: &str) -> Result<DeliveryMode, ValueError> {
    match value.chars().next().map(|letter| letter.to_ascii_lowercase()) {
        Some('i') => Ok(DeliveryMode::Interactive),
        Some('b') => Ok(DeliveryMode::Background),
        Some('q') => Ok(DeliveryMode::Queue),
        Some('d') => Ok(DeliveryMode::Deferred),
        _ => {
            Err(ValueError::Word { word: value::shown(value), allowed: "DeliveryMode=i, b, q, d" })
        }
    }
}

fn unknown(key: &str) -> ValueError {
    ValueError::Word {
        word: value::shown(key),
        allowed: "Name Port Addr Family Listen Modify InputMailFilters DeliveryMode delayLA queueLA refuseLA",
    }
}

fn port(value: &str) -> Result<u16, ValueError> {
    match value.to_ascii_lowercase().as_str() {
        "smtp" => Ok(25),
        "submission" => Ok(587),
        "smtps" | "submissions" => Ok(465),
        _ => Ok(value::number(value, 0, 65_535)? as u16),
    }
}

fn listen_address(value: &str) -> Result<IpAddr, ValueError> {
    match value {
        "localhost" => Ok(Ipv4Addr::LOCALHOST.into()),
        value => value::ip(value).ok_or_else(|| {
            ValueError::Other(format!("{:?} is not an IP address", value::shown(value)))
        }),
    }
}

fn modify(daemon: &mut Daemon, value: &str, remarks: &mut Vec<String>) -> Result<(), ValueError> {
    for letter in value.chars() {
        match letter {
            'O' => daemon.optional = true,
            'E' => daemon.etrn = false,
            'S' if daemon.tls == PortTls::Offered => daemon.tls = PortTls::Never,
            's' if daemon.tls == PortTls::Offered => daemon.tls = PortTls::FromTheStart,
            'S' | 's' => {
                let text = "modifiers s (TLS from the start) and S (no TLS) exclude each other; the port stays closed";
                return Err(ValueError::Other(text.into()));
            }
            'a' => {
                let text =
                    "modifier a (AUTH demanded) is for a later version; the port stays closed";
                return Err(ValueError::Other(text.into()));
            }
            // What they ask for is what every port does: unqualified names are taken, nothing is canonified.
            'A' | 'C' | 'u' => {}
            'b' | 'c' | 'f' | 'r' => remarks.push(format!("modifier {letter} has no effect yet")),
            _ => {
                let word = letter.to_string();
                return Err(ValueError::Word {
                    word,
                    allowed: "the modifiers a b c f r s u A C E O S",
                });
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::PortLoad;

    #[test]
    fn reads_a_port() {
        let daemon = |text| daemon(text, &mut Vec::new());
        let found = daemon("Port=2525, Addr=127.0.0.1, Name=MTA").unwrap();
        assert_eq!(found, Daemon::at("MTA", "127.0.0.1:2525".parse().unwrap()));
        let found = daemon("Family=inet6, Name=MTA-v6, M=OE, Listen=5").unwrap();
        assert_eq!(found.address.to_string(), "[::]:25");
        assert!(found.optional && !found.etrn && found.backlog == 5);
        assert_eq!(found.tls, PortTls::Offered);
        assert_eq!(daemon("M=S").unwrap().tls, PortTls::Never);
        assert_eq!(daemon("Port=smtps, M=Es").unwrap().tls, PortTls::FromTheStart);
        assert_eq!(daemon("p=submission,n=MSA").unwrap().address.port(), 587);
        for bad in [
            "Port",
            "Port=x",
            "Port=70000",
            "Hue=red",
            "Addr=::1,Family=inet",
            "M=sS",
            "M=Ea",
            "M=?",
        ] {
            assert!(daemon(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn reads_the_limits_of_a_port() {
        let mut remarks = Vec::new();
        for text in [
            "Port=587, delayLA=5, queueLA=0, refuseLA=30, DeliveryMode=q",
            "p=587, d=5, q=0, r=30, D=queue",
            "P=587, DELAYLA=5, QueueLA=0, RefuseLA=30, deliverymode=q",
        ] {
            let daemon = daemon(text, &mut remarks).unwrap();
            let load = PortLoad { queue: Some(0), refuse: Some(30), delay: Some(5) };
            assert_eq!((daemon.load, daemon.delivery_mode), (load, Some(DeliveryMode::Queue)));
        }
        assert!(remarks.is_empty());
        daemon("RcvBufSize=1, R=2, SndBufSize=3", &mut remarks).unwrap();
        assert_eq!(remarks.len(), 3);
        for bad in ["d=x", "refuseLA=-1", "D=p", "q="] {
            assert!(daemon(bad, &mut remarks).is_err(), "{bad}");
        }
    }

    #[test]
    fn says_what_it_does_not_use() {
        let mut remarks = Vec::new();
        daemon("Port=25, children=5, M=f", &mut remarks).unwrap();
        assert_eq!(remarks.len(), 2);
    }
}
