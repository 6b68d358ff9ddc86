//! What an option is: its names, what its values are, what it does; finding one by name; the manual of all.
//!
//! The options themselves stand in `table`. An option either acts, or is accepted and says why it does nothing,
//! or is known and says what happens until it acts. None is dropped in silence.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::raw::Origin;
use super::table::SECTIONS;
use super::tls::Halves;
use super::value::{self, Unit, ValueError};
use super::{Config, GivingUp, Network, QueueTimeouts};

/// Columns of the manual text.
const MANUAL_WIDTH: usize = 78;

/// One option.
pub struct OptionSpec {
    /// `Timeout.queuereturn.urgent`
    pub name: &'static str,
    /// sendmail's letter for it, in `-oX` and old files.
    pub letter: Option<char>,
    /// The default as one would type it; empty when there is none or it is explained in `help`.
    pub default: &'static str,
    /// What it does, one or two sentences.
    pub help: &'static str,
    /// An ordinary user may set it for his own message or listing.
    pub safe: bool,
    /// Not an option of sendmail.
    pub own: bool,
    /// What setting it does.
    pub action: Action,
    /// What is wrong with a value, of one that does nothing here: a slip is found all the same.
    pub check: Option<Check>,
}

/// Finds what is wrong with a value.
pub type Check = fn(&str) -> Result<(), ValueError>;

