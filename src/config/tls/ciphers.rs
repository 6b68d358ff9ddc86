//! CipherList and CipherSuites: OpenSSL's names, read as the suites that there are here.
//!
//! Law: ciphers(1) of OpenSSL 3 for the list (`HIGH:!aNULL:+CHACHA20:@STRENGTH`), RFC 8446 B.4 for the names of TLS 1.3. All suites here
//! are safe ones (AEAD, ephemeral keys), so a list can only choose among them and put them in order. A word that asks for
//! a suite that is not here is named in what comes back, as is one that nobody knows; a word that excludes such suites is
//! obeyed without a word. A list that leaves nothing is an error: it would mean that nobody could be spoken to.

use crate::config::value::{self, ValueError};

/// A suite.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)] // named as in Suite::name
pub enum Suite {
    Aes256Gcm,
    Chacha20,
    Aes128Gcm,
    EcdsaAes256Gcm,
    RsaAes256Gcm,
    EcdsaChacha20,
    RsaChacha20,
    EcdsaAes128Gcm,
    RsaAes128Gcm,
}

impl Suite {
    /// Those of TLS 1.3 in OpenSSL's order.
    pub const TLS13: [Suite; 3] = [Suite::Aes256Gcm, Suite::Chacha20, Suite::Aes128Gcm];
    /// Those of TLS 1.2 in OpenSSL's order.
    pub const TLS12: [Suite; 6] = [
        Suite::EcdsaAes256Gcm,
        Suite::RsaAes256Gcm,
        Suite::EcdsaChacha20,
        Suite::RsaChacha20,
        Suite::EcdsaAes128Gcm,
        Suite::RsaAes128Gcm,
    ];

    /// As OpenSSL names it, and so do configurations and logs.
    pub fn name(self) -> &'static str {
        match self {
            Suite::Aes256Gcm => "TLS_AES_256_GCM_SHA384",
            Suite::Chacha20 => "TLS_CHACHA20_POLY1305_SHA256",
            Suite::Aes128Gcm => "TLS_AES_128_GCM_SHA256",
            Suite::EcdsaAes256Gcm => "ECDHE-ECDSA-AES256-GCM-SHA384",
            Suite::RsaAes256Gcm => "ECDHE-RSA-AES256-GCM-SHA384",
            Suite::EcdsaChacha20 => "ECDHE-ECDSA-CHACHA20-POLY1305",
            Suite::RsaChacha20 => "ECDHE-RSA-CHACHA20-POLY1305",
            Suite::EcdsaAes128Gcm => "ECDHE-ECDSA-AES128-GCM-SHA256",
            Suite::RsaAes128Gcm => "ECDHE-RSA-AES128-GCM-SHA256",
        }
    }

    /// Bits of its key.
    pub fn bits(self) -> u16 {
        match self {
            Suite::Aes128Gcm | Suite::EcdsaAes128Gcm | Suite::RsaAes128Gcm => 128,
            _ => 256,
        }
    }

    fn is_ecdsa(self) -> bool {
        matches!(self, Suite::EcdsaAes256Gcm | Suite::EcdsaChacha20 | Suite::EcdsaAes128Gcm)
    }

    fn is_chacha(self) -> bool {
        matches!(self, Suite::Chacha20 | Suite::EcdsaChacha20 | Suite::RsaChacha20)
    }

    /// Whether a word of a list means it (TLS 1.2); none for a word that nobody knows.
    fn is_meant(self, word: &str) -> Option<bool> {
        Some(match word {
            "ALL" | "DEFAULT" | "HIGH" | "TLSv1.2" | "ECDHE" | "EECDH" | "ECDH" | "kECDHE"
            | "kEECDH" => true,
            "ECDSA" | "aECDSA" => self.is_ecdsa(),
            "aRSA" => !self.is_ecdsa(),
            "AES" | "AESGCM" => !self.is_chacha(),
            "AES256" => !self.is_chacha() && self.bits() == 256,
            "AES128" => self.bits() == 128,
            "CHACHA20" => self.is_chacha(),
            name if name == self.name() => true,
            name if is_elsewhere(name) => false,
            _ => return None,
        })
    }
}

