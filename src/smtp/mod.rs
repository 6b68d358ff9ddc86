//! The protocol: SMTP and LMTP as sans-IO machines. No socket, no clock, no policy.
//!
//! Bytes, times and answers come in as values, bytes and questions go out as values, so every state can be played in
//! a test. RFC 5321 with 1870, 2034, 2920, 3030 (without BINARYMIME), 3207, 3461, 6152 and 6531; LMTP is RFC 2033.
//!
//! | file | holds |
//! |---|---|
//! | [`codec`] | line ends and dots: what may stand between DATA and the final dot, both ways |
//! | [`reply`] | replies: written, and parsed bit by bit from a peer that is not trusted |
//! | [`command`] | command lines: verb and arguments |
//! | [`extension`] | what EHLO offers, and the parameters of MAIL and RCPT |
//! | [`server`] | a session as the server |
//! | [`client`] | a session as the client |

pub mod client;
pub mod codec;
pub mod command;
pub mod extension;
pub mod reply;
pub mod server;
