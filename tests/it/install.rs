//! tools/install in a directory of its own, and what systemd-analyze thinks of the units.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const NAMES: [&str; 8] = [
    "usr/sbin/sendmail",
    "usr/sbin/smtpd",
    "usr/sbin/mailstats",
    "usr/lib/sendmail",
    "usr/bin/mailq",
    "usr/bin/newaliases",
    "usr/bin/hoststat",
    "usr/bin/purgestat",
];

/// The pages that people ask man(1) for.
const PAGES: [&str; 6] = [
    "man8/sendmail.8",
    "man8/mailstats.8",
    "man8/hoststat.8",
    "man8/purgestat.8",
    "man1/mailq.1",
    "man1/newaliases.1",
];

fn install(root: &Path, arguments: &[&str]) -> Output {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    Command::new("sh")
        .arg(here.join("tools/install"))
        .args(arguments)
        .env("DESTDIR", root)
        .env("BINARIES", Path::new(env!("CARGO_BIN_EXE_kvmta")).parent().unwrap())
        .env_remove("PREFIX")
        .output()
        .unwrap()
}

/// Every file below, from `root` on.
fn all_files(root: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(root).unwrap() {
        let path = entry.unwrap().path();
        let name = PathBuf::from(path.file_name().unwrap());
        if path.is_dir() && !path.is_symlink() {
            files.extend(all_files(&path).into_iter().map(|below| name.join(below)));
        } else {
            files.push(name);
        }
    }
    files.sort();
    files
}

#[test]
fn it_installs_what_sendmail_users_call_and_takes_it_away() {
    let root = tempfile::tempdir().unwrap();
    let dry = install(root.path(), &["--dry-run"]);
    assert!(dry.status.success() && !dry.stdout.is_empty(), "{dry:?}");
    assert_eq!(all_files(root.path()), Vec::<PathBuf>::new());

    for _ in 0..2 {
        let done = install(root.path(), &[]);
        assert!(done.status.success(), "{done:?}");
    }
    for name in NAMES {
        // Through the link, as whoever it is called by.
        let version = Command::new(root.path().join(name)).arg("--version").output().unwrap();
        assert!(version.stdout.starts_with(b"kvmta "), "{name}: {version:?}");
    }
    let listed = Command::new(root.path().join("usr/bin/mailq")).arg("-oQ/nonexistent").output();
    assert_eq!(listed.unwrap().status.code(), Some(75), "mailq lists the queue");
    for file in ["usr/share/man/man8/kvmta.8", "usr/lib/systemd/system/kvmta.socket"] {
        assert!(root.path().join(file).exists(), "{file}");
    }
    for page in PAGES {
        // Through the link, too: the page is there and is about that name.
        let text = std::fs::read_to_string(root.path().join("usr/share/man").join(page)).unwrap();
        let name = page.rsplit('/').next().unwrap().split('.').next().unwrap();
        assert!(text.starts_with(".Dd "), "{page}");
        assert!(text.contains(&format!(".Nm {name}")), "{page}");
    }

    let gone = install(root.path(), &["--uninstall"]);
    assert!(gone.status.success(), "{gone:?}");
    assert_eq!(all_files(root.path()), Vec::<PathBuf>::new());
}

#[test]
fn another_sendmail_is_left_alone_or_kept() {
    let root = tempfile::tempdir().unwrap();
    let other = root.path().join("usr/sbin/sendmail");
    std::fs::create_dir_all(other.parent().unwrap()).unwrap();
    std::fs::write(&other, "of somebody else").unwrap();

    let refused = install(root.path(), &[]);
    assert_eq!(refused.status.code(), Some(1));
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("/usr/sbin/sendmail") && said.contains("--force"), "{said}");
    assert_eq!(all_files(root.path()), [Path::new("usr/sbin/sendmail")]);

    for _ in 0..2 {
        assert!(install(root.path(), &["--force"]).status.success());
        assert!(other.is_symlink());
    }
    assert!(install(root.path(), &["--uninstall"]).status.success());
    assert_eq!(all_files(root.path()), [Path::new("usr/sbin/sendmail")]);
    assert_eq!(std::fs::read_to_string(&other).unwrap(), "of somebody else");
}

#[test]
fn elsewhere_the_unit_starts_what_is_there() {
    let root = tempfile::tempdir().unwrap();
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let done = Command::new("sh")
        .arg(here.join("tools/install"))
        .env("DESTDIR", root.path())
        .env("PREFIX", "/usr/local")
        .env("BINARIES", Path::new(env!("CARGO_BIN_EXE_kvmta")).parent().unwrap())
        .output()
        .unwrap();
    assert!(done.status.success(), "{done:?}");
    let unit = root.path().join("usr/local/lib/systemd/system/kvmta.service");
    let unit = std::fs::read_to_string(unit).unwrap();
    assert!(unit.contains("ExecStart=/usr/local/sbin/kvmta -bD "), "{unit}");
}

#[test]
fn the_service_is_hardened() {
    const EXPOSURE_MAX: f64 = 1.6;
    let unit = Path::new(env!("CARGO_MANIFEST_DIR")).join("tools/systemd/kvmta.service");
    let judged = Command::new("systemd-analyze")
        .args(["security", "--offline=yes", "--no-pager"])
        .arg(&unit)
        .output();
    let Ok(judged) = judged else {
        // Not every machine that builds has systemd; .ci/run sees to it that its does.
        return println!("skipped: no systemd-analyze here");
    };
    let text = String::from_utf8_lossy(&judged.stdout).into_owned();
    let level = text.split("exposure level for kvmta.service: ").nth(1);
    let level = level.and_then(|rest| rest.split(' ').next()).and_then(|n| n.parse::<f64>().ok());
    assert!(level.is_some_and(|level| level <= EXPOSURE_MAX), "{text}");
}
