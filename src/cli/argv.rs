//! The command line of sendmail, turned into a typed [`Invocation`].
//!
//! First a scan by sendmail's rules: letters may be bundled (`-ti`), values may be attached or the next word, flags
//! end at the first operand or at `--`, and a bare -q, -d, -C or -Q whose next word is missing or begins with `-`
//! stands for `-q0`, `-d0-99.1`, the default file, "let go". The scan writes everything as long options, which
//! clap checks; what clap found becomes the invocation, whose mode owns exactly what is valid in it. Long options
//! (`--from=a@b`) may be typed as well.
//!
//! Pure: reads nothing, prints nothing. The texts of errors are sendmail's.

mod queue;
mod words;

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::ArgMatches;

use self::queue::Queue;
use self::words::{envid, hops, log_tag, macro_of, notify, one_line, ret};
use super::help::{self, Becomes, Flag, Topic, Value};
use crate::config::raw::Setting;
use crate::config::value;
use crate::mail::envelope::BodyType;
use crate::mail::selection::Selection;
use crate::mail::submission::Submission;

/// What the caller wants.
#[derive(Clone, PartialEq, Debug)]
pub struct Invocation {
    /// Last part of argv[0], for messages.
    pub program: String,
    /// What to do.
    pub mode: Mode,
    /// -C
    pub config_file: Option<PathBuf>,
    /// -O, -o and the flags that are options (-i -v -e -s -c -m), in order.
    pub options: Vec<Setting>,
    /// -M and -p: names and texts of macros.
    pub macros: Vec<(String, String)>,
    /// -L
    pub log_tag: Option<String>,
    /// -X
    pub traffic_log: Option<PathBuf>,
    /// -d
    pub debug: Option<String>,
    /// -D
    pub debug_output: Option<PathBuf>,
    /// To be said on standard error before anything else.
    pub notices: Vec<String>,
}

/// What to do, with what belongs to it.
#[derive(Clone, PartialEq, Debug)]
pub enum Mode {
    /// -bm: deliver the message on standard input.
    Submit(Submission),
    /// -ba
    Arpanet(Submission),
    /// -bs: SMTP on standard input and output.
    Smtp,
    /// -bd, -bD, -bl
    Daemon {
        /// -bD
        foreground: bool,
        /// -bl: it takes mail from this machine alone.
        local: bool,
        /// -q15m, -qp: how it runs the queue.
        pace: Option<Pace>,
        /// A bare -q beside it: run the queue once at the start.
        run_now: bool,
    },
    /// -q15m without -bd: a daemon that listens nowhere.
    QueueDaemon(Pace),
    /// -q: one run.
    RunQueue {
        /// -qI -qR -qS -qQ
        selection: Selection,
        /// -qf
        foreground: bool,
    },
    /// -Q: hold what the selection says, or let it go.
    Quarantine {
        /// -qI -qR -qS -qQ
        selection: Selection,
        /// Why; none lets go.
        reason: Option<String>,
    },
    /// -bp
    ListQueue {
        /// -qI -qR -qS -qQ -qL
        selection: Selection,
    },
    /// -bP
    CountQueue,
    /// -bv
    Verify {
        /// -t
        from_header: bool,
        /// Operands.
        recipients: Vec<String>,
    },
    /// -bh
    HostStatus,
    /// -bH
    PurgeHostStatus,
    /// -bi, -I
    Aliases,
    /// -bC
    CheckConfig,
    /// -bt
    TestRules,
    /// -bO: every option with its value.
    ListOptions,
    /// mailstats
    Statistics(super::mailstats::Form),
    /// --help
    Help(Topic),
    /// --version
    Version,
}

/// How often a daemon runs the queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pace {
    /// -q15m
    Every(Duration),
    /// -qp: again after this wait.
    Continuous(Duration),
}

/// The command line cannot be: exit 64.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UsageError {
    /// Nobody to send to. sendmail reads standard input to its end before it says so.
    #[error("Recipient names must be specified")]
    NoRecipients {
        /// -ba: it is said as a reply.
        arpanet: bool,
    },
    /// Anything else, in sendmail's words where it has some.
    #[error("{0}")]
    Wrong(String),
}

