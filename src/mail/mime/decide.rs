//! EightBitMode: what becomes of a message with octets above 127 at a next hop without 8BITMIME.
//!
//! | | pass | mime | strict |
//! |---|---|---|---|
//! | said to be MIME: by BODY=8BITMIME or MIME-Version | converted | converted | converted |
//! | not said so | as it is | converted | refused when it came (5.6.1), else converted |
//! | not said so, with a Content-Type of RFC 1049 | as it is | 5.6.3 | 5.6.3 |
//! | some of it cannot be converted | that as it is | that as it is | 5.6.3 |
//!
//! The last row of strict is not sendmail's, which sends even then what it cannot convert.

use super::Survey;
use crate::mail::envelope::BodyType;

/// EightBitMode.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum EightBitMode {
    /// What is MIME is converted, everything else goes as it is.
    #[default]
    Pass,
    /// Everything is converted.
    Mime,
    /// Nothing above 127 comes in that does not say so, and nothing goes out to who did not agree.
    Strict,
}

/// What becomes of a message at a next hop without 8BITMIME.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// It goes as it is.
    AsIs,
    /// It goes by [`Survey::rewriter`].
    Converted,
    /// It does not go (5.6.3).
    Refused,
}

impl Survey {
    /// The table above. A message with SMTPUTF8 whose header needs it is never converted: RFC 6531 3.1 has 8BITMIME in every
    /// server that may get it.
    pub fn fate(&self, mode: EightBitMode, body_type: BodyType, smtputf8: bool) -> Fate {
        if !self.has_8bit || smtputf8 && self.header_8bit {
            return Fate::AsIs;
        }
        let said = self.is_mime || body_type == BodyType::EightBitMime;
        match mode {
            EightBitMode::Pass if !said => Fate::AsIs,
            EightBitMode::Mime | EightBitMode::Strict if !said && self.is_old => Fate::Refused,
            EightBitMode::Strict if self.residue => Fate::Refused,
            EightBitMode::Pass | EightBitMode::Mime | EightBitMode::Strict => Fate::Converted,
        }
    }
}
