//! What peers, operators and the disk can see, in one binary.

mod client_dialogue;
mod command;
mod dialogue;
mod dns;
mod fake;
mod install;
mod load;
mod machine;
mod mime;
mod route;
mod server_properties;
mod session;
mod submit;
mod tidy;
mod tls;
mod walk;
