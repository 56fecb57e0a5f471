//! The last word where the ledger cannot be reached: `/dev/termination-log`, which the kubelet puts into the Pod's status.
//!
//! Written in place in one call, because the file is a bind mount; signed, because it is world-writable; short, because the kubelet
//! cuts it at [`MESSAGE_LIMIT`]. The least important goes first, an incremental cursor never.

use crate::record::{
    hexadecimal,
    termination::{Hint, MESSAGE_LIMIT, Signed, Story},
};
use anyhow::Context as _;
use ring::hmac;
use std::{fs::OpenOptions, os::unix::fs::FileExt as _, path::Path};

/// Leaves the story, signed.
pub fn write(file: &Path, key: &hmac::Key, story: Story) -> anyhow::Result<()> {
    put(file, &fitted(key, story)?)
}

/// Leaves a text that nobody has to believe: why nothing ran.
pub fn hint(file: &Path, nonce: &str, why: &str) -> anyhow::Result<()> {
    let rendered =
        |why: &str| serde_json::to_vec(&Hint { hint: why.into(), nonce: nonce.into() }).context("render the hint");
    let mut why = why.to_owned();
    let mut text = rendered(&why)?;
    while text.len() > MESSAGE_LIMIT {
        why = why.chars().take(why.chars().count() / 2).collect();
        text = rendered(&why)?;
    }
    put(file, &text)
}

/// The key that a grant gave, from its hexadecimal form.
pub fn key(hexadecimal: &str) -> anyhow::Result<hmac::Key> {
    let bytes = hexadecimal.as_bytes().chunks(2).map(|pair| {
        let pair = std::str::from_utf8(pair).context("the grant's key is not hexadecimal")?;
        u8::from_str_radix(pair, 16).context("the grant's key is not hexadecimal")
    });
    Ok(hmac::Key::new(hmac::HMAC_SHA256, &bytes.collect::<anyhow::Result<Vec<u8>>>()?))
}

fn put(file: &Path, text: &[u8]) -> anyhow::Result<()> {
    // Truncated afterwards, so that a reader never finds the file empty.
    let opened = OpenOptions::new().write(true).create(true).truncate(false).open(file);
    let written = opened.and_then(|opened| {
        opened.write_all_at(text, 0)?;
        opened.set_len(text.len() as u64)
    });
    written.with_context(|| format!("write {}", file.display()))
}

fn fitted(key: &hmac::Key, mut story: Story) -> anyhow::Result<Vec<u8>> {
    loop {
        let text = signed(key, &story)?;
        if text.len() <= MESSAGE_LIMIT || !shortened(&mut story) {
            return Ok(text);
        }
    }
}

/// Takes the least important thing away; false if nothing is left to take.
fn shortened(story: &mut Story) -> bool {
    let Some(ending) = &mut story.ending else { return story.usage.take().is_some() };
    if !ending.last_lines.is_empty() {
        ending.last_lines.remove(0);
        return true;
    }
    if ending.verdict.evidence.pop().is_some() || story.usage.take().is_some() {
        return true;
    }
    if ending.verdict.summary.len() > 512 {
        ending.verdict.summary = ending.verdict.summary.chars().take(512 / 4).collect();
        return true;
    }
    // An ending without its cursor would be a lie; without an ending, a person is asked.
    story.ending.take().is_some()
}

fn signed(key: &hmac::Key, story: &Story) -> anyhow::Result<Vec<u8>> {
    let story = serde_json::value::to_raw_value(story).context("render the termination message")?;
    let tag = hmac::sign(key, story.get().as_bytes());
    let hmac = hexadecimal(tag.as_ref());
    serde_json::to_vec(&Signed { hmac, story }).context("render the termination message")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{
        Millis,
        outcome::{Confidence, CursorMove, Ending, Outcome, Verdict},
        phase::Phase,
        wire::AttemptId,
    };

    fn story(cursor: usize) -> Story {
        let verdict = Verdict {
            code: "failed".into(),
            summary: "ü".repeat(3000),
            evidence: vec!["e".repeat(500); 20],
            confidence: Confidence::Certain,
            next_action: String::new(),
        };
        let ending = Ending {
            outcome: Outcome::Failed { exit_code: 1 },
            verdict,
            exit_code: Some(1),
            signal: None,
            last_lines: vec!["\u{1}".repeat(300); 30],
            cursor: Some(CursorMove { from_generation: 1, diff: "x".repeat(cursor) }),
            commit: None,
        };
        let id = AttemptId { job: "a".into(), attempt: 1 };
        Story { id, seq: 9, at: Millis(5), phase: Phase::Failed, usage: None, ending: Some(ending) }
    }

    fn believed(text: &[u8], key: &hmac::Key) -> Option<Story> {
        Signed::believe(text, |story, tag| hexadecimal(hmac::sign(key, story).as_ref()) == tag)
    }

    #[test]
    fn it_fits_is_believed_and_keeps_the_cursor() {
        let key = key(&"0f".repeat(32)).unwrap();
        let text = fitted(&key, story(1000)).unwrap();
        assert!(text.len() <= MESSAGE_LIMIT, "{}", text.len());
        let kept = believed(&text, &key).unwrap().ending.unwrap();
        assert_eq!((kept.outcome, kept.cursor.unwrap().diff.len()), (Outcome::Failed { exit_code: 1 }, 1000));
    }

    #[test]
    fn a_cursor_that_does_not_fit_takes_the_whole_ending_with_it() {
        let key = key(&"0f".repeat(32)).unwrap();
        let text = fitted(&key, story(5000)).unwrap();
        assert!(text.len() <= MESSAGE_LIMIT);
        assert_eq!(believed(&text, &key).unwrap().ending, None);
    }

    #[test]
    fn a_forged_or_altered_message_is_nothing() {
        let text = fitted(&key("01").unwrap(), story(10)).unwrap();
        assert!(believed(&text, &key("02").unwrap()).is_none());
        let altered = String::from_utf8(text).unwrap().replace("\"exit_code\":1", "\"exit_code\":0");
        assert!(believed(altered.as_bytes(), &key("01").unwrap()).is_none());
        assert!(believed(b"{\"hint\":\"x\"}", &key("01").unwrap()).is_none());
    }

    #[test]
    fn the_end_of_a_longer_message_behind_it_does_not_matter() {
        let key = key("01").unwrap();
        let whole = fitted(&key, story(10)).unwrap();
        let behind = [whole.as_slice(), &whole[whole.len() - 7..]].concat();
        assert_eq!(believed(&behind, &key), believed(&whole, &key));
        assert!(believed(&behind, &key).is_some() && believed(&behind[1..], &key).is_none());
    }

    #[test]
    fn a_shorter_message_leaves_nothing_of_a_longer_one() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("log");
        hint(&file, "n", &"long".repeat(50)).unwrap();
        hint(&file, "n", "short").unwrap();
        assert_eq!(std::fs::read_to_string(&file).unwrap(), r#"{"hint":"short","nonce":"n"}"#);
    }
}