/// What OpenSSL has and we have not, by the words of ciphers(1); and whatever looks like the name of one suite.
fn is_elsewhere(word: &str) -> bool {
    const CLASSES: &[&str] = &[
        "3DES",
        "ADH",
        "AECDH",
        "AESCCM",
        "AESCCM8",
        "ARIA",
        "ARIA128",
        "ARIA256",
        "ARIAGCM",
        "CAMELLIA",
        "CAMELLIA128",
        "CAMELLIA256",
        "CBC",
        "COMPLEMENTOFALL",
        "COMPLEMENTOFDEFAULT",
        "DES",
        "DH",
        "DHE",
        "DSS",
        "EDH",
        "EXP",
        "EXPORT",
        "EXPORT40",
        "EXPORT56",
        "FIPS",
        "GOST",
        "GOST89MAC",
        "GOST94",
        "IDEA",
        "KRB5",
        "LOW",
        "MD5",
        "MEDIUM",
        "NULL",
        "PSK",
        "RC2",
        "RC4",
        "RSA",
        "SEED",
        "SHA",
        "SHA1",
        "SHA256",
        "SHA384",
        "SRP",
        "SSLv2",
        "SSLv3",
        "TLSv1",
        "TLSv1.0",
        "aDH",
        "aDSS",
        "aECDH",
        "aGOST",
        "aNULL",
        "aPSK",
        "aSRP",
        "eNULL",
        "kDH",
        "kDHE",
        "kDHEPSK",
        "kDHd",
        "kDHr",
        "kECDH",
        "kECDHEPSK",
        "kECDHe",
        "kECDHr",
        "kEDH",
        "kGOST",
        "kPSK",
        "kRSA",
        "kRSAPSK",
        "kSRP",
    ];
    CLASSES.contains(&word) || word.contains('-') || word.starts_with("TLS_")
}

/// What was made of a list.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Chosen {
    /// In order of preference; never empty.
    pub suites: Vec<Suite>,
    /// Words that ask for what is not here, or that nobody knows.
    pub without: Vec<String>,
}

/// CipherList: for TLS 1.2.
///
/// # Errors
/// [`ValueError::Other`] when no suite is left.
pub fn list(text: &str) -> Result<Chosen, ValueError> {
    let (mut suites, mut excluded): (Vec<Suite>, Vec<Suite>) = Default::default();
    let mut without = Vec::new();
    for word in text.split([':', ',', ';', ' ']).filter(|word| !word.is_empty()) {
        let (name, command) = word.split_once('@').unwrap_or((word, ""));
        let (sign, name) = match name.chars().next() {
            Some(sign @ ('!' | '-' | '+')) => (Some(sign), &name[1..]),
            _ => (None, name),
        };
        // `A+B`: what both mean.
        let meant = |suite: &Suite| name.split('+').all(|part| suite.is_meant(part) == Some(true));
        let known = name.split('+').all(|part| Suite::TLS12[0].is_meant(part).is_some());
        let (hit, others): (Vec<Suite>, Vec<Suite>) = suites.iter().copied().partition(meant);
        match sign {
            Some('!') => {
                excluded.extend(Suite::TLS12.iter().copied().filter(meant));
                suites = others;
            }
            Some('-') => suites = others,
            Some(_) => suites = [others, hit].concat(),
            None => {
                let news = Suite::TLS12.iter().copied().filter(meant);
                let news: Vec<Suite> =
                    news.filter(|s| !suites.contains(s) && !excluded.contains(s)).collect();
                if !name.is_empty() && known && !Suite::TLS12.iter().any(meant) {
                    without.push(value::shown(word));
                }
                suites.extend(news);
            }
        }
        if !known && !name.is_empty() {
            without.push(value::shown(word));
        }
        match command {
            "" => {}
            "STRENGTH" => suites.sort_by_key(|suite| std::cmp::Reverse(suite.bits())),
            _ => without.push(value::shown(&format!("@{command}"))),
        }
    }
    chosen(suites, without, text)
}

/// CipherSuites: for TLS 1.3.
///
/// # Errors
/// [`ValueError::Other`] when no suite is left.
pub fn suites(text: &str) -> Result<Chosen, ValueError> {
    let (mut suites, mut without): (Vec<Suite>, Vec<String>) = Default::default();
    for word in text.split([':', ',', ' ']).filter(|word| !word.is_empty()) {
        match Suite::TLS13.into_iter().find(|suite| suite.name().eq_ignore_ascii_case(word)) {
            Some(suite) if suites.contains(&suite) => {}
            Some(suite) => suites.push(suite),
            None => without.push(value::shown(word)),
        }
    }
    chosen(suites, without, text)
}