fn wrong<T>(text: impl Into<String>) -> Result<T, UsageError> {
    Err(UsageError::Wrong(text.into()))
}

impl Invocation {
    /// An invocation that says no more than this.
    pub fn plain(
        program: String,
        mode: Mode,
        config_file: Option<PathBuf>,
        options: Vec<Setting>,
    ) -> Invocation {
        Invocation {
            program,
            mode,
            config_file,
            options,
            macros: Vec::new(),
            log_tag: None,
            traffic_log: None,
            debug: None,
            debug_output: None,
            notices: Vec::new(),
        }
    }
}

/// Understands `args`, argv[0] first.
///
/// # Errors
/// [`UsageError`], the first fault found.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Invocation, UsageError> {
    let mut args = args.into_iter().peekable();
    let name = args.next().unwrap_or_default();
    let program = name.to_string_lossy().rsplit('/').next().unwrap_or_default().to_owned();
    let first = args.peek().map(|word| word.to_string_lossy().into_owned());
    let asks_about_us = matches!(first.as_deref(), Some("--version" | "--help"));
    if program == "mailstats" && !asks_about_us {
        let words = args.map(|word| word.to_string_lossy().into_owned()).collect();
        return super::mailstats::parse(program, words);
    }
    let scan = Scan::of(&program, args.map(Word::from).collect())?;
    let words = std::iter::once("kvmta".to_owned())
        .chain(scan.long)
        .chain(std::iter::once("--".to_owned()))
        .chain(scan.operands);
    let found = help::command()
        .try_get_matches_from(words)
        .map_err(|error| UsageError::Wrong(error.render().to_string().trim_end().to_owned()))?;
    Reading { program, found, notices: scan.notices }.invocation()
}

/// One argument, and whether it was UTF-8.
struct Word {
    text: String,
    valid: bool,
}

impl From<OsString> for Word {
    fn from(word: OsString) -> Word {
        match word.into_string() {
            Ok(text) => Word { text, valid: true },
            Err(word) => Word { text: word.to_string_lossy().into_owned(), valid: false },
        }
    }
}

/// The command line as long options.
struct Scan {
    long: Vec<String>,
    operands: Vec<String>,
    notices: Vec<String>,
    debug_seen: bool,
}

impl Scan {
    fn of(program: &str, words: Vec<Word>) -> Result<Scan, UsageError> {
        let mut scan =
            Scan { long: Vec::new(), operands: Vec::new(), notices: Vec::new(), debug_seen: false };
        let mut words = words.into_iter().peekable();
        while let Some(word) =
            words.next_if(|word| word.text.len() > 1 && word.text.starts_with('-'))
        {
            if word.text == "--" {
                break;
            }
            if let Some(long) = word.text.strip_prefix("--") {
                scan.long_option(program, long, word.valid, &mut words)?;
            } else {
                scan.letters(program, &word, &mut words)?;
            }
        }
        for word in words {
            if !word.valid {
                return wrong(format!("{}... Address is not UTF-8", value::shown(&word.text)));
            }
            scan.operands.push(word.text);
        }
        Ok(scan)
    }

    /// `-ti`, `-fann`, `-f ann`, `-q`
    fn letters(
        &mut self,
        program: &str,
        word: &Word,
        words: &mut std::iter::Peekable<impl Iterator<Item = Word>>,
    ) -> Result<(), UsageError> {
        let mut letters = word.text.chars();
        letters.next();
        while let Some(letter) = letters.next() {
            let Some(flag) = help::flags().find(|flag| flag.letter == letter) else {
                return wrong(format!("{program}: illegal option -- {letter}"));
            };
            if flag.value == Value::None {
                self.emit(flag, None, true)?;
                continue;
            }
            let attached = letters.as_str();
            if attached.is_empty() {
                let (value, valid) = following(program, flag, letter.to_string(), words)?;
                return self.emit(flag, value, valid);
            }
            // No queue is called nothing: -oQ takes the next word, which getopt would not.
            if letter == 'o' && attached == "Q" {
                let next = words.next_if(|word| !word.text.starts_with('-'));
                let valid = next.as_ref().is_none_or(|word| word.valid);
                let directory = next.map(|word| word.text).unwrap_or_default();
                return self.emit(flag, Some(format!("Q{directory}")), valid);
            }
            return self.emit(flag, Some(attached.to_owned()), word.valid);
        }
        Ok(())
    }

