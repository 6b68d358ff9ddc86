//! What stands outside our doors in these tests and speaks real bytes.

pub mod name_server;
