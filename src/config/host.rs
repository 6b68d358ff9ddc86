//! The name of this host, from the system's name and its hosts file. Never asks DNS: a start must not wait for it.

use std::net::IpAddr;
use std::path::Path;

/// What a host is called.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HostNames {
    /// `lab.example.com`; without a domain when nobody knows one. Lower case.
    pub full: String,
    /// `lab`
    pub short: String,
    /// The addresses of its interfaces, loopback included; none where the system does not tell.
    pub addresses: Vec<IpAddr>,
}

impl HostNames {
    /// The names of this machine.
    pub fn of_this_machine() -> HostNames {
        let node = rustix::system::uname().nodename().to_string_lossy().into_owned();
        // A host without a hosts file, or with one nobody may read, still has its short name.
        let hosts = super::check::read_file(Path::new("/etc/hosts")).unwrap_or_default();
        HostNames { addresses: interface_addresses(), ..HostNames::from(&node, &hosts) }
    }

    /// From the system's name `node` and the text of its hosts file: a name without a dot takes the domain of
    /// the first name with one on a line that has `node` too.
    pub fn from(node: &str, hosts: &str) -> HostNames {
        let node = node.trim_end_matches('.').to_lowercase();
        let node =
            if crate::mail::address::check_domain(&node).is_ok() { &node } else { "localhost" };
        let full = if node.contains('.') { None } else { qualified(node, hosts) };
        HostNames {
            full: full.unwrap_or_else(|| node.to_owned()),
            short: node.split('.').next().unwrap_or(node).to_owned(),
            addresses: Vec::new(),
        }
    }
}

fn interface_addresses() -> Vec<IpAddr> {
    let address = |interface: nix::ifaddrs::InterfaceAddress| {
        let storage = interface.address?;
        let v4 = storage.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
        v4.or_else(|| storage.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip())))
    };
    nix::ifaddrs::getifaddrs().into_iter().flatten().filter_map(address).collect()
}

fn qualified(node: &str, hosts: &str) -> Option<String> {
    hosts.lines().find_map(|line| {
        let names: Vec<String> = line
            .split('#')
            .next()
            .unwrap_or_default()
            .split_whitespace()
            .skip(1)
            .map(str::to_lowercase)
            .collect();
        let here = |name: &&String| {
            name.split('.').next() == Some(node) && crate::mail::address::check_domain(name).is_ok()
        };
        let named = names.iter().any(|name| name == node);
        names.iter().filter(here).find(|name| name.contains('.') && named).cloned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_the_domain_from_the_hosts_file() {
        let hosts =
            "127.0.0.1 localhost\n127.0.1.1 Lab.Example.com lab # us\n10.0.0.1 lab.other.example\n";
        let names = |node| HostNames::from(node, hosts);
        assert_eq!(names("lab").full, "lab.example.com");
        assert_eq!(names("LAB").short, "lab");
        assert_eq!(
            names("mx.example.org."),
            HostNames { full: "mx.example.org".into(), short: "mx".into(), addresses: Vec::new() }
        );
        assert_eq!(names("alone").full, "alone");
        assert_eq!(names("bad name").full, "localhost");
    }
}
