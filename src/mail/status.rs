//! Reply codes and enhanced status codes: what a station says of a recipient.
//!
//! RFC 5321 4.2 (replies), RFC 3463 (enhanced status codes), RFC 2034 (their place in a reply).

use std::fmt;
use std::str::FromStr;

/// `4.2.1`: class, subject, detail (RFC 3463). The class is 2, 4 or 5.
#[derive(Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct EnhancedStatus {
    class: u8,
    subject: u16,
    detail: u16,
}

/// What a class means for the recipient.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StatusClass {
    /// 2: done.
    Success,
    /// 4: try again.
    Transient,
    /// 5: never.
    Permanent,
}

/// The text is not an enhanced status code.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not an enhanced status code of RFC 3463 (2, 4 or 5, then two numbers below 1000)")]
pub struct StatusError;

impl EnhancedStatus {
    /// `class` 2, 4 or 5; `subject` and `detail` below 1000. For constants: wrong numbers do not compile there.
    pub const fn new(class: u8, subject: u16, detail: u16) -> EnhancedStatus {
        assert!(class == 2 || class == 4 || class == 5);
        assert!(subject < 1000 && detail < 1000);
        EnhancedStatus { class, subject, detail }
    }

    /// Success, transient or permanent.
    pub fn class(self) -> StatusClass {
        match self.class {
            2 => StatusClass::Success,
            4 => StatusClass::Transient,
            _ => StatusClass::Permanent,
        }
    }

    /// The same subject and detail in another class: what `SoftBounce` and expiry make of a status.
    pub fn with_class(self, class: StatusClass) -> EnhancedStatus {
        let class = match class {
            StatusClass::Success => 2,
            StatusClass::Transient => 4,
            StatusClass::Permanent => 5,
        };
        EnhancedStatus { class, ..self }
    }

    /// Class, subject, detail.
    pub fn parts(self) -> (u8, u16, u16) {
        (self.class, self.subject, self.detail)
    }

    /// The status at the front of a reply text (`5.1.1 User unknown`), and the rest.
    pub fn split_from(text: &str) -> (Option<EnhancedStatus>, &str) {
        let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
        match word.parse() {
            Ok(status) => (Some(status), rest),
            Err(StatusError) => (None, text),
        }
    }
}

impl FromStr for EnhancedStatus {
    type Err = StatusError;

    fn from_str(text: &str) -> Result<EnhancedStatus, StatusError> {
        let number = |part: Option<&str>| -> Result<u16, StatusError> {
            let part = part.ok_or(StatusError)?;
            if part.is_empty() || part.len() > 3 || !part.bytes().all(|b| b.is_ascii_digit()) {
                return Err(StatusError);
            }
            part.parse().map_err(|_| StatusError)
        };
        let mut parts = text.split('.');
        let (class, subject, detail) =
            (number(parts.next())?, number(parts.next())?, number(parts.next())?);
        if parts.next().is_some() || !matches!(class, 2 | 4 | 5) {
            return Err(StatusError);
        }
        Ok(EnhancedStatus { class: class as u8, subject, detail })
    }
}

impl fmt::Display for EnhancedStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.class, self.subject, self.detail)
    }
}

impl fmt::Debug for EnhancedStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// One reply of an SMTP or LMTP server (RFC 5321 4.2): code and lines, without the enhanced status.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub struct Reply {
    /// 200 to 599.
    pub code: u16,
    /// The enhanced status of its first line, when it had one of the code's class.
    pub enhanced: Option<EnhancedStatus>,
    /// The texts of its lines without code and status; at least one, maybe empty. No control characters.
    pub lines: Vec<String>,
}

impl Reply {
    /// A reply of one line.
    pub fn new(code: u16, enhanced: Option<EnhancedStatus>, text: impl Into<String>) -> Reply {
        Reply { code, enhanced, lines: vec![text.into()] }
    }

    /// 2yz and 3yz: it went as asked.
    pub fn is_positive(&self) -> bool {
        self.code < 400
    }

    /// 4yz: try again later.
    pub fn is_transient(&self) -> bool {
        (400..500).contains(&self.code)
    }

    /// 5yz: not again.
    pub fn is_permanent(&self) -> bool {
        self.code >= 500
    }

    /// The texts of its lines, joined by blanks: what stands in `Sent (Ok)`.
    pub fn text(&self) -> String {
        let lines: Vec<&str> =
            self.lines.iter().map(String::as_str).filter(|line| !line.is_empty()).collect();
        lines.join(" ")
    }

    /// The status that a DSN gives for it: its own, else `class.0.0`.
    pub fn status(&self) -> EnhancedStatus {
        self.enhanced.unwrap_or(match self.code {
            ..400 => EnhancedStatus::new(2, 0, 0),
            400..500 => EnhancedStatus::new(4, 0, 0),
            _ => EnhancedStatus::new(5, 0, 0),
        })
    }
}

/// `550 5.1.1 User unknown`: the lines joined by blanks, as logs and `Diagnostic-Code` show it.
impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.code)?;
        if let Some(status) = self.enhanced {
            write!(f, " {status}")?;
        }
        for line in self.lines.iter().filter(|line| !line.is_empty()) {
            write!(f, " {line}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_only_rfc_3463() {
        for good in ["2.0.0", "4.4.1", "5.999.999"] {
            assert_eq!(good.parse::<EnhancedStatus>().unwrap().to_string(), good);
        }
        for bad in ["", "3.0.0", "5.1", "5.1.1.1", "5.1000.0", "5.-1.0", "5.+1.0", "5..1"] {
            assert!(bad.parse::<EnhancedStatus>().is_err(), "{bad}");
        }
    }

    #[test]
    fn splits_and_prints() {
        let (status, rest) = EnhancedStatus::split_from("5.1.1 <x>... User unknown");
        let reply = Reply::new(550, status, rest);
        assert_eq!(reply.to_string(), "550 5.1.1 <x>... User unknown");
        assert_eq!(EnhancedStatus::split_from("go away"), (None, "go away"));
        assert_eq!(Reply::new(451, None, "").status().to_string(), "4.0.0");
    }
}
