//! Who watches an attempt: the callers of `-v`, and the lines they see.
//!
//! Where several attempts of a run go on at a time, the lines of each are shown as one block when it ends: dialogues that
//! interleave tell nobody anything. One that does not keep up misses lines; an attempt never waits for its audience.

use std::sync::{Mutex, PoisonError};

use tokio::sync::mpsc;

use super::run::Progress;

/// The listeners of one attempt. What is held back is shown when it is dropped, however the attempt ended.
#[derive(Debug, Default)]
pub(super) struct Audience {
    listeners: Vec<mpsc::Sender<Progress>>,
    /// The lines so far, when they are shown together.
    block: Option<Mutex<Vec<String>>>,
}

impl Audience {
    /// `together` when other attempts of the same run may go on meanwhile.
    pub(super) fn new(listeners: Vec<mpsc::Sender<Progress>>, together: bool) -> Audience {
        Audience { listeners, block: together.then(Mutex::default) }
    }

    /// Whether there is nobody to show anything to.
    pub(super) fn is_empty(&self) -> bool {
        self.listeners.is_empty()
    }

    /// Shows a line.
    pub(super) fn say(&self, line: &str) {
        if self.is_empty() {
            return;
        }
        match &self.block {
            Some(block) => {
                block.lock().unwrap_or_else(PoisonError::into_inner).push(line.to_owned());
            }
            None => self.show(line.to_owned()),
        }
    }

    fn show(&self, line: String) {
        // A place stays free for the last word.
        for listener in self.listeners.iter().filter(|listener| listener.capacity() > 1) {
            let _ = listener.try_send(Progress::Line(line.clone()));
        }
    }
}

impl Drop for Audience {
    fn drop(&mut self) {
        if let Some(block) = self.block.take() {
            for line in block.into_inner().unwrap_or_else(PoisonError::into_inner) {
                self.show(line);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_do_not_interleave_and_a_place_stays_free() {
        let (sender, mut lines) = mpsc::channel(5);
        let one = Audience::new(vec![sender.clone()], true);
        let other = Audience::new(vec![sender], true);
        for line in ["a", "b"] {
            one.say(line);
            other.say(&line.to_uppercase());
        }
        drop(other);
        one.say("c");
        drop(one);
        let mut seen = String::new();
        while let Ok(Progress::Line(line)) = lines.try_recv() {
            seen.push_str(&line);
        }
        assert_eq!(seen, "ABab", "the third line would have taken the last place");
    }

    #[test]
    fn alone_it_is_live() {
        let (sender, mut lines) = mpsc::channel(5);
        let audience = Audience::new(vec![sender], false);
        audience.say("a");
        assert_eq!(lines.try_recv(), Ok(Progress::Line("a".into())));
    }
}
