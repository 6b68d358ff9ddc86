//! kvmta-load: the way in from sendmail and Postfix, and from a backup.
//!
//! `kvmta-load [-oQQUEUE] PATH...` takes the messages of other spools into a queue, each in one transaction with the state it had
//! there (see [`kvmta::cli::load`]), and each once however often it is run: the store remembers what it took. What it cannot read it
//! names, with place and reason, and goes on with the rest; its files stay where they are. What there is no place for here is
//! named with the message. With `--remove` files go once their message is durable here.
//!
//! `kvmta-load [-oQQUEUE] --restore BACKUP` makes a queue of what `kvmta-dump --backup` wrote, in an empty directory.
//!
//! Exit 0: everything is loaded; 65: something cannot be; 75: something can be later; else see sysexits(3).

use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant, SystemTime};

use clap::Parser;
use kvmta::cli::ask::{self, Connected};
use kvmta::cli::load::files::{self, Found, Message};
use kvmta::cli::load::one::{self, Manner, Outcome};
use kvmta::cli::{configured, open_log};
use kvmta::config::Config;
use kvmta::config::raw::Setting;
use kvmta::control::client::{self, Asked};
use kvmta::control::proto::{Answer, Request};
use kvmta::mail::time::Timestamp;
use kvmta::store::{Store, StoreError, StoreOptions, backup};

/// Messages found and not yet taken by a worker: memory is theirs, not that of the spool.
const WAITING_MAX: usize = 256;
/// Connections at once: commits are shared by what arrives together.
const WORKERS: u8 = 8;
/// A connection that was not used for so long is made anew: the other side closes it after two minutes.
const IDLE: Duration = Duration::from_secs(60);
/// Between two lines of progress.
const PROGRESS: Duration = Duration::from_millis(200);

const EXAMPLES: &str = "\
Examples:
  kvmta-load --dry-run /var/spool/mqueue       what would be loaded, and what cannot be read
  kvmta-load /var/spool/mqueue                 load it, leave the files (loading it again does nothing)
  kvmta-load --remove /var/spool/mqueue        load it, and remove what is durable here
  kvmta-load /var/spool/postfix                a stopped Postfix's queue
  postcat -q 4F2A... >m && kvmta-load m        one message of a Postfix elsewhere
  kvmta-load -oQ/srv/queue --restore /backup/monday
";

/// Load the messages of a sendmail or Postfix spool into a kvmta queue, or restore a backup.
#[derive(Parser)]
#[command(name = "kvmta-load", version, after_help = EXAMPLES)]
struct Args {
    /// The queue directory behind a Q, as for sendmail: -oQ/var/spool/kvmta [default: as kvmta's].
    #[arg(short = 'o', value_name = "QDIR", value_parser = queue_option)]
    queue: Option<String>,
    /// The configuration file, when no daemon runs [default: as kvmta's].
    #[arg(short = 'C', value_name = "FILE")]
    config_file: Option<PathBuf>,
    /// An option of the configuration, when no daemon runs.
    #[arg(short = 'O', value_name = "OPTION=VALUE", value_parser = setting)]
    options: Vec<Setting>,
    /// Read everything and load nothing.
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Remove the files of each message once it is durable here.
    #[arg(long, conflicts_with = "dry_run")]
    remove: bool,
    /// Say the new queue ID of each message.
    #[arg(short, long)]
    verbose: bool,
    /// Make an empty queue directory a copy of this backup.
    #[arg(long, value_name = "BACKUP", conflicts_with_all = ["paths", "remove", "dry_run"])]
    restore: Option<PathBuf>,
    /// sendmail's queue directory, Postfix's, a queue file of either, or a file of postcat's output.
    #[arg(value_name = "PATH", required_unless_present = "restore")]
    paths: Vec<PathBuf>,
}

/// The value of `-oQ/dir`, as on sendmail's command line.
fn queue_option(text: &str) -> Result<String, String> {
    match text.strip_prefix('Q') {
        Some(dir) if !dir.is_empty() => Ok(dir.into()),
        _ => Err("only -oQ with a directory is known here; other options with -O".into()),
    }
}