    /// `--from=ann`, `--from ann`, `--help`
    fn long_option(
        &mut self,
        program: &str,
        text: &str,
        valid: bool,
        words: &mut std::iter::Peekable<impl Iterator<Item = Word>>,
    ) -> Result<(), UsageError> {
        let (name, attached) = text.split_once('=').map_or((text, None), |(n, v)| (n, Some(v)));
        match (help::flags().find(|flag| flag.long == name), attached) {
            // clap knows --help and --version, and has the words for what nobody knows.
            (None, _) => self.long.push(format!("--{text}")),
            (Some(flag), Some(value)) => self.emit(flag, Some(value.to_owned()), valid)?,
            (Some(flag), None) if flag.value == Value::None => self.emit(flag, None, true)?,
            (Some(flag), None) => {
                let (value, valid) = following(program, flag, name.to_owned(), words)?;
                self.emit(flag, value, valid)?;
            }
        }
        Ok(())
    }

    /// Writes one flag as the long option it stands for. No `value` for a flag with an optional one is its bare form.
    fn emit(&mut self, flag: &Flag, value: Option<String>, valid: bool) -> Result<(), UsageError> {
        // A name in an old encoding is still a name; in an address or a path it would be another one.
        if !valid && flag.letter != 'F' {
            return wrong(format!("value of -{} is not UTF-8", flag.letter));
        }
        let value = match (flag.letter, value) {
            ('q', None) => "0".to_owned(),
            ('d', None) => "0-99.1".to_owned(),
            ('Q', None) => ".".to_owned(),
            ('Q', Some(reason)) if reason == "." => return wrong("Can not use -Q."),
            ('C', None) => return Ok(()),
            ('D', Some(_)) if self.debug_seen => return wrong("-D file must be before -d"),
            (_, value) => value.unwrap_or_default(),
        };
        self.debug_seen |= flag.letter == 'd';
        let long = match flag.becomes {
            Becomes::Nothing => return Ok(()),
            Becomes::Option(name) if flag.value == Value::None => format!("--set={name}=true"),
            Becomes::Option(name) => format!("--set={name}={value}"),
            Becomes::Flag(long) => format!("--{long}={value}"),
            Becomes::Itself if flag.letter == 'o' => {
                let Setting { name, value } = Setting::letter(&value);
                format!("--set={name}={value}")
            }
            Becomes::Itself if flag.letter == 'I' => {
                self.notices.push("-I is an old form of -bi".to_owned());
                "--mode=i".to_owned()
            }
            Becomes::Itself if flag.value == Value::None => format!("--{}", flag.long),
            Becomes::Itself => format!("--{}={value}", flag.long),
        };
        self.long.push(long);
        Ok(())
    }
}

/// The value of `flag` from the next word.
fn following(
    program: &str,
    flag: &Flag,
    name: String,
    words: &mut std::iter::Peekable<impl Iterator<Item = Word>>,
) -> Result<(Option<String>, bool), UsageError> {
    let next = match flag.value {
        Value::None => None,
        Value::Required(_) => match words.next() {
            Some(word) => Some(word),
            None => return wrong(format!("{program}: option requires an argument -- {name}")),
        },
        Value::Optional(_) => words.next_if(|word| !word.text.starts_with('-')),
    };
    let valid = next.as_ref().is_none_or(|word| word.valid);
    Ok((next.map(|word| word.text), valid))
}

/// What clap found, on its way to the invocation.
struct Reading {
    program: String,
    found: ArgMatches,
    notices: Vec<String>,
}

impl Reading {
    fn all(&self, flag: &str) -> impl Iterator<Item = &str> {
        self.found.get_many::<String>(flag).into_iter().flatten().map(String::as_str)
    }

    fn last(&self, flag: &str) -> Option<&str> {
        self.all(flag).last()
    }

    fn given(&self, flag: &str) -> bool {
        self.found.get_flag(flag)
    }

