//! What is asked of the queue about messages in hand: held until their end, then deleted or given back.

use super::{
    client::{Queue, said},
    hand::Message,
};
use aws_sdk_sqs::types::{
    BatchResultErrorEntry, ChangeMessageVisibilityBatchRequestEntry, DeleteMessageBatchRequestEntry,
};
use std::time::Duration;

/// What a request carries at the most.
const BATCH: usize = 10;

/// Tries of a delete. A message that stays comes again, is known, and is deleted then.
const TRIES: u32 = 4;
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// Deletes messages whose jobs are in the ledger.
pub async fn delete(queue: &Queue, messages: Vec<Message>) {
    let mut left = messages;
    let mut why = String::new();
    for attempt in 0..TRIES {
        if attempt > 0 {
            tokio::time::sleep(FIRST_PAUSE * 2_u32.pow(attempt)).await;
        }
        let mut failed = Vec::new();
        for batch in left.chunks(BATCH) {
            let entries = batch.iter().enumerate().map(|(index, message)| {
                let entry = DeleteMessageBatchRequestEntry::builder().id(index.to_string());
                entry.receipt_handle(&message.receipt).build()
            });
            let Ok(entries) = entries.collect::<Result<Vec<_>, _>>() else { return };
            let asked = queue.client.delete_message_batch().queue_url(&queue.url).set_entries(Some(entries));
            match asked.send().await {
                Ok(answer) => failed.extend(named(batch, &answer.failed, &mut why)),
                Err(error) => {
                    why = said(&error);
                    failed.extend_from_slice(batch);
                }
            }
        }
        left = failed;
        if left.is_empty() {
            return;
        }
    }
    let trouble = "not deleted; they come again, and are known by then";
    tracing::warn!(queue = queue.url, messages = ids(&left), why, "{trouble}");
}

/// Gives messages back that we could not take: others may have them at once.
pub async fn give_back(queue: &Queue, messages: &[Message]) {
    hide(queue, messages, 0, "not given back; they come again after their visibility timeout").await;
}

/// Keeps messages in hand from everybody else for so many seconds more.
pub async fn hold(queue: &Queue, messages: &[Message], seconds: i32) {
    hide(queue, messages, seconds, "not held; they may be handed out a second time, which the queue counts").await;
}

/// Hides messages for so many seconds from now on; `trouble` is what it means where that fails.
async fn hide(queue: &Queue, messages: &[Message], seconds: i32, trouble: &str) {
    let (mut left, mut why) = (Vec::new(), String::new());
    for batch in messages.chunks(BATCH) {
        let entries = batch.iter().enumerate().map(|(index, message)| {
            let entry = ChangeMessageVisibilityBatchRequestEntry::builder().id(index.to_string());
            entry.receipt_handle(&message.receipt).visibility_timeout(seconds).build()
        });
        let Ok(entries) = entries.collect::<Result<Vec<_>, _>>() else { return };
        let asked = queue.client.change_message_visibility_batch().queue_url(&queue.url).set_entries(Some(entries));
        match asked.send().await {
            Ok(answer) => left.extend(named(batch, &answer.failed, &mut why)),
            Err(error) => {
                why = said(&error);
                left.extend_from_slice(batch);
            }
        }
    }
    if !left.is_empty() {
        tracing::warn!(queue = queue.url, messages = ids(&left), why, "{trouble}");
    }
}

fn ids(messages: &[Message]) -> String {
    messages.iter().map(|message| message.id.as_str()).collect::<Vec<_>>().join(" ")
}

/// Those of the batch that the answer names as failed, and why the last one did.
fn named(batch: &[Message], failed: &[BatchResultErrorEntry], why: &mut String) -> Vec<Message> {
    failed
        .iter()
        .filter_map(|failure| {
            *why = format!("{}: {}", failure.code(), failure.message().unwrap_or_default());
            batch.get(failure.id().parse::<usize>().ok()?).cloned()
        })
        .collect()
}