fn setting(text: &str) -> Result<Setting, String> {
    let (name, value) = text.split_once('=').ok_or("an option is NAME=VALUE")?;
    Ok(Setting { name: name.into(), value: value.into() })
}

fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            // Help and version come this way too; if even printing fails there is nobody left to tell.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { 64 } else { 0 });
        }
    };
    let queue = args.queue.iter().map(|dir| Setting { name: "Q".into(), value: dir.clone() });
    let options: Vec<Setting> = queue.chain(args.options.iter().cloned()).collect();
    let config = match configured(args.config_file.as_deref(), &options, &[]) {
        Ok((config, _)) => Arc::new(config),
        Err(exit) => return exit.into(),
    };
    let done = match &args.restore {
        Some(from) => restore(from, &config.queue_directory),
        None => load(&args, &config),
    };
    match done {
        Ok(exit) => ExitCode::from(exit),
        Err((text, exit)) => {
            eprintln!("kvmta-load: {text}");
            ExitCode::from(exit)
        }
    }
}

/// What to say at the end, and the exit status.
type Failure = (String, u8);

// --- load ------------------------------------------------------------------------------------------------------------

/// What a worker or the walk has to say.
enum News {
    Done(PathBuf, Outcome),
    Found(Found),
    /// The holder of the queue is gone.
    Lost(io::Error),
}

fn load(args: &Args, config: &Arc<Config>) -> Result<u8, Failure> {
    if args.dry_run {
        return Ok(work(args, config, (0..WORKERS).map(|_| None).collect()));
    }
    let log = |whose| open_log(config, Some("kvmta-load"), whose);
    let Connected { stream, held } =
        ask::connect(config, &log).map_err(|error| (error.text, error.exit.code()))?;
    let lost = |error: io::Error| {
        let queue = config.queue_directory.display();
        (format!("the queue {queue} cannot be asked: {error}; nothing was loaded, try again"), 75)
    };
    let mut links = vec![Some(linked(stream).map_err(lost)?)];
    for _ in 1..WORKERS {
        let stream = client::connect(&config.queue_directory).map_err(lost)?;
        links.push(Some(linked(stream).map_err(lost)?));
    }
    let exit = work(args, config, links);
    match held {
        None => Ok(exit),
        Some(held) => match held.end() {
            Ok(()) => Ok(exit),
            Err(error) => Err((format!("{error}; what was said to be loaded is durable"), 75)),
        },
    }
}

/// A connection that knows the other side to be of its version.
fn linked(stream: std::os::unix::net::UnixStream) -> io::Result<Asked> {
    let mut asked = client::ask(stream, &Request::Count)?;
    loop {
        match asked.answer()? {
            Answer::Failed { text, .. } => return Err(io::Error::other(text)),
            answer if answer.is_last() => return Ok(asked),
            _ => {}
        }
    }
}

/// Walks the paths, loads what is found over all links, and says what became of it. Returns the exit status.
fn work(args: &Args, config: &Config, links: Vec<Option<Asked>>) -> u8 {
    let queue = &config.queue_directory;
    let manner = || Manner { now: now(), remove: args.remove, host: config.host_name.clone() };
    let (found, waiting) = mpsc::sync_channel::<Message>(WAITING_MAX);
    let (tell, news) = mpsc::sync_channel::<News>(WAITING_MAX);
    let waiting = Mutex::new(waiting);
    let stop = AtomicBool::new(false);
    let mut tally = Tally::new(args);
    std::thread::scope(|scope| {
        for link in links {
            let (waiting, stop, tell) = (&waiting, &stop, tell.clone());
            scope.spawn(move || worker(link, queue, waiting, stop, &tell, &manner));
        }
        let (stop_walk, tell_walk) = (&stop, tell);
        scope.spawn(move || {
            let mut visit = |news: Found| {
                !stop_walk.load(Ordering::Relaxed)
                    && match news {
                        Found::Message(message) => found.send(message).is_ok(),
                        other => tell_walk.send(News::Found(other)).is_ok(),
                    }
            };
            // Whoever stopped it has said why.
            let _ = args.paths.iter().all(|path| files::walk(path, &mut visit));
        });
        for news in news {
            if let News::Lost(_) = &news {
                stop.store(true, Ordering::Relaxed);
            }
            tally.take(news);
        }
    });
    tally.end()
}

