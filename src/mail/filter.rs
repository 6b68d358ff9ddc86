//! What an operator picks messages by: conditions that all must hold, each of which may be negated.
//!
//! Pure: the same entry, jobs and time give the same answer. A condition on recipients, status or destination holds when **some**
//! open recipient or job meets it, so negated it says that none does (unlike sendmail's `-q!R`, see `selection.rs`).
//! The jobs of a long list come one after another ([`Look`]), so a list of any length is judged in the memory of one job.

use std::time::Duration;

use super::envelope::{Recipient, RecipientState};
use super::history::{Event, What};
use super::job::{Entry, EntryJob};
use super::queue_id::QueueId;
use super::time::Timestamp;

/// Conditions of one filter at most: nobody types more.
pub const CONDITIONS_MAX: usize = 100;
/// Queue IDs of one filter at most: some pages of a listing, far below a frame of the control socket.
pub const IDS_MAX: usize = 1_000;

/// Which messages an operator means. All conditions must hold; without any, every message does.
#[derive(Clone, PartialEq, Eq, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct Filter {
    /// Only these messages, in this order; none given: all of the queue.
    pub ids: Vec<QueueId>,
    /// At most [`CONDITIONS_MAX`].
    pub conditions: Vec<Condition>,
}

/// One condition.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub struct Condition {
    /// It must not hold.
    pub negated: bool,
    /// What is looked at.
    pub test: Test,
}

/// What a condition looks at.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub enum Test {
    /// The reverse-path; the null one is `<>`.
    Sender(Pattern),
    /// Some open recipient.
    Recipient(Pattern),
    /// The domain of some open recipient.
    Domain(DomainPattern),
    /// Accepted longer ago than this.
    Older(Duration),
    /// Accepted less long ago than this.
    Younger(Duration),
    /// More octets than this, header included.
    Larger(u64),
    /// Fewer octets than this.
    Smaller(u64),
    /// The status of some open recipient, job or destination, as a listing shows it.
    Status(Pattern),
    /// Why it is held.
    Reason(Pattern),
    /// The next hop of some open job, as a whole.
    Destination(Pattern),
    /// Held, deferred or incoming.
    State(State),
    /// Submitted by this local user at the command line.
    Submitter(String),
}

/// Where a message stands. It is in exactly one of these.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub enum State {
    /// Set aside, with a reason.
    Held,
    /// Something was tried, or its destination does not answer.
    Deferred,
    /// Not tried yet.
    Incoming,
}

impl State {
    /// `held`, `deferred`, `incoming`
    pub fn name(self) -> &'static str {
        match self {
            State::Held => "held",
            State::Deferred => "deferred",
            State::Incoming => "incoming",
        }
    }
}

/// A text to compare with, without regard to case.
///
/// | written | matches |
/// |---|---|
/// | `*` or `?` in it | the whole text: `*` stands for any characters, `?` for one |
/// | `joe@x.example` | exactly that |
/// | `joe@` | what begins so |
/// | `@x.example` | what ends so |
/// | anything else | what has it anywhere in it |
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub struct Pattern {
    text: String,
    form: Form,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
enum Form {
    Whole,
    Wild,
    Start,
    End,
    Anywhere,
}

/// The text is empty, so it would match everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an empty text would match every message; leave the selection out to mean that")]
pub struct EmptyPattern;

impl Pattern {
    /// For addresses: what stands on which side of the `@` matters.
    ///
    /// # Errors
    /// [`EmptyPattern`]
    pub fn address(text: &str) -> Result<Pattern, EmptyPattern> {
        let form = match (text.starts_with('@'), text.ends_with('@'), text.contains('@')) {
            _ if is_wild(text) => Form::Wild,
            _ if text == "<>" => Form::Whole,
            (true, true, _) => Form::Anywhere,
            (true, false, _) => Form::End,
            (false, true, _) => Form::Start,
            (false, false, true) => Form::Whole,
            (false, false, false) => Form::Anywhere,
        };
        Pattern::new(text, form)
    }

    /// For texts: anywhere, unless it has `*` or `?`.
    ///
    /// # Errors
    /// [`EmptyPattern`]
    pub fn text(text: &str) -> Result<Pattern, EmptyPattern> {
        Pattern::new(text, if is_wild(text) { Form::Wild } else { Form::Anywhere })
    }

    /// For names: the whole of it.
    ///
    /// # Errors
    /// [`EmptyPattern`]
    pub fn name(text: &str) -> Result<Pattern, EmptyPattern> {
        Pattern::new(text, if is_wild(text) { Form::Wild } else { Form::Whole })
    }

    fn new(text: &str, form: Form) -> Result<Pattern, EmptyPattern> {
        if text.is_empty() {
            return Err(EmptyPattern);
        }
        Ok(Pattern { text: text.to_lowercase(), form })
    }

    /// Whether it matches.
    pub fn matches(&self, text: &str) -> bool {
        let text = text.to_lowercase();
        match self.form {
            Form::Whole => text == self.text,
            Form::Wild => wild(self.text.as_bytes(), text.as_bytes()),
            Form::Start => text.starts_with(&self.text),
            Form::End => text.ends_with(&self.text),
            Form::Anywhere => text.contains(&self.text),
        }
    }
}

fn is_wild(text: &str) -> bool {
    text.contains(['*', '?'])
}

/// Goes back to the last `*` alone, so the cost is the product of the lengths at most, whatever the pattern.
fn wild(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t, mut star) = (0, 0, None);
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(c) if *c == b'?' || *c == text[t] => {
                p += 1;
                t += 1;
            }
            _ => {
                let Some((star_p, star_t)) = star else { return false };
                star = Some((star_p, star_t + 1));
                p = star_p + 1;
                t = star_t + 1;
            }
        }
    }
    pattern[p..].iter().all(|c| *c == b'*')
}

