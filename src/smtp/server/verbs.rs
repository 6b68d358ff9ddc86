//! The commands other than DATA and BDAT: when they may come, and what is said to them.

use super::{
    Hello, Mail, Offer, Output, Parting, Rcpt, Server, Settings, State, Transaction, help,
};
use crate::mail::status::{EnhancedStatus, Reply};
use crate::smtp::command::{self, Verb, refusal};
use crate::smtp::{extension, reply};

/// Characters of an unknown command that are said back.
const ECHO_MAX: usize = 200;

impl Server {
    /// One command line.
    pub(super) fn command(&mut self, line: &str) {
        let (verb, argument) = command::split(line);
        let first = std::mem::replace(&mut self.first_command, false);
        let is_known = !matches!(verb, Verb::Quit | Verb::Foreign | Verb::Unknown);
        if let (State::Refused, true) = (&self.state, is_known) {
            return self.bad(550, (5, 0, 0), format_args!("Command rejected"));
        }
        if verb == Verb::Foreign && first {
            let text = format!("Rejecting open proxy {}", self.peer.shown);
            return self.hang_up(421, (4, 7, 0), &text, Parting::Abuse);
        }
        match verb {
            Verb::Mail | Verb::Rcpt | Verb::Data | Verb::Bdat => {
                let state = std::mem::replace(&mut self.state, State::Idle);
                match verb {
                    Verb::Mail => self.mail(state, argument),
                    Verb::Rcpt => self.rcpt(state, argument),
                    Verb::Data => self.data(state, argument),
                    _ => self.bdat(state, argument),
                }
            }
            Verb::Helo => self.hello_command(argument, false),
            Verb::Ehlo => self.hello_command(argument, true),
            Verb::Rset => {
                if !self.in_transaction() {
                    self.idle_command();
                }
                self.abandon();
                self.say(250, (2, 0, 0), format_args!("Reset state"));
            }
            Verb::Noop => {
                self.idle_command();
                self.say(250, (2, 0, 0), format_args!("OK"));
            }
            Verb::Quit => self.hang_up(221, (2, 0, 0), "closing connection", Parting::Quit),
            Verb::Vrfy => self.vrfy(argument),
            Verb::Expn => {
                self.idle_command();
                let needs_hello = self.settings.expn_needs_hello && !self.settings.noexpn;
                if self.hello.is_none() && needs_hello {
                    let text = format_args!("I demand that you introduce yourself first");
                    return self.say(503, (5, 0, 0), text);
                }
                let text = format_args!("Sorry, we do not allow this operation");
                self.say(502, (5, 7, 0), text);
            }
            Verb::Help => {
                self.idle_command();
                match &self.settings.help {
                    Some(file) => {
                        let host = &self.settings.host_name;
                        help::write_from(&mut self.replies, argument, file, host);
                    }
                    None => help::write(&mut self.replies, argument),
                }
            }
            Verb::Etrn => self.etrn(argument),
            Verb::StartTls => self.start_tls(argument),
            Verb::Auth => {
                self.idle_command();
                self.say(503, (5, 3, 3), format_args!("AUTH not available"));
            }
            Verb::Verb => {
                self.idle_command();
                match self.settings.verb {
                    true => self.say(250, (2, 0, 0), format_args!("Verbose mode")),
                    false => self.say(502, (5, 7, 0), format_args!("Verbose unavailable")),
                }
            }
            Verb::Unimplemented => {
                self.idle_command();
                let text = format_args!("Command not implemented: \"{}\"", echo(line));
                self.say(502, (5, 5, 1), text);
            }
            Verb::Foreign | Verb::Unknown => {
                let text = format_args!("Command unrecognized: \"{}\"", echo(line));
                self.bad(500, (5, 5, 1), text);
            }
        }
    }

    fn mail(&mut self, state: State, argument: &str) {
        if !matches!(state, State::Idle) {
            self.state = state;
            return self.say(503, (5, 5, 0), format_args!("Sender already specified"));
        }
        if self.hello.is_none() && self.settings.mail_needs_hello {
            return self.say(503, (5, 0, 0), format_args!("Polite people say HELO first"));
        }
        match self.parse_mail(argument) {
            Ok(mail) => {
                let (shown, smtputf8) = (mail.shown.clone(), mail.parameters.smtputf8);
                self.outputs.push_back(Output::AskMail(Box::new(mail)));
                self.state = State::AskingMail { shown, smtputf8 };
            }
            Err(reply) => self.refuse(&reply),
        }
    }

