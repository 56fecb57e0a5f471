//! The ledger's name in a container `FROM scratch`, as a Pod finds a Service: search domains, `ndots`, no C library beside ours.

use crate::env::{
    image::{Container, Image},
    kill,
    names::{NameServer, RESOLV_CONF, SERVER, in_a_cluster, silent},
    stderr, wait_for,
    wrong_ledger::{Authority, Reply, WrongLedger},
};
use nix::sys::signal::Signal;
use std::{fs, net::UdpSocket, process::Command};

const SERVICE: &str = "sendo.default.svc.cluster.local";
const ADDRESS: &str = "10.96.0.20";
const UNKNOWN: &str = "`sendo` does not resolve";

/// A ledger at the Service's address, and its port.
fn ledger(address: &str) -> (WrongLedger, u16) {
    let ledger = WrongLedger::start_at(&format!("http://{address}:0"), Reply::to);
    let port = ledger.url.rsplit_once(':').unwrap().1.parse().unwrap();
    (ledger, port)
}

/// A job whose ledger has that name.
fn job(image: Image, name: &str, port: u16, more: &[(&str, &str)]) -> Container {
    image.run_job(&format!("http://{name}:{port}"), "echo ran", more)
}

#[track_caller]
fn delivers(mut container: Container, ledger: &WrongLedger) {
    assert_eq!(container.end(), Some(0), "{}", container.text("stderr"));
    assert_eq!(container.text("stdout"), "ran\n");
    assert!(ledger.asked().last().unwrap().brings("ending"));
}

/// It says that the name does not resolve, and runs nothing.
#[track_caller]
fn does_not_resolve(mut container: Container, name: &str) {
    assert_eq!(container.end(), Some(75), "{}", container.text("stderr"));
    assert_eq!(container.text("stdout"), "");
    assert!(container.text("stderr").contains(&format!("`{name}` does not resolve")), "{}", container.text("stderr"));
    assert!(container.text("tmp/word").contains("no grant within the waiting time"), "{}", container.text("tmp/word"));
}

#[test]
fn a_service_is_found_by_each_of_its_names() {
    in_a_cluster(|| {
        let _server = NameServer::start(&[(SERVICE, ADDRESS)]);
        for name in ["sendo", "sendo.default", "sendo.default.svc", SERVICE, &format!("{SERVICE}.")] {
            let (ledger, port) = ledger(ADDRESS);
            delivers(job(Image::new(RESOLV_CONF), name, port, &[]), &ledger);
        }
    });
}

#[test]
fn over_tls_the_certificate_is_for_the_name_as_it_was_given_but_for_its_last_dot() {
    in_a_cluster(|| {
        let _server = NameServer::start(&[(SERVICE, "127.0.0.1")]);
        let authority = Authority::new();
        for (certified, name) in [("sendo", "sendo"), (SERVICE, &format!("{SERVICE}."))] {
            let ledger = WrongLedger::start_tls(&authority, certified, Reply::to);
            let image = Image::new(RESOLV_CONF).file("ca.pem", &authority.pem());
            let url = ledger.url.replace("127.0.0.1", name);
            delivers(
                image.run_job(&url, "echo ran", &[("SENDO_CA_FILE", "/ca.pem"), ("SENDO_GRANT_WAIT", "20s")]),
                &ledger,
            );
        }
    });
}

#[test]
fn without_search_domains_only_the_whole_name_is_found() {
    in_a_cluster(|| {
        let _server = NameServer::start(&[(SERVICE, ADDRESS)]);
        let (ledger, port) = ledger(ADDRESS);
        let image = || Image::new(&format!("nameserver {SERVER}\noptions ndots:5\n"));
        does_not_resolve(job(image(), "sendo", port, &[("SENDO_GRANT_WAIT", "2s")]), "sendo");
        assert!(ledger.asked().is_empty());
        delivers(job(image(), SERVICE, port, &[]), &ledger);
    });
}

#[test]
fn a_service_with_ipv6_alone_is_found() {
    in_a_cluster(|| {
        let _server = NameServer::start(&[(SERVICE, "fd00:96::10")]);
        let (ledger, port) = ledger("[fd00:96::10]");
        delivers(job(Image::new(RESOLV_CONF), "sendo", port, &[]), &ledger);
    });
}

#[test]
fn a_name_that_nobody_has_is_named_and_asked_for_until_the_wait_for_the_grant_ends() {
    in_a_cluster(|| {
        let server = NameServer::start(&[(SERVICE, ADDRESS)]);
        let container = job(Image::new(RESOLV_CONF), "nobody", 80, &[("SENDO_GRANT_WAIT", "3s")]);
        does_not_resolve(container, "nobody");
        let asked = server.log().matches("query[A] nobody.default.svc.cluster.local ").count();
        assert!(asked > 1, "{}", server.log());
        assert!(server.log().contains("query[A] nobody from"), "as it is, at the end: {}", server.log());
    });
}

