//! An attempt in a container, started as its place would: settings in variables, a token, a termination log that everybody may write.

use crate::{
    env::{
        container::{Container, Root, SUPERVISOR, Spec},
        wrong_ledger::{KEY, WrongLedger},
    },
    reports::worker::{believed, ending},
};
use sendo::record::termination::Story;
use serde_json::Value;
use std::{
    fs,
    ops::{Deref, DerefMut},
    os::unix::fs::PermissionsExt as _,
};

pub const TOKEN: &str = "token-of-the-attempt";

/// A running one.
pub struct Attempt {
    pub ledger: WrongLedger,
    pub container: Container,
}

/// A place for an attempt that reports to this ledger.
pub fn place(root: Root, ledger: &WrongLedger) -> Spec {
    let spec = Spec::new(root);
    fs::write(spec.file("token"), TOKEN).unwrap();
    fs::write(spec.file("word"), "").unwrap();
    // As the kubelet makes it: root's, and everybody may write.
    fs::set_permissions(spec.file("word"), fs::Permissions::from_mode(0o666)).unwrap();
    let (token, word) = (spec.file("token"), spec.file("word"));
    spec.bind(&token, "/run/sendo/token", "ro")
        .bind(&word, "/dev/termination-log", "rw")
        .env("SENDO_JOB", "a")
        .env("SENDO_ATTEMPT", "1")
        .env("SENDO_LEDGER_URL", &ledger.url)
        .env("SENDO_TOKEN_FILE", "/run/sendo/token")
        .env("SENDO_HEARTBEAT", "100ms")
}

impl Attempt {
    /// `script` is the transfer.
    pub fn start(ledger: WrongLedger, spec: Spec, script: &str) -> Self {
        Self::run(ledger, spec, &["sh", "-c", script])
    }

    pub fn run(ledger: WrongLedger, spec: Spec, transfer: &[&str]) -> Self {
        let container = spec.start(&[&[SUPERVISOR, "--"], transfer].concat());
        Self { ledger, container }
    }

    /// The ending that the ledger took.
    #[track_caller]
    pub fn ending(&self) -> Value {
        let asked = self.ledger.asked();
        let taken = asked.iter().any(|asked| asked.taken && asked.brings("ending"));
        assert!(taken, "no ending was taken: {}", self.text("stderr"));
        ending(&asked)
    }

    /// What the ledger was told, record by record.
    pub fn records(&self) -> Vec<Value> {
        self.ledger.asked().iter().flat_map(|asked| asked.records().to_vec()).collect()
    }

    /// The phases that it was told, in order.
    pub fn phases(&self) -> Vec<String> {
        let records = self.records();
        records.iter().filter_map(|record| Some(record["phase"].as_str()?.to_owned())).collect()
    }

    /// The readings that it was told.
    pub fn readings(&self) -> Vec<Value> {
        let records = self.records();
        records.iter().filter(|record| record["record"] == "usage").map(|record| record["usage"].clone()).collect()
    }

    /// The termination log, if it is signed.
    pub fn last_word(&self) -> Option<Story> {
        believed(self.text("word").as_bytes(), &KEY)
    }
}

impl Deref for Attempt {
    type Target = Container;

    fn deref(&self) -> &Container {
        &self.container
    }
}

impl DerefMut for Attempt {
    fn deref_mut(&mut self) -> &mut Container {
        &mut self.container
    }
}
