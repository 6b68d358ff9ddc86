//! The answering end: whoever holds the store answers on QueueDirectory's `control` socket.
//!
//! Who asks is known from the peer credentials; what he may do is decided here
//! (PrivacyOptions restrictmailq and restrictqrun; settings of a run only from root, the daemon's user and TrustedUser).
//! Listings are read in pages on threads for blocking work, so a slow reader holds neither a snapshot nor a worker.
//! A connection that sends garbage, or nothing for too long, is closed; nothing else happens.
//!
//! A connection is greeted with our version. What was greeted is served to the end of its request, also when it is time
//! to stop ([`FINISH_WAIT`]); what was not has lost nothing and asks again, so no restart comes between a program and
//! its answer.

mod backup;
mod load;
mod quarantine;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::operate::Manner;
use super::proto::{self, Answer, CHUNK, Chunk, PAGE_MAX, Request};
use crate::accept::submit::{LocalUser, Submitted, Submitting};
use crate::accept::{Acceptor, Caller};
use crate::config::PortTls;
use crate::mail::job::{BodyRef, Entry, EntryJob};
use crate::mail::queue_id::QueueId;
use crate::mail::selection::Selection;
use crate::mail::submission::{Submission, SubmissionRefused};
use crate::queue::House;
use crate::queue::run::{PROGRESS_MAX, Progress, Run, RunRequest};
use crate::store::backup::KeptBodies;
use crate::store::history::History;
use crate::store::{Accepted, StoreError};

/// Connections at once. More wait in the socket's backlog: a local program waits rather than fails.
const CONNECTIONS_MAX: usize = 256;
/// How long the next piece of a message may take: longer than Timeout.control, as a program that pipes a message in may
/// think for a while.
const MESSAGE_WAIT: Duration = Duration::from_secs(3600);
/// How long requests under way may take once it is time to stop: most are over in milliseconds, a listing that nobody reads never is.
const FINISH_WAIT: Duration = Duration::from_secs(10);
/// What an ordinary user hears who asks for everything.
pub(super) const NOT_YOURS: &str =
    "only root and the daemon's user may read the messages of the queue";
/// What an ordinary user hears who asks for a change: sendmail's words, and its status 64.
pub(crate) const NOT_TRUSTED: &str = "Permission denied (real uid not trusted)";
/// How long to wait when the machine has no descriptor or memory for a connection.
const SHORTAGE_WAIT: Duration = Duration::from_millis(100);
/// Entries in one page of a listing.
const PAGE: usize = 500;

/// What the answers are made from.
pub struct Desk {
    /// The house.
    pub house: House,
    /// SMTP over the socket, and where new mail goes.
    pub acceptor: Arc<Acceptor>,
    /// New mail for the runner.
    pub wake: mpsc::Sender<Accepted>,
    /// Explicit runs for the runner.
    pub runs: mpsc::Sender<RunRequest>,
    /// True when no more mail is tried and SMTP sessions are to end. Messages are taken still.
    pub stop: watch::Receiver<bool>,
    /// Uids that may do what root may: the daemon's own, TrustedUser's.
    pub trusted: Vec<u32>,
    /// Set by [`Request::Yield`]; a daemon has none and does not give way.
    pub yield_to: Option<watch::Sender<bool>>,
    /// What happened to messages; none when none is kept.
    pub history: Option<History>,
}

/// Why a connection ended early.
pub(super) enum Ending {
    /// The peer went away or sent garbage.
    Connection,
    /// The store refused.
    Store(StoreError),
}

impl From<io::Error> for Ending {
    fn from(_: io::Error) -> Ending {
        Ending::Connection
    }
}

impl From<StoreError> for Ending {
    fn from(error: StoreError) -> Ending {
        Ending::Store(error)
    }
}

/// Makes the socket, for everybody. The store's lock is held, so what lies there is a dead one's.
pub fn bind(directory: &Path) -> io::Result<UnixListener> {
    use std::os::unix::fs::PermissionsExt;
    let path = directory.join(super::client::SOCKET);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&path)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666))?;
    Ok(listener)
}