#[test]
fn a_name_server_that_comes_late_is_found() {
    in_a_cluster(|| {
        let (ledger, port) = ledger(ADDRESS);
        let container = job(Image::new(RESOLV_CONF), "sendo", port, &[]);
        container.logs(UNKNOWN);
        let _server = NameServer::start(&[(SERVICE, ADDRESS)]);
        delivers(container, &ledger);
    });
}

#[test]
fn a_service_that_is_made_late_is_found() {
    in_a_cluster(|| {
        let (ledger, port) = ledger(ADDRESS);
        let before = NameServer::start(&[]);
        let container = job(Image::new(RESOLV_CONF), "sendo", port, &[]);
        container.logs(UNKNOWN);
        drop(before);
        let _server = NameServer::start(&[(SERVICE, ADDRESS)]);
        delivers(container, &ledger);
    });
}

#[test]
fn a_first_name_server_that_is_dead_delays_the_name_and_does_not_hide_it() {
    in_a_cluster(|| {
        let _server = NameServer::start(&[(SERVICE, ADDRESS)]);
        let (ledger, port) = ledger(ADDRESS);
        let dead = UdpSocket::bind("10.96.0.11:53").unwrap();
        let conf = RESOLV_CONF.replace("nameserver", "nameserver 10.96.0.11\nnameserver");
        // Found in the third search domain: one lookup outlives the request that began it.
        let container = job(Image::new(&conf), "sendo.default.svc", port, &[("SENDO_HEARTBEAT", "1m")]);
        container.logs("`sendo.default.svc` does not resolve: no answer from a name server");
        container.says("ran");
        assert!(ledger.asked()[0].is_grant());
        dead.recv(&mut [0; 512]).unwrap();
    });
}

#[test]
fn a_name_in_etc_hosts_needs_no_name_server() {
    in_a_cluster(|| {
        let server = NameServer::start(&[(SERVICE, "10.96.0.99")]);
        let (ledger, port) = ledger(ADDRESS);
        let image = Image::new(RESOLV_CONF).file("etc/hosts", &format!("127.0.0.1 localhost\n{ADDRESS} sendo\n"));
        delivers(job(image, "sendo", port, &[]), &ledger);
        assert!(!server.log().contains("query"), "{}", server.log());
    });
}

#[test]
fn an_answer_too_long_for_a_datagram_is_asked_for_over_tcp() {
    in_a_cluster(|| {
        let addresses: Vec<_> = (1..60).map(|last| format!("10.96.1.{last}")).collect();
        let names: Vec<_> = addresses.iter().map(|address| (SERVICE, address.as_str())).collect();
        let _server = NameServer::start(&names);
        let (ledger, port) = ledger("0.0.0.0");
        // The control: nobody asked over TCP before.
        assert!(!asked_over_tcp());
        delivers(job(Image::new(RESOLV_CONF), "sendo", port, &[]), &ledger);
        assert!(asked_over_tcp());
    });
}

/// Whether this network has, or had within the last minute, a connection to a name server (proc_pid_net(5), tcp).
fn asked_over_tcp() -> bool {
    let connections = fs::read_to_string("/proc/thread-self/net/tcp").unwrap();
    let mut ends = connections.lines().skip(1).map(|line| line.split_whitespace().skip(1).take(2).collect::<Vec<_>>());
    ends.any(|ends| ends[1] != "00000000:0000" && ends.iter().any(|end| end.ends_with(":0035")))
}

#[test]
fn a_signal_does_not_wait_for_a_name_server() {
    in_a_cluster(|| {
        let server = silent();
        let mut container = job(Image::new(RESOLV_CONF), "sendo", 80, &[]);
        server.recv(&mut [0; 512]).unwrap();
        kill(container.init(), Signal::SIGTERM);
        assert_eq!(container.end(), Some(75), "{}", container.text("stderr"));
        assert!(container.text("tmp/word").contains("asked to go before the grant"), "{}", container.text("tmp/word"));
        // It went while the lookup was under way.
        assert!(!container.text("stderr").contains("does not resolve"), "{}", container.text("stderr"));
    });
}

