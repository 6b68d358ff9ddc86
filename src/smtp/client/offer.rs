//! What a server offered in its reply to EHLO or LHLO (RFC 5321 4.1.1.1), as far as the client uses it.

use crate::mail::status::Reply;

/// The extensions of one greeting. HELO, and a STARTTLS handshake, leave the default: nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Offer {
    /// PIPELINING (RFC 2920).
    pub pipelining: bool,
    /// SIZE (RFC 1870).
    pub size: SizeOffer,
    /// 8BITMIME (RFC 6152).
    pub eight_bit_mime: bool,
    /// SMTPUTF8 (RFC 6531).
    pub smtputf8: bool,
    /// DSN (RFC 3461).
    pub dsn: bool,
    /// CHUNKING (RFC 3030).
    pub chunking: bool,
    /// STARTTLS (RFC 3207).
    pub starttls: bool,
    /// DELIVERBY (RFC 2852), with the fewest seconds it takes, 0 when it names none.
    pub deliver_by: Option<u32>,
}

/// What was said of message sizes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum SizeOffer {
    /// SIZE was not offered.
    #[default]
    Unknown,
    /// SIZE without a number, with 0 (RFC 1870 4: no fixed limit) or with one that is no number.
    Unlimited,
    /// At most this many octets.
    AtMost(u64),
}

impl Offer {
    /// Reads the lines after the first; keywords are case-insensitive, unknown ones mean nothing to us.
    pub(super) fn parse(reply: &Reply) -> Offer {
        let mut offer = Offer::default();
        for line in reply.lines.iter().skip(1) {
            let mut words = line.split_ascii_whitespace();
            match words.next().unwrap_or("").to_ascii_uppercase().as_str() {
                "PIPELINING" => offer.pipelining = true,
                "8BITMIME" => offer.eight_bit_mime = true,
                "SMTPUTF8" => offer.smtputf8 = true,
                "DSN" => offer.dsn = true,
                "CHUNKING" => offer.chunking = true,
                "STARTTLS" => offer.starttls = true,
                "DELIVERBY" => {
                    offer.deliver_by = Some(words.next().and_then(|n| n.parse().ok()).unwrap_or(0));
                }
                "SIZE" => {
                    offer.size = match words.next().map(str::parse::<u64>) {
                        Some(Ok(limit)) if limit > 0 => SizeOffer::AtMost(limit),
                        _ => SizeOffer::Unlimited,
                    };
                }
                _ => {}
            }
        }
        offer
    }
}
