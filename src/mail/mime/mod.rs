//! Content on its way out: 8-bit MIME made 7-bit (RFC 6152 3, RFC 2045), and MIME header fields cut to size.
//!
//! The law is sendmail: EightBitMode, DefaultCharSet and MaxMimeHeaderLength, and where those leave it open, what
//! sendmail 8.17 writes (`tests/mime/sendmail.txt` holds its own words).
//!
//! [`Rewriter`] is the machine: octets in, octets out, in pieces of any size, and any cutting into pieces gives the same.
//! It either only cuts fields ([`Rewriter::limiting`]) or converts ([`Survey::rewriter`]). Which encoding a part gets
//! depends on all of it, so a conversion takes two readings: a [`Surveyor`] reads the message once and says in its [`Survey`]
//! what there is to convert, how, and how large the result will be, to the octet.
//!
//! Multipart content is walked part by part, message/rfc822 is entered. A part is encoded when it has octets above 127, is
//! labelled 7bit, 8bit, binary or not at all, and is no composite type: base64 if more than an eighth of it is
//! above 127, else quoted-printable. It gets a Content-Transfer-Encoding of its own and X-MIME-Autoconverted. Nothing else of it changes.
//!
//! What cannot be converted goes on as it is, and the survey says so ([`Survey::residue`]): multipart/signed (its
//! signature would break), message/* other than rfc822, multipart without a usable boundary or nested too deep, parts with an
//! unknown or false encoding. Octets above 127 in a header stay: there is no conversion for them (RFC 6531). What stands
//! before the first and after the last part loses the high bit, as in sendmail.
//!
//! Promises: decoding what was encoded gives the same octets, with CRLF line ends; lines made here are at most 76 octets.
//! Memory is bounded, whatever comes: nesting [`NESTING_MAX`], a boundary [`BOUNDARY_MAX`], a MIME field [`HELD_MAX`] (a longer one
//! is cut when there is a limit, else goes by unread), encodings remembered [`PLAN_MAX`], words for the log [`NOTES_MAX`].
//! Hostile content is content like any other. Never: I/O, a change of what is stored, the opposite conversion (sendmail's F=9).
//!
//! | file | holds |
//! |---|---|
//! | [`decide`] | whether a message is converted, sent as it is, or refused |
//! | [`encode`] | quoted-printable and base64, and which of them |
//! | [`field`] | values of MIME fields: understood, and cut to size |
//! | [`header`] | one header, field by field |
//! | [`rewrite`] | the structure: lines, boundaries, parts |
//! | [`survey`] | the first reading |

mod decide;
mod encode;
mod field;
mod header;
mod rewrite;
mod survey;

pub use decide::{EightBitMode, Fate};
pub use rewrite::Rewriter;
pub use survey::{Survey, Surveyor};

/// Multipart and message content within each other, at most (sendmail's MAXMIMENESTING).
pub const NESTING_MAX: usize = 20;
/// Octets of a boundary: RFC 2046 5.1.1 allows 70, sendmail keeps 127.
pub const BOUNDARY_MAX: usize = 127;
/// Octets of one MIME field that are kept while it is read; the largest limit that MaxMimeHeaderLength can have.
pub const HELD_MAX: usize = 64 << 10;
/// Parts whose encoding is remembered; all later ones are quoted-printable, which suits everything.
pub const PLAN_MAX: usize = 64 << 10;
/// Cut fields of one message that are told to the log.
pub const NOTES_MAX: usize = 10;

/// MaxMimeHeaderLength: octets of a MIME field's value, and of one parameter in it, counted as sendmail does: with the blanks in
/// front. 0 is no limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// The value of Content-Type:, Content-Disposition:, Content-Id:, Content-Description:,
    /// Content-Transfer-Encoding:, MIME-Version:.
    pub field: usize,
    /// One parameter of Content-Type: or Content-Disposition:, from semicolon to semicolon.
    pub parameter: usize,
}

impl Limits {
    /// Nothing is cut.
    pub const NONE: Limits = Limits { field: 0, parameter: 0 };

    /// As they are typed: without the blank behind the colon or the semicolon.
    pub const fn typed(field: usize, parameter: usize) -> Limits {
        const fn with_blank(limit: usize) -> usize {
            if limit == 0 { 0 } else { limit + 1 }
        }
        Limits { field: with_blank(field), parameter: with_blank(parameter) }
    }
}

/// What a conversion writes of its own.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stamp {
    /// DefaultCharSet: of text that says nothing of itself.
    pub charset: String,
    /// `HOST id QUEUE-ID`, for X-MIME-Autoconverted.
    pub by: String,
}