#[test]
fn a_name_server_that_is_silent_delays_no_reap_no_reading_and_no_signal() {
    const TRANSFER: &str = "trap 'echo heard; exit 0' TERM; echo ready
        until [ -e gate ]; do /bin/busybox sleep 0.05; done
        orphan=$(sh -c 'sleep 0 >&2 & echo $!'); while [ -e /proc/$orphan ]; do /bin/busybox sleep 0.05; done; echo reaped
        while :; do /bin/busybox sleep 0.05; done";
    in_a_cluster(|| {
        let server = NameServer::start(&[(SERVICE, ADDRESS)]);
        let (ledger, port) = ledger(ADDRESS);
        let image = Image::new(RESOLV_CONF);
        let gate = image.path("gate");
        let more = [("SENDO_ON_TERM", "stop"), ("SENDO_LINGER", "1s")];
        let mut container = image.run_job(&format!("http://sendo:{port}"), TRANSFER, &more);
        container.says("ready");
        ledger.wait("a beat", |asked| asked.brings("usage"));
        drop(server);
        // The port is free, and the next request has to ask: this ledger closes each connection.
        let server = silent();
        server.recv(&mut [0; 512]).unwrap();
        let seq = || word_seq(&container);
        let before = seq();
        wait_for("a later last word", || (seq() > before).then_some(()));
        fs::write(gate, "").unwrap();
        container.says("reaped");
        kill(container.init(), Signal::SIGTERM);
        container.says("heard");
        assert_eq!(container.end(), Some(0), "{}", container.text("stderr"));
        assert!(!ledger.asked().iter().any(|asked| asked.brings("ending")));
    });
}

/// The number of the last word that was left.
fn word_seq(container: &Container) -> u64 {
    let word = container.text("tmp/word");
    let digits = word.split_once("\"seq\":").map_or("", |(_, rest)| rest);
    digits.chars().take_while(char::is_ascii_digit).collect::<String>().parse().unwrap_or_default()
}

#[test]
fn nothing_of_the_image_is_loaded_to_resolve_a_name() {
    in_a_cluster(|| {
        let _server = NameServer::start(&[(SERVICE, ADDRESS)]);
        let (ledger, port) = ledger(ADDRESS);
        let image = || {
            let image = Image::new(RESOLV_CONF).file("etc/nsswitch.conf", "hosts: files trap dns\n");
            fs::create_dir_all(image.path("lib/x86_64-linux-gnu")).unwrap();
            // Whoever loads it exits with 99.
            let trap = "__attribute__((constructor)) static void trap(void) {\
                __asm__ volatile(\"syscall\" :: \"a\"(231), \"D\"(99) : \"rcx\", \"r11\", \"memory\"); }";
            compile(&image, trap, &["-shared", "-fPIC", "-nostdlib", "-o", "lib/x86_64-linux-gnu/libnss_trap.so.2"]);
            image
        };
        // The control: another static program of this C library loads it.
        let asks = image();
        let program = "#include <netdb.h>\nint main(void) { struct addrinfo *found; return getaddrinfo(\"sendo\", 0, 0, &found); }";
        compile(&asks, program, &["-static", "-w", "-o", "asks"]);
        assert_eq!(asks.run(&["/asks"], &[]).end(), Some(99));
        delivers(job(image(), "sendo", port, &[]), &ledger);
    });
}

fn compile(image: &Image, source: &str, words: &[&str]) {
    fs::write(image.path("tmp/source.c"), source).unwrap();
    let output = Command::new("cc").args(["-x", "c", "tmp/source.c"]).args(words).current_dir(image.path("")).output();
    assert!(output.as_ref().unwrap().status.success(), "{}", stderr(&output.unwrap()));
}

#[test]
fn an_address_needs_no_name_server() {
    in_a_cluster(|| {
        let (ledger, port) = ledger(ADDRESS);
        delivers(job(Image::new(""), ADDRESS, port, &[]), &ledger);
    });
}

#[test]
fn a_container_without_a_thread_to_spare_is_a_try_that_failed() {
    in_a_cluster(|| {
        let _server = NameServer::start(&[(SERVICE, ADDRESS)]);
        let (ledger, port) = ledger(ADDRESS);
        // Room for the two that the supervisor has anyway.
        let user = 200_000 + std::process::id();
        let container = job(Image::new(RESOLV_CONF).limited(user, 2), "sendo", port, &[]);
        container.logs("start a thread");
        assert!(ledger.asked().is_empty());
        let (user, init) = (user.to_string(), container.init().to_string());
        let mut raised = Command::new("setpriv");
        raised.args(["--clear-groups", "--reuid", &user, "--regid", &user]);
        let raised = raised.args(["prlimit", "--nproc=1000:", "--pid", &init]).status();
        assert!(raised.unwrap().success());
        delivers(container, &ledger);
    });
}