    fn invocation(mut self) -> Result<Invocation, UsageError> {
        let mode = self.mode()?;
        if !matches!(mode, Mode::Submit(_) | Mode::Arpanet(_) | Mode::Verify { .. }) {
            self.note_submission_flags();
            self.refuse_operands(&mode)?;
        }
        let macros = self.all("macro").map(macro_of).chain(self.protocol()).collect();
        Ok(Invocation {
            config_file: self.last("config").map(PathBuf::from),
            options: self.all("set").map(Setting::long).collect(),
            macros,
            log_tag: self.last("log-tag").map(log_tag),
            traffic_log: self.last("traffic-log").map(PathBuf::from),
            debug: self.last("debug").map(str::to_owned),
            debug_output: self.last("debug-output").map(PathBuf::from),
            notices: self.notices,
            program: self.program,
            mode,
        })
    }

    fn mode(&mut self) -> Result<Mode, UsageError> {
        match self.last("help") {
            Some("options") => return Ok(Mode::Help(Topic::Options)),
            Some(_) => return Ok(Mode::Help(Topic::Summary)),
            None if self.found.get_flag("version") => return Ok(Mode::Version),
            None => {}
        }
        let letter = self.mode_letter()?;
        let mut queue = Queue::parse(self.all("queue"))?;
        queue.asked |= self.program == "runq";
        let quarantine = self.last("quarantine").map(str::to_owned);
        if !matches!(letter, 'm' | 'd' | 'D' | 'l' | 'p' | 'P') {
            if queue.asked {
                return wrong(format!("Can not use -q with -b{letter}"));
            }
            if quarantine.is_some() {
                return wrong(format!("Can not use -Q with -b{letter}"));
            }
        }
        Ok(match letter {
            'd' | 'D' | 'l'
                if queue.selection.is_limited() || queue.lost || quarantine.is_some() =>
            {
                return wrong(format!("Can not use -q limits or -Q with -b{letter}"));
            }
            'd' | 'D' | 'l' => Mode::Daemon {
                foreground: letter == 'D',
                local: letter == 'l',
                pace: queue.pace,
                run_now: queue.asked && queue.pace.is_none(),
            },
            'p' if quarantine.is_some() => return wrong("Can not use -Q with -bp"),
            'p' => Mode::ListQueue { selection: Selection { lost: queue.lost, ..queue.selection } },
            'P' => Mode::CountQueue,
            'm' if queue.asked || quarantine.is_some() => self.queue_run(queue, quarantine)?,
            'm' => Mode::Submit(self.submission(false)?),
            'a' => Mode::Arpanet(self.submission(true)?),
            's' => Mode::Smtp,
            'v' => {
                let submission = self.submission(false)?;
                let Submission { from_header, recipients, .. } = submission;
                Mode::Verify { from_header, recipients }
            }
            'h' => Mode::HostStatus,
            'H' => Mode::PurgeHostStatus,
            'i' => Mode::Aliases,
            'C' => Mode::CheckConfig,
            'O' => Mode::ListOptions,
            't' => Mode::TestRules,
            'z' => return wrong("Frozen configurations unsupported"),
            other => return wrong(format!("Invalid operation mode {other}")),
        })
    }

    /// The letter of -b, else what the name says.
    fn mode_letter(&self) -> Result<char, UsageError> {
        if let Some(mode) = self.last("mode") {
            let mut letters = mode.chars();
            return match (letters.next(), letters.next()) {
                (Some(letter), None) => Ok(letter),
                _ => wrong(format!("Invalid operation mode {}", value::shown(mode))),
            };
        }
        Ok(match self.program.as_str() {
            "mailq" => 'p',
            "newaliases" => 'i',
            "hoststat" => 'h',
            "purgestat" => 'H',
            "smtpd" => 'd',
            _ => 'm',
        })
    }

