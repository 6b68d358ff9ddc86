//! The values of -q, all occurrences together: which messages, how often, how.

use std::time::Duration;

use super::{Pace, UsageError, wrong};
use crate::config::value::{self, Unit};
use crate::mail::selection::{Field, Selection, Term};

/// The wait of -qp without a time.
const CONTINUOUS_WAIT: Duration = Duration::from_secs(1);

/// What -q said, all occurrences together.
#[derive(Default)]
pub struct Queue {
    pub asked: bool,
    pub selection: Selection,
    pub pace: Option<Pace>,
    pub foreground: bool,
    pub lost: bool,
    group: bool,
}

impl Queue {
    pub fn parse<'a>(values: impl Iterator<Item = &'a str>) -> Result<Queue, UsageError> {
        let mut queue = Queue::default();
        for text in values {
            queue.asked = true;
            queue.add(text)?;
        }
        Ok(queue)
    }

    fn add(&mut self, text: &str) -> Result<(), UsageError> {
        let (negated, rest) = text.strip_prefix('!').map_or((false, text), |rest| (true, rest));
        let mut rest = rest.chars();
        let field = match rest.next() {
            Some('I') => Field::QueueId,
            Some('R') => Field::Recipient,
            Some('S') => Field::Sender,
            Some('Q') => Field::Quarantine,
            Some('G') if negated => return wrong("Can not use -q!G"),
            _ if negated => return wrong(format!("-q{text}: ! goes with I, R, S and Q")),
            Some('G') if self.group => return wrong("Can not use multiple -qG options"),
            // sendmail's name for its only group, when nobody made others.
            Some('G') if rest.as_str().trim() == "mqueue" => {
                self.group = true;
                return Ok(());
            }
            Some('G') => return wrong(format!("Queue group {} unknown", rest.as_str().trim())),
            Some('L') => {
                self.lost = true;
                return Ok(());
            }
            Some('f') if rest.as_str().is_empty() => {
                self.foreground = true;
                return Ok(());
            }
            Some('p') => {
                let wait = match rest.as_str() {
                    "" => CONTINUOUS_WAIT,
                    time => interval(time)?.unwrap_or(CONTINUOUS_WAIT),
                };
                self.pace = Some(Pace::Continuous(wait));
                return Ok(());
            }
            _ => {
                self.pace = interval(text)?.map(Pace::Every).or(self.pace);
                return Ok(());
            }
        };
        self.selection.terms.push(Term { field, negated, substring: rest.as_str().to_owned() });
        Ok(())
    }
}

/// A time in minutes; none for 0, which asks for one run.
fn interval(text: &str) -> Result<Option<Duration>, UsageError> {
    let text = if text.is_empty() { "0" } else { text };
    let length = value::time(text, Unit::Minutes);
    let length = length.map_err(|fault| UsageError::Wrong(fault.to_string()))?;
    Ok((!length.is_zero()).then_some(length))
}
