//! `-ba`: a submission that is answered as a server would answer, each line a reply on standard output with CRLF.
//!
//! `550 5.1.1 nosuch... User unknown`; with -v what happens is 050. Pure.

use super::exit::Exit;

/// The replies for a refusal of one or more lines.
pub fn refusal(text: &str, exit: Exit) -> String {
    text.lines().map(|line| format!("{} {line}\r\n", code(line, exit))).collect()
}

/// A line of the dialogue.
pub fn progress(line: &str) -> String {
    format!("050 {line}\r\n")
}

/// What was wrong with the command line: no extended code, as in sendmail.
pub fn usage(text: &str) -> String {
    format!("550 {text}\r\n")
}

/// One exit status stands for all lines of a refusal, so what a line says of its address goes first.
fn code(line: &str, exit: Exit) -> &'static str {
    match exit {
        _ if line.ends_with("... User unknown") => "550 5.1.1",
        Exit::NoUser | Exit::Usage => "553 5.1.3",
        Exit::NoHost => "550 5.1.2",
        Exit::DataErr => "554 5.6.0",
        Exit::Unavailable => "554 5.4.6",
        Exit::TempFail => "451 4.3.0",
        // No recipient at all: sendmail has no extended code for it.
        Exit::Ok => "550",
        _ => "554 5.3.0",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::golden;

    const GOLDEN: &str = include_str!("../../tests/golden/ba.txt");

    #[test]
    fn answers_as_sendmail_does() {
        for (command, said) in [
            ("sendmail -ba -odi nosuch", refusal("nosuch... User unknown", Exit::NoUser)),
            ("sendmail -ba -odq a@", refusal("a@... Hostname required", Exit::Usage)),
            ("sendmail -ba", usage("Recipient names must be specified")),
            (
                "sendmail -ba -odi -v ok@x.example",
                [
                    "ok@x.example... Connecting to [127.0.0.1] port 2999 via relay...",
                    "ok@x.example... Deferred: Connection refused by [127.0.0.1]",
                ]
                .map(progress)
                .concat(),
            ),
        ] {
            assert_eq!(said.replace('\r', "^M"), golden::printed(GOLDEN, command), "{command}");
        }
        let mixed = refusal("a@... Hostname required\nnosuch... User unknown", Exit::Usage);
        assert_eq!(
            mixed,
            "553 5.1.3 a@... Hostname required\r\n550 5.1.1 nosuch... User unknown\r\n"
        );
        assert_eq!(
            refusal("No recipient addresses found in header", Exit::Ok),
            "550 No recipient addresses found in header\r\n"
        );
    }
}
