//! The flags: one table of sendmail's letters with their long names, from which the scan of the command line,
//! clap's command and `--help` are made; and the texts of `--help` and `--version`.

use clap::{Arg, ArgAction, Command};

use crate::config::options;

/// One flag.
pub struct Flag {
    /// sendmail's letter.
    pub letter: char,
    /// Its long name, which is ours.
    pub long: &'static str,
    /// What follows it.
    pub value: Value,
    /// What stands for it from then on.
    pub becomes: Becomes,
    /// What it does.
    pub help: &'static str,
}

/// What follows a flag.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Value {
    /// Nothing.
    None,
    /// A value, attached or as the next word.
    Required(&'static str),
    /// A value, attached, or the next word unless that is missing or begins with `-`.
    Optional(&'static str),
}

/// What a flag turns into before it is looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Becomes {
    /// Stays what it is.
    Itself,
    /// Another flag, by its long name.
    Flag(&'static str),
    /// An option, true or with the flag's value.
    Option(&'static str),
    /// Nothing: taken for the sake of old scripts.
    Nothing,
}

use Becomes::{Itself, Nothing};
use Value::{Optional, Required};

const fn flag(
    letter: char,
    long: &'static str,
    value: Value,
    becomes: Becomes,
    help: &'static str,
) -> Flag {
    Flag { letter, long, value, becomes, help }
}

/// All flags by subject.
#[rustfmt::skip]
pub static FLAGS: &[(&str, &[Flag])] = &[
    ("What to do", &[
        flag('b', "mode", Required("MODE"), Itself, "What to do, one letter: see Modes below"),
        flag('q', "queue", Optional("WHAT"), Itself, "Run the queue: see Queue runs below"),
        flag('Q', "quarantine", Optional("REASON"), Itself, "Hold the messages that -q selects for REASON; without REASON let them go"),
        flag('I', "initialize-aliases", Value::None, Itself, "Rebuild the aliases, as -bi"),
    ]),
    ("The message on standard input", &[
        flag('t', "read-recipients", Value::None, Itself, "Recipients also from To:, Cc: and Bcc:; Bcc: is taken out"),
        flag('f', "from", Required("ADDRESS"), Itself, "Envelope sender; an empty one is <>"),
        flag('r', "sender", Required("ADDRESS"), Becomes::Flag("from"), "As -f"),
        flag('F', "full-name", Required("NAME"), Itself, "Full name of the sender"),
        flag('i', "ignore-dots", Value::None, Becomes::Option("IgnoreDots"), "A line with a dot alone does not end the message"),
        flag('B', "body", Required("TYPE"), Itself, "7BIT or 8BITMIME"),
        flag('N', "notify", Required("WHEN"), Itself, "Reports wanted: never, or a list of success, failure, delay"),
        flag('R', "return", Required("WHAT"), Itself, "What a report brings back: full or hdrs"),
        flag('V', "envelope-id", Required("ID"), Itself, "Envelope identifier for reports, as xtext"),
        flag('U', "smtputf8", Value::None, Itself, "The message needs SMTPUTF8"),
        flag('h', "hops", Required("N"), Itself, "Hops so far; default the number of Received: lines"),
        flag('n', "no-aliases", Value::None, Itself, "No aliases and no .forward"),
        flag('G', "gateway", Value::None, Itself, "The message comes from elsewhere: nothing is added to its header"),
        flag('p', "protocol", Required("PROTO[:HOST]"), Itself, "How and from where it came"),
        flag('s', "save-from", Value::None, Becomes::Option("SaveFromLine"), "Keep a `From ` line before the header"),
        flag('e', "errors", Required("MODE"), Becomes::Option("ErrorMode"), "How failures are told: p(rint), q(uiet), m(ail), w(rite), e"),
    ]),
    ("Configuration", &[
        flag('C', "config", Optional("FILE"), Itself, "Read FILE instead of /etc/mail/kvmta.cf"),
        flag('O', "set", Required("NAME=VALUE"), Itself, "Set an option; --help=options lists all"),
        flag('o', "option", Required("XVALUE"), Itself, "Set the option with the letter X"),
        flag('M', "macro", Required("XVALUE"), Itself, "Define the macro X"),
        flag('A', "queue-kind", Required("c|m"), Nothing, "Accepted: there is one queue for submission and transport"),
    ]),
    ("Watching", &[
        flag('v', "verbose", Value::None, Becomes::Option("Verbose"), "Show what happens, deliver before returning, list more"),
        flag('X', "traffic-log", Required("FILE"), Itself, "Append everything sent and received to FILE"),
        flag('L', "log-tag", Required("TAG"), Itself, "Name of the program in the log"),
        flag('d', "debug", Optional("WHAT"), Itself, "Debugging; -d0.1 tells version and names"),
        flag('D', "debug-output", Required("FILE"), Itself, "Where debugging goes; before -d"),
    ]),
    ("Accepted for old scripts", &[
        flag('c', "hold-expensive", Value::None, Becomes::Option("HoldExpensive"), "As -oc"),
        flag('m', "me-too", Value::None, Becomes::Option("MeToo"), "As -om"),
        flag('T', "queue-timeout", Value::None, Nothing, "Nothing"),
    ]),
];

/// The modes of -b, by letter.
#[rustfmt::skip]
pub static MODES: &[(char, &str)] = &[
    ('m', "deliver the message on standard input (what happens without -b)"),
    ('d', "be the daemon, in the background; with -q15m also run the queue every 15 minutes"),
    ('D', "the same in the foreground, for systemd and the like"),
    ('l', "the same in the background, for this machine alone: it listens on loopback addresses"),
    ('s', "speak SMTP on standard input and output"),
    ('p', "list the queue, as mailq"),
    ('P', "print the number of queued messages"),
    ('v', "verify addresses, deliver nothing"),
    ('h', "print the status of other hosts, as hoststat"),
    ('H', "forget expired status of other hosts, as purgestat"),
    ('i', "rebuild the aliases, as newaliases"),
    ('C', "check the configuration"),
    ('O', "list the options with their values, and where each was set"),
    ('t', "test where addresses go, line by line"),
    ('a', "deliver, talking as in the ARPANET"),
];

#[rustfmt::skip]
static QUEUE_RUNS: &[(&str, &str)] = &[
    ("-q", "once, all that is queued, in the background; -qf or -v in the foreground"),
    ("-q15m", "every 15 minutes, as a daemon; with -bd in the same one"),
    ("-qp", "continuously"),
    ("-qIpart", "only messages whose queue ID has part in it"),
    ("-qRpart", "only messages with such a recipient"),
    ("-qSpart", "only messages with such a sender"),
    ("-qQ[part]", "only held messages, held for such a reason"),
    ("-q!Rpart", "! turns any of these round. Equal letters are or, different ones and"),
];

/// What to print.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Topic {
    /// Flags, modes, queue runs.
    Summary,
    /// Every option.
    Options,
}

/// The text of `--help`, with a line end.
pub fn text(topic: Topic) -> String {
    match topic {
        Topic::Summary => command().render_help().to_string(),
        Topic::Options => options::manual(),
    }
}

/// `kvmta 0.1.0 ...`, with a line end.
pub fn version() -> String {
    format!("kvmta {} (sendmail's commands, a transactional queue)\n", env!("CARGO_PKG_VERSION"))
}

/// Every flag.
pub fn flags() -> impl Iterator<Item = &'static Flag> {
    FLAGS.iter().flat_map(|(_, flags)| flags.iter())
}