    fn parse_mail(&self, argument: &str) -> Result<Mail, Reply> {
        let (shown, rest) = command::path(argument, "FROM")?;
        let path = command::reverse_path(shown)?;
        let Settings { dsn, deliver_by, .. } = *self.settings;
        let parameters = extension::mail(rest, dsn, deliver_by)?;
        let max = self.settings.message_size;
        if max != 0 && parameters.size.is_some_and(|size| size > max) {
            let text = format!("Message size exceeds fixed maximum message size ({max})");
            return Err(refusal(552, (5, 2, 3), text));
        }
        if path.mailbox().is_some_and(|address| address.is_utf8()) && !parameters.smtputf8 {
            return Err(needs_smtputf8());
        }
        Ok(Mail { shown: shown.to_owned(), path, parameters })
    }

    fn rcpt(&mut self, state: State, argument: &str) {
        let mut transaction = match state {
            State::Open(transaction) => transaction,
            State::Chunks(chunk) => {
                self.state = State::Chunks(chunk);
                return self.say(503, (5, 5, 1), format_args!("Content has begun"));
            }
            _ => return self.say(503, (5, 0, 0), format_args!("Need MAIL before RCPT")),
        };
        if self.has_too_many_bad(&transaction) {
            self.state = State::Open(transaction);
            let text = "Too many bad recipients; closing connection";
            return self.hang_up(421, (4, 7, 0), text, Parting::Abuse);
        }
        let limit = self.settings.recipients;
        if limit != 0 && transaction.accepted >= limit {
            self.state = State::Open(transaction);
            return self.say(452, (4, 5, 3), format_args!("Too many recipients"));
        }
        match self.parse_rcpt(argument, transaction.smtputf8) {
            Ok(rcpt) => {
                let shown = rcpt.shown.clone();
                self.outputs.push_back(Output::AskRcpt(Box::new(rcpt)));
                self.state = State::AskingRcpt { transaction, shown };
            }
            Err(reply) => {
                self.refused_rcpt(&mut transaction, &reply);
                self.state = State::Open(transaction);
            }
        }
    }

    /// sendmail: BadRcptShutdown and BadRcptShutdownGood.
    fn has_too_many_bad(&self, transaction: &Transaction) -> bool {
        let Settings { bad_recipients_max: max, good_recipients_percent: percent, .. } =
            *self.settings;
        let (good, bad) = (u64::from(transaction.accepted), u64::from(transaction.refused));
        max != 0 && bad >= u64::from(max) && good * 100 < u64::from(percent) * (good + bad)
    }

    fn parse_rcpt(&self, argument: &str, smtputf8: bool) -> Result<Rcpt, Reply> {
        let (shown, rest) = command::path(argument, "TO")?;
        let address = command::forward_path(shown)?;
        let parameters = extension::rcpt(rest, self.settings.dsn, smtputf8)?;
        if address.is_utf8() && !smtputf8 {
            return Err(needs_smtputf8());
        }
        Ok(Rcpt { shown: shown.to_owned(), address, parameters })
    }

    /// A recipient that is not taken; after too many, the next command waits.
    pub(super) fn refused_rcpt(&mut self, transaction: &mut Transaction, reply: &Reply) {
        transaction.refused = transaction.refused.saturating_add(1);
        let limit = self.settings.bad_recipients;
        if limit != 0 && transaction.refused > limit {
            self.not_before = self.not_before.max(self.now + self.settings.bad_recipients_pause);
        }
        self.refuse(reply);
    }

    fn hello_command(&mut self, argument: &str, extended: bool) {
        let verb = if extended { "EHLO" } else { "HELO" };
        let name = match command::hello(argument, verb) {
            Ok(name) => name.to_owned(),
            Err(_) if self.settings.bogus_hello => command::bogus_hello(argument),
            Err(reply) => return self.refuse(&reply),
        };
        self.abandon();
        if self.is_stuffed() {
            return self.protocol_error();
        }
        if self.hello.is_some() {
            self.idle_command();
        }
        self.hello = Some(Hello { name, extended });
        let greeting = format!("Hello {}, pleased to meet you", self.peer.shown);
        if !extended {
            return self.say_host(250, None, format_args!("{greeting}"));
        }
        let host = &self.settings.host_name;
        let first = format_args!("{host} {greeting}");
        reply::write_line(&mut self.replies, 250, None, false, first);
        let mut lines = self.offer().lines().peekable();
        while let Some(line) = lines.next() {
            let last = lines.peek().is_none();
            reply::write_line(&mut self.replies, 250, None, last, format_args!("{line}"));
        }
    }