    fn queue_run(&self, queue: Queue, quarantine: Option<String>) -> Result<Mode, UsageError> {
        let Queue { selection, pace, foreground, lost, .. } = queue;
        match (quarantine, pace) {
            (Some(_), _) if lost => wrong("Can not use -Q with -qL"),
            (Some(reason), _) => {
                let reason = (reason != ".").then_some(reason);
                Ok(Mode::Quarantine { selection, reason })
            }
            _ if lost => wrong(
                "-qL: what cannot be read cannot be tried; mailq -qL shows it, kvmta-queue remove forgets it",
            ),
            (None, Some(_)) if selection.is_limited() => {
                wrong("a queue run that repeats can not be limited by -qI, -qR, -qS or -qQ")
            }
            (None, Some(pace)) => Ok(Mode::QueueDaemon(pace)),
            (None, None) => Ok(Mode::RunQueue { selection, foreground }),
        }
    }

    fn submission(&mut self, arpanet: bool) -> Result<Submission, UsageError> {
        let recipients: Vec<_> = self.all("recipients").map(str::to_owned).collect();
        let from_header = self.given("read-recipients");
        let submission = Submission {
            config_file: None,
            queue_directory: None,
            arpanet,
            sender: self.once("from", "More than one \"from\" person")?,
            full_name: self.last("full-name").map(one_line),
            from_header,
            body_type: self.body_type(),
            notify: self.last("notify").map(notify).transpose()?,
            ret: self.once("return", "Duplicate -R flag")?.as_deref().map(ret).transpose()?,
            envid: self.once("envelope-id", "Duplicate -V flag")?.map(envid).transpose()?,
            hops: self.last("hops").map(hops).transpose()?,
            no_aliases: self.given("no-aliases"),
            gateway: self.given("gateway"),
            smtputf8: self.given("smtputf8"),
            queue_only: false,
            recipients,
        };
        if submission.recipients.is_empty() && !from_header {
            return Err(UsageError::NoRecipients { arpanet });
        }
        Ok(submission)
    }

    /// The value of a flag that may stand once.
    fn once(&self, flag: &str, twice: &str) -> Result<Option<String>, UsageError> {
        let mut values = self.all(flag);
        match (values.next(), values.next()) {
            (_, Some(_)) => wrong(twice),
            (value, None) => Ok(value.map(str::to_owned)),
        }
    }

    /// -B; a strange type is said and ignored, as in sendmail.
    fn body_type(&mut self) -> Option<BodyType> {
        let text = self.last("body")?.to_owned();
        match text.to_ascii_uppercase().as_str() {
            "7BIT" => Some(BodyType::SevenBit),
            "8BITMIME" => Some(BodyType::EightBitMime),
            _ => {
                self.notices.push(format!("Illegal body type {}", value::shown(&text)));
                None
            }
        }
    }

    /// -p: the protocol is macro r, the host macro s.
    fn protocol(&self) -> Vec<(String, String)> {
        let Some(text) = self.last("protocol").map(one_line) else {
            return Vec::new();
        };
        let (protocol, host) =
            text.split_once(':').map_or((text.as_str(), None), |(p, h)| (p, Some(h)));
        let host = host.map(|host| ("s".to_owned(), host.to_owned()));
        std::iter::once(("r".to_owned(), protocol.to_owned())).chain(host).collect()
    }

    /// Operands without a message. Beside a queue run they are a slip that would make it run everything:
    /// `-qR ann` is the limit "" and the operand ann.
    fn refuse_operands(&mut self, mode: &Mode) -> Result<(), UsageError> {
        let Some(first) = self.all("recipients").next().map(value::shown) else {
            return Ok(());
        };
        if matches!(mode, Mode::RunQueue { .. } | Mode::Quarantine { .. } | Mode::QueueDaemon(_)) {
            return wrong(format!("{first}: a queue run takes no addresses (write -qR{first})"));
        }
        self.notices.push(format!("{first}: argument ignored"));
        Ok(())
    }

    /// Flags that only a message has, given without one.
    fn note_submission_flags(&mut self) {
        for flag in help::flags().filter(|flag| "BFfGhNnpRtUV".contains(flag.letter)) {
            let given = match flag.value {
                Value::None => self.given(flag.long),
                Value::Required(_) | Value::Optional(_) => self.last(flag.long).is_some(),
            };
            if given {
                let text = format!("WARNING: Ignoring submission mode -{} option", flag.letter);
                self.notices.push(text);
            }
        }
    }
}

#[cfg(test)]
mod tests;
