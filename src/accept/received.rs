//! Our trace field (RFC 5321 4.4), in the form that sendmail gives it.

use std::fmt::Write as _;

use jiff::tz::TimeZone;

use crate::mail::address::Address;
use crate::mail::queue_id::QueueId;
use crate::mail::time::Timestamp;
use crate::world::TlsFacts;

/// What a Received field says.
#[derive(Debug)]
pub struct Received<'a> {
    /// What the client called itself; none when it did not.
    pub helo: Option<&'a str>,
    /// Who it is: `mx.example [192.0.2.1]`, `root@localhost`.
    pub relay: &'a str,
    /// Our name.
    pub host: &'a str,
    /// `ESMTP`, `ESMTPS`...
    pub protocol: &'a str,
    /// The message's name.
    pub id: QueueId,
    /// What TLS agreed on, when it is active.
    pub tls: Option<&'a TlsFacts>,
    /// The recipient, when there is only one: more would tell each of the others.
    pub only_recipient: Option<&'a Address>,
    /// When it came.
    pub at: Timestamp,
}

impl Received<'_> {
    /// The field with its CRLF. `zone` is for the date.
    pub fn field(&self, zone: &TimeZone) -> Vec<u8> {
        let mut text = String::with_capacity(384);
        // Writing to a String does not fail.
        let _ = match self.helo {
            Some(helo) => write!(text, "Received: from {helo} ({})", self.relay),
            None => write!(text, "Received: (from {})", self.relay),
        };
        let version = env!("CARGO_PKG_VERSION");
        let (host, protocol, id) = (self.host, self.protocol, self.id);
        let _ = write!(text, "\r\n\tby {host} (kvmta/{version}) with {protocol} id {id}");
        if let Some(tls) = self.tls {
            let TlsFacts { version, cipher, bits, verify } = tls;
            let _ = write!(
                text,
                "\r\n\t(version={version} cipher={cipher} bits={bits} verify={verify})"
            );
        }
        let date = self.at.rfc5322(zone);
        let _ = match self.only_recipient {
            Some(address) => write!(text, "\r\n\tfor <{address}>; {date}\r\n"),
            None => write!(text, ";\r\n\t{date}\r\n"),
        };
        text.into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::Verify;

    #[test]
    fn looks_like_sendmails() {
        let address: Address = "root@lab.example.com".parse().unwrap();
        let mut received = Received {
            helo: Some("client.example.org"),
            relay: "localhost [127.0.0.1]",
            host: "lab.example.com",
            protocol: "ESMTP",
            id: "6AM6LRrH021770".parse().unwrap(),
            tls: None,
            only_recipient: Some(&address),
            at: Timestamp::from_secs(1_795_328_479),
        };
        let text = |received: &Received| {
            String::from_utf8(received.field(&TimeZone::UTC))
                .unwrap()
                .replace(env!("CARGO_PKG_VERSION"), "V")
        };
        assert_eq!(
            text(&received),
            "Received: from client.example.org (localhost [127.0.0.1])\r\n\
             \tby lab.example.com (kvmta/V) with ESMTP id 6AM6LRrH021770\r\n\
             \tfor <root@lab.example.com>; Sun, 22 Nov 2026 06:21:19 GMT\r\n"
        );
        let facts = TlsFacts {
            version: "TLSv1.3".into(),
            cipher: "TLS_AES_256_GCM_SHA384".into(),
            bits: 256,
            verify: Verify::No,
        };
        received = Received {
            helo: None,
            relay: "root@localhost",
            protocol: "SMTP",
            tls: Some(&facts),
            only_recipient: None,
            ..received
        };
        assert_eq!(
            text(&received),
            "Received: (from root@localhost)\r\n\
             \tby lab.example.com (kvmta/V) with SMTP id 6AM6LRrH021770\r\n\
             \t(version=TLSv1.3 cipher=TLS_AES_256_GCM_SHA384 bits=256 verify=NO);\r\n\
             \tSun, 22 Nov 2026 06:21:19 GMT\r\n"
        );
    }
}
