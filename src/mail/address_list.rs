//! Address lists of header fields and operands: To, Cc, Bcc and their Resent- forms (RFC 5322 3.4), as `-t` reads them.
//!
//! Comments, display names, groups and folded lines are looked through; what is left are the addresses, in order. What blanks
//! and colons mean is a matter of [`Style`]. Lenient as mail is: an empty item between commas is nothing, a missing comma between
//! `>` and the next name is forgiven. What is no address is returned as such, so that the caller can say so; nothing is dropped.

use std::borrow::Cow;

use super::address::{Address, AddressError};

/// Deepest nesting of comments looked into; deeper ones are taken as text. Keeps hostile input linear.
const COMMENT_DEPTH_MAX: usize = 32;

/// One item of a list: an address, or the text that is none and why.
pub type Item = Result<Address, (String, AddressError)>;

/// What may stand in a list.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Style {
    /// OldStyleHeaders: in a list that has none of `,` `;` `<` `(` blanks separate addresses. Else only commas do.
    pub blanks_separate: bool,
    /// BlankSub: what stands for blanks within an address; a blank stays one, in quotes.
    pub blank_sub: char,
    /// ColonOkInAddr: a colon outside of `<` and `>` is part of the address, in quotes, and begins no group. A doubled one
    /// (`node::user`) always is.
    pub colons_belong: bool,
}

impl Default for Style {
    /// As in sendmail's stock configurations.
    fn default() -> Style {
        Style { blanks_separate: true, blank_sub: '.', colons_belong: false }
    }
}

/// Characters beside which a blank is nothing (OperatorChars as in stock configurations).
const OPERATORS: &[char] = &['.', ':', '%', '@', '!', '^', '/', '[', ']', '+'];

/// The addresses of a header field's value (unfolded or not), or of an operand.
pub fn addresses(value: &str, style: Style) -> Vec<Item> {
    let mut found = Vec::new();
    let blanks_separate = style.blanks_separate && !value.contains([',', ';', '<', '(']);
    let style = Style { blanks_separate, ..style };
    let mut item = Pending::default();
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match c {
            '(' => skip_comment(&mut chars),
            '"' => item.quoted(&mut chars),
            '<' => {
                let inner: String = chars.by_ref().take_while(|c| *c != '>').collect();
                item.angle = Some(inner.trim().to_owned());
            }
            ',' | ';' => item.finish(style, &mut found),
            ':' if style.colons_belong => item.text.push(c),
            ':' if chars.as_str().starts_with(':') => {
                chars.next();
                item.text.push_str("::");
            }
            // The name of a group ends here: `Friends: a@b, c@d;`, or a source route without angle brackets.
            ':' => item = Pending::default(),
            c => item.text.push(c),
        }
    }
    item.finish(style, &mut found);
    found
}

#[derive(Default)]
struct Pending {
    text: String,
    angle: Option<String>,
}

impl Pending {
    /// A quoted string is part of a name or of a local part: kept with its quotes.
    fn quoted(&mut self, chars: &mut std::str::Chars<'_>) {
        self.text.push('"');
        let mut escaped = false;
        for c in chars.by_ref() {
            self.text.push(c);
            match c {
                _ if escaped => escaped = false,
                '\\' => escaped = true,
                '"' => return,
                _ => {}
            }
        }
    }

    fn finish(&mut self, style: Style, found: &mut Vec<Item>) {
        let Pending { text, angle } = std::mem::take(self);
        match angle {
            // `<>` and `undisclosed-recipients:;` name nobody.
            Some(inner) if inner.is_empty() => {}
            Some(inner) => found.push(parse(&joined(&inner, style))),
            None if style.blanks_separate => {
                found.extend(separated(&text).iter().map(|t| parse(t)))
            }
            None if text.trim().is_empty() => {}
            None => found.push(parse(&joined(&text, style))),
        }
    }
}

/// The words of a text; a quoted string is in one word, whatever blanks it has.
fn words(text: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let mut in_quotes = false;
    for part in text.split_whitespace() {
        match words.last_mut() {
            Some(word) if in_quotes => {
                word.push(' ');
                word.push_str(part);
            }
            _ => words.push(part.to_owned()),
        }
        if part.bytes().filter(|b| *b == b'"').count() % 2 == 1 {
            in_quotes = !in_quotes;
        }
    }
    words
}

/// Blanks separate addresses (`a@b c@d`), unless they stand around `@` or `.`.
fn separated(text: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for word in words(text) {
        match found.last_mut() {
            Some(last) if last.ends_with(['@', '.']) || word.starts_with(['@', '.']) => {
                last.push_str(&word);
            }
            _ => found.push(word),
        }
    }
    found
}

/// One address: blanks beside operators are nothing, others become BlankSub.
fn joined(text: &str, style: Style) -> String {
    let mut whole = String::new();
    for word in words(text) {
        let beside = whole.is_empty() || whole.ends_with(OPERATORS) || word.starts_with(OPERATORS);
        if !beside {
            whole.push(style.blank_sub);
        }
        whole.push_str(&word);
    }
    whole
}

fn parse(text: &str) -> Item {
    quoted(text).parse().map_err(|error| (text.to_owned(), error))
}

