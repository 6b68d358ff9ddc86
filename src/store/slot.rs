//! A late-bound unit that brings something back: the function runs in the writer's thread, on the state at its place in
//! the group, and what its last call yielded waits here for whoever submitted it.

use std::sync::{Arc, Mutex, PoisonError};

use super::StoreError;
use super::engine::{Applied, Batch, EngineError, Read};
use super::writer::{Class, Unit, Writer};

/// What a late-bound unit brings back.
pub struct Slot<T>(Arc<Mutex<Option<Result<T, StoreError>>>>);

impl<T> Clone for Slot<T> {
    fn clone(&self) -> Slot<T> {
        Slot(Arc::clone(&self.0))
    }
}

impl<T: Send + 'static> Slot<T> {
    /// An empty one.
    pub fn new() -> Slot<T> {
        Slot(Arc::new(Mutex::new(None)))
    }

    /// The unit that fills it; it holds about `bytes` octets.
    pub fn unit(
        &self,
        bytes: usize,
        mut work: impl FnMut(&dyn Read) -> Result<(Batch, T), StoreError> + Send + 'static,
    ) -> Unit {
        let slot = Arc::clone(&self.0);
        let late = move |read: &dyn Read| {
            // The true error goes to the caller; the engine needs to know only that this unit changes nothing.
            let (batch, result) = match work(read) {
                Ok((batch, value)) => (Ok(batch), Ok(value)),
                Err(error) => (Err(EngineError::Refused(error.to_string())), Err(error)),
            };
            *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
            batch
        };
        Unit::late(bytes, Box::new(late))
    }

    /// What the unit brought back, given what the writer answered.
    ///
    /// # Errors
    /// The unit's own, else the writer's.
    pub fn take(&self, answer: Result<Applied, StoreError>) -> Result<T, StoreError> {
        let result = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        match (answer, result) {
            (Ok(Applied::Committed), Some(result)) => result,
            (Err(_), Some(Err(own))) => Err(own),
            (Err(error), _) => Err(error),
            (Ok(Applied::Conflict(check)), _) => {
                Err(StoreError::Unavailable(format!("check {check} of a batch did not hold")))
            }
            (Ok(Applied::Committed), None) => {
                Err(StoreError::Unavailable("a unit was committed without being run".into()))
            }
        }
    }
}

impl Writer {
    /// Runs `work` on the present state in the writer's thread and commits its batch; resolves when that is durable.
    ///
    /// # Errors
    /// Of `work`, or of the writer.
    pub async fn apply<T: Send + 'static>(
        &self,
        class: Class,
        bytes: usize,
        work: impl FnMut(&dyn Read) -> Result<(Batch, T), StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let slot = Slot::new();
        let answer = self.submit(class, slot.unit(bytes, work)).await;
        slot.take(answer)
    }
}
