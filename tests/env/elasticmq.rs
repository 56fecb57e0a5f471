//! ElasticMQ, which speaks SQS's protocol, started once for all tests of a run; queues of a test's own.

use super::{
    databases::{Server, keep},
    free_port, wait_for,
};
use aws_sdk_sqs::{
    Client,
    config::{BehaviorVersion, Credentials, Region},
    types::{
        MessageAttributeValue, MessageSystemAttributeName, MessageSystemAttributeNameForSends,
        MessageSystemAttributeValue, QueueAttributeName,
    },
};
use serde_json::{Value, json};
use std::{
    fs,
    process::Command,
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
};

/// Nobody checks them; the SDK wants some.
pub const CREDENTIALS: [(&str, &str); 3] =
    [("AWS_ACCESS_KEY_ID", "nobody"), ("AWS_SECRET_ACCESS_KEY", "nothing"), ("AWS_REGION", "elasticmq")];

/// The server of this run, and a client for the tests' own hands.
pub struct ElasticMq {
    server: Server,
    client: Client,
    runtime: tokio::runtime::Runtime,
}

/// A queue of a test's own.
pub struct Queue {
    pub url: String,
    /// Its dead-letter queue, where it has one.
    pub dead: Option<String>,
}

/// How many messages lie there, and how many are in somebody's hands.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub struct Depth {
    pub visible: u32,
    pub in_flight: u32,
}

pub const EMPTY: Depth = Depth { visible: 0, in_flight: 0 };

/// The server of this run.
pub fn elasticmq() -> &'static ElasticMq {
    static ELASTICMQ: OnceLock<ElasticMq> = OnceLock::new();
    ELASTICMQ.get_or_init(start)
}

