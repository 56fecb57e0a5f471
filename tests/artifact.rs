//! Budgets and promises of the shipped supervisor: checked on the file that is shipped.

mod at_rest;

use crate::env;
use std::{path::Path, process::Command};

/// Bytes of the static file.
const SIZE_LIMIT: u64 = 4_500_000;

#[test]
fn it_is_static_and_small() {
    let file = env::supervisor();
    let bytes = std::fs::read(&file).unwrap();
    assert!(bytes.len() as u64 <= SIZE_LIMIT, "{} bytes", bytes.len());
    assert!(!program_headers(&bytes).contains(&PT_INTERP), "a static program names no loader");
    // The control: a program that is not static does name one.
    assert!(program_headers(&std::fs::read(env!("CARGO_BIN_EXE_sendo")).unwrap()).contains(&PT_INTERP));
}

#[test]
fn nothing_of_aws_kubernetes_or_sql_is_linked_into_it() {
    let tree = |flags: &[&str]| {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut command = Command::new(cargo);
        command.args(["tree", "--locked", "--offline", "--prefix", "none", "-e", "normal"]).args(flags);
        let output = command.current_dir(Path::new(env!("CARGO_MANIFEST_DIR"))).output().unwrap();
        assert!(output.status.success(), "{}", env::stderr(&output));
        env::stdout(&output)
    };
    let banned = ["aws", "kube", "k8s-openapi", "sqlx", "axum", "clap", "schemars", "openssl-sys", "native-tls"];
    let found = |tree: &str| -> Vec<String> {
        let names = tree.lines().filter_map(|line| line.split(' ').next());
        names.filter(|name| banned.iter().any(|banned| name.starts_with(banned))).map(str::to_owned).collect()
    };
    assert_eq!(found(&tree(&["--no-default-features"])), Vec::<String>::new());
    // The control: the program with everything does link them.
    assert!(found(&tree(&[])).iter().any(|name| name == "sqlx"));
}

const PT_INTERP: u32 = 3;

/// The types of a 64-bit little-endian ELF file's program headers (elf(5)).
fn program_headers(file: &[u8]) -> Vec<u32> {
    let number = |at: usize, length: usize| {
        file[at..at + length].iter().rev().fold(0_u64, |value, byte| value << 8 | u64::from(*byte))
    };
    assert_eq!(&file[..6], b"\x7fELF\x02\x01");
    let (offset, size, count) = (number(32, 8), number(54, 2), number(56, 2));
    let offsets = (0..count).map(|index| usize::try_from(offset + index * size).unwrap());
    offsets.map(|at| u32::try_from(number(at, 4)).unwrap()).collect()
}