/// Answers until told to stop, then finishes what is under way. Each connection is served at the desk that `desks` holds when it
/// comes, so a reload acts on the next one.
pub async fn serve(
    listener: UnixListener,
    desks: watch::Receiver<Arc<Desk>>,
    mut stop: watch::Receiver<bool>,
) {
    let mut connections = JoinSet::new();
    loop {
        let has_place = connections.len() < CONNECTIONS_MAX;
        let accepted = tokio::select! {
            () = stopped(&mut stop) => break,
            Some(_) = connections.join_next() => continue,
            accepted = listener.accept(), if has_place => accepted,
        };
        let desk = desks.borrow().clone();
        match accepted {
            Ok((stream, _)) => drop(connections.spawn(connection(desk, stream, stop.clone()))),
            Err(error) => {
                desk.house.maillog.warning(None, &format!("control socket: accept: {error}"));
                tokio::time::sleep(SHORTAGE_WAIT).await;
            }
        }
    }
    // Whoever comes now finds nobody and waits for the next to hold the store.
    drop(listener);
    let all = async { while connections.join_next().await.is_some() {} };
    // Those that are left then are closed; what they asked for was answered or is found in the queue.
    let _ = tokio::time::timeout(FINISH_WAIT, all).await;
}

/// Resolves when it is time to stop.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    // The sender goes only with the house, and then it is time as well.
    let _ = stop.wait_for(|stop| *stop).await;
}

async fn connection(desk: Arc<Desk>, mut stream: UnixStream, mut stop: watch::Receiver<bool>) {
    let Ok(credentials) = stream.peer_cred() else { return };
    if stream.write_u8(proto::VERSION).await.is_err() {
        return;
    }
    let wait = desk.house.config.timeouts.control;
    let Ok(Ok(version)) = tokio::time::timeout(wait, stream.read_u8()).await else {
        return;
    };
    if version != proto::VERSION {
        let text = "this kvmta and the one that holds the queue are of different versions; \
                    restart the daemon";
        let answer = Answer::Failed { text: text.into(), exit: 75 };
        let _ = proto::send(&mut stream, &answer).await;
        return;
    }
    let (uid, gid) = (credentials.uid(), credentials.gid());
    let mut visit = Visit { desk, stream, uid, gid, kept: None };
    let mut is_first = true;
    loop {
        let request = proto::receive::<Request>(&mut visit.stream);
        let request = tokio::select! {
            biased;
            request = tokio::time::timeout(wait, request) => request,
            // The first request was promised an answer by the greeting.
            () = stopped(&mut stop), if !is_first => return,
        };
        let Ok(Ok(Some(request))) = request else { return };
        is_first = false;
        match visit.answer(request).await {
            Ok(()) => {}
            Err(Ending::Store(error)) => {
                let answer = Answer::Failed { text: error.to_string(), exit: 75 };
                if proto::send(&mut visit.stream, &answer).await.is_err() {
                    return;
                }
            }
            // The other side left, or is none of ours: nobody is there to be told.
            Err(Ending::Connection) => return,
        }
    }
}

/// One connection with its request.
pub(super) struct Visit {
    pub(super) desk: Arc<Desk>,
    stream: UnixStream,
    uid: u32,
    gid: u32,
    /// Bodies that are not to go while this connection copies them.
    kept: Option<KeptBodies>,
}

impl Visit {
    async fn answer(&mut self, request: Request) -> Result<(), Ending> {
        match request {
            Request::Submit { submission, wait, verbose } => {
                self.submit(submission, wait, verbose).await
            }
            Request::Smtp { client } => self.smtp(client).await,
            Request::List(selection) => self.list(selection).await,
            Request::Page { after, limit } => self.page(after, limit).await,
            Request::Jobs { id, after, limit } => self.jobs(id, after, limit).await,
            Request::Bytes { body, offset } => self.bytes(body, offset).await,
            Request::Count => {
                let counts = self.desk.house.store.counts()?;
                self.say(&Answer::Counts(counts)).await?;
                self.done(0).await
            }
            Request::Run(run) => self.run(run).await,
            Request::Hosts => self.hosts().await,
            Request::Check => self.check().await,
            Request::Load { origin } => self.load(origin).await,
            Request::Backup => self.backup().await,
            Request::Quarantine { selection, reason } => self.quarantine(selection, reason).await,
            Request::PurgeHosts => self.purge_hosts().await,
            Request::Statistics { reset } => self.statistics(reset).await,
            Request::Yield => self.give_way().await,
            Request::Operate { filter, deed, rehearse, show } => {
                self.operate(filter, deed, Manner { rehearse, show }).await
            }
            Request::History(filter) => self.history(filter).await,
        }
    }

