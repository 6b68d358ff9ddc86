//! What the sendmail command line says of a message: the noun that the command hands to the daemon.

use super::envelope::{BodyType, Notify, Ret};

/// One message from a local program, but for its bytes. Addresses are as typed; who takes it parses them.
#[derive(Clone, PartialEq, Eq, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct Submission {
    /// Recipients named on the command line.
    pub recipients: Vec<String>,
    /// `-t`: also those of To:, Cc: and Bcc:.
    pub from_header: bool,
    /// `-f`, `-r`: reverse-path; an empty text is `<>`.
    pub sender: Option<String>,
    /// `-ba`: the reverse-path is whom Sender: or From: names, when one does.
    pub arpanet: bool,
    /// `-F`: full name of the sender.
    pub full_name: Option<String>,
    /// `-B`
    pub body_type: Option<BodyType>,
    /// `-N`
    pub notify: Option<Notify>,
    /// `-R`
    pub ret: Option<Ret>,
    /// `-V`, xtext
    pub envid: Option<String>,
    /// `-h`: hops so far; else Received lines are counted.
    pub hops: Option<u32>,
    /// `-U`: needs SMTPUTF8.
    pub smtputf8: bool,
    /// `-n`: no aliases.
    pub no_aliases: bool,
    /// `-G`: relayed by a gateway, so the header is left as it is.
    pub gateway: bool,
    /// `-odq`, `-odd`: only queue it.
    pub queue_only: bool,
    /// `-C`: the file the command was run with, if it was named.
    pub config_file: Option<String>,
    /// `-oQ`: the queue the command was run with, if it was named.
    pub queue_directory: Option<String>,
}

/// A refusal of a submission: what the command prints, and its exit status (sysexits).
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize, thiserror::Error)]
#[error("{text}")]
pub struct SubmissionRefused {
    /// For standard error; a line for each thing that is wrong.
    pub text: String,
    /// 64, 65, 67, 69, 75...
    pub exit: u8,
}
