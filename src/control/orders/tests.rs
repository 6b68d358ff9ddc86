use std::os::unix::fs::MetadataExt;

use super::*;

/// What sendmail 8.17 answered with one session and one console, `>` before what was asked.
const GOLDEN: &str = include_str!("../../../tests/golden/control-socket.txt");

fn facts() -> Facts {
    Facts {
        pid: 25573,
        listens: true,
        sessions: 1,
        sessions_max: 0,
        load: 0,
        queue: "/var/spool/kvmta".into(),
        messages: Some(2),
        free_kib: Some(60_285_144),
    }
}

fn said(line: &str) -> String {
    answer(line, facts).0
}

/// sendmail's answer, with what is only ours to know taken out.
fn golden(line: &str) -> String {
    let (_, rest) = GOLDEN.split_once(&format!("> {line}\n")).unwrap();
    let end = rest.find("> ").unwrap_or(rest.len());
    rest[..end].replace('\n', "\r\n")
}

/// Its lines, where each process has one, with numbers and names of directories made alike.
fn shape(text: &str) -> Vec<String> {
    let is_child = |line: &&str| line.contains("child for") || line.contains("SMTP sessions");
    let lines = text.split_terminator("\r\n").filter(|line| {
        assert!(!line.ends_with('\r'));
        !is_child(line) && !line.ends_with("console socket child")
    });
    lines
        .map(|line| {
            line.replace("/./", "//var/spool/kvmta/")
                .replace("NOTCONFIGURED:-1", "/var/spool/kvmta:2")
        })
        .collect()
}

#[test]
fn answers_are_sendmails() {
    for line in ["status", "STATUS x", " status", "mstat"] {
        assert_eq!(shape(&said(line)), shape(&golden(line)), "{line}");
    }
    for line in ["foo bar", "", "restart", "shutdown"] {
        assert_eq!(said(line), golden(line), "{line}");
    }
    assert_eq!(
        said("memdump"),
        "Memory dump unavailable.\r\nTo fix, rebuild with -DSM_HEAP_CHECK\r\n"
    );
    let forms = |text: &str| -> Vec<String> {
        let word = |line: &str| line.split_inclusive('\t').next().unwrap_or(line).to_owned();
        text.split_terminator("\r\n").map(word).collect()
    };
    assert_eq!(forms(&said("help")), forms(&golden("help")));
}

#[test]
fn smcontrol_reads_it() {
    // The expressions of munge_status: a line of four numbers, then `pid task`, the daemon's first.
    let text = said("status");
    let (head, rest) = text.split_once("\r\n").unwrap();
    assert_eq!(head, "1/0/60285144/0");
    let lines: Vec<_> = rest.lines().collect();
    assert_eq!(lines, ["25573 accepting connections", "25573 SMTP sessions: 1"]);
    let idle = Facts { sessions: 0, listens: false, ..facts() };
    assert_eq!(tasks(&idle, "P:"), "P:25573 running queue: /var/spool/kvmta\r\n");
    let unknown = Facts { messages: None, free_kib: None, ..idle };
    assert!(mstat(&unknown).contains("Q:/var/spool/kvmta:-1\r\nD:0//var/spool/kvmta/-1\r\n"));
}

#[test]
fn orders_are_given_by_two_words_alone() {
    let order = |line: &str| answer(line, facts).1;
    assert_eq!(order("RESTART"), Some(Order::Restart));
    assert_eq!(order("\tshutdown now"), Some(Order::Shutdown));
    for line in ["", "help", "status", "mstat", "memdump", "shutdownnow", "quit"] {
        assert_eq!(order(line), None, "{line}");
    }
}

#[test]
fn the_socket_is_its_owners() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("smcontrol");
    let listener = bind(&path, None).unwrap();
    let found = std::fs::metadata(&path).unwrap();
    assert_eq!(found.mode() & 0o777, 0o600);
    // Somebody answers there.
    assert_eq!(bind(&path, None).unwrap_err().kind(), io::ErrorKind::AddrInUse);
    // Left by one that is gone.
    drop(listener);
    assert!(bind(&path, None).is_ok());
    let file = directory.path().join("file");
    std::fs::write(&file, "kept").unwrap();
    assert_eq!(bind(&file, None).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    assert_eq!(std::fs::read(&file).unwrap(), b"kept");
    assert!(bind(&directory.path().join("none/smcontrol"), None).is_err());
}

#[tokio::test]
async fn a_line_is_bounded() {
    let long = [b'x'; LINE_MAX + 10];
    for (pieces, taken) in [
        (&[&b"status\nmore"[..]][..], Some("status")),
        (&[b"sta", b"tus\nmore"], Some("status")),
        (&[b"status"], Some("status")),
        (&[b"\n"], Some("")),
        (&[], None),
        (&[&long], Some(&"x".repeat(LINE_MAX)[..])),
    ] {
        let (mut ours, mut theirs) = UnixStream::pair().unwrap();
        let write = async {
            for piece in pieces {
                theirs.write_all(piece).await.unwrap();
                // Long enough for the other side to look.
                for _ in 0..100 {
                    tokio::task::yield_now().await;
                }
            }
            drop(theirs);
        };
        let (line, ()) = tokio::join!(line(&mut ours), write);
        assert_eq!(line.unwrap().as_deref(), taken);
    }
}
