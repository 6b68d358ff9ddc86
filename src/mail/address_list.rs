//! Address lists of header fields: To, Cc, Bcc and their Resent- forms (RFC 5322 3.4), as `-t` reads them.
//!
//! Comments, display names, groups and folded lines are looked through; what is left are the addresses, in order.
//! Lenient as mail is: an empty item between commas is nothing, a missing comma between `>` and the next name is
//! forgiven. What is no address is returned as such, so that the caller can say so; nothing is dropped.

use super::address::{Address, AddressError};

/// Deepest nesting of comments looked into; deeper ones are taken as text. Keeps hostile input linear.
const COMMENT_DEPTH_MAX: usize = 32;

/// One item of a list: an address, or the text that is none and why.
pub type Item = Result<Address, (String, AddressError)>;

/// The addresses of a header field's value (unfolded or not).
pub fn addresses(value: &str) -> Vec<Item> {
    let mut found = Vec::new();
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
            ',' | ';' => item.finish(&mut found),
            // The name of a group ends here: `Friends: a@b, c@d;`. A source route has its colon in angle brackets.
            ':' => item = Pending::default(),
            c => item.text.push(c),
        }
    }
    item.finish(&mut found);
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

    fn finish(&mut self, found: &mut Vec<Item>) {
        let Pending { text, angle } = std::mem::take(self);
        match angle {
            // `<>` and `undisclosed-recipients:;` name nobody.
            Some(inner) if inner.is_empty() => {}
            Some(inner) => found.push(parse(&inner)),
            None => found.extend(bare(&text)),
        }
    }
}

/// Without angle brackets: blanks separate addresses (`a@b c@d`, OldStyleHeaders), unless they stand around `@` or `.`.
fn bare(text: &str) -> Vec<Item> {
    let mut joined = String::new();
    let mut in_quotes = false;
    for word in text.split_whitespace() {
        let glue = in_quotes
            || joined.is_empty()
            || joined.ends_with(['@', '.'])
            || word.starts_with(['@', '.']);
        if !glue {
            joined.push('\n');
        } else if in_quotes {
            joined.push(' ');
        }
        joined.push_str(word);
        if word.bytes().filter(|b| *b == b'"').count() % 2 == 1 {
            in_quotes = !in_quotes;
        }
    }
    joined.split('\n').filter(|text| !text.is_empty()).map(parse).collect()
}

fn parse(text: &str) -> Item {
    text.parse().map_err(|error| (text.to_owned(), error))
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
        addresses(value)
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

    proptest! {
        #[test]
        fn never_panics(value in "\\PC{0,80}", comment in "[()\"\\\\<>,:;@a]{0,60}") {
            addresses(&value);
            addresses(&comment);
        }
    }
}
