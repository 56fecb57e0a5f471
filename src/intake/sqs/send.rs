//! Sending jobs to a queue, as `sendo submit --queue` does.

use super::client::{Queue, said};
use crate::intake::message::{BODY_LIMIT, Checked};
use anyhow::Context as _;
use aws_sdk_sqs::types::SendMessageBatchRequestEntry;
use serde::Serialize;

/// What a request carries at the most.
const BATCH: usize = 10;

/// A job as it is to be sent.
pub struct Letter {
    pub checked: Checked,
    pub body: String,
}

/// What became of one.
#[derive(Debug, Serialize)]
pub struct Sent {
    pub id: String,
    /// Where the queue took it.
    pub message_id: Option<String>,
    /// Where it did not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Sends jobs in their order, in batches. Of a request that fails as a whole nothing is known: sending again is harmless.
pub async fn send(queue: &Queue, letters: &[Letter]) -> anyhow::Result<Vec<Sent>> {
    let mut sent = Vec::with_capacity(letters.len());
    let mut left = letters;
    while !left.is_empty() {
        let (batch, rest) = left.split_at(fitting(left));
        left = rest;
        let entries = batch.iter().enumerate().map(|(index, letter)| entry(queue, index, letter));
        let entries = entries.collect::<anyhow::Result<Vec<_>>>()?;
        let asked = queue.client.send_message_batch().queue_url(&queue.url).set_entries(Some(entries));
        let answer = asked.send().await.map_err(|error| anyhow::anyhow!("send to {}: {}", queue.url, said(&error)))?;
        for (index, letter) in batch.iter().enumerate() {
            let index = index.to_string();
            let taken = answer.successful.iter().find(|taken| taken.id() == index);
            let failed = answer.failed.iter().find(|failed| failed.id() == index);
            let why = || match failed {
                Some(failed) => format!("{}: {}", failed.code(), failed.message().unwrap_or_default()),
                None => "the answer does not name it".into(),
            };
            sent.push(Sent {
                id: letter.checked.job.id.clone(),
                message_id: taken.map(|taken| taken.message_id().to_owned()),
                error: taken.is_none().then(why),
            });
        }
    }
    Ok(sent)
}

/// How many of them one request carries: ten, and together no more bytes than one message may have.
fn fitting(letters: &[Letter]) -> usize {
    let mut bytes = 0;
    let fits = letters.iter().take(BATCH).take_while(|letter| {
        bytes += letter.body.len();
        bytes <= BODY_LIMIT
    });
    fits.count().max(1)
}

fn entry(queue: &Queue, index: usize, letter: &Letter) -> anyhow::Result<SendMessageBatchRequestEntry> {
    let job = &letter.checked.job;
    let mut entry = SendMessageBatchRequestEntry::builder().id(index.to_string()).message_body(&letter.body);
    // On a standard queue the group makes the queue fair among tenants; a FIFO queue must have one, and a job of nobody holds up nobody.
    let group = job.tenant.as_ref().or(queue.is_fifo().then_some(&job.id));
    entry = entry.set_message_group_id(group.cloned());
    if queue.is_fifo() {
        // By content: the same id with another content must reach the intake, which says so.
        entry = entry.message_deduplication_id(&letter.checked.digest);
    }
    entry.build().context("make the message")
}