fn start() -> ElasticMq {
    // A second installation is the same provider.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let (home, port) = (super::scratch(), free_port());
    let config = home.path().join("elasticmq.conf");
    let text = format!(
        "include classpath(\"application.conf\")\n\
         node-address {{ protocol = http, host = 127.0.0.1, port = {port}, context-path = \"\" }}\n\
         rest-sqs {{ enabled = true, bind-port = {port}, bind-hostname = \"127.0.0.1\", sqs-limits = strict }}\n\
         rest-stats.enabled = false\nqueues-storage.enabled = false\ngenerate-node-address = false\n"
    );
    fs::write(&config, text).unwrap();
    let mut server = Command::new("java");
    server.args(["-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]);
    server.arg(format!("-Dconfig.file={}", config.display()));
    server.arg("-cp").arg(format!("{}/lib/*", super::elasticmq().display())).arg("org.elasticmq.server.Main");
    let server = keep(home, "KILL", &server, port);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let config = aws_sdk_sqs::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("elasticmq"))
        .endpoint_url(format!("http://127.0.0.1:{port}"))
        .credentials_provider(Credentials::new("nobody", "nothing", None, None, "tests"))
        .http_client(aws_smithy_http_client::Builder::new().build_http());
    let client = Client::from_conf(config.build());
    server.ready(|| {
        let asked = runtime.block_on(client.list_queues().send());
        asked.map(|_| vec![]).map_err(|error| format!("{error:?}"))
    });
    ElasticMq { server, client, runtime }
}

impl ElasticMq {
    /// Where the API is.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.server.port)
    }

    /// A queue with a dead-letter queue, which takes a message after `receives`; `suffix` is `.fifo` or nothing. A message is
    /// hidden for `seconds` once received.
    pub fn queue(&self, suffix: &str, seconds: u32, receives: u32) -> Queue {
        let dead = self.create("dead", suffix, json!({}));
        let arn = self.attribute(&dead, QueueAttributeName::QueueArn);
        let policy = json!({"deadLetterTargetArn": arn, "maxReceiveCount": receives}).to_string();
        let url =
            self.create("jobs", suffix, json!({"VisibilityTimeout": seconds.to_string(), "RedrivePolicy": policy}));
        Queue { url, dead: Some(dead) }
    }

    /// A queue without one.
    pub fn queue_without_redrive(&self) -> Queue {
        Queue { url: self.create("bare", "", json!({"VisibilityTimeout": "30"})), dead: None }
    }

    fn create(&self, what: &str, suffix: &str, attributes: Value) -> String {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("{what}-{}{suffix}", NUMBER.fetch_add(1, Ordering::Relaxed));
        let mut asked = self.client.create_queue().queue_name(name);
        if suffix == ".fifo" {
            asked = asked.attributes(QueueAttributeName::FifoQueue, "true");
        }
        for (name, value) in attributes.as_object().unwrap() {
            asked = asked.attributes(name.as_str().into(), value.as_str().unwrap());
        }
        self.runtime.block_on(asked.send()).unwrap().queue_url.unwrap()
    }

    fn attribute(&self, url: &str, name: QueueAttributeName) -> String {
        let asked = self.client.get_queue_attributes().queue_url(url).attribute_names(QueueAttributeName::All);
        let attributes = self.runtime.block_on(asked.send()).unwrap().attributes.unwrap();
        attributes.get(&name).cloned().unwrap_or_default()
    }

    /// How full it is.
    pub fn depth(&self, url: &str) -> Depth {
        let number = |name| self.attribute(url, name).parse().unwrap();
        Depth {
            visible: number(QueueAttributeName::ApproximateNumberOfMessages),
            in_flight: number(QueueAttributeName::ApproximateNumberOfMessagesNotVisible),
        }
    }

    /// Waits until it is as full as that.
    #[track_caller]
    pub fn wait_depth(&self, url: &str, depth: Depth) {
        let mut last = EMPTY;
        wait_for(&format!("{url} to have {depth:?}"), || {
            last = self.depth(url);
            (last == depth).then_some(())
        });
    }

    /// Sends a message; gives back its id.
    #[track_caller]
    pub fn send(&self, url: &str, body: &str) -> String {
        self.send_with(url, body, &[], None, None)
    }

    /// With attributes, of which `AWSTraceHeader` is the system's, and a group.
    #[track_caller]
    pub fn send_with(
        &self,
        url: &str,
        body: &str,
        attributes: &[(&str, &str)],
        group: Option<&str>,
        deduplication: Option<&str>,
    ) -> String {
        let mut asked = self.client.send_message().queue_url(url).message_body(body);
        asked = asked.set_message_group_id(group.map(str::to_owned));
        asked = asked.set_message_deduplication_id(deduplication.map(str::to_owned));
        for (name, value) in attributes {
            if *name == "AWSTraceHeader" {
                let value =
                    MessageSystemAttributeValue::builder().data_type("String").string_value(*value).build().unwrap();
                asked = asked.message_system_attributes(MessageSystemAttributeNameForSends::AwsTraceHeader, value);
            } else {
                let value = MessageAttributeValue::builder().data_type("String").string_value(*value).build().unwrap();
                asked = asked.message_attributes(*name, value);
            }
        }
        self.runtime.block_on(asked.send()).unwrap().message_id.unwrap()
    }

    /// Sends bytes that need be no text, as a client that checks nothing would.
    pub fn send_raw(&self, url: &str, body: &[u8]) -> u16 {
        let head = format!("{{\"QueueUrl\":\"{url}\",\"MessageBody\":\"").into_bytes();
        let client = reqwest::Client::builder().tls_certs_only([]).no_proxy().build().unwrap();
        let request = client.post(self.endpoint()).header("x-amz-target", "AmazonSQS.SendMessage");
        let request = request.header("content-type", "application/x-amz-json-1.0").body([&head, body, b"\"}"].concat());
        self.runtime.block_on(async { request.send().await.unwrap().status().as_u16() })
    }

    /// Takes what lies there out of it: bodies and attributes in order.
    pub fn drain(&self, url: &str) -> Vec<Value> {
        let mut found = Vec::new();
        loop {
            let asked = self.client.receive_message().queue_url(url).max_number_of_messages(10);
            let asked = asked.message_system_attribute_names(MessageSystemAttributeName::All);
            let messages = self.runtime.block_on(asked.send()).unwrap().messages.unwrap_or_default();
            if messages.is_empty() {
                return found;
            }
            for message in messages {
                let attributes = message.attributes.unwrap_or_default();
                let attributes: Value =
                    attributes.iter().map(|(name, value)| (name.as_str().to_owned(), json!(value))).collect();
                found.push(json!({"id": message.message_id, "body": message.body, "attributes": attributes}));
                let asked = self.client.delete_message().queue_url(url).receipt_handle(message.receipt_handle.unwrap());
                self.runtime.block_on(asked.send()).unwrap();
            }
        }
    }
}
