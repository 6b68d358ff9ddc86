//! What a supervisor (systemd) is told: started, reloading, stopping, alive (sd_notify(3)).
//!
//! Without one, which means without NOTIFY_SOCKET in the environment, nothing is done. That it could not be told is worth a line in
//! the log and nothing more: mail goes on.

use std::io;
use std::time::Duration;

use sd_notify::NotifyState;

/// What the supervisor is to know.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// Mail is taken; also the end of [`State::Reloading`].
    Ready,
    /// The configuration is being read again.
    Reloading,
    /// On the way out.
    Stopping,
    /// Still here: to be said within [`watchdog`].
    Alive,
}

/// Tells it.
///
/// # Errors
/// The socket is not there or not ours to write to.
pub fn tell(state: State) -> io::Result<()> {
    match state {
        State::Ready => sd_notify::notify(&[NotifyState::Ready]),
        State::Reloading => {
            sd_notify::notify(&[NotifyState::Reloading, NotifyState::monotonic_usec_now()?])
        }
        State::Stopping => sd_notify::notify(&[NotifyState::Stopping]),
        State::Alive => sd_notify::notify(&[NotifyState::Watchdog]),
    }
}

/// How often to say [`State::Alive`]: twice as often as it must be. None when nobody waits for it.
pub fn watchdog() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|within| within / 2).filter(|every| !every.is_zero())
}