    fn offer(&self) -> Offer {
        Offer {
            size: self.settings.message_size,
            dsn: self.settings.dsn,
            etrn: self.settings.etrn,
            starttls: self.peer.offers_tls && !self.tls,
            verb: self.settings.verb,
            deliver_by: self.settings.deliver_by,
        }
    }

    /// Whether the client did not wait for a reply it must wait for (RFC 2920 3.1), and may not do so.
    pub(super) fn is_stuffed(&self) -> bool {
        !self.pending().is_empty() && !self.peer.trusted && !self.tls
    }

    /// Nothing this client sends from now on is to be believed.
    pub(super) fn protocol_error(&mut self) {
        self.say(554, (5, 5, 0), format_args!("SMTP protocol error"));
        self.state = State::Refused;
    }

    /// RFC 5321 3.5.3: an address is neither confirmed nor denied.
    fn vrfy(&mut self, argument: &str) {
        self.idle_command();
        let cannot = format_args!("Cannot VRFY user; try RCPT to attempt delivery (or try finger)");
        if self.settings.novrfy {
            return self.say(252, (2, 5, 2), cannot);
        }
        if self.hello.is_none() && self.settings.vrfy_needs_hello {
            let text = format_args!("I demand that you introduce yourself first");
            return self.say(503, (5, 0, 0), text);
        }
        if argument.is_empty() {
            return self.say(501, (5, 5, 2), format_args!("Argument required"));
        }
        self.say(252, (2, 5, 2), cannot);
    }

    fn etrn(&mut self, argument: &str) {
        self.idle_command();
        if !self.settings.etrn {
            let text = format_args!("Sorry, we do not allow this operation");
            return self.say(502, (5, 7, 0), text);
        }
        // RFC 1985 5.2
        if self.in_transaction() {
            return self.say(503, (5, 5, 1), format_args!("ETRN has no place in a transaction"));
        }
        match command::etrn(argument) {
            // RFC 1985 5.3
            Ok(_) if self.resting => {
                let node = argument.trim_end();
                let text = format_args!("Unable to queue messages for node {node}: load too high");
                self.say(458, (4, 3, 2), text);
            }
            Ok(selection) => {
                self.outputs.push_back(Output::Etrn(selection));
                let node = argument.trim_end();
                self.say(250, (2, 0, 0), format_args!("Queuing for node {node} started"));
            }
            Err(reply) => self.refuse(&reply),
        }
    }

    fn start_tls(&mut self, argument: &str) {
        self.idle_command();
        if !argument.is_empty() {
            return self.say(501, (5, 5, 2), format_args!("Syntax error (no parameters allowed)"));
        }
        if self.tls {
            return self.say(503, (5, 5, 0), format_args!("TLS not available"));
        }
        if !self.peer.offers_tls {
            return self.say(454, (4, 3, 3), format_args!("TLS not available after start"));
        }
        if self.in_transaction() {
            let text = format_args!("TLS not permitted during a mail transaction");
            return self.say(503, (5, 5, 0), text);
        }
        self.hello = None;
        // RFC 3207 6 and 4.2: what was sent in plain text before the handshake has no effect after it. A client that
        // sends anything behind STARTTLS does not mean to do TLS, or somebody else sent it.
        if !self.pending().is_empty() {
            return self.protocol_error();
        }
        self.say(220, (2, 0, 0), format_args!("Ready to start TLS"));
        self.outputs.push_back(Output::StartTls);
        self.state = State::StartingTls;
    }
}

fn needs_smtputf8() -> Reply {
    let status = EnhancedStatus::new(5, 6, 7);
    Reply::new(553, Some(status), "Address needs SMTPUTF8, which MAIL did not ask for")
}

/// A command as it may be said back: short, printable ASCII.
fn echo(line: &str) -> String {
    let visible = |c: char| if c == ' ' || c.is_ascii_graphic() { c } else { '?' };
    line.chars().take(ECHO_MAX).map(visible).collect()
}
