//! Jobs as a scheduler sends them, and the queue that they come from.

use crate::env::elasticmq::{CREDENTIALS, Queue, elasticmq};
use aws_sdk_sqs::{
    Client,
    config::{BehaviorVersion, Credentials, Region},
    types::SendMessageBatchRequestEntry,
};
use serde_json::json;

/// Of one tenant's there are as many as of another's.
const TENANTS: usize = 20;
/// What one request to SQS carries at the most.
const BATCH: usize = 10;
/// Longer than any part takes: what is in hand does not come again.
const VISIBILITY: u32 = 600;

/// The id of a spike's job.
pub fn id(number: usize) -> String {
    format!("orders-{number:05}.2026-11-23T10:00")
}

/// A transfer as the field has them: its configuration, its secrets, its memory.
pub fn body(id: &str, number: usize) -> String {
    let table = |host: &str| {
        json!({"type": "mysql", "host": host, "user": "loader", "password": "${secret:password}", "database": "shop", "table": "orders",
            "options": {"useLegacyDatetimeCode": false, "serverTimezone": "UTC"}})
    };
    json!({
        "version": 1, "id": id, "tenant": format!("tenant-{:02}", number % TENANTS), "definition": format!("orders-{number:05}"),
        "image_tag": "0.11.5", "resources": {"cpu": "500m", "memory": "1Gi"},
        "secrets": {"password": {"name": "loader", "key": "password"}},
        "embulk": {"config": {"in": table("source.internal"), "out": table("target.internal"), "exec": {"max_threads": 2}}},
    })
    .to_string()
}

/// A queue that nothing lies in.
pub fn queue() -> Queue {
    elasticmq().queue("", VISIBILITY, 5)
}

/// A queue with so many messages.
pub async fn filled(queue: &Queue, messages: usize) {
    let client = client();
    let numbers: Vec<usize> = (0..messages).collect();
    for batch in numbers.chunks(BATCH) {
        let entries = batch.iter().map(|number| {
            let entry = SendMessageBatchRequestEntry::builder().id(number.to_string());
            entry.message_body(body(&id(*number), *number)).build().expect("an entry")
        });
        let sent = client.send_message_batch().queue_url(&queue.url).set_entries(Some(entries.collect())).send().await;
        let failed = sent.expect("send a batch").failed;
        assert!(failed.is_empty(), "not sent: {failed:?}");
    }
}

/// A sender of our own.
pub fn client() -> Client {
    let (_, region) = CREDENTIALS[2];
    let config = aws_sdk_sqs::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new(region))
        .endpoint_url(elasticmq().endpoint())
        .credentials_provider(Credentials::new("nobody", "nothing", None, None, "bench"))
        .http_client(aws_smithy_http_client::Builder::new().build_http());
    Client::from_conf(config.build())
}
