//! Exit statuses: sysexits, as programs that call sendmail know them.

use std::process::ExitCode;

use super::argv::UsageError;
use crate::config::check::ConfigError;
use crate::config::locate::NoQueue;

/// Why a command ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exit {
    /// Done; for a submission also: queued, to be tried later.
    Ok = 0,
    /// The command line is wrong, or the caller may not do this.
    Usage = 64,
    /// The message is wrong: too large, header refused.
    DataErr = 65,
    /// A file to read is missing.
    NoInput = 66,
    /// No such user.
    NoUser = 67,
    /// No such host.
    NoHost = 68,
    /// Refused for good, or the daemon is not there.
    Unavailable = 69,
    /// A fault of the program, or an unknown option.
    Software = 70,
    /// The system refused something.
    OsErr = 71,
    /// A file of the system is missing or unreadable.
    OsFile = 72,
    /// An output file cannot be made.
    CantCreate = 73,
    /// Reading or writing failed.
    IoErr = 74,
    /// Not now; nothing was taken. Never of a message that is in the queue: that is `Ok`.
    TempFail = 75,
    /// The other side broke the protocol.
    Protocol = 76,
    /// Not permitted.
    NoPerm = 77,
    /// The configuration is wrong.
    Config = 78,
}

impl Exit {
    /// The number.
    pub fn code(self) -> u8 {
        self as u8
    }

    /// The status with this number; one that has none here is a fault of the program.
    pub fn from_code(code: i32) -> Exit {
        use Exit::*;
        [
            Ok,
            Usage,
            DataErr,
            NoInput,
            NoUser,
            NoHost,
            Unavailable,
            Software,
            OsErr,
            OsFile,
            CantCreate,
            IoErr,
            TempFail,
            Protocol,
            NoPerm,
            Config,
        ]
        .into_iter()
        .find(|exit| *exit as i32 == code)
        .unwrap_or(Software)
    }

    /// The status of a command in which `self` came first and `next` after: the first error stays, only `Ok` and
    /// `TempFail` give way.
    pub fn and(self, next: Exit) -> Exit {
        match self {
            Exit::Ok => next,
            Exit::TempFail if next != Exit::Ok => next,
            first => first,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit.code())
    }
}

impl From<&UsageError> for Exit {
    fn from(_: &UsageError) -> Exit {
        Exit::Usage
    }
}

impl From<&ConfigError> for Exit {
    fn from(error: &ConfigError) -> Exit {
        match error {
            ConfigError::Open { .. } => Exit::OsFile,
            ConfigError::UnknownOption(_) => Exit::Software,
            ConfigError::Value { .. } => Exit::Usage,
        }
    }
}

impl From<&NoQueue> for Exit {
    fn from(_: &NoQueue) -> Exit {
        Exit::Config
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_error_stays() {
        assert_eq!(Exit::Ok.and(Exit::NoUser).and(Exit::NoHost), Exit::NoUser);
        assert_eq!(Exit::TempFail.and(Exit::Ok), Exit::TempFail);
        assert_eq!(Exit::TempFail.and(Exit::Unavailable), Exit::Unavailable);
        assert_eq!(Exit::Config.code(), 78);
    }
}