    pub(super) fn is_trusted(&self) -> bool {
        self.uid == 0 || self.desk.trusted.contains(&self.uid)
    }

    /// The dialogue is for whoever may expand addresses (PrivacyOptions restrictexpand): from others -v shows nothing.
    fn may_watch(&self) -> bool {
        !self.desk.house.config.privacy.restrictexpand || self.is_trusted()
    }

    /// PrivacyOptions restrictmailq: root and the group of the QueueDirectory.
    fn may_list(&self) -> bool {
        let config = &self.desk.house.config;
        let group = || {
            use std::os::unix::fs::MetadataExt;
            let directory = std::fs::metadata(&config.queue_directory).ok()?;
            let gid = directory.gid();
            Some(self.gid == gid || groups_of(self.uid)?.contains(&gid))
        };
        !config.privacy.restrictmailq || self.is_trusted() || group().unwrap_or(false)
    }

    pub(super) async fn say(&mut self, answer: &Answer) -> Result<(), Ending> {
        Ok(proto::send(&mut self.stream, answer).await?)
    }

    pub(super) async fn done(&mut self, exit: u8) -> Result<(), Ending> {
        self.say(&Answer::Done { exit }).await
    }

    pub(super) async fn fail(&mut self, text: &str, exit: u8) -> Result<(), Ending> {
        self.say(&Answer::Failed { text: text.to_owned(), exit }).await
    }

    /// 0 when whoever asks may wait for the lock: it will be free soon. 69 when a daemon has it, and keeps it.
    async fn give_way(&mut self) -> Result<(), Ending> {
        let is_stopping = *self.desk.stop.borrow();
        match &self.desk.yield_to {
            None if !is_stopping => {
                let text = "a daemon that is running has the queue, and does not give way";
                return self.fail(text, 69).await;
            }
            Some(yield_to) if self.is_trusted() => drop(yield_to.send_replace(true)),
            _ => {}
        }
        self.done(0).await
    }

    async fn submit(
        &mut self,
        submission: Submission,
        wait: bool,
        verbose: bool,
    ) -> Result<(), Ending> {
        let verbose = verbose && self.may_watch();
        let queue_only = submission.queue_only;
        let submitted = match self.take(submission).await? {
            Ok(submitted) => submitted,
            Err(refused) => return self.say(&Answer::Refused(refused)).await,
        };
        let mut exit = 0;
        let accepted = submitted.accepted;
        self.say(&Answer::Accepted(accepted.id)).await?;
        if wait && !queue_only {
            exit = self.wait_for(accepted, verbose).await?;
        } else if !queue_only {
            // A full channel is no loss: the runner finds the message in the store.
            let _ = self.desk.wake.try_send(accepted);
        }
        match submitted.refused {
            Some(refused) => self.say(&Answer::Refused(refused)).await,
            None => self.done(exit).await,
        }
    }

    async fn take(
        &mut self,
        submission: Submission,
    ) -> Result<Result<Submitted, SubmissionRefused>, Ending> {
        let house = &self.desk.house;
        let now = house.world.clock.now();
        let queue_only = submission.queue_only;
        let submitting = Submitting::new(
            house.config.clone(),
            &house.store,
            submission,
            self.user(),
            now,
            house.config.time_zone.clone(),
        );
        // Even a refused message is read to its end: the program writes it before it listens.
        let mut taking = submitting;
        // Without a daemon it waits for one, or for the child that tries it.
        let next = self.desk.acceptor.next_queue_run();
        if let (Ok(submitting), Some(due), true, None) =
            (&mut taking, next, queue_only, &self.desk.yield_to)
        {
            submitting.postpone(due);
        }
        loop {
            let chunk =
                tokio::time::timeout(MESSAGE_WAIT, proto::receive::<Chunk>(&mut self.stream));
            let chunk = chunk.await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
            let Some(Chunk(bytes)) = chunk else {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            };
            if bytes.is_empty() {
                break;
            }
            if let Ok(submitting) = &mut taking
                && let Err(refused) = submitting.feed(&bytes).await
            {
                taking = Err(refused);
            }
        }
        let submitted = match taking {
            Ok(submitting) => submitting.finish().await,
            Err(refused) => Err(refused),
        };
        if let Ok(Submitted { accepted, envelope, recipients, .. }) = &submitted {
            house.maillog.accepted(accepted.id, envelope, *recipients, None);
        }
        Ok(submitted)
    }