/// The same with a local part in quotes that has a blank or a colon: so it is a mailbox of RFC 5321.
fn quoted(text: &str) -> Cow<'_, str> {
    let (local, domain) = text.rfind('@').map_or((text, ""), |at| text.split_at(at));
    let is_plain = !local.contains([' ', ':']);
    // A source route is not part of the mailbox.
    if is_plain || local.contains('"') || text.starts_with('@') {
        return Cow::Borrowed(text);
    }
    Cow::Owned(format!("\"{}\"{domain}", local.replace('\\', "\\\\")))
}

fn skip_comment(chars: &mut std::str::Chars<'_>) {
    let mut depth = 1;
    while let Some(c) = chars.next() {
        match c {
            '\\' => {
                chars.next();
            }
            '(' if depth < COMMENT_DEPTH_MAX => depth += 1,
            ')' => {
                depth -= 1;
                if depth == 0 {
                    return;
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn found(value: &str) -> Vec<String> {
        found_in(value, Style::default())
    }

    fn found_in(value: &str, style: Style) -> Vec<String> {
        addresses(value, style)
            .into_iter()
            .map(|item| match item {
                Ok(address) => address.to_string(),
                Err((text, error)) => format!("!{text}: {error}"),
            })
            .collect()
    }

    #[test]
    fn finds_the_addresses() {
        for (value, expected) in [
            ("a@b.example", &["a@b.example"][..]),
            (
                "Ann <ann@b.example>, \"Bob, Jr.\" <bob@c.example>",
                &["ann@b.example", "bob@c.example"],
            ),
            ("ann@b.example (Ann, (the) one), bob", &["ann@b.example", "bob"]),
            (
                "Friends: ann@b.example,\r\n\tbob@c.example; carl@d.example",
                &["ann@b.example", "bob@c.example", "carl@d.example"],
            ),
            ("undisclosed-recipients:;", &[]),
            (", ,a@b,,", &["a@b"]),
            ("a@b c@d", &["a@b", "c@d"]),
            ("a @ b . example", &["a@b.example"]),
            ("\"a b\"@c.example", &["\"a b\"@c.example"]),
            ("<@x.example:a@b.example>", &["a@b.example"]),
            ("a@@b, c@d", &["!a@@b: Invalid route address", "c@d"]),
            ("<>", &[]),
        ] {
            assert_eq!(found(value), expected, "{value}");
        }
    }

    /// What sendmail 8.17 says to `-bv` of the same (its order is the other way round).
    #[test]
    fn blanks_separate_or_are_replaced() {
        let old = Style::default();
        let new = Style { blanks_separate: false, ..old };
        let under = Style { blank_sub: '_', ..new };
        let blank = Style { blank_sub: ' ', ..new };
        for (style, value, expected) in [
            (old, "a@x.example b@y.example", &["a@x.example", "b@y.example"][..]),
            (old, "joe smith@x.example", &["joe", "smith@x.example"]),
            (old, "joe smith, ann", &["joe.smith", "ann"]),
            (old, "a b <c d@x.example>", &["c.d@x.example"]),
            (old, "<a b@x.example>", &["a.b@x.example"]),
            (new, "a@x.example b@y.example", &["!a@x.example.b@y.example: Invalid route address"]),
            (new, "joe smith@x.example", &["joe.smith@x.example"]),
            (new, "joe  smith", &["joe.smith"]),
            (new, "a @ x.example", &["a@x.example"]),
            (new, "joe. smith@x.example", &["joe.smith@x.example"]),
            (new, "a + b@x.example", &["a+b@x.example"]),
            (new, "\"joe smith\"@x.example", &["\"joe smith\"@x.example"]),
            (new, "Joe Smith <a@x.example>", &["a@x.example"]),
            (under, "<a  b@x.example>", &["a_b@x.example"]),
            (under, "\"a b\"@x.example", &["\"a b\"@x.example"]),
            (under, "<a@x y.example>", &["a@x_y.example"]),
            (blank, "joe smith@x.example", &["\"joe smith\"@x.example"]),
            (blank, "<a@x y.example>", &["!a@x y.example: Illegal character in address"]),
        ] {
            assert_eq!(found_in(value, style), expected, "{value} {style:?}");
        }
    }

    #[test]
    fn colons_begin_a_group_or_belong() {
        let group = Style::default();
        let belong = Style { colons_belong: true, ..group };
        for (style, value, expected) in [
            (group, "a:b@x.example", &["b@x.example"][..]),
            (group, "a::b@x.example", &["\"a::b\"@x.example"]),
            (group, "<a:b@x.example>", &["\"a:b\"@x.example"]),
            (group, "@r.example:a@x.example", &["a@x.example"]),
            (belong, "a:b@x.example", &["\"a:b\"@x.example"]),
            (belong, "x:y", &["\"x:y\""]),
            (belong, "Friends: ann@x.example", &["\"Friends:\"", "ann@x.example"]),
            (belong, "Friends: ann@x.example, b", &["\"Friends:ann\"@x.example", "b"]),
            (belong, "<@r.example:a@x.example>", &["a@x.example"]),
            (belong, "@r.example:a@x.example", &["a@x.example"]),
        ] {
            assert_eq!(found_in(value, style), expected, "{value} {style:?}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(value in "\\PC{0,80}", comment in "[()\"\\\\<>,:;@a]{0,60}") {
            let other = Style { blanks_separate: false, blank_sub: ' ', colons_belong: true };
            for style in [Style::default(), other] {
                addresses(&value, style);
                addresses(&comment, style);
            }
        }
    }
}
