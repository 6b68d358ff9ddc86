//! Selections of the queue: `-qI -qR -qS -qQ` with `!`, as sendmail combines them.
//!
//! The same letter again is OR, different letters are AND, `!` negates one term. I and Q compare case-sensitively,
//! R and S not. `!R` holds when **some** recipient does not contain the string (sendmail 8.17 readqf).

use super::job::Entry;

/// Which messages a run, a listing or an operator's command is about.
#[derive(Clone, PartialEq, Eq, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct Selection {
    /// The terms in the order given; none selects everything that is not held.
    pub terms: Vec<Term>,
    /// `-qL`: lost messages alone. A listing of everything shows them too.
    pub lost: bool,
}

/// One `-q[!]Xsubstring`.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub struct Term {
    /// I, R, S or Q.
    pub field: Field,
    /// `!`
    pub negated: bool,
    /// What it must contain; for Q an empty text means any reason.
    pub substring: String,
}

/// What a term looks at.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub enum Field {
    /// The queue ID.
    QueueId,
    /// Any open recipient.
    Recipient,
    /// The reverse-path.
    Sender,
    /// The reason it is held for.
    Quarantine,
}

impl Selection {
    /// Whether there is any term: such a run ignores MinQueueAge, MaxQueueAge and host status.
    pub fn is_limited(&self) -> bool {
        self.lost || !self.terms.is_empty()
    }

    /// Whether `entry` is selected. Held messages are, only when a `Q` term asks for them; lost ones, of which nothing but the queue ID is
    /// known, by that.
    pub fn matches(&self, entry: &Entry) -> bool {
        if entry.lost {
            let id = entry.id.to_string();
            let by_id = self.terms.iter().all(|term| term.field == Field::QueueId);
            return by_id && self.matches_parts(&id, "", None, || Box::new(std::iter::empty()));
        }
        if self.lost {
            return false;
        }
        self.matches_parts(
            &entry.id.to_string(),
            &entry.envelope.reverse_path.to_string(),
            entry.held.as_deref(),
            || Box::new(entry.open_recipients().map(|r| r.address.as_str())),
        )
    }

    /// As [`Selection::matches`], from the parts; recipients are asked for only when a term looks at them.
    pub fn matches_parts<'a>(
        &self,
        id: &str,
        sender: &str,
        held: Option<&str>,
        recipients: impl Fn() -> Box<dyn Iterator<Item = &'a str> + 'a>,
    ) -> bool {
        let holds = |term: &Term| match term.field {
            Field::QueueId => id.contains(&term.substring) != term.negated,
            Field::Sender => contains_fold(sender, &term.substring) != term.negated,
            Field::Recipient => {
                recipients().any(|r| contains_fold(r, &term.substring) != term.negated)
            }
            Field::Quarantine => {
                held.is_some_and(|reason| reason.contains(&term.substring) != term.negated)
            }
        };
        let group = |field: Field| {
            let mut terms = self.terms.iter().filter(|term| term.field == field).peekable();
            terms.peek().is_none() || terms.any(holds)
        };
        let quarantine = self.terms.iter().any(|term| term.field == Field::Quarantine);
        (quarantine || held.is_none())
            && group(Field::QueueId)
            && group(Field::Sender)
            && group(Field::Quarantine)
            && group(Field::Recipient)
    }
}

fn contains_fold(text: &str, part: &str) -> bool {
    text.to_lowercase().contains(&part.to_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::address::ReversePath;
    use crate::mail::envelope::{BodyType, Envelope, TimeoutClass};
    use crate::mail::job::BodyRef;
    use crate::mail::queue_id::QueueId;
    use crate::mail::time::Timestamp;

    #[test]
    fn lost_messages_are_known_by_their_queue_id() {
        let id = QueueId::from_u64(7 << 32);
        let envelope = Envelope {
            reverse_path: ReversePath::Null,
            arrival: Timestamp::ZERO,
            relay: String::new(),
            protocol: String::new(),
            body_type: BodyType::SevenBit,
            smtputf8: false,
            ret: None,
            envid: None,
            timeouts: TimeoutClass::Normal,
            precedence: 0,
            priority: 0,
            message_id: String::new(),
            header_len: 0,
            size: 0,
            body_lines: 0,
            relay_override: None,
            deliver_by: None,
        };
        let good = Entry {
            id,
            envelope,
            held: None,
            warned: false,
            body: BodyRef::Incoming(id),
            jobs: Vec::new(),
            recipients_total: 0,
            lost: false,
            in_flight: false,
        };
        let lost = Entry { lost: true, held: Some("damaged".into()), ..good.clone() };
        let by = |terms: Vec<Term>, lost| Selection { terms, lost };
        let of_id = Term { substring: id.to_string(), ..term("Ix") };
        for (selection, finds_good, finds_lost) in [
            (by(vec![], false), true, true),
            (by(vec![], true), false, true),
            (by(vec![of_id.clone()], false), true, true),
            (by(vec![of_id], true), false, true),
            (by(vec![term("Ix/y")], true), false, false),
            (by(vec![term("S!")], false), false, false),
            (by(vec![term("Q")], false), false, false),
        ] {
            let found = (selection.matches(&good), selection.matches(&lost));
            assert_eq!(found, (finds_good, finds_lost), "{selection:?}");
        }
    }

    fn term(spec: &str) -> Term {
        let (negated, spec) = spec.strip_prefix('!').map_or((false, spec), |rest| (true, rest));
        let field = match &spec[..1] {
            "I" => Field::QueueId,
            "R" => Field::Recipient,
            "S" => Field::Sender,
            _ => Field::Quarantine,
        };
        Term { field, negated, substring: spec[1..].to_owned() }
    }

    /// The message `ID 6AM5`, sender `Joe@a.example`, recipients as given.
    fn matches(terms: &str, held: Option<&str>) -> bool {
        let selection =
            Selection { terms: terms.split_whitespace().map(term).collect(), lost: false };
        selection.matches_parts("6AM5", "Joe@a.example", held, || {
            Box::new(["ann@B.example", "bob@c.example"].into_iter())
        })
    }

    #[test]
    fn combines_as_sendmail_does() {
        for (terms, expected) in [
            ("", true),
            ("I6A", true),
            ("I6a", false),
            ("Rann@b", true),
            ("Rnobody Rbob", true),
            ("Sjoe Rzz", false),
            ("SJOE RBOB", true),
            ("!Rann", true),
            ("!R.example", false),
            ("!I6A", false),
            ("Q", false),
        ] {
            assert_eq!(matches(terms, None), expected, "{terms}");
        }
        assert!(!matches("Rann", Some("spam")));
        assert!(matches("Qspam Rann", Some("spam")) && !matches("QSPAM", Some("spam")));
    }
}
