//! The nouns: what the stations hand to each other.
//!
//! Plain data with parsing and printing. No I/O, no clock, no randomness, and no dependency on any other
//! folder of the crate: everything else may name these types, they name nothing.

pub mod address;
pub mod address_list;
pub mod envelope;
pub mod filter;
pub mod header;
pub mod history;
pub mod job;
pub mod loading;
pub mod mime;
pub mod outcome;
pub mod queue_id;
pub mod selection;
pub mod statistics;
pub mod status;
pub mod status_file;
pub mod submission;
pub mod time;
pub mod verdict;
