//! The network namespace's traffic, if the namespace is the Pod's.
//!
//! Source: `/proc/net/dev` (proc_pid_net(5)) without `lo`. As PID 1 we are in a container, and its network is the Pod's: what a sidecar
//! moves is in it, and with `hostNetwork`, which Sendo never asks for, the node's would be. Elsewhere it is the machine's, and absent.

use crate::record::usage::Network;

/// What went through since the namespace was made.
pub fn read() -> Network {
    if std::process::id() != 1 {
        return Network::default();
    }
    std::fs::read_to_string("/proc/net/dev").map(|table| sum(&table)).unwrap_or_default()
}

/// Two lines of titles, then one an interface: received bytes are the first field behind the name, sent bytes the ninth.
fn sum(table: &str) -> Network {
    let mut network = Network::default();
    let interfaces = table.lines().skip(2).filter_map(|line| line.split_once(':'));
    for (_, fields) in interfaces.filter(|(name, _)| name.trim() != "lo") {
        let bytes = |nth| fields.split_whitespace().nth(nth)?.parse().ok();
        add(&mut network.network_received_bytes, bytes(0));
        add(&mut network.network_sent_bytes, bytes(8));
    }
    network
}

fn add(sum: &mut Option<u64>, bytes: Option<u64>) {
    *sum = sum.map_or(bytes, |sum| Some(sum.saturating_add(bytes.unwrap_or(0))));
}

#[cfg(test)]
mod tests {
    use super::*;

    const TITLES: &str = "Inter-|   Receive  |  Transmit\n face |bytes packets errs|bytes packets errs\n";

    #[test]
    fn all_interfaces_but_the_loopback_count() {
        let table = format!(
            "{TITLES}    lo: 9 9 0 0 0 0 0 0 9 9 0 0 0 0 0 0\n  eth0: 700 5 0 0 0 0 0 0 30 4 0 0 0 0 0 0\n  net1:1 1 0 0 0 0 0 0 2 1 0 0 0 0 0 0\n"
        );
        let read = sum(&table);
        assert_eq!((read.network_received_bytes, read.network_sent_bytes), (Some(701), Some(32)));
    }

    #[test]
    fn no_interface_is_no_reading() {
        assert_eq!(sum(&format!("{TITLES}    lo: 9 9 0 0 0 0 0 0 9 9 0 0 0 0 0 0\n")), Network::default());
        assert_eq!(sum("eth0"), Network::default());
    }

    #[test]
    fn another_machines_traffic_is_not_ours() {
        assert_eq!(read(), Network::default());
    }
}
