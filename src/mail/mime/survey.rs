//! The first of two readings: what there is to convert, how, and how much it makes.

use super::encode::Encoding;
use super::rewrite::{Purpose, Rewriter};
use super::{Limits, Stamp};

/// A message being looked over.
#[derive(Debug)]
pub struct Surveyor {
    rewriter: Rewriter,
    limits: Limits,
    stamp: Stamp,
    scratch: Vec<u8>,
    size: u64,
    has_8bit: bool,
}

/// What a [`Surveyor`] found: enough to decide whether a message is to be converted, and to do it.
#[derive(Clone, Debug)]
pub struct Survey {
    /// Octets of the converted message, exactly.
    pub size: u64,
    /// There is an octet above 127.
    pub has_8bit: bool,
    /// There is one in the header of the message.
    pub header_8bit: bool,
    /// The message has MIME-Version.
    pub is_mime: bool,
    /// Its Content-Type is one of RFC 1049, from before MIME.
    pub is_old: bool,
    /// Some content above 127 stays, because it cannot be converted. Headers do not count.
    pub residue: bool,
    /// What the log is to say of cut fields, in sendmail's words.
    pub notes: Vec<String>,
    plan: Vec<Encoding>,
    limits: Limits,
    stamp: Stamp,
}

impl Surveyor {
    /// For a conversion with these limits, which leaves this stamp.
    pub fn new(limits: Limits, stamp: Stamp) -> Surveyor {
        Surveyor {
            rewriter: Rewriter::new(limits, Purpose::Survey(stamp.clone())),
            limits,
            stamp,
            scratch: Vec::new(),
            size: 0,
            has_8bit: false,
        }
    }

    /// Looks at the next octets.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.has_8bit |= !bytes.is_ascii();
        self.rewriter.feed(bytes, &mut self.scratch);
        self.count();
    }

    /// The message ends here.
    pub fn finish(mut self) -> Survey {
        self.rewriter.finish(&mut self.scratch);
        self.count();
        let found = self.rewriter.found;
        Survey {
            size: self.size + found.weighed,
            has_8bit: self.has_8bit,
            header_8bit: found.header_8bit,
            is_mime: found.is_mime,
            is_old: found.is_old,
            residue: found.residue,
            notes: found.notes,
            plan: found.plan,
            limits: self.limits,
            stamp: self.stamp,
        }
    }

    fn count(&mut self) {
        self.size += self.scratch.len() as u64;
        self.scratch.clear();
    }
}

impl Survey {
    /// The second reading: converts the same message.
    pub fn rewriter(&self) -> Rewriter {
        let purpose = Purpose::Convert(self.stamp.clone(), self.plan.clone());
        Rewriter::new(self.limits, purpose)
    }
}