fn chosen(suites: Vec<Suite>, without: Vec<String>, text: &str) -> Result<Chosen, ValueError> {
    if suites.is_empty() {
        let text = value::shown(text);
        return Err(ValueError::Other(format!("{text:?} leaves no cipher suite")));
    }
    Ok(Chosen { suites, without })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// `RSA-AES256` for ECDHE-RSA-AES256-GCM-SHA384, and after a bar what was not used.
    fn shown(found: Result<Chosen, ValueError>) -> String {
        let Ok(Chosen { suites, without }) = found else { return "nothing".into() };
        let short = |suite: &Suite| {
            let name = suite.name().trim_start_matches("ECDHE-").trim_start_matches("TLS_");
            name.split("-GCM").next().unwrap().split("-POLY").next().unwrap().to_owned()
        };
        let suites: Vec<_> = suites.iter().map(short).collect();
        match without.is_empty() {
            true => suites.join(" "),
            false => format!("{} | {}", suites.join(" "), without.join(" ")),
        }
    }

    /// The suites are those that `openssl ciphers -s -tls1_2 LIST` (3.0) prints of these six, in its order.
    #[test]
    fn lists_are_read_as_openssl_reads_them() {
        const ALL: &str =
            "ECDSA-AES256 RSA-AES256 ECDSA-CHACHA20 RSA-CHACHA20 ECDSA-AES128 RSA-AES128";
        for (list_, expected) in [
            ("HIGH:!aNULL", ALL),
            ("DEFAULT", ALL),
            ("ALL:@STRENGTH", ALL),
            ("HIGH:!aNULL:!MD5:!3DES:!RC4:!EXP-RC4-MD5", ALL),
            ("aRSA", "RSA-AES256 RSA-CHACHA20 RSA-AES128"),
            ("AESGCM+aRSA", "RSA-AES256 RSA-AES128"),
            ("AES", "ECDSA-AES256 RSA-AES256 ECDSA-AES128 RSA-AES128"),
            ("CHACHA20:AES128", "ECDSA-CHACHA20 RSA-CHACHA20 ECDSA-AES128 RSA-AES128"),
            (
                "ALL:-AES256:AES256",
                "ECDSA-CHACHA20 RSA-CHACHA20 ECDSA-AES128 RSA-AES128 ECDSA-AES256 RSA-AES256",
            ),
            (
                "ALL:+CHACHA20",
                "ECDSA-AES256 RSA-AES256 ECDSA-AES128 RSA-AES128 ECDSA-CHACHA20 RSA-CHACHA20",
            ),
            ("!AES256:ECDHE:AES256", "ECDSA-CHACHA20 RSA-CHACHA20 ECDSA-AES128 RSA-AES128"),
            ("AES128:CHACHA20+ECDSA:@STRENGTH", "ECDSA-CHACHA20 ECDSA-AES128 RSA-AES128"),
            ("ECDHE-RSA-AES128-GCM-SHA256", "RSA-AES128"),
            ("+AES256", "nothing"),
            ("RSA", "nothing"),
            ("SHA384", "nothing"),
            ("", "nothing"),
        ] {
            assert_eq!(shown(list(list_)), expected, "{list_}");
        }
    }

    #[test]
    fn what_is_not_here_is_named() {
        assert_eq!(
            shown(list("AES128-SHA:aRSA:DHE-RSA-AES256-SHA:HIHG:!FOO:DEFAULT@SECLEVEL=1:3DES")),
            "RSA-AES256 RSA-CHACHA20 RSA-AES128 ECDSA-AES256 ECDSA-CHACHA20 ECDSA-AES128 | \
             AES128-SHA DHE-RSA-AES256-SHA HIHG !FOO @SECLEVEL=1 3DES"
        );
        assert_eq!(
            shown(suites("TLS_AES_128_GCM_SHA256:TLS_AES_128_CCM_SHA256:TLS_AES_256_GCM_SHA384")),
            "AES_128_GCM_SHA256 AES_256_GCM_SHA384 | TLS_AES_128_CCM_SHA256"
        );
        assert_eq!(shown(suites("TLS_AES_128_CCM_SHA256")), "nothing");
    }

    proptest! {
        #[test]
        fn never_panics(text in "\\PC{0,40}", words in "[-+!:@A-Za-z0-9ä]{0,40}") {
            let _ = (list(&text), suites(&text), list(&words));
        }
    }
}
