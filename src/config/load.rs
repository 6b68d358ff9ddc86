//! What a busy machine puts off (sendmail: QueueLA, QueueFactor, RefuseLA, DelayLA): pure, the load comes in.
//!
//! The defaults of QueueLA and RefuseLA depend on the machine, so they are set when a configuration is made
//! ([`LoadLimits::of_this_machine`]); limits that are not set hold nothing back.

use super::Config;

/// What a busy machine does, by its load average of one minute.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LoadLimits {
    /// QueueLA: from here mail is queued and not tried, by its priority; none never.
    pub queue: Option<u32>,
    /// RefuseLA: from here connections are refused; none or 0 never.
    pub refuse: Option<u32>,
    /// DelayLA: from here each command waits a second; 0 never.
    pub delay: u32,
}

/// What one port does instead (queueLA=, refuseLA=, delayLA= of DaemonPortOptions); none: as the option of this name says.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PortLoad {
    /// From here what comes this way is only queued. Beyond QueueLA, which holds for the whole queue, it says nothing.
    pub queue: Option<u32>,
    /// From here its connections are refused; 0 never.
    pub refuse: Option<u32>,
    /// From here its connections and commands wait a second; 0 never.
    pub delay: Option<u32>,
}

impl LoadLimits {
    /// The same with sendmail's defaults for what is not set: eight and twelve for each processor.
    pub fn of_this_machine(self) -> LoadLimits {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let processors = u32::try_from(processors).unwrap_or(u32::MAX);
        LoadLimits {
            queue: self.queue.or(Some(processors.saturating_mul(8))),
            refuse: self.refuse.or(Some(processors.saturating_mul(12))),
            ..self
        }
    }

    /// Whether new connections are refused at this load.
    pub fn refuses(self, load: u32) -> bool {
        self.refuse.is_some_and(|limit| limit > 0 && load >= limit)
    }

    /// Whether connections and commands wait a second at this load.
    pub fn delays(self, load: u32) -> bool {
        self.delay > 0 && load >= self.delay
    }
}

impl Config {
    /// The limits for connections of the port of this name.
    pub fn load_at(&self, port: &str) -> LoadLimits {
        let own = self.port(port).map(|port| port.load).unwrap_or_default();
        LoadLimits {
            queue: self.load.queue,
            refuse: own.refuse.or(self.load.refuse),
            delay: own.delay.unwrap_or(self.load.delay),
        }
    }

    /// Whether a message of this priority that comes through this port is only queued at this load because of the port's own queueLA.
    pub fn waits_for_load_at(&self, port: &str, priority: i64, load: u32) -> bool {
        let own = self.port(port).and_then(|port| port.load.queue);
        self.priority_from(own, load).is_some_and(|max| priority > max)
    }

    /// The priority above which mail is only queued at this load: QueueFactor / (load - QueueLA + 1); none below QueueLA.
    pub fn priority_max(&self, load: u32) -> Option<i64> {
        self.priority_from(self.load.queue, load)
    }

    fn priority_from(&self, limit: Option<u32>, load: u32) -> Option<i64> {
        let over = load.checked_sub(limit?)?;
        Some(self.priority.queue / (i64::from(over) + 1))
    }

    /// Whether a message of this priority is only queued at this load.
    pub fn waits_for_load(&self, priority: i64, load: u32) -> bool {
        self.priority_max(load).is_some_and(|max| priority > max)
    }

    /// Whether nothing at all is tried at this load: not even one that has one recipient and no size.
    pub fn rests_for_load(&self, load: u32) -> bool {
        self.waits_for_load(self.priority.recipient, load)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_load_formula() {
        let mut config = Config::default();
        assert!(!config.waits_for_load(i64::MAX, u32::MAX));
        config.load.queue = Some(8);
        // 600000 / (load - 8 + 1)
        for (load, priority, waits) in [
            (7, i64::MAX, false),
            (8, 600_000, false),
            (8, 600_001, true),
            (9, 300_000, false),
            (9, 300_001, true),
            (27, 30_000, false),
            (28, 30_000, true),
            (1000, -1, false),
        ] {
            assert_eq!(config.waits_for_load(priority, load), waits, "{load} {priority}");
        }
        assert!(!config.rests_for_load(27) && config.rests_for_load(28));
        let max = |load| config.priority_max(load);
        assert_eq!((max(7), max(8), max(10)), (None, Some(600_000), Some(200_000)));
        // sendmail: 0 is not "never".
        config.load.queue = Some(0);
        assert!(config.waits_for_load(600_001, 0));
    }

    #[test]
    fn a_port_may_have_limits_of_its_own() {
        use crate::config::Daemon;
        let load = LoadLimits { queue: Some(20), refuse: Some(12), delay: 5 };
        let mut busy = Daemon::at("MSA", "127.0.0.1:587".parse().unwrap());
        busy.load = PortLoad { queue: Some(8), refuse: Some(30), delay: Some(0) };
        let daemons = vec![Daemon::at("MTA", "127.0.0.1:25".parse().unwrap()), busy];
        let config = Config { load, daemons, ..Config::default() };
        for (port, refuses, delays, waits) in
            [("MTA", true, true, false), ("MSA", false, false, true), ("stdin", true, true, false)]
        {
            let limits = config.load_at(port);
            assert_eq!((limits.refuses(12), limits.delays(12)), (refuses, delays), "{port}");
            assert_eq!(config.waits_for_load_at(port, 600_000, 12), waits, "{port}");
        }
        assert!(!config.waits_for_load_at("MSA", 120_000, 12));
    }

    #[test]
    fn refusing_and_delaying() {
        let limits = LoadLimits { refuse: Some(12), delay: 5, ..LoadLimits::default() };
        assert!(!limits.refuses(11) && limits.refuses(12));
        assert!(!limits.delays(4) && limits.delays(5));
        let off = LoadLimits { refuse: Some(0), ..LoadLimits::default() };
        assert!(!off.refuses(u32::MAX) && !off.delays(u32::MAX));
        assert!(!LoadLimits::default().refuses(u32::MAX));
        let here = LoadLimits::default().of_this_machine();
        assert!(here.queue >= Some(8) && here.refuse >= Some(12));
        assert_eq!(limits.of_this_machine().refuse, Some(12));
    }
}