    pub(super) fn user(&self) -> LocalUser {
        let entry =
            nix::unistd::User::from_uid(nix::unistd::Uid::from_raw(self.uid)).ok().flatten();
        let trusted = self.is_trusted();
        let class_t = &self.desk.house.config.trusted_users;
        match entry {
            Some(user) => {
                let trusted = trusted || class_t.contains(&user.name);
                let gecos = user.gecos.to_string_lossy();
                let full_name = gecos.split(',').next().unwrap_or_default();
                LocalUser {
                    full_name: full_name.replace('&', &user.name),
                    name: user.name,
                    trusted,
                }
            }
            None => {
                LocalUser { name: format!("uid{}", self.uid), full_name: String::new(), trusted }
            }
        }
    }

    /// The first attempt of a message whose sender waits for it.
    async fn wait_for(&mut self, accepted: Accepted, verbose: bool) -> Result<u8, Ending> {
        let (progress, news) = mpsc::channel(PROGRESS_MAX);
        let request = RunRequest::Message { accepted, verbose, progress };
        if self.desk.runs.send(request).await.is_err() {
            return Ok(0);
        }
        self.relay(news).await
    }

    async fn relay(&mut self, mut news: mpsc::Receiver<Progress>) -> Result<u8, Ending> {
        while let Some(progress) = news.recv().await {
            match progress {
                Progress::Line(line) => self.say(&Answer::Line(line)).await?,
                Progress::Done { exit } => return Ok(exit),
            }
        }
        // The runner stopped: the rest is queued.
        Ok(0)
    }

    async fn smtp(&mut self, client: Option<std::net::IpAddr>) -> Result<(), Ending> {
        let (ours, theirs) = tokio::io::duplex(CHUNK);
        let acceptor = self.desk.acceptor.clone();
        let caller = Caller {
            address: client,
            local_name: format!("{}@localhost", self.user().name),
            daemon: "stdin".into(),
            tls: PortTls::Offered,
        };
        let stop = self.desk.stop.clone();
        let session =
            tokio::spawn(async move { acceptor.session(Box::new(theirs), caller, stop).await });
        let mut ours = ours;
        let copied = tokio::io::copy_bidirectional(&mut self.stream, &mut ours).await;
        let _ = session.await;
        Ok(copied.map(|_| ())?)
    }

    async fn run(&mut self, run: Run) -> Result<(), Ending> {
        if self.desk.house.config.privacy.restrictqrun && !self.is_trusted() {
            return self.fail("You do not have permission to process the queue", 77).await;
        }
        if !run.settings.is_empty() && !self.is_trusted() {
            let text = "only root, the daemon's user and TrustedUser may set timeouts for a run; \
                        nothing was run";
            return self.fail(text, 64).await;
        }
        let run = Run { verbose: run.verbose && self.may_watch(), ..run };
        let wait = run.wait;
        let (progress, news) = mpsc::channel(PROGRESS_MAX);
        let request = RunRequest::Queue { run, progress: wait.then_some(progress) };
        if self.desk.runs.send(request).await.is_err() {
            return self.fail("the daemon is stopping; nothing was run", 75).await;
        }
        let exit = if wait { self.relay(news).await? } else { 0 };
        self.done(exit).await
    }

    async fn hosts(&mut self) -> Result<(), Ending> {
        let mut after: Option<String> = None;
        loop {
            let page = self.desk.house.store.hosts(after.as_deref(), PAGE)?;
            let Some(last) = page.last() else { return self.done(0).await };
            after = Some(last.host.clone());
            self.say(&Answer::Hosts(page)).await?;
        }
    }

    async fn statistics(&mut self, reset: bool) -> Result<(), Ending> {
        if reset && !self.is_trusted() {
            return self.fail(NOT_TRUSTED, 64).await;
        }
        let statistics = match reset {
            true => self.desk.house.store.reset_statistics().await?,
            false => self.desk.house.store.statistics()?,
        };
        self.say(&Answer::Statistics(statistics)).await?;
        self.done(0).await
    }

    async fn purge_hosts(&mut self) -> Result<(), Ending> {
        if !self.is_trusted() {
            return self.fail(NOT_TRUSTED, 64).await;
        }
        let House { config, store, world, .. } = &self.desk.house;
        store.purge_hosts(world.clock.now().before(config.timeouts.hoststatus)).await?;
        self.done(0).await
    }

