//! Who asked us to go: kept for the verdict, because the sender is often gone when somebody asks.

use super::signals::Arrived;
use nix::sys::signal::Signal;

/// More senders than this are counted, not named.
const NAMED: usize = 5;

/// The signals so far that asked for the transfer's end.
#[derive(Default)]
pub struct Senders {
    named: Vec<String>,
    more: u32,
    /// From the transfer's own descendants.
    not_obeyed: u32,
}

impl Senders {
    /// One that starts a drain or hastens it, or does not because a descendant of ours sent it.
    pub fn heard(&mut self, arrived: Arrived, descends: bool) {
        if descends {
            self.not_obeyed = self.not_obeyed.saturating_add(1);
        } else if self.named.len() < NAMED {
            self.named.push(format!("{} {}", name(arrived.signal), origin(arrived.sender)));
        } else {
            self.more = self.more.saturating_add(1);
        }
    }

    /// For the verdict, in the order of their coming.
    pub fn evidence(&self) -> Vec<String> {
        let more = (self.more > 0).then(|| format!("{} more signals that asked it to go", self.more));
        let not_obeyed = (self.not_obeyed > 0)
            .then(|| format!("{} from the transfer's own descendants, not obeyed", signals(self.not_obeyed)));
        self.named.iter().cloned().chain(more).chain(not_obeyed).collect()
    }
}

fn signals(count: u32) -> String {
    if count == 1 { "1 signal".into() } else { format!("{count} signals") }
}

fn name(signal: i32) -> String {
    Signal::try_from(signal).map_or_else(|_| format!("signal {signal}"), |signal| signal.as_str().to_owned())
}

/// In a Pod who is outside has no pid that we could see: 0 (pid_namespaces(7)).
fn origin(sender: Option<i32>) -> String {
    match sender {
        None => "from the kernel".into(),
        Some(0) => "from outside the Pod".into(),
        Some(pid) => match command(pid) {
            Some(command) => format!("from pid {pid} ({command})"),
            None => format!("from pid {pid}, which is gone"),
        },
    }
}

/// The command's name, which its process may have chosen: printable characters only.
fn command(pid: i32) -> Option<String> {
    let name = std::fs::read(format!("/proc/{pid}/comm")).ok()?;
    let name = String::from_utf8_lossy(&name);
    Some(name.trim_end().chars().map(|letter| if letter.is_control() { '?' } else { letter }).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_sender_is_named_and_a_flood_is_counted() {
        let mut senders = Senders::default();
        assert!(senders.evidence().is_empty());
        let term = |sender| Arrived { signal: libc::SIGTERM, sender };
        senders.heard(term(Some(0)), false);
        senders.heard(Arrived { signal: libc::SIGINT, sender: None }, false);
        senders.heard(term(i32::try_from(std::process::id()).ok()), false);
        senders.heard(term(Some(i32::MAX)), false);
        for _ in 0..3 {
            senders.heard(term(Some(0)), false);
            senders.heard(term(Some(7)), true);
        }
        let evidence = senders.evidence();
        assert_eq!(evidence[..2], ["SIGTERM from outside the Pod", "SIGINT from the kernel"]);
        assert!(evidence[2].contains(&format!("pid {} (", std::process::id())), "{evidence:?}");
        assert_eq!(evidence[3], format!("SIGTERM from pid {}, which is gone", i32::MAX));
        let counted =
            ["2 more signals that asked it to go", "3 signals from the transfer's own descendants, not obeyed"];
        assert_eq!(evidence[5..], counted);
    }
}
