//! ServiceSwitchFile: where hosts are looked up, and in which order.
//!
//! The file has lines such as `hosts files dns`; other lines (aliases, passwd) are of no use here. Without a line for hosts, or
//! without the file, they are looked up in the HostsFile, then in DNS. Pure.

/// Where a host may be known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HostSource {
    /// `files`: the HostsFile.
    Files,
    /// `dns`: the name servers. Without it there are no MX records.
    Dns,
}

/// Where sendmail looks for it.
pub const USUAL: &str = "/etc/mail/service.switch";

/// The order without a file.
pub const USUAL_ORDER: [HostSource; 2] = [HostSource::Files, HostSource::Dns];

/// The order that the text of a file gives, and the words of it that are none here.
pub fn hosts(text: &str) -> (Vec<HostSource>, Vec<String>) {
    let (mut order, mut unknown) = (Vec::new(), Vec::new());
    let line = text.lines().map(str::trim).find_map(|line| {
        let mut words = line.split_whitespace();
        (words.next() == Some("hosts")).then_some(words)
    });
    for word in line.into_iter().flatten().take_while(|word| !word.starts_with('#')) {
        let source = match word {
            "files" => HostSource::Files,
            "dns" => HostSource::Dns,
            other => {
                unknown.push(super::value::shown(other));
                continue;
            }
        };
        if !order.contains(&source) {
            order.push(source);
        }
    }
    if order.is_empty() {
        order.extend(USUAL_ORDER);
    }
    (order, unknown)
}

#[cfg(test)]
mod tests {
    use super::*;
    use HostSource::{Dns, Files};

    #[test]
    fn the_line_of_hosts_counts() {
        for (text, expected) in [
            ("", vec![Files, Dns]),
            ("aliases files\n", vec![Files, Dns]),
            ("# x\nhosts\tdns files # why\nhosts files\n", vec![Dns, Files]),
            ("hosts files\n", vec![Files]),
            ("  hosts dns dns\n", vec![Dns]),
            ("hosts\n", vec![Files, Dns]),
        ] {
            assert_eq!(hosts(text), (expected, Vec::new()), "{text:?}");
        }
        assert_eq!(hosts("hosts files nis dns"), (vec![Files, Dns], vec!["nis".to_owned()]));
    }
}
