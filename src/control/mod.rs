//! The Unix socket between the personalities and a running daemon: `control` in QueueDirectory.
//!
//! redb files have one process; whoever holds the store answers here, everybody else asks. The socket is 0666 in a
//! directory that others may only search: who asks is known from the peer credentials of the connection, what he may do
//! is decided in [`server`]. Garbage on a connection ends that connection and nothing else.

pub mod client;
mod operate;
pub mod orders;
pub mod proto;
pub mod server;
