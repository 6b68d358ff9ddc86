//! Reading of `tests/golden/*.txt`: what the real sendmail printed, command by command.

/// What `command` printed in a golden file, without what Debian's mailq and mailstats say of the submission queue.
pub fn printed(golden: &str, command: &str) -> String {
    let start = format!("$ {command}\n");
    let (_, text) = golden.split_once(&start).expect("the file has the command");
    let (text, _) = text.split_once("[exit").expect("every command has a status");
    let after = ["MTA Queue status...\n", "MTA statistics...\n"];
    let after = after.iter().find_map(|mark| text.split_once(mark));
    after.map_or(text, |(_, text)| text).to_owned()
}

/// The exit status of `command` in a golden file.
pub fn exit(golden: &str, command: &str) -> u8 {
    let start = format!("$ {command}\n");
    let (_, text) = golden.split_once(&start).expect("the file has the command");
    let (_, status) = text.split_once("[exit ").expect("every command has a status");
    status.split(']').next().and_then(|code| code.parse().ok()).expect("a number")
}
