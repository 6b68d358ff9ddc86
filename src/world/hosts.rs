//! The hosts file (hosts(5); sendmail: HostsFile): names and addresses that need no DNS.
//!
//! Read once, when the resolver is made. A line that is none is passed over, as every program does it.

use std::collections::HashMap;
use std::net::IpAddr;

/// Lines looked at: files of black lists have hundreds of thousands, and nobody mails to those.
const LINES_MAX: usize = 1_000_000;

/// What a hosts file says.
#[derive(Debug, Default)]
pub struct Hosts {
    addresses: HashMap<String, Vec<IpAddr>>,
    names: HashMap<IpAddr, String>,
}

impl Hosts {
    /// Understands the text of a hosts file.
    pub fn parse(text: &str) -> Hosts {
        let mut hosts = Hosts::default();
        for line in text.lines().take(LINES_MAX) {
            let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
            let address = words.next().and_then(|word| word.parse::<IpAddr>().ok());
            let Some(address) = address.map(|address| address.to_canonical()) else { continue };
            for (place, name) in words.map(key).enumerate() {
                if place == 0 {
                    hosts.names.entry(address).or_insert_with(|| name.clone());
                }
                let known = hosts.addresses.entry(name).or_default();
                if !known.contains(&address) {
                    known.push(address);
                }
            }
        }
        hosts
    }

    /// The addresses of a name, in the order of the file; none when it does not have it.
    pub fn addresses(&self, name: &str) -> Option<&[IpAddr]> {
        self.addresses.get(&key(name)).map(Vec::as_slice)
    }

    /// The first name of an address.
    pub fn name(&self, address: IpAddr) -> Option<&str> {
        self.names.get(&address.to_canonical()).map(String::as_str)
    }
}

fn key(name: &str) -> String {
    name.trim_end_matches('.').to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_addresses_of_a_file() {
        let hosts = Hosts::parse(
            "# local\n127.0.0.1 localhost\nnonsense here\n192.0.2.7\tBox.example. box # why\n2001:db8::7 box\n192.0.2.7 other\n",
        );
        let shown = |name| format!("{:?}", hosts.addresses(name));
        assert_eq!(shown("BOX"), "Some([192.0.2.7, 2001:db8::7])");
        assert_eq!(shown("box.example."), "Some([192.0.2.7])");
        assert_eq!(shown("here"), "None");
        let name = |text: &str| hosts.name(text.parse().unwrap()).map(str::to_owned);
        assert_eq!(name("::ffff:192.0.2.7").as_deref(), Some("box.example"));
        assert_eq!(name("192.0.2.8"), None);
    }
}