/// clap's form of the table. It is given long options only: [`super::argv`] turns the letters into those.
pub fn command() -> Command {
    let mut command = Command::new("kvmta")
        .about("Sends, receives and queues mail, as sendmail does")
        .override_usage("kvmta [FLAGS] [RECIPIENT]...\n       mailq | newaliases | hoststat | purgestat | smtpd | mailstats | runq  [FLAGS]")
        .disable_help_flag(true)
        .disable_version_flag(true)
        .after_help(lists())
        .arg(Arg::new("recipients").value_name("RECIPIENT").action(ArgAction::Append).num_args(0..).help("Addresses to send to; flags end at the first one, or at --"))
        .arg(Arg::new("help").long("help").value_name("TOPIC").num_args(0..=1).require_equals(true).default_missing_value("summary").value_parser(["summary", "options"]).help("Print this, or with =options all options"))
        .arg(Arg::new("version").long("version").action(ArgAction::SetTrue).help("Print the version"));
    for (heading, flags) in FLAGS {
        for flag in *flags {
            let arg = Arg::new(flag.long).long(flag.long).short(flag.letter).help(flag.help);
            let arg = match flag.value {
                Value::None => arg.action(ArgAction::SetTrue).overrides_with(flag.long),
                Required(name) => arg.action(ArgAction::Append).value_name(name).num_args(1),
                Optional(name) => arg
                    .action(ArgAction::Append)
                    .value_name(name)
                    .num_args(0..=1)
                    .require_equals(true),
            };
            command = command.arg(arg.help_heading(*heading));
        }
    }
    command
}

fn lists() -> String {
    let mut text = String::from("Modes:\n");
    for (letter, help) in MODES {
        text.push_str(&format!("  -b{letter}        {help}\n"));
    }
    text.push_str("\nQueue runs:\n");
    for (form, help) in QUEUE_RUNS {
        text.push_str(&format!("  {form:<10} {help}\n"));
    }
    text.push_str(
        "\nA first try, by anybody, touching nothing of the system's mail:\n  \
         kvmta -O QueueDirectory=/tmp/q -bd -q15m     a daemon on 127.0.0.1 port 2525\n  \
         kvmta -O QueueDirectory=/tmp/q you@example.com < message\n  \
         kvmta -O QueueDirectory=/tmp/q -bp\n",
    );
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_table_is_sound_and_clap_takes_it() {
        command().debug_assert();
        let mut letters = BTreeSet::new();
        for flag in flags() {
            assert!(letters.insert(flag.letter), "-{} twice", flag.letter);
            if let Becomes::Option(name) = flag.becomes {
                assert!(options::find(name).is_ok_and(|(_, short)| !short), "{name}");
            }
            if let Becomes::Flag(long) = flag.becomes {
                assert!(flags().any(|other| other.long == long), "{long}");
            }
        }
        // The letters of sendmail 8.18.
        let sendmail = "ABbCcDdeFfGhIiLMmNnOopQqRrsTtUVvX";
        assert_eq!(letters, sendmail.chars().collect());
    }

    #[test]
    fn help_names_every_flag_and_mode() {
        let text = text(Topic::Summary);
        for flag in flags() {
            assert!(
                text.contains(&format!("-{}, --{}", flag.letter, flag.long)),
                "-{}",
                flag.letter
            );
        }
        for (letter, _) in MODES {
            assert!(text.contains(&format!("  -b{letter} ")), "-b{letter}");
        }
        assert!(version().starts_with("kvmta 0."));
    }
}
