//! What was set where: the options that the file or the command line name, as typed, with their places.
//!
//! The checked values stand in [`super::Config`]; this is for people who ask why an option has its value (`-bO`).

use std::collections::BTreeMap;
use std::path::Path;

use super::options::{self, Action};
use super::raw::{self, Directive, Line, Origin, Setting};

/// One setting of an option.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Given {
    /// As typed.
    pub value: String,
    /// Where.
    pub origin: Origin,
}

/// The settings in force by full name of their option: the last one, or all of a list. The command line replaces the file.
pub fn given(
    file: Option<(&Path, &str)>,
    settings: &[Setting],
) -> BTreeMap<&'static str, Vec<Given>> {
    let lines = file.map(|(path, text)| raw::parse(path, text)).unwrap_or_default();
    let in_file = lines.into_iter().filter_map(|Line { origin, directive }| match directive {
        Directive::Option(setting) => Some((origin, setting)),
        _ => None,
    });
    let typed = settings.iter().map(|setting| (Origin::CommandLine, setting.clone()));
    let mut found: BTreeMap<&'static str, Vec<Given>> = BTreeMap::new();
    for (origin, Setting { name, value }) in in_file.chain(typed) {
        let Ok((option, _)) = options::find(&name) else { continue };
        let before = found.entry(option.name).or_default();
        let is_list = matches!(option.action, Action::List(..));
        let from_file = before.first().is_some_and(|given| given.origin != Origin::CommandLine);
        if !is_list || (from_file && origin == Origin::CommandLine) {
            before.clear();
        }
        before.push(Given { value, origin });
    }
    found
}

/// The text of `-bO`: every option with value, origin and default, and a line on what it does.
pub fn listing(given: &BTreeMap<&'static str, Vec<Given>>) -> String {
    let mut out = String::new();
    for option in options::all() {
        let default = option.default;
        match given.get(option.name) {
            None => out.push_str(&format!("{}={default}  (default)\n", option.name)),
            Some(settings) => {
                for Given { value, origin } in settings {
                    let value = super::value::shown(value);
                    let line = format!("{}={value}  ({origin}; default {default})", option.name);
                    out.push_str(line.replace("; default )", ")").as_str());
                    out.push('\n');
                }
            }
        }
        let words = match option.action {
            Action::Idle(reason) => format!("no effect: {reason}"),
            Action::Later(until) => format!("no effect yet: {until}"),
            Action::Refused(reason) => reason.to_owned(),
            _ => first_sentence(option.help).to_owned(),
        };
        out.push_str(&format!("    {words}\n"));
    }
    out
}

fn first_sentence(text: &str) -> &str {
    text.find(". ").map_or(text, |end| text.get(..=end).unwrap_or(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_what_was_set_where() {
        let file = "O MinQueueAge=5m\nOd b\nOd q\nO PrivacyOptions=noetrn\nO AliasFile=/etc/aliases\nO Nonsense=1\n";
        let typed = ["PrivacyOptions=novrfy", "minq=1h"].map(Setting::long);
        let given = given(Some((Path::new("/x.cf"), file)), &typed);
        let text = listing(&given);
        for line in [
            "MinQueueAge=1h  (command line; default 0)",
            "DeliveryMode=q  (/x.cf: line 3; default background)",
            "AliasFile=/etc/aliases  (/x.cf: line 5)",
            "RetryFactor=90000  (default)",
            "    A message is not tried again sooner than this after its last attempt.",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
        for (start, count) in [("MinQueueAge=", 1), ("DeliveryMode=", 1), ("PrivacyOptions=", 1)] {
            let found = text.lines().filter(|line| line.starts_with(start)).count();
            assert_eq!(found, count, "{start}");
        }
        assert!(options::all().all(|option| text.contains(&format!("{}=", option.name))));
    }
}