fn worker(
    mut link: Option<Asked>,
    queue: &Path,
    waiting: &Mutex<mpsc::Receiver<Message>>,
    stop: &AtomicBool,
    tell: &mpsc::SyncSender<News>,
    manner: &dyn Fn() -> Manner,
) {
    let mut used = Instant::now();
    while let Some(message) = waiting.lock().ok().and_then(|waiting| waiting.recv().ok()) {
        // What is left is taken from the walk, so that it ends.
        if stop.load(Ordering::Relaxed) {
            continue;
        }
        if link.is_some() && used.elapsed() >= IDLE {
            match client::connect(queue).and_then(linked) {
                Ok(new) => link = Some(new),
                Err(error) => {
                    let _ = tell.send(News::Lost(error));
                    continue;
                }
            }
        }
        let mut told = true;
        let mut done = |outcome| {
            told &= tell.send(News::Done(message.path().to_owned(), outcome)).is_ok();
        };
        if let Err(error) = one::load(&message, link.as_mut(), &manner(), &mut done) {
            told &= tell.send(News::Lost(error)).is_ok();
        }
        used = Instant::now();
        if !told {
            return;
        }
    }
}

fn now() -> Timestamp {
    let since = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    Timestamp::from_millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// Counts, and says what is to be said.
struct Tally {
    verbose: bool,
    dry_run: bool,
    remove: bool,
    progress: bool,
    shown: Instant,
    loaded: u64,
    /// Of those loaded, with something that was not kept.
    lessened: u64,
    before: u64,
    busy: u64,
    bad: u64,
    later: u64,
    ignored: std::collections::BTreeMap<&'static str, u64>,
    lost: Option<io::Error>,
}

impl Tally {
    fn new(args: &Args) -> Tally {
        Tally {
            verbose: args.verbose,
            dry_run: args.dry_run,
            remove: args.remove,
            progress: io::stderr().is_terminal(),
            shown: Instant::now(),
            loaded: 0,
            lessened: 0,
            before: 0,
            busy: 0,
            bad: 0,
            later: 0,
            ignored: std::collections::BTreeMap::new(),
            lost: None,
        }
    }

    fn take(&mut self, news: News) {
        match news {
            News::Done(path, outcome) => self.done(&path, outcome),
            News::Found(Found::Ignored(path, what)) => {
                *self.ignored.entry(what).or_default() += 1;
                if self.verbose {
                    self.say(&path, &format!("ignored: {what}"));
                }
            }
            News::Found(Found::Foreign(path, why)) => {
                self.bad += 1;
                self.say(&path, &why);
            }
            News::Found(Found::Busy(path, why)) => {
                self.busy += 1;
                self.say(&path, &why);
            }
            News::Found(Found::Message(_)) => {}
            News::Lost(error) => {
                self.lost.get_or_insert(error);
            }
        }
        if self.progress && self.shown.elapsed() >= PROGRESS {
            self.shown = Instant::now();
            let (loaded, not) = (self.loaded + self.before, self.bad + self.busy + self.later);
            let done = if self.dry_run { "read" } else { "loaded" };
            eprint!("\r{loaded} {done}, {not} not ");
            let _ = io::stderr().flush();
        }
    }

    fn done(&mut self, path: &Path, outcome: Outcome) {
        match outcome {
            Outcome::Loaded(id, unkept) => {
                self.loaded += 1;
                self.took(path, &format!("loaded as {id}"), &unkept);
            }
            Outcome::Before(id) => {
                self.before += 1;
                if self.verbose {
                    self.say(path, &format!("was loaded before, as {id}"));
                }
            }
            Outcome::Readable(unkept) => {
                self.loaded += 1;
                self.took(path, "could be loaded", &unkept);
            }
            Outcome::Locked(why) => {
                self.busy += 1;
                self.say(path, &format!("skipped: {why}"));
            }
            Outcome::Unreadable(unreadable) => {
                self.bad += 1;
                self.say(path, &unreadable.to_string());
            }
            Outcome::Refused(text, exit) => {
                *(if exit == 75 { &mut self.later } else { &mut self.bad }) += 1;
                self.say(path, &text);
            }
        }
    }

    fn took(&mut self, path: &Path, how: &str, unkept: &[String]) {
        match unkept {
            [] if self.verbose => self.say(path, how),
            [] => {}
            _ => {
                self.lessened += 1;
                self.say(path, &format!("{how}; not kept: {}", unkept.join(", ")));
            }
        }
    }

    fn say(&self, path: &Path, text: &str) {
        let cr = if self.progress { "\r" } else { "" };
        eprintln!("{cr}kvmta-load: {}: {text}", path.display());
    }

    fn end(&self) -> u8 {
        let cr = if self.progress { "\r" } else { "" };
        let done = if self.dry_run { "could be loaded" } else { "loaded" };
        let mut words = vec![format!("{} messages {done}", self.loaded)];
        for (count, what) in [
            (self.lessened, "of them with something not kept"),
            (self.before, "loaded before"),
            (self.busy, "skipped, in use"),
            (self.later, "not taken, try again later"),
            (self.bad, "not loaded"),
        ] {
            if count > 0 {
                words.push(format!("{count} {what}"));
            }
        }
        let ignored = self.ignored.iter().map(|(what, count)| format!("{count} ignored ({what})"));
        words.extend(ignored);
        eprintln!("{cr}kvmta-load: {}", words.join(", "));
        if let Some(error) = &self.lost {
            eprintln!(
                "kvmta-load: the queue does not answer any more ({error}); what is loaded is durable, run this again for the rest"
            );
            return 75;
        }
        for line in self.advice() {
            eprintln!("kvmta-load: {line}");
        }
        match (self.bad, self.busy + self.later) {
            (0, 0) => 0,
            (0, _) => 75,
            _ => 65,
        }
    }

    /// What to do next.
    fn advice(&self) -> Vec<&'static str> {
        let is_here = self.loaded + self.before > 0 && !self.dry_run;
        let lines = [
            (
                is_here && !self.remove,
                "the files of what is loaded are still there: remove them (--remove does, also of what was loaded before) \
                 before the other program runs again, or it delivers them too",
            ),
            (
                self.bad > 0,
                "what is not loaded is named above and stays where it is: see to what is said of it, then run this again",
            ),
            (
                self.busy + self.later > 0,
                "what was skipped or not taken is left as it is: run this again",
            ),
        ];
        lines.into_iter().filter_map(|(holds, line)| holds.then_some(line)).collect()
    }
}