    async fn check(&mut self) -> Result<(), Ending> {
        if !self.is_trusted() {
            return self.fail("only root and the daemon's user may check the queue", 77).await;
        }
        let store = self.desk.house.store.clone();
        let broken = blocking(move || store.check()).await?;
        for broken in broken {
            self.say(&Answer::Broken(broken.to_string())).await?;
        }
        self.done(0).await
    }

    async fn page(&mut self, after: Option<QueueId>, limit: u32) -> Result<(), Ending> {
        if !self.is_trusted() {
            return self.fail(NOT_YOURS, 77).await;
        }
        let store = self.desk.house.store.clone();
        let limit = limit.min(PAGE_MAX) as usize;
        let entries = blocking(move || store.list(after, limit)).await?;
        self.say(&Answer::Entries(entries)).await?;
        self.done(0).await
    }

    async fn jobs(&mut self, id: QueueId, after: Option<u32>, limit: u32) -> Result<(), Ending> {
        if !self.is_trusted() {
            return self.fail(NOT_YOURS, 77).await;
        }
        let store = self.desk.house.store.clone();
        let limit = limit.min(PAGE_MAX) as usize;
        let jobs = blocking(move || store.all_jobs(id, after, limit)).await?;
        self.say(&Answer::Jobs(jobs)).await?;
        self.done(0).await
    }

    async fn bytes(&mut self, body: BodyRef, offset: u64) -> Result<(), Ending> {
        if !self.is_trusted() {
            return self.fail(NOT_YOURS, 77).await;
        }
        let piece = self.desk.house.store.read_body(&body, offset).await?;
        self.say(&Answer::Bytes(piece)).await?;
        self.done(0).await
    }

    /// Entries page by page; the jobs of a long list follow their entry.
    async fn list(&mut self, selection: Selection) -> Result<(), Ending> {
        if !self.may_list() {
            // sendmail says so and exits 0.
            return self.fail("510 You are not permitted to see the queue", 0).await;
        }
        let selection = Arc::new(selection);
        let mut after = None;
        loop {
            let (store, selection) = (self.desk.house.store.clone(), selection.clone());
            let page = move || -> Result<(Vec<Entry>, Option<QueueId>, bool), StoreError> {
                let entries = store.list(after, PAGE)?;
                let last = entries.last().map(|entry| entry.id);
                let at_end = entries.len() < PAGE;
                Ok((quarantine::selected(&store, &selection, entries)?, last, at_end))
            };
            let (mut entries, last, at_end) = blocking(page).await?;
            while let Some(at) = entries.iter().position(is_long) {
                let rest = entries.split_off(at + 1);
                let Some(entry) = entries.last().cloned() else { break };
                self.say(&Answer::Entries(std::mem::replace(&mut entries, rest))).await?;
                self.all_jobs(entry.id).await?;
            }
            if !entries.is_empty() {
                self.say(&Answer::Entries(entries)).await?;
            }
            if at_end {
                return self.done(0).await;
            }
            after = last;
        }
    }

    /// One job, of up to a thousand recipients, in each answer.
    pub(super) async fn all_jobs(&mut self, id: QueueId) -> Result<(), Ending> {
        let mut after = None;
        loop {
            let store = self.desk.house.store.clone();
            let page: Vec<EntryJob> = blocking(move || store.all_jobs(id, after, 1)).await?;
            let Some(last) = page.last() else { return Ok(()) };
            after = Some(last.number);
            self.say(&Answer::Jobs(page)).await?;
        }
    }
}

/// Its jobs are not in the entry but are read page by page.
pub(super) fn is_long(entry: &Entry) -> bool {
    entry.jobs.is_empty() && entry.recipients_total > 0
}

/// The groups of a user of the password file.
fn groups_of(uid: u32) -> Option<Vec<u32>> {
    let user = nix::unistd::User::from_uid(nix::unistd::Uid::from_raw(uid)).ok()??;
    let name = std::ffi::CString::new(user.name).ok()?;
    let groups = nix::unistd::getgrouplist(&name, user.gid).ok()?;
    Some(groups.into_iter().map(nix::unistd::Gid::as_raw).collect())
}

pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(StoreError::Unavailable(format!("reading ended unexpectedly: {error}"))),
    }
}