/// What setting an option does, by the kind of its value.
pub enum Action {
    /// true or false.
    Flag(fn(&mut Draft) -> &mut bool),
    /// A whole number between these bounds.
    Number(u64, u64, fn(&mut Draft, u64)),
    /// Octets.
    Size(fn(&mut Draft, u64)),
    /// A time, 0 allowed.
    Time(Unit, fn(&mut Draft) -> &mut Duration),
    /// A time above 0, in minutes: how long to wait for the other side.
    Wait(fn(&mut Draft) -> &mut Duration),
    /// A time in minutes; 0 switches it off.
    Limit(fn(&mut Draft) -> &mut Option<Duration>),
    /// Timeout.queuereturn: a time in days or `now`, for these classes.
    GiveUp(fn(&mut Draft) -> &mut [QueueTimeouts]),
    /// Timeout.queuewarn: a time in hours, 0 for never, for these classes.
    Warn(fn(&mut Draft) -> &mut [QueueTimeouts]),
    /// A text of this form.
    Text(&'static str, Set),
    /// A text of this form that may be given repeatedly: each adds, but the first of the file replaces the
    /// default, and the first of the command line replaces the file's.
    List(&'static str, SetList),
    /// Accepted, and why it does nothing here.
    Idle(&'static str),
    /// Known, and what happens until it acts.
    Later(&'static str),
    /// Refused unless empty, and why.
    Refused(&'static str),
}

/// Takes a value.
pub type Set = fn(&mut Draft, &str) -> Result<(), ValueError>;
/// Takes a value of a list.
pub type SetList = fn(&mut Draft, &str, Turn) -> Result<(), ValueError>;

/// Which value of a list this is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Turn {
    /// The first one from the file, or the first one from the command line.
    pub first: bool,
    /// From the command line.
    pub command_line: bool,
}

/// Which addresses of this machine are names of it (DontProbeInterfaces).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Probe {
    /// Of all interfaces.
    All,
    /// But for loopback.
    NotLoopback,
    /// None.
    Nothing,
}

impl Probe {
    /// Those among `addresses`.
    pub fn of(self, addresses: &[IpAddr]) -> impl Iterator<Item = IpAddr> {
        addresses.iter().copied().filter(move |address| match self {
            Probe::All => true,
            Probe::NotLoopback => !address.is_loopback(),
            Probe::Nothing => false,
        })
    }
}

/// A configuration in the making.
#[derive(Clone, Debug)]
pub struct Draft {
    /// What is settled.
    pub config: Config,
    /// Where the option stands that is being set.
    pub origin: Origin,
    /// ServerCertFile and ServerKeyFile.
    pub server_certificate: Halves,
    /// ClientCertFile and ClientKeyFile.
    pub client_certificate: Halves,
    /// DaemonPortOptions was given, well or ill: no port is opened by default.
    pub ports_named: bool,
    /// D lines, -M and -oM.
    pub macros: BTreeMap<String, String>,
    /// SingleThreadDelivery.
    pub single_thread: bool,
    /// ServiceSwitchFile, if it is named.
    pub switch_file: Option<PathBuf>,
    /// DontProbeInterfaces.
    pub probe: Probe,
    /// Networks and addresses found in class R.
    pub class_networks: Vec<Network>,
    /// What a setter has to say although it took the value.
    pub remarks: Vec<String>,
}

/// Why a name finds no option.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FindError {
    /// Nothing is called so, and nothing begins so. The text is sendmail's.
    #[error("readcf: unknown option name {0}")]
    Unknown(String),
    /// More than one name begins so.
    #[error("readcf: ambiguous option name {name} (matches {first} and {second})")]
    Ambiguous {
        /// As typed.
        name: String,
        /// One that matches.
        first: &'static str,
        /// Another.
        second: &'static str,
    },
    /// A letter that no option has.
    #[error("readcf: unknown option letter {0}")]
    Letter(char),
}

/// The option called `name` in any case, or the only one whose name begins so (each part before a dot counts by
/// itself), or the one with this letter. The flag says that the name was abbreviated.
///
/// # Errors
/// [`FindError`], with the name as typed.
pub fn find(name: &str) -> Result<(&'static OptionSpec, bool), FindError> {
    let mut letters = name.chars();
    if let (Some(letter), None) = (letters.next(), letters.next()) {
        let option = all().find(|option| option.letter == Some(letter));
        return option.map(|option| (option, false)).ok_or(FindError::Letter(letter));
    }
    let wanted = name.strip_suffix(".*").unwrap_or(name);
    if let Some(option) = all().find(|option| option.name.eq_ignore_ascii_case(wanted)) {
        return Ok((option, false));
    }
    let mut matches = all().filter(|option| begins(option.name, wanted));
    match (matches.next(), matches.next()) {
        (None, _) => Err(FindError::Unknown(value::shown(name))),
        (Some(option), None) => Ok((option, true)),
        (Some(first), Some(second)) => Err(FindError::Ambiguous {
            name: value::shown(name),
            first: first.name,
            second: second.name,
        }),
    }
}

/// Every option there is.
pub fn all() -> impl Iterator<Item = &'static OptionSpec> {
    SECTIONS.iter().flat_map(|(_, options)| options.iter())
}

/// Whether `short` abbreviates `name`: as many parts, each the beginning of its part.
fn begins(name: &str, short: &str) -> bool {
    !short.is_empty()
        && name.split('.').count() == short.split('.').count()
        && name.split('.').zip(short.split('.')).all(|(part, short)| {
            part.get(..short.len()).is_some_and(|start| start.eq_ignore_ascii_case(short))
        })
}

impl OptionSpec {
    /// Puts `value` into `draft`.
    ///
    /// # Errors
    /// [`ValueError`]; the draft keeps what it had, but a list keeps what was good before the fault.
    pub fn set(&self, draft: &mut Draft, value: &str, turn: Turn) -> Result<(), ValueError> {
        match &self.action {
            Action::Flag(field) => *field(draft) = value::boolean(value)?,
            Action::Number(least, most, set) => set(draft, value::number(value, *least, *most)?),
            Action::Size(set) => set(draft, value::size(value)?),
            Action::Time(unit, field) => *field(draft) = value::time(value, *unit)?,
            Action::Wait(field) => {
                let length = value::time(value, Unit::Minutes)?;
                if length.is_zero() {
                    let text = "0 would wait for ever; leave the option out for its default";
                    return Err(ValueError::Other(text.into()));
                }
                *field(draft) = length;
            }
            Action::Limit(field) => {
                let length = value::time(value, Unit::Minutes)?;
                *field(draft) = (!length.is_zero()).then_some(length);
            }
            Action::GiveUp(classes) => {
                let giving_up = match value.trim() {
                    word if word.eq_ignore_ascii_case("now") => GivingUp::Now,
                    text => GivingUp::After(value::time(text, Unit::Days)?),
                };
                classes(draft).iter_mut().for_each(|class| class.giving_up = giving_up);
            }
            Action::Warn(classes) => {
                let length = value::time(value, Unit::Hours)?;
                let warn = (!length.is_zero()).then_some(length);
                classes(draft).iter_mut().for_each(|class| class.warn = warn);
            }
            Action::Text(_, set) => set(draft, value)?,
            Action::List(_, set) => set(draft, value, turn)?,
            Action::Refused(reason) if !value.is_empty() => {
                return Err(ValueError::Other((*reason).into()));
            }
            Action::Idle(_) | Action::Later(_) | Action::Refused(_) => {
                self.check.map_or(Ok(()), |check| check(value))?;
            }
        }
        Ok(())
    }