/// `x.example`: that domain; `.x.example`: every domain below it; with `*` or `?` as in [`Pattern`].
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub struct DomainPattern(Pattern);

impl DomainPattern {
    /// A leading `@` is left out.
    ///
    /// # Errors
    /// [`EmptyPattern`]
    pub fn new(text: &str) -> Result<DomainPattern, EmptyPattern> {
        let text = text.strip_prefix('@').unwrap_or(text);
        let form = match text {
            _ if is_wild(text) => Form::Wild,
            _ if text.starts_with('.') => Form::End,
            _ => Form::Whole,
        };
        Pattern::new(text, form).map(DomainPattern)
    }

    fn matches(&self, address: &str) -> bool {
        address.rsplit_once('@').is_some_and(|(_, domain)| self.0.matches(domain))
    }
}

impl Filter {
    /// Whether nothing is asked for: every message is meant.
    pub fn is_everything(&self) -> bool {
        self.ids.is_empty() && self.conditions.is_empty()
    }

    /// Starts to look at a message at `now`. The jobs that stand in the entry are looked at; those of a long list are still to be
    /// shown to [`Look::job`].
    pub fn look<'a>(&'a self, entry: &'a Entry, now: Timestamp) -> Look<'a> {
        let mut look = Look {
            filter: self,
            entry,
            now,
            met: vec![false; self.conditions.len()],
            tried: false,
        };
        entry.jobs.iter().for_each(|job| look.job(job));
        look
    }

    /// Whether the history of a message meets the conditions: those that a history can tell of. Its events in order.
    pub fn matches_history(&self, id: QueueId, events: &[Event], now: Timestamp) -> bool {
        let holds = |test: &Test| events.iter().any(|event| in_event(test, id, event, now));
        (self.ids.is_empty() || self.ids.contains(&id))
            && self.conditions.iter().all(|condition| holds(&condition.test) != condition.negated)
    }
}

/// Whether one event meets a condition. What no event can tell is met by none.
fn in_event(test: &Test, id: QueueId, event: &Event, now: Timestamp) -> bool {
    match (test, &event.what) {
        (Test::Older(age), _) => now.since(id.time()) > *age,
        (Test::Younger(age), _) => now.since(id.time()) < *age,
        (Test::Sender(pattern), What::Accepted { sender, .. }) => pattern.matches(shown(sender)),
        (Test::Larger(octets), What::Accepted { size, .. }) => size > octets,
        (Test::Smaller(octets), What::Accepted { size, .. }) => size < octets,
        (Test::Recipient(pattern), What::Attempted { recipients, .. }) => {
            recipients.iter().any(|recipient| pattern.matches(recipient))
        }
        (Test::Domain(pattern), What::Attempted { recipients, .. }) => {
            recipients.iter().any(|recipient| pattern.matches(recipient))
        }
        (Test::Status(pattern), What::Attempted { text, .. }) => pattern.matches(text),
        (Test::Destination(pattern), What::Attempted { destination, .. }) => {
            pattern.matches(destination)
        }
        (Test::Reason(pattern), What::Held { reason }) => pattern.matches(reason),
        _ => false,
    }
}

/// A sender as patterns see it.
fn shown(sender: &str) -> &str {
    if sender.is_empty() { "<>" } else { sender }
}

/// A message being looked at.
pub struct Look<'a> {
    filter: &'a Filter,
    entry: &'a Entry,
    now: Timestamp,
    /// By the place of the condition: some job met it.
    met: Vec<bool>,
    /// Something was tried, or its destination does not answer.
    tried: bool,
}

