//! Dead-letter queues, for the person at night: what lies there, and back with it.

use super::{
    client::{Queue, said},
    hand::Message,
    settle,
};
use crate::intake::message;
use anyhow::{Context as _, bail};
use aws_sdk_sqs::{
    error::ProvideErrorMetadata as _,
    types::{Message as Sent, MessageSystemAttributeName, QueueAttributeName, SendMessageBatchRequestEntry},
};
use serde::Serialize;
use std::collections::HashSet;

const BATCH: i32 = 10;

/// Long enough to list what is there; then it is given back anyway.
const PEEK_SECONDS: i32 = 60;

/// A short poll asks only some of the queue's servers: the end of the queue is one of these that brings nothing.
const POLL_SECONDS: i32 = 1;

/// As much of a body as a line shows.
const LINE: usize = 100;

/// A message in a dead-letter queue.
#[derive(Debug, Serialize)]
pub struct Dead {
    pub message_id: String,
    /// The job's id, where the body has one.
    pub job_id: Option<String>,
    /// When the sender's queue took it.
    pub sent_at_ms: Option<i64>,
    pub first_line: String,
    /// From the table `refusals`, where a server is known and knows it.
    pub reason: Option<String>,
}

/// How messages went back.
#[derive(Debug, Serialize)]
pub struct Replayed {
    pub from: String,
    /// `None` where SQS itself knows: each to the queue it came from.
    pub to: Option<String>,
    /// About so many lay there.
    pub messages: u64,
    /// SQS moves them by itself from here on.
    pub under_way: bool,
}

/// The dead-letter queue of a queue.
pub async fn of(queue: &Queue) -> anyhow::Result<Queue> {
    let policy = attribute(queue, QueueAttributeName::RedrivePolicy).await?;
    let policy = policy.with_context(|| format!("{} has no redrive policy, and so no dead-letter queue", queue.url))?;
    let policy: serde_json::Value = serde_json::from_str(&policy).context("understand the redrive policy")?;
    let arn = policy["deadLetterTargetArn"].as_str().context("the redrive policy names no queue")?;
    // arn:aws:sqs:REGION:ACCOUNT:NAME
    let mut parts = arn.rsplit(':');
    let (name, account) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let asked = queue.client.get_queue_url().queue_name(name).queue_owner_aws_account_id(account);
    let answer = asked.send().await.map_err(|error| anyhow::anyhow!("find {arn}: {}", said(&error)))?;
    Ok(queue.beside(&answer.queue_url.context("the answer has no address")?))
}

/// Looks at messages, at most `limit`, and gives them back at once. A look counts as a receipt, as any reading of SQS does.
pub async fn peek(queue: &Queue, limit: usize) -> anyhow::Result<Vec<Dead>> {
    let (mut found, mut held, mut seen) = (Vec::new(), Vec::new(), HashSet::new());
    let read = async {
        while found.len() < limit {
            let messages = receive(queue, PEEK_SECONDS).await?;
            // Nothing more, or the first ones again.
            if messages.iter().all(|sent| !seen.insert(sent.message_id.clone())) {
                held.extend(messages.iter().filter_map(handle));
                break;
            }
            held.extend(messages.iter().filter_map(handle));
            found.extend(messages.iter().map(dead));
        }
        anyhow::Ok(())
    };
    let read = read.await;
    settle::give_back(queue, &held).await;
    read?;
    found.truncate(limit);
    Ok(found)
}

/// About how many messages lie there.
pub async fn count(queue: &Queue) -> anyhow::Result<u64> {
    let count = attribute(queue, QueueAttributeName::ApproximateNumberOfMessages).await?;
    count.and_then(|count| count.parse().ok()).context("the answer has no number of messages")
}

/// Sends the messages back to where they came from: by SQS itself, or by hand where the endpoint lacks that.
pub async fn replay(queue: &Queue) -> anyhow::Result<Replayed> {
    let messages = count(queue).await?;
    let from = queue.url.clone();
    let arn = attribute(queue, QueueAttributeName::QueueArn).await?.context("the answer has no ARN")?;
    match queue.client.start_message_move_task().source_arn(arn).send().await {
        Ok(_) => return Ok(Replayed { from, to: None, messages, under_way: true }),
        Err(error) if error.code().is_some_and(is_lacking) => {}
        Err(error) => bail!("move the messages of {from}: {}", said(&error)),
    }
    let source = source(queue).await?;
    let moved = by_hand(queue, &source).await?;
    Ok(Replayed { from, to: Some(source.url), messages: moved, under_way: false })
}