// --- restore ---------------------------------------------------------------------------------------------------------

fn restore(from: &Path, to: &Path) -> Result<u8, Failure> {
    let failed = |error: StoreError| match error {
        StoreError::Missing(_) => {
            let from = from.display();
            let text = "nothing was written; name a directory that kvmta-dump --backup has filled";
            (format!("no complete backup in {from}: {text}"), 66)
        }
        StoreError::Full => (format!("{error}; remove {} and try again", to.display()), 73),
        other => (other.to_string(), if matches!(other, StoreError::Locked(_)) { 75 } else { 73 }),
    };
    let mut tell = |name: &str| eprintln!("kvmta-load: {name}");
    let octets = backup::restore(from, to, &mut tell).map_err(failed)?;
    let runtime = ask::runtime().map_err(|error| (error.to_string(), 71))?;
    let broken = runtime.block_on(async {
        let store = Store::open(options(to), false)?;
        let broken = store.check()?;
        let counts = store.counts()?;
        store.close().await?;
        Ok((broken, counts))
    });
    let (broken, counts) = broken.map_err(|error: StoreError| (error.to_string(), 65))?;
    for broken in &broken {
        println!("{broken}");
    }
    eprintln!(
        "kvmta-load: {} messages restored into {} ({octets} octets); mail that left after the backup was made is among them",
        counts.messages,
        to.display()
    );
    Ok(if broken.is_empty() { 0 } else { 65 })
}

fn options(directory: &Path) -> StoreOptions {
    let config = Config::default();
    StoreOptions {
        directory: directory.to_owned(),
        cache_size: config.db_cache_size,
        body_generation_size: config.body_generation_size,
        incoming_size: config.incoming_size,
        max_unsettled: config.max_unsettled,
        min_free: 0,
        clock: Arc::new(now),
    }
}
