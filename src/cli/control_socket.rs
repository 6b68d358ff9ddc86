//! ControlSocketName in the life of a daemon: opened while there is the right to, answered at by [`orders`], gone before it stops.
//!
//! A daemon does without it when it cannot be made, as sendmail's does, and says so in the log. A reload keeps it: its name is read at
//! the start alone. After a crash the file stays, and the next daemon replaces it.

use std::io;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;

use nix::unistd::User;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::daemon::Daemon;
use super::house::Running;
use crate::config::Config;
use crate::control::client;
use crate::control::orders::{self, Office, Order};
use crate::maillog::Maillog;

/// It is there, and nobody answers yet.
pub struct ControlSocket {
    name: Name,
    listener: UnixListener,
}

/// It is answered at; no longer when this is dropped.
pub struct ControlServed {
    _name: Name,
    task: JoinHandle<()>,
}

/// The file, which goes with this.
struct Name(PathBuf);

impl ControlSocket {
    /// For whom the daemon `becomes`, or TrustedUser where it stays root.
    pub fn open(
        config: &Config,
        becomes: Option<&User>,
        maillog: &Maillog,
    ) -> Option<ControlSocket> {
        let path = config.queue_directory.join(config.control_socket.as_ref()?);
        let bound = match path == config.queue_directory.join(client::SOCKET) {
            true => Err(io::Error::other("the socket of our own commands has that name")),
            false => orders::bind(&path, owner(config, becomes)),
        };
        match bound {
            Ok(listener) => Some(ControlSocket { name: Name(path), listener }),
            Err(error) => {
                let path = path.display();
                let text = format!("daemon could not open control socket {path}: {error}");
                maillog.warning(None, &text);
                None
            }
        }
    }

    /// Begins to answer; what is ordered goes to `orders`.
    pub fn serve(
        self,
        running: &Running,
        daemon: &Daemon,
        orders: mpsc::Sender<Order>,
    ) -> ControlServed {
        let ControlSocket { name, listener } = self;
        let office = Office {
            houses: running.houses(),
            sessions: running.sessions().clone(),
            listens: daemon.listens,
            orders,
        };
        let maillog = running.house.maillog.clone();
        let task = tokio::spawn(async move {
            if let Err(error) = orders::serve(listener, office).await {
                maillog.warning(None, &format!("ControlSocketName: {error}"));
            }
        });
        ControlServed { _name: name, task }
    }
}

impl Drop for ControlServed {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Drop for Name {
    fn drop(&mut self) {
        // The directory may not be ours any more; the next daemon replaces what is left.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Whose the file is to be, when only root can give it away. A TrustedUser who does not exist is nobody.
fn owner(config: &Config, becomes: Option<&User>) -> Option<u32> {
    if !nix::unistd::geteuid().is_root() {
        return None;
    }
    let trusted = || User::from_name(config.trusted_user.as_deref()?).ok().flatten();
    Some(becomes.cloned().or_else(trusted)?.uid.as_raw())
}