impl Look<'_> {
    /// Whether the jobs of a long list matter: if not, they need not be read.
    pub fn needs_jobs(&self) -> bool {
        self.filter.conditions.iter().any(|condition| {
            matches!(
                condition.test,
                Test::Recipient(_)
                    | Test::Domain(_)
                    | Test::Status(_)
                    | Test::Destination(_)
                    | Test::State(State::Deferred | State::Incoming)
            )
        })
    }

    /// Looks at one job.
    pub fn job(&mut self, job: &EntryJob) {
        let open = || job.recipients.iter().filter(|recipient| recipient.state.is_open());
        if open().next().is_none() {
            return;
        }
        self.tried |= job.attempts > 0 || job.status.is_some();
        for (met, condition) in self.met.iter_mut().zip(&self.filter.conditions) {
            *met = *met
                || match &condition.test {
                    Test::Recipient(pattern) => open().any(|r| pattern.matches(r.address.as_str())),
                    Test::Domain(pattern) => open().any(|r| pattern.matches(r.address.as_str())),
                    Test::Destination(pattern) => pattern.matches(&job.destination.next_hop),
                    Test::Status(pattern) => {
                        job.status.as_deref().is_some_and(|status| pattern.matches(status))
                            || open().any(|recipient| own_status(pattern, recipient))
                    }
                    _ => false,
                };
        }
    }

    /// The state, as far as its jobs were looked at.
    pub fn state(&self) -> State {
        match (&self.entry.held, self.tried) {
            (Some(_), _) => State::Held,
            (None, true) => State::Deferred,
            (None, false) => State::Incoming,
        }
    }

    /// Whether the message is meant, when all its jobs were looked at.
    pub fn matches(&self) -> bool {
        let conditions = self.filter.conditions.iter().zip(&self.met);
        conditions
            .into_iter()
            .all(|(condition, met)| self.holds(&condition.test, *met) != condition.negated)
    }

    fn holds(&self, test: &Test, met: bool) -> bool {
        let envelope = &self.entry.envelope;
        let age = self.now.since(envelope.arrival);
        match test {
            Test::Sender(pattern) => {
                let sender = envelope.reverse_path.mailbox().map_or("", |address| address.as_str());
                pattern.matches(shown(sender))
            }
            Test::Older(than) => age > *than,
            Test::Younger(than) => age < *than,
            Test::Larger(than) => envelope.size > *than,
            Test::Smaller(than) => envelope.size < *than,
            Test::Reason(pattern) => {
                self.entry.held.as_deref().is_some_and(|reason| pattern.matches(reason))
            }
            Test::State(state) => self.state() == *state,
            Test::Submitter(name) => {
                envelope.protocol.is_empty()
                    && envelope.relay.strip_suffix("@localhost") == Some(name.as_str())
            }
            Test::Recipient(_) | Test::Domain(_) | Test::Status(_) | Test::Destination(_) => met,
        }
    }
}

fn own_status(pattern: &Pattern, recipient: &Recipient) -> bool {
    matches!(&recipient.state, RecipientState::Open(Some(report)) if pattern.matches(&report.text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_say_what_they_match() {
        let rows = [
            ("joe@x.example", "Joe@X.example", true),
            ("joe@x.example", "joe@x.example.net", false),
            ("joe@", "joe@anywhere", true),
            ("joe@", "ajoe@anywhere", false),
            ("@x.example", "a@x.example", true),
            ("@x.example", "a@y.x.example", false),
            ("joe", "a.joe.b@x", true),
            ("<>", "<>", true),
            ("*@*.example", "a@b.example", true),
            ("*@*.example", "a@b.example.net", false),
            ("?@b", "a@b", true),
            ("?@b", "aa@b", false),
            ("*", "", true),
            ("**a*", "ba", true),
        ];
        for (pattern, text, expected) in rows {
            assert_eq!(
                Pattern::address(pattern).unwrap().matches(text),
                expected,
                "{pattern} {text}"
            );
        }
        let domains = [
            ("b.example", "a@b.example", true),
            ("b.example", "a@c.b.example", false),
            (".b.example", "a@c.b.example", true),
            (".b.example", "a@b.example", false),
            ("@B.example", "a@b.example", true),
            ("b*", "a@b.example", true),
            ("b.example", "local", false),
        ];
        for (pattern, text, expected) in domains {
            assert_eq!(
                DomainPattern::new(pattern).unwrap().matches(text),
                expected,
                "{pattern} {text}"
            );
        }
        assert!(Pattern::text("").is_err() && DomainPattern::new("@").is_err());
    }

    #[test]
    fn a_hostile_pattern_costs_the_product_of_the_lengths() {
        let pattern = Pattern::text(&"*a".repeat(2_000)).unwrap();
        assert!(!pattern.matches(&"a".repeat(1_999)));
    }
}