    /// What its values are: `time in minutes`, `true or false`.
    pub fn kind(&self) -> String {
        match &self.action {
            Action::Flag(_) => "true or false".into(),
            Action::Number(..) => "number".into(),
            Action::Size(_) => "size".into(),
            Action::Time(unit, _) => format!("time in {}", unit.name()),
            Action::Wait(_) | Action::Limit(_) => "time in minutes".into(),
            Action::GiveUp(_) => "time in days, or now".into(),
            Action::Warn(_) => "time in hours".into(),
            Action::Text(form, _) | Action::List(form, _) => (*form).into(),
            Action::Idle(_) | Action::Later(_) | Action::Refused(_) => String::new(),
        }
    }
}

/// The manual of all options as plain text: what `--help=options` prints and the manual page is made from.
pub fn manual() -> String {
    let mut text = String::from(
        "Set an option by `O Name=value` in the configuration file, by -O Name=value, or by\n\
         -oXvalue where it has a letter X. The command line wins over the file. Names may be\n\
         written in any case and shortened while they stay unique.\n\n\
         Times have units s m h d w (1h30m); a bare number counts what the entry says. Sizes\n\
         are octets, with K M G for powers of 1024. (user) marks what an ordinary user may\n\
         set for his own message, (kvmta) what sendmail does not have.\n",
    );
    for (heading, options) in SECTIONS {
        let _ = write!(text, "\n{}\n", heading.to_uppercase());
        for option in *options {
            entry(&mut text, option);
        }
    }
    text
}

fn entry(text: &mut String, option: &OptionSpec) {
    let _ = write!(text, "\n  {}", option.name);
    if let Some(letter) = option.letter {
        let _ = write!(text, ", -o{letter}");
    }
    let kind = option.kind();
    if !kind.is_empty() {
        let _ = write!(text, "  {kind}");
    }
    if !option.default.is_empty() {
        let _ = write!(text, "; default {}", option.default);
    }
    let acts = !option.help.is_empty();
    text.push_str(if option.safe && acts { "  (user)" } else { "" });
    text.push_str(if option.own { "  (kvmta)" } else { "" });
    text.push('\n');
    let words = match option.action {
        Action::Idle(reason) | Action::Later(reason) | Action::Refused(reason) => reason,
        _ => option.help,
    };
    wrap(text, words, 6);
}

/// Appends `words` in lines of at most [`MANUAL_WIDTH`] columns, each behind `indent` blanks.
pub fn wrap(text: &mut String, words: &str, indent: usize) {
    let mut column = 0;
    for word in words.split_whitespace() {
        let width = word.chars().count();
        if column > 0 && column + 1 + width > MANUAL_WIDTH {
            text.push('\n');
            column = 0;
        }
        if column == 0 {
            text.extend(std::iter::repeat_n(' ', indent));
            column = indent;
        } else {
            text.push(' ');
            column += 1;
        }
        text.push_str(word);
        column += width;
    }
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const FILE: Turn = Turn { first: true, command_line: false };

    #[test]
    fn finds_by_name_abbreviation_and_letter() {
        let name = |text| find(text).map(|(option, short)| (option.name, short));
        assert_eq!(name("minqueueage"), Ok(("MinQueueAge", false)));
        assert_eq!(name("MinQ"), Ok(("MinQueueAge", true)));
        assert_eq!(name("Timeout.queuereturn"), Ok(("Timeout.queuereturn", false)));
        assert_eq!(name("timeout.queuereturn.*"), Ok(("Timeout.queuereturn", false)));
        assert_eq!(name("Time.queuew.urg"), Ok(("Timeout.queuewarn.urgent", true)));
        assert_eq!(name("d"), Ok(("DeliveryMode", false)));
        assert_eq!(name("NoSuchOption"), Err(FindError::Unknown("NoSuchOption".into())));
        assert_eq!(name(""), Err(FindError::Unknown(String::new())));
        assert_eq!(name("_"), Err(FindError::Letter('_')));
        assert!(matches!(name("Max"), Err(FindError::Ambiguous { .. })));
        assert_eq!(
            find("NoSuchOption").map(|_| ()).unwrap_err().to_string(),
            "readcf: unknown option name NoSuchOption"
        );
    }

    /// The defaults of the table, typed in, are the defaults of [`Config::default`].
    #[test]
    fn defaults_in_the_table_are_the_real_ones() {
        for option in all().filter(|option| !option.default.is_empty()) {
            let mut draft = Draft::new(Config::default());
            option
                .set(&mut draft, option.default, FILE)
                .unwrap_or_else(|e| panic!("{}: {e}", option.name));
            let found = format!("{:#?}", draft.config);
            for (found, expected) in found.lines().zip(format!("{:#?}", Config::default()).lines())
            {
                assert_eq!(found, expected, "{}", option.name);
            }
        }
    }

    /// No name and no letter stands twice, every entry says something, and what acts changes something.
    #[test]
    fn the_table_is_sound() {
        let mut names = BTreeSet::new();
        let mut letters = BTreeSet::new();
        for option in all() {
            assert!(names.insert(option.name.to_lowercase()), "{} twice", option.name);
            assert!(option.letter.is_none_or(|letter| letters.insert(letter)), "{}", option.name);
            let idle =
                matches!(option.action, Action::Idle(_) | Action::Later(_) | Action::Refused(_));
            assert_eq!(option.help.is_empty(), idle, "{}", option.name);
        }
        for letter in "AaBbCcdEeFfGgHhIiJjKkLlmoOPpQqRrSsTtUuVvwXxYyZz78".chars() {
            assert!(letters.contains(&letter), "no option has the letter {letter}");
        }
    }

    #[test]
    fn the_manual_names_every_option() {
        let text = manual();
        for option in all() {
            assert!(text.contains(&format!("\n  {}", option.name)), "{}", option.name);
        }
        assert!(text.lines().all(|line| line.chars().count() <= 100), "a line is too long");
    }
}