/// An endpoint's word for an action that it does not have.
fn is_lacking(code: &str) -> bool {
    ["UnsupportedOperation", "InvalidAction", "NotImplemented", "UnknownOperation"]
        .iter()
        .any(|word| code.contains(word))
}

/// The one queue whose dead-letter queue this is.
async fn source(queue: &Queue) -> anyhow::Result<Queue> {
    let asked = queue.client.list_dead_letter_source_queues().queue_url(&queue.url).send().await;
    let urls = asked.map_err(|error| anyhow::anyhow!("ask whose {} is: {}", queue.url, said(&error)))?.queue_urls;
    match urls.as_slice() {
        [url] => Ok(queue.beside(url)),
        urls => bail!(
            "{} is the dead-letter queue of {} queues; one is needed to send its messages back",
            queue.url,
            urls.len()
        ),
    }
}

/// Sends each message to the source and deletes it only then: killed in between, it is there twice, which the intake knows.
async fn by_hand(queue: &Queue, source: &Queue) -> anyhow::Result<u64> {
    // Those that come again were refused again meanwhile, by whoever reads the source: they stay for the next time.
    let (mut moved, most) = (0, count(queue).await?);
    while moved < most {
        let messages = receive(queue, PEEK_SECONDS).await?;
        if messages.is_empty() {
            break;
        }
        let entries = messages.iter().enumerate().map(|(index, sent)| {
            let entry = SendMessageBatchRequestEntry::builder().id(index.to_string());
            let attribute = |name| sent.attributes.as_ref().and_then(|attributes| attributes.get(&name).cloned());
            entry
                .message_body(sent.body.as_deref().unwrap_or_default())
                .set_message_attributes(sent.message_attributes.clone())
                .set_message_group_id(attribute(MessageSystemAttributeName::MessageGroupId))
                // Of its own: the queue may still remember the first one.
                .set_message_deduplication_id(source.is_fifo().then(|| uuid::Uuid::new_v4().to_string()))
                .build()
        });
        let entries = entries.collect::<Result<Vec<_>, _>>().context("make the messages")?;
        // One request a message where they are too large together is not worth its code: SQS itself moves those.
        let asked = source.client.send_message_batch().queue_url(&source.url).set_entries(Some(entries)).send().await;
        let answer = asked.map_err(|error| anyhow::anyhow!("send to {}: {}", source.url, said(&error)))?;
        let taken = |index: usize| answer.successful.iter().any(|sent| sent.id() == index.to_string());
        let done = messages.iter().enumerate().filter(|(index, _)| taken(*index)).filter_map(|(_, sent)| handle(sent));
        let done: Vec<_> = done.collect();
        moved += u64::try_from(done.len())?;
        settle::delete(queue, done).await;
        if let Some(failed) = answer.failed.first() {
            bail!(
                "{} messages are moved; then {} did not take one: {}",
                moved,
                source.url,
                failed.message().unwrap_or_default()
            );
        }
    }
    Ok(moved)
}

async fn receive(queue: &Queue, hidden_seconds: i32) -> anyhow::Result<Vec<Sent>> {
    let asked = queue.client.receive_message().queue_url(&queue.url).max_number_of_messages(BATCH);
    let asked = asked.wait_time_seconds(POLL_SECONDS).visibility_timeout(hidden_seconds).message_attribute_names("All");
    let asked = asked.message_system_attribute_names(MessageSystemAttributeName::All);
    let answer = asked.send().await.map_err(|error| anyhow::anyhow!("read {}: {}", queue.url, said(&error)))?;
    Ok(answer.messages.unwrap_or_default())
}

async fn attribute(queue: &Queue, name: QueueAttributeName) -> anyhow::Result<Option<String>> {
    let asked = queue.client.get_queue_attributes().queue_url(&queue.url).attribute_names(QueueAttributeName::All);
    let answer = asked.send().await.map_err(|error| anyhow::anyhow!("ask about {}: {}", queue.url, said(&error)))?;
    Ok(answer.attributes.and_then(|mut attributes| attributes.remove(&name)))
}

fn handle(sent: &Sent) -> Option<Message> {
    Some(Message { id: sent.message_id.clone()?, receipt: sent.receipt_handle.clone()? })
}

fn dead(sent: &Sent) -> Dead {
    let body = sent.body.as_deref().unwrap_or_default();
    let sent_at =
        sent.attributes.as_ref().and_then(|attributes| attributes.get(&MessageSystemAttributeName::SentTimestamp));
    Dead {
        message_id: sent.message_id.clone().unwrap_or_default(),
        job_id: message::id(body.as_bytes()),
        sent_at_ms: sent_at.and_then(|at| at.parse().ok()),
        first_line: body.lines().next().unwrap_or_default().chars().take(LINE).collect(),
        reason: None,
    }
}
