//! A benchmark's own section of `docs/benchmarks.md`, in the place of the one that it wrote last.

use std::{fs, path::Path};

/// Puts it there; what the others wrote stays.
pub fn put(title: &str, text: &str) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/benchmarks.md");
    let before = fs::read_to_string(&file).unwrap_or_else(|_| "# Benchmarks\n".into());
    let mut pieces: Vec<&str> = before.split("\n## ").collect();
    pieces.retain(|piece| piece.lines().next() != Some(title));
    let kept = pieces.join("\n## ");
    fs::write(&file, format!("{}\n\n## {title}\n\n{}\n", kept.trim_end(), text.trim()))
        .expect("write docs/benchmarks.md");
}
